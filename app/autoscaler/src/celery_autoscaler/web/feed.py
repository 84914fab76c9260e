"""What the page shows, made once a second however many pages are open, and not at all while none is.

It has a thread and connections of its own: no tick of the supervisor waits for a page.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from redis.exceptions import RedisError

from celery_autoscaler.operations import dead_letters
from celery_autoscaler.operations.failures import Which, kinds
from celery_autoscaler.operations.known import known
from celery_autoscaler.protocol.broker import Broker, connect
from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.project import DEFAULT_PROJECT, project_name
from celery_autoscaler.protocol.status import SupervisorStatus
from celery_autoscaler.protocol.text import as_text
from celery_autoscaler.supervisor import fleet_status, history
from celery_autoscaler.supervisor.fleet_status import FleetStatus
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.supervisor.verdict import failures, lateness, limit_words

logger = logging.getLogger(__name__)

# Pages that can be open at a time.
READERS = 20
# Seconds between two snapshots, at least.
EVERY_SECONDS = 1.0
# Seconds by which a tick is late before what it saw counts as old.
STALE_SECONDS = 5.0
# Seconds over which the rates of a queue are taken.
RATES_SECONDS = 10.0
# Decisions that each snapshot shows.
DECISIONS = 30
# Decisions that the time axis of the charts shows, and those among which they are looked for.
MARKS, AMONG = 300, 3000
# Dead letters of a queue that are shown, and characters of their arguments.
DEAD_LETTERS, ARGUMENTS = 20, 200
# Kinds of failures that are shown.
FAILURE_KINDS = 20
# Points of a chart.
POINTS = 360


class TooManyReadersError(Exception):
    """All places are taken."""


class Feed:
    """Makes the snapshots, and sends each to the pages."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._broker: Broker | None = None
        self._changed = threading.Condition()
        self._readers = 0
        self._runs = False
        self._number = 0
        self._text = ""
        self._made_at = 0.0
        self._said = ""
        self._steps: deque[tuple[float, dict[str, tuple[int, int]]]] = deque()

    @property
    def broker(self) -> Broker:
        """The connection to the broker.

        Raises:
            redis.RedisError: It cannot be reached.
        """
        if self._broker is None:
            self._broker = connect(self.supervisor.app)
        return self._broker

    def subscribe(self) -> "Subscription":
        """Return the snapshots from now on, as JSON.

        Raises:
            TooManyReadersError: All places are taken.
        """
        with self._changed:
            if self._readers >= READERS:
                raise TooManyReadersError
            self._readers += 1
            if not self._runs:
                # What was made for pages that are closed by now may be of any age.
                self._runs, self._made_at, self._text = True, time.monotonic(), ""
                threading.Thread(target=self._run, name="feed", daemon=True).start()
            is_new = self._text and time.monotonic() - self._made_at < 2 * self._every
            return Subscription(self, self._number - bool(is_new))

    def leave(self) -> None:
        """Give a place back."""
        with self._changed:
            self._readers -= 1

    def wait(self, number: int) -> tuple[int, str]:
        """Return the next snapshot after one, and its number; the same number and no text if none comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > number, timeout=2 * self._every)
            return self._number, self._text if self._number > number else ""

    def silent(self) -> float:
        """Return for how many seconds no snapshot was made although pages are open."""
        with self._changed:
            return time.monotonic() - self._made_at - self._every if self._readers else 0.0

    @property
    def _every(self) -> float:
        return max(EVERY_SECONDS, self.supervisor.settings.tick)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._readers:
                    self._runs = False
                    return
            text = self._next()
            with self._changed:
                self._number += 1
                self._text = text
                self._made_at = time.monotonic()
                self._changed.notify_all()
            time.sleep(self._every)

    def _next(self) -> str:
        """Return a snapshot as JSON, whatever stands in Redis: no open page shows an old one as new."""
        try:
            text = json.dumps(self.snapshot())
        except Exception as error:
            words = as_text(f"{type(error).__name__}: {error}", 300)
            if words != self._said:
                logger.exception("The page cannot be made")
            self._said = words
            why = f"this page cannot be made ({words}); the log of {self.supervisor.host} says more"
            return json.dumps(self._blank() | {"why": why})
        self._said = ""
        return text

    # --- The snapshot -----------------------------------------------------------------------------------

    def _blank(self) -> dict[str, Any]:
        """Return a snapshot of which nothing is known but when the supervisor last saw anything."""
        return {
            "host": self.supervisor.host,
            "project": project_name() or DEFAULT_PROJECT,
            "pages": dict(self.supervisor.settings.pages),
            "at": time.time(),
            "as_of": self.supervisor.status.at or None,
            "verdict": "blind",
            "also": [],
        }

    def snapshot(self) -> dict[str, Any]:
        """Return what the fleet is and does; while that cannot be seen, why, and what was seen last."""
        supervisor = self.supervisor
        own = supervisor.status
        late = time.monotonic() - supervisor.last_tick - supervisor.settings.tick
        if own.state == "blind":
            why = f"Redis does not answer; {supervisor.host} starts and stops nothing: {own.why}"
            return self._blank() | {"why": why} | self._seen_last()
        if late > STALE_SECONDS:
            why = f"the supervisor of {supervisor.host} hangs: it has not looked for {late:.0f} s"
            return self._blank() | {"why": why} | self._seen_last()
        try:
            status = fleet_status.fleet_status(self.broker)
            decisions = [shown(record) for record in fleet_status.decisions(self.broker, DECISIONS)]
        except RedisError as error:
            why = f"Redis does not answer; {supervisor.host} starts and stops nothing: {error}"
            return self._blank() | {"why": why} | self._seen_last()
        supervisor.context.unreadable.count(status.unreadable)
        word, why = status.verdict
        found = {"verdict": word, "why": why, "also": [vars(each) for each in status.findings[1:]]}
        return self._blank() | self._contents(status) | found | {"decisions": decisions}

    def _seen_last(self) -> dict[str, Any]:
        """Return what this supervisor saw last, for a page that is opened during an outage."""
        own = self.supervisor.status
        if not own.at:
            return {}
        found = self._contents(FleetStatus({self.supervisor.host: own}))
        # That one does not know it: a page that was open before does.
        del found["last_change"]
        return found

    def _contents(self, status: FleetStatus) -> dict[str, Any]:
        """Return what the page shows below its verdict."""
        change, failed = status.last_change, failures(status.supervisors)
        return {
            "paused": self._paused(),
            "dead_letters": self._dead_letters(),
            "last_change": shown(change) if change else None,
            "groups": {
                name: group.as_dict() | {"limited": limit_words(group), "late": lateness(group) > 1}
                for name, group in status.groups.items()
            },
            "queues": self._queues(time.monotonic()),
            "hosts": [host(each) for _, each in sorted(status.supervisors.items())],
            "workers": [worker.as_dict() for worker in status.workers],
            "failures": {each.task: each.failed for each in failed},
            "ended": {each.task: each.ended for each in failed},
        }

    def _paused(self) -> list[str]:
        """Return the groups for which a pause is set, ``*`` for all of them."""
        seen = self.supervisor.seen
        return sorted(group for group, override in seen.overrides.items() if override.paused) if seen else []

    def _dead_letters(self) -> dict[str, int]:
        """Return how many dead letters there are, of each queue that has any."""
        seen = self.supervisor.seen
        return {queue: count for queue, count in seen.dead_letters.items() if count} if seen else {}

    def _queues(self, now: float) -> list[dict[str, Any]]:
        """Return the priority steps of each queue, with the messages that come and go each second."""
        steps = [(name, step) for name, state in self.supervisor.groups.items() for step in state.steps]
        self._steps.append((now, {step.name: (step.departed, step.length) for _, step in steps}))
        while len(self._steps) > 1 and self._steps[1][0] <= now - RATES_SECONDS:
            self._steps.popleft()
        since, before = self._steps[0]
        seconds = now - since
        found: dict[tuple[str, str], dict[str, Any]] = {
            (group, queue): {"group": group, "queue": queue, "steps": []}
            for group, state in self.supervisor.groups.items()
            for queue in state.group.queues
        }
        for group, step in steps:
            out, length = before.get(step.name, (0, 0))
            left = max(0, step.departed - out)
            came = max(0, left + step.length - length)
            separator = self.broker.separator
            found[group, step.queue]["steps"].append(
                {
                    "step": int(step.name.removeprefix(step.queue).removeprefix(separator) or 0),
                    "length": step.length,
                    "future": step.future,
                    "age": round(step.age, 2),
                    "in": round(came / seconds, 2) if seconds else None,
                    "out": round(left / seconds, 2) if seconds else None,
                }
            )
        return list(found.values())

    # --- What is asked for -----------------------------------------------------------------------------

    def history(self, seconds: float) -> dict[str, Any]:
        """Return what was recorded in the last seconds, and what was decided meanwhile.

        Raises:
            redis.RedisError: The broker does not answer.
        """
        since = time.time() - seconds
        records = [
            shown(record)
            for record in fleet_status.decisions(self.broker, AMONG)
            if record.at >= since and (record.here or record.children or record.by or record.emergency)
        ]
        groups = history.read(self.broker, seconds, POINTS)
        return {"groups": groups, "decisions": records[:MARKS]}

    def dead_letters(self, queue: str) -> list[dict[str, Any]]:
        """Return the newest dead letters of a queue.

        Raises:
            redis.RedisError: The broker does not answer.
        """
        return [
            {
                "when": letter.when,
                "queue": letter.queue,
                "task": letter.task,
                "arguments": dead_letters.arguments(letter)[:ARGUMENTS],
                "worker": letter.worker,
                "reason": letter.reason,
            }
            for letter in dead_letters.newest(self.broker, queue, DEAD_LETTERS)
        ]

    def failures(self) -> list[dict[str, Any]]:
        """Return the kinds of failures of the last hour, the most frequent first.

        Raises:
            redis.RedisError: The broker does not answer.
        """
        return [kind.as_dict() for kind in kinds(self.broker, Which(seconds=3600.0))[:FAILURE_KINDS]]

    def names(self) -> dict[str, list[str]]:
        """Return the names that there are, for those who type them.

        Raises:
            redis.RedisError: The broker does not answer.
        """
        there = known(self.broker, self.supervisor.app)
        return {kind: sorted(getattr(there, kind)) for kind in ("groups", "queues", "hosts", "workers")}


class Subscription:
    """The snapshots for one page; its place is given back when it is closed."""

    def __init__(self, feed: Feed, number: int) -> None:
        self._feed = feed
        self._number = number
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        """Yield each snapshot from now on as a server-sent event; never one that was made before."""
        yield b": snapshots follow\n\n"
        while True:
            self._number, text = self._feed.wait(self._number)
            # A comment finds out whether the page is still there; it renews nothing.
            yield f"data: {text}\n\n".encode() if text else b": no snapshot\n\n"

    def close(self) -> None:
        """Leave."""
        if self._open:
            self._open = False
            self._feed.leave()


def shown(record: DecisionRecord) -> dict[str, Any]:
    """Return a decision for the page."""
    fields = {name: value for name, value in vars(record).items() if name not in ("seen", "version")}
    return fields | {"change": record.change}


def host(status: SupervisorStatus) -> dict[str, Any]:
    """Return what the page shows of a host."""
    return {
        "host": status.host,
        "state": status.state,
        "why": status.why,
        "cpus": status.cpus,
        "cpu": status.cpu,
        "memory": status.memory,
        "memory_limit": status.memory_limit,
        "redis": status.redis,
        "tick": status.tick.as_dict(),
        "capacity": status.capacity,
        "workers": len(status.workers),
        "releases": sorted({worker.release for worker in status.workers if worker.release}),
        "held_back": sorted({group.held_back for group in status.groups.values() if group.held_back}),
    }
