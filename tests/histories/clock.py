"""Wall clocks that jump: a small library, preloaded into a worker or a supervisor, shifts what it is told."""

from __future__ import annotations

import functools
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


@functools.cache
def library() -> Path | None:
    """Compile the library; return nothing where there is no C compiler, and clocks do not jump then."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    made = Path(tempfile.mkdtemp(prefix="histories-clock-")) / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", made, SOURCE], check=True, capture_output=True)
    return made


class Clock:
    """The clock of one process and its children."""

    def __init__(self, path: Path) -> None:
        """Make a clock that is right; the file keeps by how much it is wrong."""
        self._path = path
        path.write_bytes(struct.pack("d", 0.0))

    def jump(self, seconds: float) -> None:
        """Be a number of seconds ahead of the right time, or behind it."""
        with self._path.open("r+b") as file:
            file.write(struct.pack("d", seconds))

    def environment(self) -> dict[str, str]:
        """Return the environment of the process."""
        made = library()
        return {"LD_PRELOAD": str(made), "CLOCK_FILE": str(self._path)} if made else {}
