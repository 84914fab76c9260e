"""What the role celery_app asks of what is beside a release: packages, directories, files, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..celery_project import prefix_of
from .model import Host, Inventory, NotKnownError, Record
from .text import called, did_you_mean, shown

Texts = Iterator[tuple[str, str]]

PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+~:-]+)?")
FOLDER = re.compile(r"(/[A-Za-z0-9._+@-]+)+/?")
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
MODE = re.compile(r"0?[0-7]{3}|[0-7]{4}")
MEMORY = re.compile(r"[1-9][0-9]*[KMGT]?")
QUOTA = re.compile(r"[1-9][0-9]*%")
# Folders of the system, and those that the sandbox replaces by others.
SYSTEM = (
    *("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin"),
    *("/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/tmp"),  # noqa: S108 -- refused
)
# Whatever is below them.
CLOSED = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/proc",
    "/root",
    "/sbin",
    "/sys",
    "/usr",
)


def packages(host: Host, _inventory: Inventory) -> Texts:
    """Packages can be named to apt."""
    for given in host.texts("celery_app_packages", []):
        if not PACKAGE.fullmatch(given):
            yield (
                "celery_app_packages",
                f"{shown(given)} cannot be a package; allowed: a name such as git, or name=version",
            )


def is_whole(path: str) -> bool:
    """Whether a text is a whole path that needs no quotes."""
    return FOLDER.fullmatch(path) is not None and not {".", ".."} & set(path.split("/"))


def directories(host: Host, _inventory: Inventory) -> Texts:
    """The app writes in folders that are nobody else's."""
    paths = [record.text("path").rstrip("/") for record in host.records("celery_app_directories", [])]
    root = host.text("celery_app_root").rstrip("/")
    for path in paths:
        if not is_whole(path):
            yield (
                "celery_app_directories",
                f"{shown(path)}: path is {shown(path)}; "
                "allowed: a whole path of letters, digits and . _ + @ -",
            )
        elif path in SYSTEM or path.startswith(tuple(f"{folder}/" for folder in CLOSED)):
            yield (
                "celery_app_directories",
                f"{shown(path)} is a folder of the system or of users; "
                "allowed: one below /srv, /mnt, /opt or /var",
            )
        elif f"{root}/".startswith(f"{path}/") or path.startswith(f"{root}/"):
            yield (
                "celery_app_directories",
                f"{shown(path)} is that of the releases; allowed: one beside celery_app_root ({root})",
            )
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield "celery_app_directories", f"duplicate path: {path}; allowed: each directory once"


def directory_modes(host: Host, _inventory: Inventory) -> Texts:
    """Modes are octal numbers."""
    for position, record in enumerate(host.records("celery_app_directories", []), 1):
        mode = record.text("mode", "0750")
        if not MODE.fullmatch(mode):
            name = called({"name": record.values.get("path")}, position)
            yield (
                "celery_app_directories",
                f"{name}: mode is {shown(mode)}; allowed: octal digits in quotes, such as '0750'",
            )


def readers(host: Host) -> list[str]:
    """What may read a file: groups, services and timers, and beat."""
    lists = ("celery_app_worker_groups", "celery_app_services", "celery_app_timers")
    return [*(record.text("name") for name in lists for record in host.records(name, [])), "beat"]


def files(host: Host, _inventory: Inventory) -> Texts:
    """Files have a name, and a text from one place."""
    names = []
    for position, record in enumerate(host.records("celery_app_files", []), 1):
        name = record.text("dest", "")
        names.append(name)
        said = shown(name) if name else f"element {position}"
        if name and not FILE.fullmatch(name):
            yield (
                "celery_app_files",
                f"{said} cannot be a file in celery_app_files_directory; allowed: a name of letters, "
                "digits and . _ -",
            )
        if record.has("content") == record.has("src"):
            yield (
                "celery_app_files",
                f"{said}: has {'both' if record.has('src') else 'neither'} content "
                f"{'and' if record.has('src') else 'nor'} src; allowed: one of them",
            )
        yield from _file_source(record, said)
        for reader in record.texts("read_by", []):
            if reader not in readers(host):
                yield (
                    "celery_app_files",
                    f"{said}: read_by: {shown(reader)}: {did_you_mean(reader, readers(host))}",
                )
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "celery_app_files", f"duplicate dest: {name}; allowed: each file once"


def _file_source(record: Record, said: str) -> Texts:
    try:
        source = record.text("src")
    except NotKnownError:
        return
    if source.startswith("/") and not Path(source).is_file():
        yield "celery_app_files", f"{said}: src: there is no file {source} on the controller"


def files_directory(host: Host, _inventory: Inventory) -> Texts:
    """What is in the folder of files is the role's."""
    folder = host.text("celery_app_files_directory").rstrip("/")
    settings = f"/etc/{prefix_of(host.text('celery_app_project'))}"
    if not is_whole(folder) or folder in SYSTEM or folder in (settings, f"{settings}/groups"):
        yield (
            "celery_app_files_directory",
            f"is {shown(folder)}; allowed: a whole path that belongs to the role alone, such as "
            f"{settings}/files",
        )


def commands(host: Host, inventory: Inventory) -> Texts:
    """A command runs on hosts of the app."""
    known = {*inventory.groups.get("workers", ()), *inventory.groups.get("beat", ())}
    variable = "celery_app_after_migrate_commands"
    for position, step in enumerate(host.records(variable, []), 1):
        if step.texts("command", ["unknown"]) == []:
            yield (
                variable,
                f"element {position}: command is an empty list; allowed: a program and its arguments",
            )
        for name in step.texts("hosts", []):
            if known and name not in known:
                yield variable, f"element {position}: hosts: {shown(name)}: {did_you_mean(name, known)}"


def group_limits(host: Host, _inventory: Inventory) -> Texts:
    """Limits are as systemd has them."""
    for position, group in enumerate(host.records("celery_app_worker_groups", []), 1):
        for text in limits(group):
            yield "celery_app_worker_groups", f"{called(group.values, position)}: {text}"


def limits(record: Record) -> Iterator[str]:
    """Say what is wrong with the limits of a worker."""
    memory, quota = record.text("memory_max", ""), record.text("cpu_quota", "")
    if memory and not MEMORY.fullmatch(memory):
        yield f"memory_max is {shown(memory)}; allowed: bytes, or a number with K, M, G or T, such as 2G"
    if quota and not QUOTA.fullmatch(quota):
        yield f"cpu_quota is {shown(quota)}; allowed: per cent of one CPU, such as 150%"


RULES = (packages, directories, directory_modes, files, files_directory, commands, group_limits)
