"""What a bundle holds: the project, our part beside it, and what both of them need."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_host import (
    Target,
    refuse_foreign,
    refuse_other_python,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_lock import Lock
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_requirements import (
    Root,
    conflicts,
    requires_python,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_source import Source
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_wheels import (
    Supplies,
    bring_locked,
    build_wheels,
)
from packaging.utils import canonicalize_name, parse_wheel_filename


class Content(NamedTuple):
    """What goes into a bundle, and where it comes from."""

    target: Target
    sources: tuple[Source, ...]
    """The project, further ones of the user's, and the worker package."""
    lock: Lock
    installer: str
    """The line that pins pip itself."""
    supplies: Supplies
    extras: tuple[str, ...] = ()
    """Extras of the project."""
    added: str = ""
    """The name of the worker package, which the project does not ask for."""
    project: str = ""
    """The id of what the user brings, whatever is installed beside it."""
    release: str = ""
    """The id of all of it."""


def release_ids(sources: Sequence[Source], lock: Path, further: str = "") -> list[str]:
    """Return a release id for the first source, for the first two, and so on: each file is read once.

    It is 12 hexadecimal digits of the hash over these sources and their lock file.

    Args:
        sources: The projects.
        lock: The project's lock file.
        further: Whatever else makes another release of the same.
    """
    digest, ids = hashlib.sha256(lock.read_bytes() + further.encode()), []
    for number, source in enumerate(sources):
        for path in source.files():
            digest.update(f"{number}/{source.name_of(path)}\0".encode())
            digest.update(path.read_bytes())
        ids.append(digest.hexdigest()[:12])
    return ids


def release_id(sources: Sequence[Source], lock: Path) -> str:
    """Return the release id of all sources."""
    return release_ids(sources, lock)[-1]


def collect_wheels(folder: Path, content: Content) -> None:
    """Put the wheels of the sources and the locked ones for the host into a folder.

    Raises:
        BundleError: some are missing, or do not go together.
    """
    target, supplies, lock = content.target, content.supplies, content.lock
    for source in content.sources:
        if not source.builds:
            refuse_other_python(source.path.name, source.metadata().get("requires-python", ""), target)
    roots = [*asked_by_project(content)]
    for source in content.sources:
        own = supplies._replace(back_ends=source.back_ends or supplies.back_ends)
        for wheel in build_wheels(source, release_id([source], own.back_ends), own):
            refuse_foreign(wheel, target)
            name = parse_wheel_filename(wheel.name)[0]
            refuse_other_python(name, requires_python(wheel), target)
            shutil.copy(wheel, folder)
            if content.extras and source is content.sources[0]:
                roots.append(Root("celery_app_extras", (f"{name}[{','.join(content.extras)}]",)))
    for wheel in bring_locked(lock.pins, lock.options, content.installer, target, supplies):
        shutil.copy(wheel, folder)
    if wrong := conflicts(folder, roots, target.environment(), lock.overridden, content.added):
        raise BundleError("; ".join(wrong))


def asked_by_project(content: Content) -> Iterator[Root]:
    """Yield what the project and its lock file ask for, where no wheel of it says so.

    Raises:
        BundleError: the lock file does not have the package that the project is.
    """
    project, pins = content.sources[0], content.lock.pins
    with_extras = [(name, pin) for name, pin in pins.items() if pin.extras]
    yield Root("the lock file", tuple(f"{n}[{','.join(sorted(p.extras))}]" for n, p in with_extras))
    if project.requirement is not None:
        pin = pins.get(canonicalize_name(project.requirement.name))
        if pin is None or (
            pin.version and not project.requirement.specifier.contains(pin.version, prereleases=True)
        ):
            raise BundleError(
                f"celery_app_source: the lock file does not pin {project.requirement}: lock it too"
            )
        yield Root("celery_app_source", (str(project.requirement),))
    elif metadata := {} if project.builds else project.metadata():
        optional = metadata.get("optional-dependencies", {})
        wanted = [
            *metadata.get("dependencies", []),
            *(r for extra in content.extras for r in optional.get(extra, [])),
        ]
        yield Root("the project", tuple(wanted))
