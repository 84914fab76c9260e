"""Where a project comes from: a directory, a commit of a git repository, a wheel or an sdist."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

IGNORED_FOLDERS = {
    *(
        ".git",
        ".hg",
        ".svn",
        ".github",
        ".idea",
        ".vscode",
        ".direnv",
        ".venv",
        ".tox",
        ".nox",
        "node_modules",
    ),
    *("__pycache__", ".cache", ".mypy_cache", ".pytest_cache", ".ruff_cache", "build", "dist"),
}
IGNORED_FILES = ("*.pyc", ".env", ".env.*", ".envrc", "*.sqlite3", "celerybeat-schedule*")
GIT = re.compile(r"[a-z][a-z+]*://|[\w.-]+@[\w.-]+:")
PASSWORD = re.compile(r"[a-z+]+://[^/@]*:[^/@]*@")
COMMIT = re.compile(r"[0-9a-f]{40}")


class BundleError(Exception):
    """One line that tells the user what is wrong with the project or its lock file."""


class Source(NamedTuple):
    """A project on this machine."""

    path: Path
    """A directory, a wheel or an sdist."""
    builds: bool = True
    """Whether pip makes a wheel of it; else it is a directory of modules that is taken as it is."""
    commit: str = ""
    back_ends: Path | None = None
    """The lock file of what it is built with, where it brings one."""

    def find_lock(self, name: str) -> Path:
        """Return the project's lock file.

        Raises:
            BundleError: it is not named, and cannot be in a wheel or an sdist.
        """
        lock = Path(name).expanduser()
        if not lock.is_absolute() and self.path.is_file():
            raise BundleError(
                f"{self.path.name} brings no lock file: celery_app_requirements must be the whole path of one"
            )
        return self.path / lock

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
        if self.path.is_file():
            yield self.path
        for directory, folders, names in os.walk(self.path):
            folders[:] = sorted(f for f in folders if not self._is_ignored(Path(directory) / f))
            for name in sorted(names):
                path = Path(directory) / name
                if path.is_file() and not any(fnmatch.fnmatch(name, ignored) for ignored in IGNORED_FILES):
                    yield path

    def _is_ignored(self, folder: Path) -> bool:
        return (
            folder.name in IGNORED_FOLDERS
            or folder.suffix == ".egg-info"
            or (folder / "pyvenv.cfg").is_file()
        )

    def name_of(self, path: Path) -> str:
        """Return the name of one of its files, which does not depend on where it stands."""
        return path.name if self.path.is_file() else path.relative_to(self.path).as_posix()


def find_source(source: str, revision: str, cache: Path, run: str) -> Source:
    """Return the project that a user names.

    Args:
        source: Directory, wheel, sdist, or the URL of a git repository.
        revision: What of the repository.
        cache: Where repositories are kept.
        run: Whatever names this run: a branch is looked up once in it.

    Raises:
        BundleError: there is no such thing, or it is no project.
    """
    if GIT.match(source):
        path, commit = check_out(source, revision, cache, run)
        return Source(path, is_package(path, source), commit)
    path = Path(source).resolve()
    if revision:
        raise BundleError(f"celery_app_revision is for the URL of a git repository, and {source} is none")
    if not path.exists():
        raise BundleError(f"celery_app_source: {path} does not exist")
    if path.is_file():
        if not path.name.endswith((".whl", ".tar.gz")):
            raise BundleError(f"{path} is neither a directory nor a wheel (*.whl) nor an sdist (*.tar.gz)")
        return Source(path)
    return Source(path, is_package(path, str(path)))


def is_package(directory: Path, name: str) -> bool:
    """Tell whether pip can make a wheel of a directory; else it is one of modules.

    As uv has it: without a build system it is not packaged.

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
        if "build-system" in content or ("project" in content and (directory / "src").is_dir()):
            return True
    if not any(directory.glob("*.py")) and not any(directory.glob("*/*.py")):
        raise BundleError(
            f"{name} is no Python project: it has no pyproject.toml, no setup.py and no Python files"
        )
    return False


def check_out(url: str, revision: str, cache: Path, run: str) -> tuple[Path, str]:
    """Return a commit's files and its id. What a full id names is not fetched twice.

    Raises:
        BundleError: the repository or the revision cannot be had.
    """
    if not revision:
        raise BundleError(f"celery_app_revision is needed: which branch, tag or commit of {url}?")
    if PASSWORD.match(url):
        raise BundleError(
            "celery_app_source holds a password, which others would see: give it to git (gitcredentials(7))"
        )
    repository = cache / "git" / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}.git"
    if not repository.exists():
        git("init", "--quiet", "--bare", str(repository))
    commit = resolve(repository, revision) if COMMIT.fullmatch(revision) else ""
    if not commit:
        fetch_once(repository, url, f"{run} {revision}")
        commit = resolve(repository, revision)
    if not commit:
        raise BundleError(f"{url} has no revision {revision}")
    files = repository.parent / commit
    if not files.exists():
        partial = repository.parent / f"{commit}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        # With its history: some build systems take the version from the tags.
        git("clone", "--quiet", "--shared", "--no-checkout", str(repository), str(partial))
        git("-C", str(partial), "checkout", "--quiet", "--detach", commit)
        partial.rename(files)
    return files, commit


def fetch_once(repository: Path, url: str, occasion: str) -> None:
    """Fetch all branches and tags, if it has not been done on this occasion: all hosts shall get the same."""
    fetched = repository / "fetched.json"
    if fetched.exists() and json.loads(fetched.read_text()) == occasion:
        return
    everything = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
    git("-C", str(repository), "fetch", "--quiet", "--prune", url, *everything)
    fetched.write_text(json.dumps(occasion))


def resolve(repository: Path, revision: str) -> str:
    """Return the id of the commit that a revision names, or nothing."""
    command = ["git", "-C", str(repository), "rev-parse", "--quiet", "--verify", "--end-of-options"]
    done = subprocess.run([*command, f"{revision}^{{commit}}"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def git(*arguments: str) -> None:
    """Run git, which asks nobody anything.

    Raises:
        BundleError: it failed; its own words are the message.
    """
    environment = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes", **os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 -- wherever the user has it
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise BundleError("git is not installed on the controller") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("fatal: ", "error: "))]
        raise BundleError(
            f"git: {(lines or [done.stderr.strip()])[0].partition(': ')[2] or done.stderr.strip()}"
        )
