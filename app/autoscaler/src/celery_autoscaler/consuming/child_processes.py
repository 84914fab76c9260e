"""The children of a prefork pool that stretches.

Celery's own ``shrink`` sends SIGTERM to a child that has accepted no task. One whose task is being written
into its pipe has not accepted it yet: the task is interrupted, or lost. Here a child is chosen that nothing
was assigned to, no further task is written to it from that moment, and it ends as every child does when the
worker stops: by a job that is none, which it reads when it is at rest.
"""

import errno
import logging
import os
from contextlib import suppress
from typing import Any

logger = logging.getLogger(__name__)

# A child waits for the next job: nothing is read that was not written as a whole.
NO_JOB = None
READ_BYTES = 65_536


class ChildProcesses:
    """Adds children to a pool, and ends idle ones."""

    def __init__(self, pool: Any, hub: Any) -> None:
        self._task_pool = pool
        self._hub = hub
        self._leaving: set[Any] = set()

    @property
    def _pool(self) -> Any:
        return self._task_pool._pool

    @property
    def number(self) -> int:
        """How many there are, without those that have been told to end."""
        pool = self._pool
        return int(pool._processes) if pool is not None else 0

    def add(self) -> bool:
        """Fork one from the worker, which has loaded the app; return whether that was possible."""
        pool = self._pool
        pool.grow(1)
        try:
            pool.maintain_pool()
        except (OSError, MemoryError) as error:
            logger.warning("No further child can be started: %s", error or "no memory")
            self._forget_unstarted()
            self._lower()
            return False
        return True

    def _forget_unstarted(self) -> None:
        """Forget a child that could not be forked: the pool took it in before."""
        pool = self._pool
        for process in [each for each in pool._pool if each._popen is None]:
            pool._pool.remove(process)
            pool._process_cleanup_queues(process)

    def end_idle(self) -> bool:
        """End a child that runs no task and has none assigned; return whether there was one."""
        pool = self._pool
        assigned = assigned_processes(pool)
        for process in reversed(pool._pool):
            fd = process.inqW_fd
            is_up = pool._fileno_to_inq.get(fd) is process and fd in pool._all_inqueues
            is_busy = fd in pool._busy_workers or fd in pool._active_writes or process.pid in assigned
            if is_up and not is_busy and process not in self._leaving:
                self._end(process)
                return True
        return False

    def _end(self, process: Any) -> None:
        """Let the pool write no further job to a child, expect its end, and ask it to end."""
        pool, fd = self._pool, process.inqW_fd
        self._see_ends(pool)
        pool._all_inqueues.discard(fd)
        self._hub.remove_writer(fd)
        self._leaving.add(process)
        self._lower()
        # Nothing else is in the pipe: it has room.
        with suppress(OSError):
            process.inq.put(NO_JOB)

    def _see_ends(self, pool: Any) -> None:
        """Have the pool empty the pipe of a child that has ended, which it gives to another one."""
        if "_process_cleanup_queues" in vars(pool):
            return
        free_pipes = pool._process_cleanup_queues

        def cleanup(process: Any) -> None:
            if process in self._leaving:
                self._leaving.discard(process)
                # The next child would end at once, if this one was killed before it read.
                with suppress(OSError):
                    empty(process.inq._reader)
            free_pipes(process)

        pool._process_cleanup_queues = cleanup

    def _lower(self) -> None:
        pool = self._pool
        pool._processes -= 1
        if pool._putlock is not None:
            pool._putlock.shrink()


def assigned_processes(pool: Any) -> set[int]:
    """Return the ids of the processes that run a task, or that one was or is written to."""
    found: set[int] = set()
    for job in list(pool._cache.values()):
        found.update(job.worker_pids())
        found.update(process.pid for process in (job._write_to, job._scheduled_for) if process is not None)
    return found


def empty(reader: Any) -> None:
    """Discard what a pipe holds."""
    fd = reader.fileno()
    os.set_blocking(fd, False)
    try:
        while os.read(fd, READ_BYTES):
            continue
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
    finally:
        os.set_blocking(fd, True)
