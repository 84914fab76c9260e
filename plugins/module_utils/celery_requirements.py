"""Whether the wheels of a bundle are what each of them and the app ask for: as `pip check`, with extras."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_lock import unmet
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

# pip-compile leaves them out of its lock files, and many ask for them who need them only to be built.
UNSAFE = {"pip", "setuptools", "wheel", "distribute"}


class Root(NamedTuple):
    """Who asks for something, and is no wheel of the bundle."""

    owner: str
    requirements: tuple[str, ...]


class Distribution(NamedTuple):
    """What a wheel says of itself."""

    name: str
    version: str
    requirements: tuple[Requirement, ...]


def wheel_metadata(wheel: Path) -> Message:
    """Return the metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (
            n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1
        )
        return HeaderParser().parsestr(archive.read(metadata).decode())


def wheel_requirements(wheel: Path) -> list[str]:
    """Return what a wheel asks for in its metadata."""
    return list(wheel_metadata(wheel).get_all("Requires-Dist") or [])


def requires_python(wheel: Path) -> str:
    """Return the versions of Python that a wheel runs on; nothing if it says nothing of them."""
    return str(wheel_metadata(wheel).get("Requires-Python", ""))


def read_distributions(folder: Path) -> dict[str, Distribution]:
    """Return the distributions of the wheels in a folder, by name."""
    found = {}
    for wheel in sorted(folder.glob("*.whl")):
        name, version, _build, _tags = parse_wheel_filename(wheel.name)
        requirements = tuple(Requirement(text) for text in wheel_requirements(wheel))
        found[str(name)] = Distribution(str(name), str(version), requirements)
    return found


def conflicts(
    wheels: Path,
    roots: Sequence[Root],
    environment: Mapping[str, str],
    overridden: Iterable[str] = (),
    added: str = "",
) -> list[str]:
    """Return what is missing among some wheels, or is another version than one of them asks for.

    Args:
        wheels: The folder with the wheels.
        roots: Who else asks for something. An extra counts where somebody asks for it.
        environment: What markers ask for on the host.
        overridden: Names of those whose version the project has decided.
        added: Name of the one that the project does not ask for. Of the extras that it alone asks for, only
            the lower bounds count: an upper one names the newest version that their makers knew.
    """
    there = read_distributions(wheels)
    decided = set(overridden) | UNSAFE
    problems: dict[str, None] = {}
    seen: set[tuple[str, str, bool]] = set()
    waiting = [(name, "", name == added) for name in there]

    def ask(owner: str, requirement: Requirement, lenient: bool = False) -> None:
        if lenient:
            requirement = Requirement(str(requirement))
            requirement.specifier = lower_bounds(requirement.specifier)
        name = canonicalize_name(requirement.name)
        found = there.get(name)
        if name not in decided and (
            problem := unmet(owner, requirement, found.version if found is not None else None)
        ):
            problems[problem] = None
        # An override stands for the whole requirement, with its extras.
        if found is not None and (name not in decided or owner in asking):
            waiting.extend((name, extra, lenient) for extra in requirement.extras)

    asking = {root.owner for root in roots}
    for root in roots:
        for requirement in map(Requirement, root.requirements):
            if requirement.marker is None or requirement.marker.evaluate(dict(environment)):
                ask(root.owner, requirement)
    while waiting:
        name, extra, lenient = waiting.pop()
        if (name, extra, lenient) in seen:
            continue
        seen.add((name, extra, lenient))
        owner = f"{name}{f'[{extra}]' if extra else ''} {there[name].version}"
        for requirement in there[name].requirements:
            if asked_for(requirement, extra, environment):
                ask(owner, requirement, lenient)
    return sorted(problems)


def lower_bounds(specifiers: SpecifierSet) -> SpecifierSet:
    """Return those of the specifiers that name what is too old, or does not work."""
    return SpecifierSet(",".join(str(s) for s in specifiers if s.operator in {">", ">=", "!="}))


def asked_for(requirement: Requirement, extra: str, environment: Mapping[str, str]) -> bool:
    """Tell whether a distribution asks for a requirement; with an extra, whether only that does."""
    if requirement.marker is None:
        return not extra
    without = requirement.marker.evaluate(dict(environment) | {"extra": ""})
    return (
        without
        if not extra
        else not without and requirement.marker.evaluate(dict(environment) | {"extra": extra})
    )
