"""Where Celery restarts a worker process, it starts ours: after SIGHUP, detached, for `celery multi`.

Celery would run ``python -m celery``, which is a worker of plain Celery, or the launcher's file as a script,
whose neighbours then take the place of other modules of the same name.
"""

import os
import sys
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from celery_autoscaler.protocol import orphan_guard

LAUNCHER = "celery_autoscaler.launch"


def keep_launcher() -> None:
    """Have every process with a worker that this process begins be one of the launcher's."""
    folder, command = Path.cwd(), [sys.executable, *sys.orig_argv[1:]]
    worker: Any = import_module("celery.apps.worker")
    program: Any = import_module("celery.bin.worker")
    node: Any = import_module("celery.apps.multi").Node
    detach, prepare = program.detach, node._prepare_argv

    def restart() -> None:
        worker.platforms.close_open_fds([sys.__stdin__, sys.__stdout__, sys.__stderr__])
        # `--workdir` has changed it, and does so again.
        os.chdir(folder)
        os.execve(sys.executable, command, os.environ | orphan_guard.taken)  # noqa: S606  no shell is wanted

    @wraps(detach)
    def detach_launched(path: str, argv: list[str], **options: Any) -> Any:
        if orphan_guard.taken or os.environ.get("NOTIFY_SOCKET"):
            sys.exit("--detach is refused: the supervisor of this worker would lose sight of it")
        return detach(path, launched(argv), **options)

    @wraps(prepare)
    def prepare_launched(self: Any) -> Any:
        # The first one holds several words.
        first, *others = prepare(self)
        return (" ".join(launched(first.split(" "))), *others)

    worker._reload_current_worker = restart
    program.detach = detach_launched
    node._prepare_argv = prepare_launched


def launched(argv: list[str]) -> list[str]:
    """Return the arguments of Python that run the same command of Celery's with the launcher."""
    return ["-m", LAUNCHER, *argv[2:]] if argv[:2] == ["-m", "celery"] else argv
