"""Lock files: what they pin for a host or for this machine, and where they have pip look."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_source import BundleError
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

# Options of a lock file that say where its wheels come from. Their hashes are checked, wherever that is.
PLACES = {"--index-url", "--extra-index-url", "--no-index", "--find-links", "--trusted-host"}
LONG = {"-i": "--index-url", "-f": "--find-links"}
# What is done without being asked for.
IMPLIED = {
    ("--require-hashes", ""),
    ("--only-binary", ":all:"),
    ("--prefer-binary", ""),
    ("--no-deps", ""),
}


class Locked(NamedTuple):
    """A pinned requirement."""

    version: str
    line: str
    """What pip reads: name, version and hashes."""


def environment_of(python: str, machine: str) -> dict[str, str]:
    """Return what environment markers ask for, on a host with this Python.

    pip evaluates markers for the Python it runs on, not for the one it downloads for, so it is done here.
    """
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


def lock_for_target(lock: str, name: str, python: str, machine: str) -> dict[str, Locked]:
    """Return what a lock file pins for the host, by name.

    Raises:
        BundleError: lines that count for the host are no requirements, are not pinned with ``==``, or have no
            hash. All such lines are named.
    """
    environment = environment_of(python, machine)
    pins = {}
    wrong = []
    for text in lock_lines(lock):
        if text.startswith("-"):
            continue
        try:
            pin = locked(text, environment)
        except BundleError as error:
            wrong.append(str(error))
        else:
            if pin is not None:
                pins[pin[0]] = pin[1]
    if wrong:
        raise BundleError(f"{name}: {'; '.join(wrong)}")
    return pins


def lock_lines(lock: str) -> Iterator[str]:
    """Yield the lines of a lock file, each in one piece and without comments."""
    for line in lock.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        text = line.split(" #")[0].strip()
        if text and not text.startswith("#"):
            yield text


def locked(text: str, environment: dict[str, str]) -> tuple[str, Locked] | None:
    """Return the name and the pin of a line of a lock file; nothing if it is not for the host.

    Raises:
        BundleError: it is no requirement, is not pinned with ``==``, or has no hash.
    """
    specification, *options = text.split(" --")
    try:
        requirement = Requirement(specification)
    except InvalidRequirement as error:
        raise BundleError(f"'{specification}' is no requirement: {error}") from error
    if requirement.marker is not None and not requirement.marker.evaluate(environment):
        return None
    versions = [s.version for s in requirement.specifier if s.operator == "=="]
    if len(versions) != 1 or len(requirement.specifier) != 1:
        raise BundleError(f"'{specification}' is not pinned: a lock file has name==version")
    hashes = [f"--{option.strip()}" for option in options if option.startswith("hash=")]
    if not hashes:
        raise BundleError(f"'{specification}' has no hash: lock with --generate-hashes")
    further = [option for option in options if not option.startswith("hash=")]
    if further:
        raise BundleError(f"'{specification}': the option --{further[0].split('=')[0]} is not for lock files")
    pin = " ".join([f"{requirement.name}=={versions[0]}", *hashes])
    return canonicalize_name(requirement.name), Locked(versions[0], pin)


def lock_options(lock: Path) -> list[str]:
    """Return the options of a lock file that say where its wheels come from, as pip reads them.

    Raises:
        BundleError: an option says something else than where to look, or what is done anyhow.
    """
    found = []
    for text in lock_lines(lock.read_text(encoding="utf-8")):
        if not text.startswith("-"):
            continue
        option, _, value = text.replace("=", " ", 1).partition(" ")
        option, value = LONG.get(option, option), value.strip()
        if option in PLACES:
            local = lock.parent / value
            # A folder is named from where the lock file stands.
            value = str(local.resolve()) if option == "--find-links" and value and local.exists() else value
            found.append(f"{option} {shlex.quote(value)}" if value else option)
        elif (option, value) not in IMPLIED:
            raise BundleError(
                f"{lock.name}: the option {option} has no place in a lock file "
                f"(allowed: {', '.join(sorted(PLACES))})"
            )
    return found


def refuse_unmet(
    owner: str, requirements: Iterable[str], pins: dict[str, Locked], environment: dict[str, str]
) -> None:
    """Raise BundleError unless the pinned versions are what a distribution asks for in its metadata."""
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate(environment | {"extra": ""}):
            continue
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None:
            raise BundleError(f"{owner} needs {requirement}, which is in no lock file")
        if not requirement.specifier.contains(pin.version, prereleases=True):
            raise BundleError(
                f"the lock file pins {requirement.name}=={pin.version}, but {owner} needs "
                f"{requirement.name}{requirement.specifier}: allow such a version and lock again"
            )
