"""Where a project comes from: a directory, a commit of a git repository, a wheel, an sdist or an index."""

from __future__ import annotations

import fnmatch
import os
import re
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_git import check_out
from packaging.requirements import InvalidRequirement, Requirement

IGNORED_FOLDERS = {
    *(".git", ".hg", ".svn", ".github", ".idea", ".vscode", ".direnv", ".venv", ".tox", ".nox"),
    *("node_modules", "__pycache__", ".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache"),
}
IGNORED_FILES = ("*.pyc", ".env", ".env.*", ".envrc", "*.sqlite3", "celerybeat-schedule*")
ARCHIVES = (".whl", ".tar.gz", ".zip")
GIT = re.compile(r"(git\+)?([a-z][a-z+]*://|[\w.-]+@[\w.-]+:)")
SUBDIRECTORY = re.compile(r"#(?:.*&)?subdirectory=([^&]*)")


class Source(NamedTuple):
    """A project on this machine."""

    path: Path
    """A directory, a wheel or an sdist; of a package of an index, a name that no file has."""
    builds: bool = True
    """Whether pip makes a wheel of it; else it is a directory of modules that is taken as it is."""
    commit: str = ""
    back_ends: Path | None = None
    """The lock file of what it is built with, where it brings one."""
    requirement: Requirement | None = None
    """The package, where it comes from an index: the lock file pins it with the others."""
    parts: tuple[Path, ...] = ()
    """Files and directories outside of it that go into its wheel."""

    def find_lock(self, name: str) -> Path:
        """Return the project's lock file.

        Raises:
            BundleError: it is not named, and cannot be in a wheel or an sdist.
        """
        lock = Path(name).expanduser()
        if not lock.is_absolute() and (self.requirement is not None or self.path.is_file()):
            raise BundleError(
                f"{self.requirement or self.path.name} brings no lock file: "
                "celery_app_requirements must be the whole path of one"
            )
        return self.path / lock

    def metadata(self) -> dict[str, Any]:
        """Return what the pyproject.toml of a directory says of the project; nothing if it says nothing."""
        pyproject = self.path / "pyproject.toml"
        if self.requirement is not None or not pyproject.is_file():
            return {}
        found = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("project", {})
        return dict(found)

    def build_requirements(self) -> list[str]:
        """Return what its build system asks for."""
        content: dict[str, Any] = {}
        try:
            if self.path.is_file():
                with tarfile.open(self.path) as sdist:
                    names = [name for name in sdist.getnames() if name.count("/") == 1]
                    found = [name for name in names if name.endswith("/pyproject.toml")]
                    opened = sdist.extractfile(found[0]) if found else None
                    content = tomllib.loads(opened.read().decode()) if opened else {}
            elif (self.path / "pyproject.toml").is_file():
                content = tomllib.loads((self.path / "pyproject.toml").read_text(encoding="utf-8"))
        except (tarfile.TarError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BundleError(f"{self.path.name}: {error}") from error
        # As pip has it where nothing is said.
        required = content.get("build-system", {}).get("requires", ["setuptools>=40.8.0"])
        return [str(requirement) for requirement in required]

    def files(self) -> Iterator[Path]:
        """Yield its files in a fixed order, without caches, build products and local settings."""
        if self.requirement is not None:
            return
        if self.path.is_file():
            yield self.path
        for directory, folders, names in os.walk(self.path):
            folders[:] = sorted(f for f in folders if not self._is_ignored(Path(directory) / f))
            for name in sorted(names):
                path = Path(directory) / name
                if path.is_file() and not any(fnmatch.fnmatch(name, ignored) for ignored in IGNORED_FILES):
                    yield path
        for part in self.parts:
            yield from Source(part).files()

    def _is_ignored(self, folder: Path) -> bool:
        return (
            folder.name in IGNORED_FOLDERS
            or folder.suffix == ".egg-info"
            or (folder / "pyvenv.cfg").is_file()
            or (folder.parent == self.path and is_build_product(folder))
        )

    def import_paths(self) -> list[str]:
        """Return where in it Python finds its modules; none if it is installed."""
        if self.builds or self.requirement is not None:
            return []
        src = self.path / "src"
        return ["src", "."] if src.is_dir() and not (src / "__init__.py").is_file() else ["."]

    def name_of(self, path: Path) -> str:
        """Return the name of one of its files, which does not depend on where it stands."""
        return path.name if self.path.is_file() else Path(os.path.relpath(path, self.path)).as_posix()


def is_build_product(folder: Path) -> bool:
    """Tell whether a folder beside a project's files is what a build has left: the name says little."""
    names = [path.name for path in folder.iterdir()]
    if folder.name == "dist":
        return bool(names) and all(name.endswith(ARCHIVES) or name == ".gitignore" for name in names)
    return folder.name == "build" and any(n == "lib" or n.startswith(("lib.", "bdist.")) for n in names)


def find_source(source: str, revision: str, cache: Path, run: str, subdirectory: str = "") -> Source:
    """Return the project that a user names.

    Args:
        source: Directory, wheel, sdist, URL of a git repository, or name and version of a package.
        revision: What of the repository.
        cache: Where repositories are kept.
        run: Whatever names this run: a branch is looked up once in it.
        subdirectory: Where in the repository the project is; or ``#subdirectory=`` in the URL, as pip has it.

    Raises:
        BundleError: there is no such thing, or it is no project.
    """
    if GIT.match(source):
        url, _, _ = source.removeprefix("git+").partition("#")
        fragment = SUBDIRECTORY.search(source)
        path, commit = check_out(url, revision, cache, run)
        path = subfolder(path, subdirectory or (fragment.group(1) if fragment else ""), url)
        return Source(path, is_package(path, source), commit)
    if revision or subdirectory:
        name = "celery_app_revision" if revision else "celery_app_subdirectory"
        raise BundleError(f"{name} is for the URL of a git repository, and {source} is none")
    path = Path(source).resolve()
    if not path.exists() and (requirement := from_index(source)):
        return Source(Path(requirement.name), builds=False, requirement=requirement)
    if not path.exists():
        raise BundleError(f"celery_app_source: {path} does not exist")
    if path.is_file():
        if not path.name.endswith((".whl", ".tar.gz")):
            raise BundleError(f"{path} is neither a directory nor a wheel (*.whl) nor an sdist (*.tar.gz)")
        return Source(path)
    return Source(path, is_package(path, str(path)))


def from_index(source: str) -> Requirement | None:
    """Return the package of an index that a source names; nothing if it is none.

    Raises:
        BundleError: it names no single version.
    """
    # Whatever may have been meant as a path says so.
    if "/" in source or "=" not in source:
        return None
    try:
        requirement = Requirement(source)
    except InvalidRequirement:
        return None
    if [s.operator for s in requirement.specifier] != ["=="] or "*" in str(requirement.specifier):
        raise BundleError(f"celery_app_source: {source} names no single version; allowed: name==version")
    return requirement


def subfolder(checkout: Path, name: str, url: str) -> Path:
    """Return a folder of a repository.

    Raises:
        BundleError: there is no such folder in it.
    """
    folder = (checkout / name).resolve()
    if not folder.is_relative_to(checkout.resolve()) or not folder.is_dir():
        raise BundleError(f"celery_app_subdirectory: {url} has no folder {name} in this revision")
    return folder


def is_package(directory: Path, name: str) -> bool:
    """Tell whether pip can make a wheel of a directory; else it is one of modules.

    As uv has it: without a build system it is not packaged. pip would guess one, and leave its data out.

    Raises:
        BundleError: it is neither.
    """
    if (directory / "setup.py").is_file():
        return True
    pyproject = directory / "pyproject.toml"
    if pyproject.is_file():
        try:
            content = tomllib.loads(pyproject.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise BundleError(f"{name}: pyproject.toml: {error}") from error
        if "build-system" in content:
            return True
    if not any(next(directory.glob(pattern), None) for pattern in ("*.py", "*/*.py", "src/*/*.py")):
        raise BundleError(
            f"{name} is no Python project: it has no pyproject.toml, no setup.py and no Python files"
        )
    return False
