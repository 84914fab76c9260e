"""The Pythons of a host that releases brought along: each once, and for as long as a release uses it."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The Python of the distribution, which all other releases run on.
DISTRIBUTION = Path("/usr/bin/python3")
FOLDER = Path("/opt/celery-fleet/pythons")
# Of the host: several projects are deployed at the same time.
LOCK = Path("/run/celery-fleet-pythons.lock")
PROGRAM = "tree/bin/python3"
UNFINISHED = ".new-"
# Links to the releases that use it.
USERS = "releases"


class PythonError(Exception):
    """One line that says why a Python does not work on the host."""


def program_of(interpreter: str) -> Path:
    """Return the program of a Python; without an id, that of the distribution."""
    return FOLDER / interpreter / PROGRAM if interpreter else DISTRIBUTION


@contextmanager
def locked() -> Iterator[None]:
    """Hold the lock of the host."""
    # Any user who could read it could hold it.
    LOCK.touch(mode=0o600)
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def use(interpreter: str, archive: Path, release: Path) -> None:
    """Have a Python on the host for a release, whose directory is there.

    Args:
        interpreter: Its id.
        archive: Its files; not there if the host has them.
        release: Who uses it.

    Raises:
        PythonError: It does not run here.
    """
    folder = FOLDER / interpreter
    with locked():
        if not folder.exists():
            _install(folder, archive)
        link = folder / USERS / hashlib.sha256(str(release).encode()).hexdigest()[:12]
        link.unlink(missing_ok=True)
        link.symlink_to(release)


def _install(folder: Path, archive: Path) -> None:
    if not archive.exists():
        raise PythonError(f"another project has removed the Python {folder.name} meanwhile: run this again")
    folder.parent.mkdir(mode=0o755, exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=UNFINISHED) as scratch:
        new = Path(scratch) / "new"
        tree = new / Path(PROGRAM).parts[0]
        tree.mkdir(parents=True, mode=0o755)
        (new / USERS).mkdir(mode=0o755)
        command = [
            "tar",
            "--extract",
            "--gzip",
            "--no-same-owner",
            f"--directory={tree}",
            f"--file={archive}",
        ]
        _run(command, "cannot be unpacked")
        _run([str(new / PROGRAM), "-I", "-c", "import json, os, venv"], "does not run on this host")
        # The app's user may not write there. That a test of Python's own is no Python is no error.
        compile_all = [str(new / PROGRAM), "-I", "-S", "-m", "compileall", "-q"]
        named = ["-s", str(new), "-p", str(folder), str(tree / "lib")]
        subprocess.run([*compile_all, *named], capture_output=True, check=False)
        new.rename(folder)


def _run(command: list[str], problem: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise PythonError(f"celery_app_python {problem}: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
        raise PythonError(f"celery_app_python {problem}: {said[-1]}")


def unused() -> list[Path]:
    """Return the Pythons that no release uses."""
    found = sorted(FOLDER.glob("[!.]*"))
    return [folder for folder in found if not any(link.exists() for link in (folder / USERS).glob("*"))]


def prune(*, check_mode: bool = False) -> list[str]:
    """Remove the Pythons that no release uses; return their ids."""
    if not FOLDER.is_dir():
        return []
    with locked():
        dropped = unused()
        if not check_mode:
            # What an installation that was killed has left goes, too: none runs now.
            for folder in (*dropped, *FOLDER.glob(f"{UNFINISHED}*")):
                shutil.rmtree(folder)
            if not any(FOLDER.iterdir()):
                FOLDER.rmdir()
    return [folder.name for folder in dropped]
