"""Files as they are wanted and as they were, for modules that put back what they have replaced."""

from __future__ import annotations

import grp
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

# The options of a file that modules have alike.
FILE_OPTIONS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str", "required": True},
}


class File(NamedTuple):
    """A file as it is wanted, or as it was."""

    path: Path
    content: str | None  # nothing where there is none
    mode: int
    uid: int
    gid: int
    restart: bool = False


def found(path: Path) -> File:
    """Return a file as it is."""
    if not path.exists():
        return File(path, None, 0, 0, 0)
    state = path.stat()
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    return File(path, text, state.st_mode & 0o7777, state.st_uid, state.st_gid)


def same(one: File, other: File) -> bool:
    """Whether two files say the same to the same people."""
    return one._replace(restart=False) == other._replace(restart=False)


def put(file: File) -> None:
    """Write a file, or remove it where there shall be none."""
    if file.content is None:
        file.path.unlink(missing_ok=True)
        return
    if not file.path.parent.exists():
        file.path.parent.mkdir()
        file.path.parent.chmod(0o755)
    handle, name = tempfile.mkstemp(dir=file.path.parent, prefix=f".{file.path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as output:
        output.write(file.content)
        os.fchown(output.fileno(), file.uid, file.gid)
        os.fchmod(output.fileno(), file.mode)
        output.flush()
        os.fsync(output.fileno())
    Path(name).replace(file.path)


def gid(name: str) -> int:
    """Return the number of a group; in the check mode of a bare host there is none."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return 0


def diff(before: File, after: File) -> dict[str, str]:
    """Return both sides of a file for Ansible's diff, with what is not said in its text."""
    one, other = before.content or "", after.content or ""
    if one == other:
        one, other = (f"mode {file.mode:04o}, owner {file.uid}:{file.gid}\n" for file in (before, after))
    return {"before_header": str(before.path), "after_header": str(after.path), "before": one, "after": other}


def text(content: str) -> str:
    """A lookup and a template differ in the last line feed."""
    return content.rstrip("\n") + "\n"
