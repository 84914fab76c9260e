"""Run a Celery command as a systemd service.

``python -m celery_autoscaler.launch -A proj worker …`` is ``celery -A proj worker …`` with a worker that
loses no task (:mod:`celery_autoscaler.worker`). It tells systemd (``Type=notify``) when the service does its
work: a worker when it consumes, beat when its service has begun. With ``CELERY_APP_PLAIN_WORKERS=true`` in
the environment the worker is plain Celery's.
"""

import importlib
import os
import sys

from celery import maybe_patch_concurrency

from celery_autoscaler.parent import end_with_supervisor


def main() -> int:
    """Run the Celery command line given in ``sys.argv``; return its exit status."""
    end_with_supervisor()
    # A pool of greenlets needs it before the rest is imported.
    maybe_patch_concurrency()
    importlib.import_module("celery_autoscaler.readiness")
    if os.environ.get("CELERY_APP_PLAIN_WORKERS") != "true":
        importlib.import_module("celery_autoscaler.worker")
    return int(importlib.import_module("celery.bin.celery").main() or 0)


if __name__ == "__main__":
    sys.exit(main())
