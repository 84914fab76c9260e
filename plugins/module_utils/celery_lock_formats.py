"""The lock files of uv, Poetry, pip and Pipenv: read as their own tools read them."""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_host import (
    Target,
    refuse_other_python,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_lock import (
    SOURCE_ONLY,
    Lock,
    Locked,
    lock_options,
    pins_of,
    read_requirements,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_tools import (
    environment_of_tools,
    one_off,
)
from packaging.utils import canonicalize_name

try:
    from packaging import pylock
except ImportError:
    pylock = None  # type: ignore[assignment]

LOCKS = ("uv.lock", "poetry.lock", "pylock.toml", "Pipfile.lock", "requirements.txt")
QUIET = {"POETRY_VIRTUALENVS_CREATE": "false", "POETRY_NO_INTERACTION": "1", "NO_COLOR": "1"}


class Wanted(NamedTuple):
    """What of a lock file is wanted."""

    target: Target
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    sdists: frozenset[str] = frozenset()
    """Names of those that are built from their source."""


class Tools(NamedTuple):
    """What reads lock files."""

    locks: Path
    """The folder with a hashed lock file for each tool."""
    cache: Path


def read_lock(lock: Path, project: Path, wanted: Wanted, tools: Tools) -> Lock:
    """Return what a lock file pins for the host.

    Args:
        lock: The lock file. Its name says whose it is.
        project: The folder of the project that it is for.
        wanted: What of it is wanted.
        tools: What reads it.

    Raises:
        BundleError: it is missing, is not up to date, or pins what cannot go into a bundle.
    """
    if not lock.is_file():
        others = [name for name in LOCKS if (lock.parent / name).is_file()]
        advice = (
            f"celery_app_requirements: {others[0]}"
            if others
            else "uv pip compile --generate-hashes makes one"
        )
        raise BundleError(f"the lock file {lock} is missing ({advice})")
    if lock.name == "uv.lock":
        return read_uv(lock, project, wanted, tools)
    if lock.name == "poetry.lock":
        return read_poetry(lock, wanted, tools)
    if lock.name == "Pipfile.lock":
        return read_pipfile(lock, wanted)
    if lock.name == "pylock.toml" or (lock.name.startswith("pylock.") and lock.suffix == ".toml"):
        return read_pylock(lock.read_text(encoding="utf-8"), lock, wanted)
    if wanted.extras or wanted.groups:
        name = "celery_app_extras" if wanted.extras else "celery_app_dependency_groups"
        raise BundleError(
            f"{name}: {lock.name} holds neither extras nor groups: lock with those that you need"
        )
    return read_requirements(lock, wanted.target.environment())


def read_uv(lock: Path, project: Path, wanted: Wanted, tools: Tools) -> Lock:
    """Return what uv installs of its lock file."""
    metadata = project_metadata(lock)
    options = ["--frozen", "--offline", "--no-emit-project", "--no-default-groups", "--no-header", "--quiet"]
    options += [f"--extra={name}" for name in wanted.extras] + [f"--group={name}" for name in wanted.groups]
    if project.is_dir() and project.resolve() != lock.parent.resolve():
        member = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
        options.append(f"--package={member['project']['name']}")
    command = ["export", "--format=pylock.toml", f"--project={lock.parent}", *options]
    settings = {"UV_PYTHON_DOWNLOADS": "never", "UV_PYTHON": sys.executable, "UV_NO_CACHE": "1"}
    text = exported("uv", command, [lock, *metadata], tools, settings)
    manifest = tomllib.loads(lock.read_text(encoding="utf-8")).get("manifest", {})
    overridden = frozenset(canonicalize_name(entry["name"]) for entry in manifest.get("overrides", []))
    return read_pylock(text, lock, wanted)._replace(overridden=overridden)


def read_poetry(lock: Path, wanted: Wanted, tools: Tools) -> Lock:
    """Return what Poetry installs of its lock file."""
    options = [
        f"--only={','.join(('main', *wanted.groups))}",
        *(f"--extras={name}" for name in wanted.extras),
    ]
    command = [
        "export",
        "--format=requirements.txt",
        f"--directory={lock.parent}",
        "--no-interaction",
        *options,
    ]
    text = exported("poetry", command, [lock, *project_metadata(lock)], tools, QUIET)
    return Lock(pins_of(text, lock.name, wanted.target.environment()), tuple(lock_options(text, lock)))


def project_metadata(lock: Path) -> list[Path]:
    """Return the file beside a lock file that its tool needs.

    Raises:
        BundleError: it is missing.
    """
    pyproject = lock.parent / "pyproject.toml"
    if not pyproject.is_file():
        raise BundleError(f"{lock} needs the pyproject.toml that it was made from beside it")
    return [pyproject]


def exported(
    tool: str, command: list[str], read: list[Path], tools: Tools, settings: Mapping[str, str]
) -> str:
    """Return what a tool says of a lock file; it is asked once.

    Args:
        tool: Its name, which its own lock file and its module have.
        command: Its arguments.
        read: The files that it reads.
        tools: Where it is.
        settings: Its environment.

    Raises:
        BundleError: it refused the lock file.
    """
    own = tools.locks / f"{tool}.txt"
    digest = hashlib.sha256("\0".join(command).encode())
    for path in (own, *read):
        digest.update(path.read_bytes())
    kept = tools.cache / "locks" / f"{digest.hexdigest()[:16]}.txt"
    if not kept.exists():
        python = environment_of_tools(own, tools.cache)
        text = one_off([str(python), "-m", tool, *command], tools.cache / "failed.log", settings)
        kept.parent.mkdir(exist_ok=True)
        partial = kept.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.rename(kept)
    return kept.read_text(encoding="utf-8")


def read_pylock(text: str, lock: Path, wanted: Wanted) -> Lock:
    """Return what a lock file of PEP 751 has for the host: the very files that it names.

    Raises:
        BundleError: it is none, or names what cannot go into a bundle.
    """
    if pylock is None:
        raise BundleError(f"{lock.name} needs packaging 26.1 or newer on the controller")
    pins: dict[str, Locked] = {}
    directories = []
    try:
        packages = pylock.Pylock.from_dict(tomllib.loads(text))
        refuse_other_python(lock.name, str(packages.requires_python or ""), wanted.target)
        # It knows no patch release of the host, which may be asked for.
        packages = replace(packages, requires_python=None)
        for package in packages.packages:
            # One by one: all that the host cannot have is named at once.
            found = selected(replace(packages, packages=[package]), wanted)
            if isinstance(found, pylock.PackageDirectory):
                directories.append((lock.parent / found.path).resolve())
            elif found is not None:
                if package.name in pins:
                    raise BundleError(f"{lock.name}: {package.name} is pinned twice for one host")
                pins[str(package.name)] = pinned_file(package, found, lock)
    except (tomllib.TOMLDecodeError, pylock.PylockValidationError, pylock.PylockSelectError) as error:
        raise BundleError(f"{lock.name}: {error}") from error
    return Lock(pins, directories=tuple(directories))


def selected(package: Any, wanted: Wanted) -> Any:
    """Return what a lock file with a single package has for the host; nothing if it is not for the host."""
    # Extras and groups are in the selection, and no marker of a single requirement asks for them.
    environment = {n: v for n, v in wanted.target.environment().items() if n != "extra"}
    options = {
        "environment": environment,
        "extras": wanted.extras or None,
        "dependency_groups": wanted.groups or None,
        "prefer_sdist_predicate": lambda name: name in wanted.sdists,
    }
    try:
        (found,) = [what for _package, what in package.select(tags=wanted.target.tags(), **options)] or [None]
    except pylock.PylockSelectError as error:
        if not package.packages[0].wheels:
            raise
        # None of its wheels is for the host, and it has no source.
        return error
    return found


def pinned_file(package: Any, found: Any, lock: Path) -> Locked:
    """Return the pin of a file that a lock file names, by its place: an index may have others."""
    version = str(package.version or "")
    problem = {
        pylock.PackageVcs: "is a commit of a repository: put its wheel into celery_app_wheels",
        pylock.PylockSelectError: "has no wheel for the host: put one into celery_app_wheels",
    }.get(type(found))
    if problem:
        return Locked(version, "", problem=problem)
    place = found.url or (lock.parent / (found.path or "")).resolve().as_uri()
    hashes = " ".join(f"--hash={name}:{value}" for name, value in found.hashes.items())
    is_wheel = urlsplit(place).path.endswith(".whl")
    return Locked(version, f"{package.name} @ {place} {hashes}", problem="" if is_wheel else SOURCE_ONLY)


def read_pipfile(lock: Path, wanted: Wanted) -> Lock:
    """Return what Pipenv installs of its lock file, as `pipenv requirements --hash` says it.

    Raises:
        BundleError: it is none, or has no such category.
    """
    if wanted.extras:
        raise BundleError(
            f"celery_app_extras: {lock.name} has no extras, but categories: celery_app_dependency_groups"
        )
    try:
        content = json.loads(lock.read_text(encoding="utf-8"))
        sources = content["_meta"]["sources"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{lock.name} is no lock file of Pipenv: {error}") from error
    missing = [group for group in wanted.groups if group not in content]
    if missing:
        raise BundleError(f"celery_app_dependency_groups: {lock.name} has no category {missing[0]}")
    entries = {n: e for group in ("default", *wanted.groups) for n, e in content.get(group, {}).items()}
    lines = [pipfile_line(name, entry, lock) for name, entry in sorted(entries.items())]
    places = [
        f"--{'extra-' if number else ''}index-url {source['url']}" for number, source in enumerate(sources)
    ]
    pins = pins_of("\n".join(lines), lock.name, wanted.target.environment())
    return Lock(pins, tuple(lock_options("\n".join(places), lock)))


def pipfile_line(name: str, entry: Mapping[str, Any], lock: Path) -> str:
    """Return the line of a requirements file that says what an entry of a Pipfile.lock does."""
    extras = f"[{','.join(entry['extras'])}]" if entry.get("extras") else ""
    place = entry.get("version", "")
    if "file" in entry or "path" in entry:
        given = str(entry.get("file") or lock.parent / entry["path"])
        place = f" @ {given if '://' in given else Path(given).resolve().as_uri()}"
    elif "git" in entry:
        place = f" @ git+{entry['git']}@{entry.get('ref', '')}"
    marker = f" ; {entry['markers']}" if entry.get("markers") else ""
    return " ".join([f"{name}{extras}{place}{marker}", *(f"--hash={h}" for h in entry.get("hashes", []))])
