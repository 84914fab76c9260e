"""Plays a script: sends the tasks, does the faults, heals all, and reads what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from histories.app import STREAM
from histories.events import Begun, Ended, Fault, FaultKind, History, Letter, Outcome, Sent
from histories.faults import Faults
from histories.kinds import KINDS
from histories.producers import Sender
from histories.script import LANES, LEASE, SEND, Script, Step
from histories.servers import Servers, client_of, wait_until
from histories.stage import KEYS, Stage

# Seconds without any progress after which what is left is stuck.
NO_PROGRESS = 30.0
# Seconds for which nothing may be left before all is said to be quiet.
QUIET = 1.0
LOOK = 0.2
# Seconds that workers may take to consume before the first task is sent.
READY_WITHIN = 60.0
RESULT = "celery-task-meta-"


@dataclass(frozen=True)
class Played:
    """A history, and what it cost."""

    history: History
    faults: Counter[str]
    """How often each fault was done."""
    refused: int
    """Tasks that the server did not take."""
    seconds: float
    spent: dict[str, float] = field(default_factory=dict)
    """Seconds by what they were spent on."""


def play(servers: Servers, script: Script, folder: Path) -> Played:
    """Play a script on servers that are emptied first; what processes print goes into the folder."""
    clock = Stopwatch()
    servers.clear()
    stage = Stage(servers, script, folder)
    sender = Sender(servers, servers.proxy.gate().port, script.seed)
    clock.lap("servers")
    try:
        stage.open()
        wait_until_ready(stage)
        clock.lap("start")
        perform(stage, sender, script)
        clock.lap("play")
        heal(stage)
        wait_until_ready(stage)
        wait_until_quiet(stage)
        clock.lap("wait for quiet")
        left, _ = servers.left()
        stage.close()
        _, keys = servers.left()
        clock.lap("stop")
    finally:
        stage.end()
        sender.close()
    history = read(servers, stage, script, sender.sent)
    history.left.update({key: count for key, count in left.items() if count})
    history.keys.extend(keys)
    clock.lap("read")
    done = Counter(str(fault.kind) for fault in stage.faults if fault.kind is not FaultKind.STALL)
    return Played(history, done, sender.refused, sum(clock.laps.values()), clock.laps)


class Stopwatch:
    """Says what the time was spent on."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        """End a lap."""
        now = time.monotonic()
        self.laps[name], self._since = now - self._since, now


def wait_until_ready(stage: Stage) -> None:
    """Wait until the workers consume, but not forever: one that does not is found later."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        with stage.lock:
            workers = list(stage.workers)
        if all(worker.ready for worker in workers) and len(stage.mains()) > len(workers) - 1:
            return
        time.sleep(LOOK)


def perform(stage: Stage, sender: Sender, script: Script) -> None:
    """Send the tasks and do the faults, each at its time; the faults of one lane one after the other."""
    begin = time.monotonic()
    lanes: defaultdict[str, list[Step]] = defaultdict(list)
    for step in script.steps:
        lanes[SEND if step.action == SEND else LANES.get(FaultKind(step.action), "processes")].append(step)
    faults = Faults(stage)
    with ThreadPoolExecutor(max_workers=24, thread_name_prefix="fault") as pool:

        def follow(lane: str, steps: Iterable[Step]) -> None:
            for step in steps:
                wait_until(begin + step.at)
                if lane == SEND:
                    sender.send(step)
                elif lane == "processes":
                    # They last, and do not wait for each other.
                    pending.append(pool.submit(faults.do, step))
                else:
                    faults.do(step)

        pending: list[Any] = []
        threads = [pool.submit(follow, lane, steps) for lane, steps in lanes.items()]
        for thread in threads:
            thread.result()
        for one in pending:
            one.result()


def heal(stage: Stage) -> None:
    """End what lasts of the faults."""
    stage.servers.heal()
    with client_of(stage.servers.primary.port) as client:
        client.delete(KEYS.drain, KEYS.replace, KEYS.overrides)


def wait_until_quiet(stage: Stage) -> None:
    """Wait until no message is anywhere and all who died are forgotten, or until nothing moves any more."""
    quiet_since = moved = time.monotonic()
    before: Any = None
    while time.monotonic() - moved < NO_PROGRESS:
        now = time.monotonic()
        with suppress(RedisError):
            seen = look(stage)
            if seen != before:
                before, moved = seen, now
            if seen[1] or seen[2]:
                quiet_since = now
            elif now - quiet_since > QUIET:
                return
        time.sleep(LOOK)


def look(stage: Stage) -> tuple[int, dict[str, int], int]:
    """Return how many events there are, what is left, and how many leases are over."""
    left, _ = stage.servers.left()
    with client_of(stage.servers.recorder.port) as recorder:
        events = int(recorder.xlen(STREAM))
    with client_of(stage.servers.primary.port) as client:
        over = int(client.zcount(KEYS.workers, 0, time.time() * 1000))
    return events, {key: count for key, count in left.items() if count}, over


def read(servers: Servers, stage: Stage, script: Script, sent: list[Sent]) -> History:
    """Read what was recorded."""
    history = History(
        seed=script.seed,
        lease=LEASE,
        pool=script.pool,
        most=script.most,
        ended_at=time.time(),
        sent=sent,
        faults=stage.faults,
        deaths=stage.deaths,
        overdue=stage.overdue,
    )
    with client_of(servers.recorder.port, decode_responses=True) as recorder:
        for stamp, event in recorder.xrange(STREAM):
            note(history, int(stamp.partition("-")[0]) / 1000, event)
    with client_of(servers.primary.port, decode_responses=True) as client:
        for key in client.scan_iter(match=f"{KEYS.dead_letter('')}*", count=1000):
            history.letters.extend(map(letter, client.lrange(key, 0, -1)))
    stored = [one.id for one in sent if KINDS[one.kind].stored]
    if stored:
        with client_of(servers.results.port, decode_responses=True) as client:
            found = client.mget([f"{RESULT}{name}" for name in stored])
        pairs = zip(stored, found, strict=True)
        history.results.update({name: str(json.loads(text)["status"]) for name, text in pairs if text})
    return history


def note(history: History, at: float, event: dict[str, str]) -> None:
    """Note an event of the recorder's."""
    name, attempt, pid, main = event["id"], int(event["n"]), int(event["pid"]), int(event["main"])
    match event["e"]:
        case "begun":
            history.begun.append(Begun(at, name, attempt, pid, main))
        case "ended":
            history.ended.append(Ended(at, name, attempt, pid, Outcome(event["outcome"])))
        case "crash":
            history.faults.append(Fault(FaultKind.CRASH, at, at, (pid,), name))


def letter(text: str) -> Letter:
    """Read a dead letter."""
    found = json.loads(text)
    try:
        name = str(json.loads(found["message"])["headers"]["id"])
    except (ValueError, KeyError, TypeError):
        name = "?"
    return Letter(name, found["queue"], found["reason"], found["redeliveries"])
