"""Lock files: what they pin for a host or for this machine, and where they have pip look."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_git import PASSWORD
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

SOURCE_ONLY = "exists as source only: list it in celery_app_sdists, or put its wheel into celery_app_wheels"


class Locked(NamedTuple):
    """A pinned requirement."""

    version: str
    """Empty where only a URL pins it."""
    line: str
    """What pip reads: name, version and hashes."""
    extras: frozenset[str] = frozenset()
    problem: str = ""
    """Why no wheel of it can be downloaded, where the lock file says so."""


class Lock(NamedTuple):
    """What a lock file pins for a host."""

    pins: dict[str, Locked]
    options: tuple[str, ...] = ()
    """Where it has pip look."""
    overridden: frozenset[str] = frozenset()
    """Names of those whose version the project has decided, whatever others ask for."""
    directories: tuple[Path, ...] = ()
    """Further projects of the user's own, beside the one that is deployed."""


def read_requirements(lock: Path, environment: Mapping[str, str]) -> Lock:
    """Return what a requirements file pins for the host.

    Raises:
        BundleError: a line of it is not one of a lock file.
    """
    text = lock.read_text(encoding="utf-8")
    return Lock(pins_of(text, lock.name, environment), tuple(lock_options(text, lock)))


def pins_of(lock: str, name: str, environment: Mapping[str, str]) -> dict[str, Locked]:
    """Return what the text of a requirements file pins for the host, by name.

    Raises:
        BundleError: lines that count for the host are no requirements, are not pinned with ``==``, have no
            hash, or pin one name twice. All such lines are named.
    """
    pins: dict[str, Locked] = {}
    wrong = []
    for text in lock_lines(lock):
        if text.startswith("-"):
            continue
        try:
            pin = locked(text, environment)
        except BundleError as error:
            wrong.append(str(error))
            continue
        if pin is None:
            continue
        if pin[0] in pins and pins[pin[0]].version != pin[1].version:
            wrong.append(f"{pin[0]} is pinned to {pins[pin[0]].version} and to {pin[1].version} for one host")
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


def locked(text: str, environment: Mapping[str, str]) -> tuple[str, Locked] | None:
    """Return the name and the pin of a line of a lock file; nothing if it is not for the host.

    Raises:
        BundleError: it is no requirement, is not pinned with ``==``, or has no hash.
    """
    specification, *options = text.split(" --")
    try:
        requirement = Requirement(specification)
    except InvalidRequirement as error:
        raise BundleError(f"'{specification}' is no requirement: {error}") from error
    if requirement.marker is not None and not requirement.marker.evaluate(dict(environment)):
        return None
    versions = [s.version for s in requirement.specifier if s.operator == "=="]
    pinned_by_url = (requirement.url or "").startswith(("https://", "http://", "file:"))
    if not pinned_by_url and (len(versions) != 1 or len(requirement.specifier) != 1):
        raise BundleError(f"'{specification}' is not pinned: a lock file has name==version")
    hashes = [f"--{option.strip()}" for option in options if option.startswith("hash=")]
    if not hashes:
        raise BundleError(f"'{specification}' has no hash: lock with --generate-hashes")
    further = [option for option in options if not option.startswith("hash=")]
    if further:
        raise BundleError(f"'{specification}': the option --{further[0].split('=')[0]} is not for lock files")
    place = f" @ {requirement.url}" if pinned_by_url else f"=={versions[0]}"
    pin = " ".join([f"{requirement.name}{place}", *hashes])
    version = "" if pinned_by_url else versions[0]
    return canonicalize_name(requirement.name), Locked(version, pin, frozenset(requirement.extras))


def lock_options(text: str, lock: Path) -> Iterator[str]:
    """Yield the options of a requirements file that say where its wheels come from, as pip reads them.

    Raises:
        BundleError: an option says something else than where to look, or what is done anyhow.
    """
    for line in lock_lines(text):
        if not line.startswith("-"):
            continue
        option, _, value = line.replace("=", " ", 1).partition(" ")
        option, value = LONG.get(option, option), value.strip()
        if PASSWORD.match(value) and "${" not in value:
            raise BundleError(
                f"{lock.name}: {option} holds a password, which others would see: "
                "give the index and its password in celery_app_indexes"
            )
        if option in PLACES:
            local = lock.parent / value
            # A folder is named from where the lock file stands.
            value = str(local.resolve()) if option == "--find-links" and value and local.exists() else value
            yield f"{option} {shlex.quote(value)}" if value else option
        elif (option, value) not in IMPLIED:
            raise BundleError(
                f"{lock.name}: the option {option} has no place in a lock file "
                f"(allowed: {', '.join(sorted(PLACES))})"
            )


def refuse_unmet(
    owner: str, requirements: Iterable[str], pins: Mapping[str, Locked], environment: Mapping[str, str]
) -> None:
    """Raise BundleError unless the pinned versions are what a distribution asks for in its metadata."""
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate(dict(environment)):
            continue
        pin = pins.get(canonicalize_name(requirement.name))
        version = pin.version if pin is not None else None
        if problem := unmet(owner, requirement, version):
            raise BundleError(problem)


def unmet(owner: str, requirement: Requirement, version: str | None) -> str:
    """Return what is wrong with the version that a lock file pins; nothing if it is what is asked for."""
    if version is None:
        return f"{owner} needs {requirement}, which is in no lock file"
    if not version or requirement.specifier.contains(version, prereleases=True):
        return ""
    return (
        f"the lock file pins {requirement.name}=={version}, but {owner} needs "
        f"{requirement.name}{requirement.specifier}: allow such a version and lock again"
    )
