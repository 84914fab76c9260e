"""Run a Celery command as a systemd service.

``python -m celery_autoscaler.launch -A proj worker …`` is ``celery -A proj worker …`` with a worker that
loses no task (:mod:`celery_autoscaler.worker`). It notifies systemd (``Type=notify``) when the service
does its work: a worker when it consumes, beat when its service has begun. With
``CELERY_APP_PLAIN_WORKERS=true`` in the environment the worker is plain Celery's.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from celery_autoscaler.protocol.orphan_guard import end_with_supervisor


def main() -> int:
    """Run the Celery command line given in ``sys.argv``; return its exit status."""
    end_with_supervisor()
    # A pool of greenlets needs it before the rest is imported.
    importlib.import_module("celery").maybe_patch_concurrency()
    logs = importlib.import_module("celery_autoscaler.logs")
    try:
        as_json = logs.wants_json()
    except logs.LogFormatError as error:
        sys.exit(str(error))
    is_plain = os.environ.get("CELERY_APP_PLAIN_WORKERS") == "true"
    if not is_plain and {"worker", "beat"} & {*sys.argv}:
        # The first process of a pool ends its rest, or readiness.
        importlib.import_module("celery_autoscaler.consuming.garbage").rest()
    importlib.import_module("celery_autoscaler.consuming.readiness")
    if not is_plain:
        importlib.import_module("celery_autoscaler.worker")
    commands = load_commands()
    importlib.import_module("celery_autoscaler.consuming.restarts").keep_launcher()
    if as_json:
        logs.log_json_of_celery()
    else:
        logs.log_plain_of_celery()
    return int(commands.main() or 0)


def load_commands() -> ModuleType:
    """Import Celery's command line without what only people at a terminal use: a third of a worker's start.

    It is the shell of ``celery amqp``, and colours for Python code, which Celery does without where pygments
    is not installed.
    """
    shell = ModuleType("click_repl")
    shell.register_repl = lambda *_: None  # type: ignore[attr-defined]
    stand_ins: dict[str, Any] = {"click_repl": shell, "pygments": None}
    absent = stand_ins.keys() - sys.modules.keys()
    sys.modules.update({name: stand_ins[name] for name in absent})
    try:
        return importlib.import_module("celery.bin.celery")
    finally:
        for name in absent:
            del sys.modules[name]


if __name__ == "__main__":
    sys.exit(main())
