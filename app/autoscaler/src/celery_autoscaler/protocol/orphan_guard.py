"""A worker that is the child of a supervisor ends when the supervisor has died: no orphan goes on unseen."""

import logging
import os
import signal
import threading

logger = logging.getLogger(__name__)

# Process id of the supervisor that a worker belongs to.
SUPERVISOR_VARIABLE = "CELERY_AUTOSCALER_SUPERVISOR"
# Seconds that it then has to finish what it runs.
DRAIN_VARIABLE = "CELERY_AUTOSCALER_DRAIN_TIMEOUT"
# Seconds that running tasks have after SIGQUIT before they are given back, unless the app says otherwise.
SOFT_SHUTDOWN = 5.0
# Seconds between two looks at who the parent is.
LOOK = 0.5
# What the environment said of the supervisor, for a worker that restarts in the same process.
taken: dict[str, str] = {}
# Seconds from giving back what runs until the end is forced.
GRACE = 30.0


def end_with_supervisor() -> None:
    """Begin to watch the parent, if this process is the child of a supervisor."""
    for name in (SUPERVISOR_VARIABLE, DRAIN_VARIABLE):
        if name in os.environ:
            taken[name] = os.environ.pop(name)
    supervisor = taken.get(SUPERVISOR_VARIABLE)
    drain_timeout = float(taken.get(DRAIN_VARIABLE, "600"))
    if supervisor:
        watch = threading.Thread(target=_watch, args=(int(supervisor), drain_timeout), daemon=True)
        watch.start()


def _watch(supervisor: int, drain_timeout: float) -> None:
    never = threading.Event()
    while os.getppid() == supervisor:
        never.wait(LOOK)
    logger.warning("The supervisor has died: this worker finishes what it runs and ends")
    os.kill(os.getpid(), signal.SIGTERM)
    never.wait(drain_timeout)
    os.kill(os.getpid(), signal.SIGQUIT)
    never.wait(GRACE)
    os.killpg(os.getpgrp(), signal.SIGKILL)
