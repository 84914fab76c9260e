"""Fill the virtual environment of a release from that of another one, where both have the same wheels.

Most releases of a project differ in its code alone. Their files are the same on the disk, linked and not
copied; each is compared with the hash in its distribution's ``RECORD``
(https://packaging.python.org/en/latest/specifications/recording-installed-packages/) first.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import shutil
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_releases import manifest_of


class ChangedError(Exception):
    """A file is not as it was installed."""


class Installed(NamedTuple):
    """A distribution in an environment."""

    record: Path
    rows: list[list[str]]


def share(release: Path, manifest: dict[str, Any], environment: Path) -> set[str]:
    """Fill an empty environment with what another release has of the same wheels.

    Args:
        release: The directory of the release, beside the others.
        manifest: What its bundle says of itself.
        environment: Its virtual environment.

    Returns:
        The wheels that need not be installed any more, by their names in the manifest; none if no other
        release has the same Python, or if a file of it was changed.
    """
    for other in sorted(release.parent.iterdir(), key=_age):
        twin = other / environment.name
        wheels = _common(manifest_of(other), manifest) if other != release else set()
        if wheels and twin.is_dir():
            return _share(wheels, twin, environment)
    return set()


def _age(release: Path) -> float:
    return -release.lstat().st_mtime


def _common(other: dict[str, Any], manifest: dict[str, Any]) -> set[str]:
    """Return the wheels that two releases for the same Python have in common."""
    hashes = other.get("sha256")
    same = [other.get(name) == manifest.get(name) for name in ("python", "interpreter", "machine")]
    if not isinstance(hashes, dict) or not all(same):
        return set()
    return {
        name
        for name, wanted in manifest["sha256"].items()
        if name.endswith(".whl") and hashes.get(name) == wanted
    }


def packages_of(environment: Path) -> Path:
    """Return the folder of a virtual environment that its packages are in."""
    (python,) = (folder for folder in (environment / "lib").glob("python3*") if not folder.is_symlink())
    return python / "site-packages"


def _share(wheels: set[str], twin: Path, environment: Path) -> set[str]:
    """Share the distributions of some wheels, all of them or none."""
    try:
        there = {_key(path.stem): path for path in packages_of(twin).glob("*.dist-info")}
        found = {name: there[key] for name in wheels if (key := _key(Path(name).name)) in there}
        distributions = [_read(folder / "RECORD", twin) for folder in found.values()]
    except (ChangedError, OSError, ValueError):
        return set()
    for distribution in distributions:
        _link(distribution, twin, environment)
    return set(found)


def _key(name: str) -> tuple[str, ...]:
    """Return what the names of a wheel and of its ``.dist-info`` have in common: project and version."""
    return tuple(re.sub(r"[-_.]+", "-", part).lower() for part in name.split("-")[:2])


def _read(record: Path, environment: Path) -> Installed:
    """Read what belongs to a distribution; each file has to be as it was installed."""
    rows = []
    for name, digest, size in csv.reader(io.StringIO(record.read_text(encoding="utf-8"))):
        path = Path(os.path.normpath(record.parent.parent / name))
        # What is compiled has no hash, and may be missing.
        unhashed = path == record or path.suffix == ".pyc"
        if not path.is_relative_to(environment) or not (unhashed or digest == _digest(path.read_bytes())):
            raise ChangedError(name)
        if path.exists():
            rows.append([name, digest, size])
    return Installed(record, rows)


def _digest(content: bytes) -> str:
    return f"sha256={urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()}"


def _link(distribution: Installed, twin: Path, environment: Path) -> None:
    """Have the files of a distribution in another environment; its programs start the Python of that one."""
    record = distribution.record
    rows = []
    for name, digest, size in distribution.rows:
        source = Path(os.path.normpath(record.parent.parent / name))
        target = environment / source.relative_to(twin)
        target.parent.mkdir(parents=True, exist_ok=True)
        row = [name, digest, size]
        if source.parent == twin / "bin":
            content = source.read_bytes().replace(os.fsencode(twin), os.fsencode(environment))
            target.write_bytes(content)
            shutil.copymode(source, target)
            row = [name, _digest(content), str(len(content))]
        elif source != record:
            _link_file(source, target)
        rows.append(row)
    with (environment / record.relative_to(twin)).open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, lineterminator="\n").writerows(rows)


def _link_file(source: Path, target: Path) -> None:
    """Link a file; copy it where the file system cannot do that, or has no room for another link."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
