"""The pipes between a worker and its child processes, over a lost connection to the broker and a child's end.

When a connection is lost Celery's event loop forgets every file it watches, and the pool registers its pipes
again. Celery drops at that moment what the pool was doing, since its messages are lost with the connection.
Ours are not, so that what was half written to a child, or half read from one, has to go on where it stopped.
"""

from inspect import isgenerator
from types import GeneratorType
from typing import Any, TypeAlias

from kombu.asynchronous import set_event_loop

# Seconds between two looks at a child that ends.
ENDING_SECONDS = 0.02

# File descriptors with the transfer under way on each, and the process at the other end.
Transfers: TypeAlias = "dict[int, tuple[GeneratorType[Any, Any, Any], Any]]"


class PoolPipes:
    """Keeps the transfers of a prefork pool while the event loop is reset."""

    def __init__(self, hub: Any, pool: Any) -> None:
        """Have the event loop note what it forgets."""
        self._hub = hub
        self._pool = pool
        self._reading: Transfers = {}
        self._writing: Transfers = {}
        forget = hub.reset

        def reset() -> None:
            self._note()
            forget()
            # Or a stop would neither fire timers nor acknowledge while running tasks end.
            set_event_loop(hub)

        hub.reset = reset

    @property
    def _processes(self) -> Any:
        """The pool with child processes, or nothing."""
        pool = getattr(self._pool, "_pool", None)
        return pool if hasattr(pool, "_fileno_to_outq") else None

    def _note(self) -> None:
        if (pool := self._processes) is not None:
            _forget_replaced(pool)
            self._reading |= _transfers(self._hub.readers, pool._fileno_to_outq)
            self._writing |= _transfers(self._hub.writers, pool._fileno_to_inq)

    def watch_again(self) -> None:
        """Let the pool watch children again whose end it has begun to handle; to it they are watched."""
        if (pool := self._processes) is not None:
            for process in pool._pool:
                if _is_ending(process):
                    del process._sentinel_poll

    def see_ends(self) -> None:
        """Have the pool look again soon for a child whose end it has begun to handle.

        The kernel closes the files of a process before its parent can wait for it. In between Celery sees
        that it ends, stops watching it, and looks for it no sooner than with its next timer, in 5 s.
        """
        pool = self._processes
        if pool is None or "maintain_pool" in vars(pool):
            return
        maintain = pool.maintain_pool

        def maintain_pool() -> None:
            maintain()
            if any(_is_ending(process) for process in pool._pool):
                self._hub.call_later(ENDING_SECONDS, maintain_pool)

        pool.maintain_pool = maintain_pool

    def resume(self) -> None:
        """Go on with the transfers, once the pool has registered with the event loop again."""
        reading, self._reading = self._reading, {}
        writing, self._writing = self._writing, {}
        if (pool := self._processes) is None:
            return
        for fd, (transfer, process) in reading.items():
            if pool._fileno_to_outq.get(fd) is process and transfer.gi_frame is not None:
                self._hub.add_reader(fd, transfer)
        for fd, (transfer, process) in writing.items():
            if pool._fileno_to_inq.get(fd) is process and fd in pool._active_writes:
                self._hub.add_writer(fd, transfer)


def _forget_replaced(pool: Any) -> None:
    """Let a pool forget the results' pipes of children that were killed, and whose pipes it has replaced.

    Celery leaves their numbers among those that it registers with the event loop again. Another pipe may have
    the number by then, such as that of jobs to a child: its jobs would be read as results, and be lost.
    """
    for fd, process in list(pool._fileno_to_outq.items()):
        if process.dead:
            del pool._fileno_to_outq[fd]


def _is_ending(process: Any) -> bool:
    """Whether the pool has begun to handle the end of a child that it has not waited for."""
    return vars(process).get("_sentinel_poll", process) is None


def is_prefork(pool: Any) -> bool:
    """Whether tasks run in child processes."""
    return any(base.__module__ == "celery.concurrency.prefork" for base in type(pool).__mro__)


def _transfers(watched: dict[int, Any], processes: dict[int, Any]) -> Transfers:
    """Return what is under way on the pipes to these processes."""
    return {
        fd: (entry[0], processes[fd])
        for fd, entry in watched.items()
        if entry is not None and isgenerator(entry[0]) and fd in processes
    }
