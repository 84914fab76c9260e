"""Workers that are told another number of slots again and again, while everything else happens to them.

Tests run it short. By hand, on a Redis server of its own::

    PYTHONPATH=tests python -m support.processes.stretched_workers --changes 500 --seed 7
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from redis import RedisError

from support.processes.counted_tasks import Fleet, Load, Outcome
from support.processes.launched_workers import LaunchedWorker
from support.processes.services import RedisServer

MOST = 6
# Told to each worker in turn; between two changes something else may happen.
PAUSE_SECONDS = (0.0, 0.25)
LIMIT_SECONDS = 0.3
# What a server needs that is to lose nothing when it is killed.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@dataclass(frozen=True)
class Stretched:
    """What became of the tasks, and what was done meanwhile."""

    outcome: Outcome
    limited: Outcome
    """Tasks that all ran into their hard time limit."""
    kills: int

    @property
    def is_kept(self) -> bool:
        """Whether nothing was lost, and nothing begun again but what a kill had interrupted."""
        return not self.outcome.lost and len(self.outcome.started_again) <= self.kills

    def __str__(self) -> str:
        """Say it in one line."""
        never = len(self.limited.lost)
        return (
            f"{self.outcome}; {self.kills} children killed; {never} of {self.limited.sent} ended by a limit"
        )


class Events:
    """What may happen between two changes."""

    def __init__(self, fleet: Fleet, workers: list[LaunchedWorker], chance: random.Random) -> None:
        self.fleet = fleet
        self.workers = workers
        self.chance = chance
        self.kills = 0
        self.limited: list[str] = []

    def draw(self) -> Callable[[], None]:
        """Return one of them, most often that nothing happens."""
        [event] = self.chance.choices(
            [self.nothing, self.kill_child, self.drop_connections, self.exceed_limit, self.drain],
            [60, 8, 4, 4, 2],
        )
        return event

    def nothing(self) -> None:
        """Do nothing."""

    def kill_child(self) -> None:
        """Kill a child, whatever it does."""
        with suppress(psutil.Error):
            children = psutil.Process(self.chance.choice(self.workers).pid).children()
            if children:
                self.chance.choice(children).kill()
                self.kills += 1

    def drop_connections(self) -> None:
        """Close all connections to the broker but those of the producer, which would end with them."""
        own = {one.laddr.port for one in psutil.Process().net_connections() if one.laddr}
        redis = self.fleet.tasks.redis
        with suppress(RedisError):
            found: list[dict[str, str]] = redis.client_list()
            for client in found:
                if int(client["addr"].rpartition(":")[2]) not in own:
                    redis.client_kill_filter(_id=client["id"])

    def exceed_limit(self) -> None:
        """Send a task whose child is killed by its time limit."""
        self.limited += self.fleet.tasks.send(1, 3 * LIMIT_SECONDS, time_limit=LIMIT_SECONDS)

    def drain(self) -> None:
        """Have a worker take nothing for a moment."""
        name = f"{self.chance.choice(['w0', 'w1'])}@here"
        self.fleet.tasks.redis.sadd("fleet:drain", name)
        time.sleep(0.5)
        self.fleet.tasks.redis.srem("fleet:drain", name)


def stretch_and_shrink(
    fleet: Fleet,
    *,
    changes: int,
    seed: int,
    rate: float = 120.0,
    restart: Callable[[], None] | None = None,
    most_seconds: float = 0.06,
) -> Stretched:
    """Change the slots of two workers under load, with kills, lost connections and limits of all kinds.

    Args:
        fleet: The fleet.
        changes: How many times a worker is told another number.
        seed: Of what happens.
        rate: Tasks a second.
        restart: Restarts the server, once in a hundred changes.
        most_seconds: Of a task.
    """
    chance = random.Random(seed)  # noqa: S311  the same each time
    limits = ("--max-tasks-per-child=40", "--max-memory-per-child=400000")
    workers = [fleet.start(*limits, name=f"w{number}", concurrency=1, most=MOST) for number in range(2)]
    events = Events(fleet, workers, chance)
    with Load(fleet.tasks, rate, most_seconds / 2) as load:
        for number in range(changes):
            time.sleep(chance.uniform(*PAUSE_SECONDS))
            with suppress(RedisError):
                fleet.tasks.tell_slots(f"w{number % 2}", chance.randint(1, MOST))
            events.draw()()
            if restart is not None and number % 100 == 60:
                restart()
    outcome = fleet.tasks.settle(load.ids)
    limited = fleet.tasks.outcome(events.limited)
    return Stretched(outcome, limited, events.kills)


def main(arguments: list[str]) -> int:
    """Run it on a Redis server of its own and print what became of the tasks."""
    import docker  # noqa: PLC0415  only by hand

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--changes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    client = docker.from_env()
    server, counts = RedisServer(client, *DURABLE), RedisServer(client)

    def restart() -> None:
        server.crash()
        server.restart()

    try:
        with tempfile.TemporaryDirectory() as folder, Fleet(Path(folder), server.url, counts.url) as fleet:
            found = stretch_and_shrink(fleet, changes=given.changes, seed=given.seed, restart=restart)
            left = fleet.tasks.left()
            if not found.is_kept or left:
                print(fleet.tails())  # noqa: T201
    finally:
        server.kill()
        counts.kill()
    print(f"{given.changes} changes, seed {given.seed}: {found}; left in Redis: {left or 'nothing'}")  # noqa: T201
    return 0 if found.is_kept and not left else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
