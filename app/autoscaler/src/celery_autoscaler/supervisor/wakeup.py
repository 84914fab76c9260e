"""Wakes the supervisor between two ticks, when more messages wait than its last decisions assumed.

The server tells once of each list that has changed since its length was read. So an idle fleet costs nothing,
and a busy list costs one reading of its length now and then, however many messages pass through it. Where the
server does not tell, the supervisor has its ticks.
"""

import logging
import math
import select
import socket
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError, ResponseError

from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.faults import described
from celery_autoscaler.supervisor.list_watch import ListWatch
from celery_autoscaler.supervisor.observation import FleetSeen

logger = logging.getLogger(__name__)

# Seconds between two readings of lists that change: the shortest; after a decision; the longest, once
# readings one after the other have shown nothing new.
SHORTEST_SECONDS, DECISION_SECONDS, LONGEST_SECONDS = 0.05, 0.1, 0.4
# Seconds of silence after which the first word is followed at once.
CALM_SECONDS = 1.0
# Seconds until a server that refuses to tell is asked again.
RETRY_SECONDS = 60.0


class Wakeup:
    """Waits for the next tick, or for messages that are worth a decision before it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._watch: ListWatch | None = None
        self._watched: set[str] = set()
        """The lists whose growth matters."""
        self._lengths: dict[str, int] = {}
        """Of each of them that was read, its length then."""
        self._changed: set[str] = set()
        """Those that have changed since, or were never read."""
        self._assumed: list[tuple[list[str], float]] = []
        """Of each group that may grow, its lists, and how many messages they may hold."""
        self._doubted: set[str] = set()
        """Lists that a tick has seen to be of another length than when they were read."""
        self._next_read = self._last_read = -math.inf
        self._pause = SHORTEST_SECONDS
        self._retry_at = -math.inf
        self._said = ""
        self._bell, self._rung = socket.socketpair()
        self._bell.setblocking(False)

    # --- Waiting ---------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> bool:
        """Wait for a time, or until a decision is due; return whether one is.

        Other threads and signal handlers end the wait by :meth:`ring`.
        """
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            until = min(end, self._next_read) if self._changed else end
            if self._hear(max(0.0, until - now)):
                return False
            if self._changed and time.monotonic() >= self._next_read and self._read():
                return True
        return False

    def ring(self) -> None:
        """End the wait."""
        with suppress(BlockingIOError):
            self._bell.send(b".")

    def _hear(self, seconds: float) -> bool:
        """Wait for a word of the server's and take it in; return whether the wait was ended from outside."""
        poll = select.poll()
        for sock in (self._rung, *(self._watch.sockets if self._watch else ())):
            poll.register(sock, select.POLLIN)
        heard = [number for number, _ in poll.poll(math.ceil(1000 * seconds))]
        if self._rung.fileno() in heard:
            self._rung.recv(4096)
            return True
        if heard:
            self._take_in()
        return False

    def _take_in(self) -> None:
        """Note which lists have changed, as far as the server has told."""
        if self._watch is None:
            return
        try:
            changed = self._watch.changed()
        except Exception as error:  # noqa: BLE001  whatever it is, there are the ticks
            self._lose(error)
            return
        if not self._changed and time.monotonic() - self._last_read > CALM_SECONDS:
            self._pause = SHORTEST_SECONDS
        self._changed |= self._watched if changed is None else self._watched & changed

    def _read(self) -> bool:
        """Read the lists that have changed; return whether more waits than was assumed."""
        if self._watch is None:
            return False
        try:
            self._lengths |= self._watch.lengths(sorted(self._changed))
        except Exception as error:  # noqa: BLE001  whatever it is, there are the ticks
            self._lose(error)
            return False
        self._changed.clear()
        is_due = any(
            sum(self._lengths.get(name, 0) for name in lists) > most for lists, most in self._assumed
        )
        self._last_read = time.monotonic()
        self._next_read = self._last_read + (DECISION_SECONDS if is_due else self._pause)
        self._pause = SHORTEST_SECONDS if is_due else min(2 * self._pause, LONGEST_SECONDS)
        return is_due

    # --- After each decision ---------------------------------------------------------------------------

    def expect(self, fleet: FleetSeen | None) -> None:
        """Take in what the decisions assume that a look at the broker has led to, if one was possible."""
        if fleet is None:
            self.close()
            return
        context, prefix = self.context, self.context.broker.keys.prefix
        seen = {prefix + item.name: item.length for item in fleet.lists}
        lists: defaultdict[str, list[str]] = defaultdict(list)
        for item in fleet.lists:
            lists[item.queue].append(prefix + item.name)
        self._assumed = []
        for state in context.groups.values():
            most = state.assumed(context.bounds(state.group)[1], context.settings.tick)
            if most < math.inf:
                self._assumed.append(([name for queue in state.group.queues for name in lists[queue]], most))
        try:
            self._watch_lists({name for names, _ in self._assumed for name in names}, seen)
        except Exception as error:  # noqa: BLE001  whatever it is, there are the ticks
            self._lose(error)

    def _watch_lists(self, wanted: set[str], seen: Mapping[str, int]) -> None:
        """Watch some lists, whose lengths a look has just shown.

        Raises:
            redis.RedisError: The server does not answer, or refuses to tell.
        """
        if self._watch is None and wanted and time.monotonic() >= self._retry_at:
            self._watch = ListWatch(self.context.broker)
        self._take_in()
        if self._watch is None:
            return
        self._lengths = {name: length for name, length in self._lengths.items() if name in wanted}
        # A list that is new may have grown before anybody was told of it.
        self._changed = self._changed & wanted | wanted - self._lengths.keys()
        self._watched = wanted
        silent = {name for name in self._lengths if seen.get(name) != self._lengths[name]} - self._changed
        if silent & self._doubted:
            raise NoConnection("the server has not told of a list that has changed")
        self._doubted = silent

    def _lose(self, error: Exception) -> None:
        """Do without the server's words: until the next decision connects again, or longer if it refuses."""
        self.close()
        if isinstance(error, RedisError | OSError) and not isinstance(error, ResponseError):
            return
        what = (
            f"Redis does not tell which lists change ({described(error)}): the supervisor looks once a tick"
        )
        if what != self._said:
            logger.log(logging.INFO if isinstance(error, ResponseError) else logging.ERROR, "%s", what)
        self._said = what
        self._retry_at = time.monotonic() + RETRY_SECONDS

    def close(self) -> None:
        """Close the connections; the next decision opens others."""
        if self._watch is not None:
            self._watch.close()
        self._watch = None
        self._lengths, self._watched, self._changed, self._doubted = {}, set(), set(), set()
