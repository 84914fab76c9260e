"""A program that runs for a moment in a folder of its own, to say what it thinks of the files there."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def give(folder: Path, user: str) -> None:
    """Give a folder and what is directly in it to a user."""
    entry = pwd.getpwnam(user)
    for path in (folder, *folder.iterdir()):
        os.chown(path, entry.pw_uid, entry.pw_gid)


@contextmanager
def running(
    command: list[str], folder: Path, user: str, groups: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program in the folder as a user, and kill it at the end.

    Args:
        command: The program and its arguments.
        folder: Where it runs. It prints to the file ``log`` there.
        user: Who it runs as.
        groups: The user's further groups.

    Yields:
        The process.
    """
    entry = pwd.getpwnam(user)
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=list(groups),
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def printed(folder: Path) -> str:
    """Return what it has printed so far."""
    return (folder / "log").read_text(encoding="utf-8", errors="replace")
