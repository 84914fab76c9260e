"""The wheels of a bundle: built, downloaded or given, and all that is missing named at once."""

from __future__ import annotations

import hashlib
import re
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_container import (
    Container,
    build_in_container,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_host import (
    Target,
    refuse_foreign,
    this_machine,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_interpreter import Interpreter
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_lock import (
    SOURCE_ONLY,
    Lock,
    Locked,
    read_requirements,
    refuse_unmet,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_source import Source
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_tools import (
    ToolError,
    environment_of_tools,
    find_python,
    pip,
)
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

# An index that does not have a package says 404, or 403 where it is a bucket, which is no problem.
NOT_FETCHED = re.compile(r"Could not fetch URL (\S+): (?!40[34] )(.*) - skipping")
ERRNO = re.compile(r"\[Errno -?\d+\] ([^'\")]+)")
NO_MATCH = re.compile(r"^ERROR: No matching distribution found for ([A-Za-z0-9._-]+)", re.MULTILINE)


class Index(NamedTuple):
    """Where wheels are, beside what pip and the lock file name."""

    url: str
    username: str = ""
    password: str = ""

    def option(self) -> str:
        """Return it as pip reads it in a requirements file."""
        if not self.username and not self.password:
            return f"--extra-index-url {shlex.quote(self.url)}"
        login = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}"
        parts = urlsplit(self.url)
        return f"--extra-index-url {shlex.quote(parts._replace(netloc=f'{login}@{parts.netloc}').geturl())}"


class Supplies(NamedTuple):
    """Where the wheels of a bundle come from."""

    cache: Path
    back_ends: Path
    """The lock file of what is built with."""
    folder: Path | None = None
    """Wheels that the user has."""
    sdists: frozenset[str] = frozenset()
    """Names of those that are built from their source."""
    indexes: tuple[Index, ...] = ()
    container: Container | None = None
    """Where those are built that are built from their source; without one, on the controller."""
    interpreter: Interpreter | None = None
    """What the app runs on, if it is not the host's Python."""

    def secrets(self) -> list[str]:
        """Return what of it is never shown."""
        passwords = [index.password for index in self.indexes if index.password]
        return [*passwords, *(quote(password, safe="") for password in passwords)]

    @property
    def log(self) -> Path:
        """Where the whole output of what has failed is."""
        return self.cache / "failed.log"


def kept_wheels(
    folder: Path, supplies: Supplies, *arguments: str, python: Path | None = None, code: str = ""
) -> list[Path]:
    """Return the wheels that pip brings into a folder with these arguments, unless they are there.

    Args:
        folder: Where they are kept.
        supplies: Where they come from.
        arguments: What pip does; the folder is the last argument.
        python: The Python of another environment that it works in.
        code: What code of a project it runs, as `pip` has it.

    Raises:
        ToolError: pip failed.
    """

    def bring(into: Path) -> None:
        pip(*(*arguments, str(into)), log=supplies.log, python=python, code=code, secrets=supplies.secrets())

    return kept(folder, bring)


def kept(folder: Path, bring: Callable[[Path], None]) -> list[Path]:
    """Return the files that something brings into a folder, unless they are there.

    Args:
        folder: Where they are kept.
        bring: What brings them, into another folder that becomes this one.
    """
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            brought = Path(scratch) / "wheels"
            brought.mkdir()
            bring(brought)
            brought.rename(folder)
    return sorted(folder.iterdir())


def key_of(*parts: str) -> str:
    """Return the name of a folder of the cache."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def build_wheels(source: Source, key: str, supplies: Supplies) -> list[Path]:
    """Return the wheel of a project; nothing, if it goes into the bundle as it is.

    Args:
        source: The project.
        key: What differs wherever its files do.
        supplies: Where wheels are kept, and what it is built with.
    """
    if source.path.suffix == ".whl":
        return [source.path]
    if not source.builds:
        return []
    found = back_end_wheels(source, supplies)
    return kept_wheels(
        supplies.cache / "wheels" / key,
        supplies,
        # It is for the host's Python, and not for the one that builds it.
        *("wheel", "--ignore-requires-python", "--no-deps", "--no-index"),
        *(f"--find-links={folder}" for folder in found),
        *(str(source.path), "--wheel-dir"),
        code="local",
    )


def back_end_wheels(source: Source, supplies: Supplies) -> list[Path]:
    """Return the folder with the locked wheels that a project is built with; none if it needs none.

    What it is built with is code that runs on the controller, before anything of it could be checked.

    Raises:
        BundleError: The lock file does not have what the project's build system asks for.
    """
    required = source.build_requirements()
    if not required:
        return []
    lock, here = supplies.back_ends, this_machine()
    found = read_back_ends(lock, here)
    try:
        refuse_unmet("its build system", required, found.pins, here.environment())
    except BundleError as error:
        raise BundleError(
            f"{source.path.name} cannot be built: {error}; pin it with its hashes in a lock file of its own "
            "(celery_app_build_requirements)"
        ) from error
    lines = "\n".join([*found.options, *(pin.line for pin in found.pins.values())])
    folder = supplies.cache / "wheels" / key_of(here.python, lines)
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "build.txt"
        wanted.write_text(lines)
        kept_wheels(
            folder,
            supplies,
            *("download", "--no-deps", "--require-hashes", "--only-binary=:all:"),
            *("--requirement", str(wanted), "--dest"),
        )
    return [folder]


def read_back_ends(lock: Path, target: Target) -> Lock:
    """Return what is built with.

    Raises:
        BundleError: the lock file is missing, or is none.
    """
    if not lock.is_file():
        raise BundleError(f"celery_app_build_requirements: the lock file {lock} is missing")
    return read_requirements(lock, target.environment())


def find_given(pins: Mapping[str, Locked], folder: Path | None, target: Target) -> dict[str, Path]:
    """Return those of a user's own wheels that are what a lock file pins, by name.

    Raises:
        BundleError: there is no such folder, or a wheel in it has no name of one.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise BundleError(f"celery_app_wheels: {folder} is no folder")
    found = {}
    good = {*target.tags([f"linux_{target.machine}"])}
    for wheel in sorted(folder.glob("*.whl")):
        try:
            name, version, _build, tags = parse_wheel_filename(wheel.name)
        except ValueError as error:
            raise BundleError(f"celery_app_wheels: {wheel.name} is no name of a wheel: {error}") from error
        pin = pins.get(name)
        if pin is not None and tags & good and (not pin.version or Version(pin.version) == version):
            found[str(name)] = wheel
    return found


def bring_locked(
    pins: Mapping[str, Locked], options: Iterable[str], installer: str, target: Target, supplies: Supplies
) -> list[Path]:
    """Return the wheels of all that is pinned, and pip's, for the host.

    Args:
        pins: What is pinned, by name.
        options: Where the lock file has pip look.
        installer: The line that pins pip itself.
        target: The host.
        supplies: Where wheels come from.

    Raises:
        BundleError: some cannot be had; each is named.
    """
    given = find_given(pins, supplies.folder, target)
    options = [*options, *(index.option() for index in supplies.indexes)]
    wheels, problems = [*given.values()], []
    rest = {}
    for name, pin in pins.items():
        if name in given:
            continue
        if name in supplies.sdists:
            try:
                wheels += build_sdist(pin, options, target, supplies)
            except BundleError as error:
                problems.append(f"{named(name, pin)} cannot be built: {error}")
        elif pin.problem:
            problems.append(f"{named(name, pin)} {pin.problem}")
        else:
            rest[name] = pin.line
    found, missing = download(rest, options, installer, target, supplies)
    problems += [f"{named(name, pins[name])} {problem}" for name, problem in missing.items()]
    if problems:
        raise BundleError("; ".join(problems))
    return [*wheels, *found]


def named(name: str, pin: Locked) -> str:
    """Return a pinned requirement as it is called in a message."""
    return f"{name} {pin.version}".strip()


def build_sdist(pin: Locked, options: list[str], target: Target, supplies: Supplies) -> list[Path]:
    """Return the wheel that is built of a requirement's source, with what is locked for that.

    Raises:
        BundleError: it cannot be built, or what was built is not for the host.
    """
    if not pin.line:
        raise BundleError(pin.problem)
    wanted = "\n".join([*options, pin.line])
    try:
        if supplies.container is not None:
            found = build_there(pin, wanted, supplies.container, supplies)
        else:
            found = build_here(pin, wanted, target, supplies)
    except ToolError as error:
        if "build dependencies" in error.line:
            raise BundleError(f"{error}; pin it with its hashes in celery_app_build_requirements") from error
        raise
    for wheel in found:
        refuse_foreign(wheel, target)
    return found


def build_there(pin: Locked, wanted: str, container: Container, supplies: Supplies) -> list[Path]:
    """Return the wheel of a requirement's source, built in a container."""
    interpreter = supplies.interpreter
    made_with = [pin.line, container.dockerfile(), supplies.back_ends.read_text(encoding="utf-8")]
    key = key_of(*made_with, *([interpreter.id] if interpreter else []))

    def bring(into: Path) -> None:
        build_in_container(
            container._replace(python=interpreter.tree if interpreter else None),
            wanted,
            supplies.back_ends,
            into,
            log=supplies.log,
            secrets=supplies.secrets(),
        )

    return kept(supplies.cache / "wheels" / key, bring)


def build_here(pin: Locked, wanted: str, target: Target, supplies: Supplies) -> list[Path]:
    """Return the wheel of a requirement's source, built on the controller.

    Raises:
        BundleError: The host does not run what is built here.
    """
    own = supplies.interpreter
    python = find_python(target.python, str(own.program) if own is not None else "")
    builder = environment_of_tools(supplies.back_ends, supplies.cache, python or "")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "sdist.txt"
        file.write_text(wanted)
        found = kept_wheels(
            supplies.cache / "wheels" / key_of(pin.line, str(builder)),
            supplies,
            *("wheel", "--ignore-requires-python", "--no-deps", "--require-hashes", "--no-binary=:all:"),
            "--use-pep517",
            *("--no-build-isolation", "--check-build-dependencies"),
            *("--requirement", str(file), "--wheel-dir"),
            python=builder,
            code="remote",
        )
    here = this_machine()
    newer = [*map(int, here.glibc.split("."))] > [*map(int, target.glibc.split("."))]
    if newer and not all(wheel.name.endswith("-any.whl") for wheel in found):
        raise BundleError(
            f"the controller's glibc {here.glibc} is newer than the host's {target.glibc}: build it in an "
            "image of its distribution (celery_app_sdists_image), or put its wheel into celery_app_wheels"
        )
    return found


def download(
    lines: Mapping[str, str], options: list[str], installer: str, target: Target, supplies: Supplies
) -> tuple[list[Path], dict[str, str]]:
    """Return the downloaded wheels, or what is wrong with each that cannot be downloaded.

    Raises:
        ToolError: pip failed otherwise.
    """
    tag = target.python.replace(".", "")
    where = [f"--platform={p}" for p in target.platforms()]
    where += ["--implementation=cp", f"--python-version={target.python}"]
    where += [f"--abi=cp{tag}", "--abi=abi3", "--abi=none"]
    places = [index.url for index in supplies.indexes]
    folder = supplies.cache / "wheels" / key_of(*where, *places, *lines.values(), installer)
    rest, missing = dict(lines), dict[str, str]()
    with tempfile.TemporaryDirectory() as scratch:
        wanted, log = Path(scratch) / "lock.txt", Path(scratch) / "pip.log"
        while True:
            wanted.write_text("\n".join([*options, *rest.values(), installer]))
            arguments = ("download", "--no-deps", "--require-hashes", "--only-binary=:all:", f"--log={log}")
            into = Path(scratch) / "found" if missing else folder
            try:
                found = kept_wheels(
                    into, supplies, *arguments, *where, "--requirement", str(wanted), "--dest"
                )
            except ToolError as error:
                name = name_of_missing(error.output)
                if name not in rest:
                    raise
                looked = log.read_text(encoding="utf-8")
                # Each further one would wait for it again.
                if problem := index_problem(looked):
                    raise BundleError(f"{problem} (the whole output is in {supplies.log})") from error
                missing[name] = why_missing(name, lines[name], looked, target)
                # pip takes them in this order, and ends with the first that it does not find.
                names = list(rest)
                rest = {n: rest[n] for n in names[names.index(name) + 1 :]}
            else:
                return found, missing


def name_of_missing(output: str) -> str:
    """Return the name of the requirement that pip has not found; nothing if it failed otherwise."""
    found = NO_MATCH.findall(output)
    return canonicalize_name(found[-1]) if found else ""


def index_problem(log: str) -> str:
    """Return why pip could not ask an index; nothing if it could ask all of them."""
    found = NOT_FETCHED.search(log)
    if found is None:
        return ""
    parts = urlsplit(found.group(1))
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if found.group(2).startswith("401 "):
        return f"the index {url} refuses the user or the password (celery_app_indexes)"
    short = ERRNO.search(found.group(2))
    return f"the index {url} cannot be asked: {short.group(1) if short else found.group(2)}"


def why_missing(name: str, line: str, log: str, target: Target) -> str:
    """Return why pip found no wheel of a requirement, and what to do, from what it has looked at."""
    version = re.escape(line.partition("==")[2].split(" ")[0])
    of_name = rf"[^\n]*/{name.replace('-', '[-_.]+')}-{version}(-|\.tar|\.zip)"
    if re.search(rf"none of the wheel's tags{of_name}", log, re.IGNORECASE):
        return (
            f"has no wheel for {target.words()}: list it in celery_app_sdists to build it, or put its wheel "
            "into celery_app_wheels"
        )
    if re.search(rf"No sources permitted for{of_name}", log, re.IGNORECASE):
        return SOURCE_ONLY
    return (
        "is in no index that pip asks: name its index in celery_app_indexes, or put its wheel into "
        "celery_app_wheels"
    )
