"""What workers go through in production, made often: they are killed, stopped and started under load.

Each function counts every task and can be run with our workers and with plain Celery's; tests run them short,
benchmarks run them long. By hand, beside each other, on a Redis server of their own::

    PYTHONPATH=tests python -m support.processes.hard_times kill_workers --kills 60 --total 20000
    PYTHONPATH=tests python -m support.processes.hard_times kill_workers --kills 60 --total 20000 --plain
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from support.processes.counted_tasks import Fleet, Load, Outcome
from support.processes.launched_workers import LaunchedWorker
from support.processes.services import ServiceError

CONCURRENCY = 2


def kill_workers(
    fleet: Fleet, *, kills: int, total: int, every: float = 1.0, seconds: float = 0.005, workers: int = 3
) -> Outcome:
    """Kill one worker with all its processes at an interval, while tasks are sent; start another."""
    alive = deque(fleet.start_several(workers, concurrency=CONCURRENCY))
    with Load(fleet.tasks, total / (kills * every), seconds, total=total) as load:
        for _ in range(kills):
            time.sleep(every)
            victim = alive.popleft()
            # One that has not begun to consume would prove nothing.
            victim.wait_until_ready()
            victim.kill()
            alive.append(fleet.start(concurrency=CONCURRENCY, ready=False))
    return fleet.tasks.settle(load.ids)


def kill_idle_workers(fleet: Fleet, *, kills: int, workers: int = 3) -> Outcome:
    """Kill workers that wait for messages just when one comes, and start others."""
    alive = deque(fleet.start_several(workers, concurrency=1))
    chance = random.Random(kills)  # noqa: S311  the same moments each time
    ids: list[str] = []
    for _ in range(kills):
        victim = alive.popleft()
        victim.wait_until_ready()
        for _ in range(workers):
            ids += fleet.tasks.send(1, 0.0)
        # From before the message is pushed to after it is run.
        time.sleep(chance.uniform(0.0, 0.005))
        victim.kill()
        alive.append(fleet.start(concurrency=1, ready=False))
        ids += fleet.tasks.send(1, 0.0)
    return fleet.tasks.settle(ids)


def stop_and_start(
    fleet: Fleet, *, cycles: int, rate: float = 60.0, seconds: float = 0.02, workers: int = 2
) -> Outcome:
    """Start a worker and stop the oldest (SIGTERM), again and again, while tasks are sent."""
    alive = deque(fleet.start_several(workers, concurrency=CONCURRENCY))
    with Load(fleet.tasks, rate, seconds) as load:
        for _ in range(cycles):
            alive.append(fleet.start(concurrency=CONCURRENCY))
            end(alive.popleft(), plain=fleet.plain)
    return fleet.tasks.settle(load.ids)


def end(worker: LaunchedWorker, *, plain: bool) -> None:
    """Stop a worker as systemd does: SIGTERM, and SIGKILL for a plain one that has not ended in time.

    Plain Celery forgets tasks that a process has just been given, and waits for the process that waits for
    its result to be read.

    Raises:
        ServiceError: It has not ended in time, or has failed.
    """
    worker.terminate()
    try:
        status = worker.wait()
    except ServiceError:
        if not plain:
            raise
        print("a plain worker that had nothing left to do was killed")  # noqa: T201
        worker.kill()
    else:
        if status != 0:
            raise ServiceError(f"a worker that was stopped ended with {status}")


def kill_while_stopping(fleet: Fleet, *, times: int, at_once: int = 4) -> tuple[Outcome, list[float]]:
    """Ask busy workers to end, send tasks at that moment, kill the workers; another one gets what they held.

    Returns:
        What became of the tasks, and for each group of workers killed at once the seconds from the kill until
        the last of their messages was given back.
    """
    ids: list[str] = []
    delays: list[float] = []
    for first in range(0, times, at_once):
        queues = [f"queue-{number}" for number in range(first, min(first + at_once, times))]
        # It rescues, but does not consume the queues: what it gives back can be seen there.
        rescuer = fleet.start("-Q", "nothing", concurrency=1)
        victims = [fleet.start("-Q", queue, concurrency=1, ready=False) for queue in queues]
        for victim in victims:
            victim.wait_until_ready()
        # Long enough to be cut off by the kill, short enough to be run again.
        long = [name for queue in queues for name in fleet.tasks.send(1, 3.0, queue=queue)]
        fleet.tasks.wait_until_started(long)
        for victim in victims:
            victim.terminate()
        time.sleep(0.1)
        late = [name for queue in queues for name in fleet.tasks.send(3, queue=queue)]
        time.sleep(1.5)
        for victim in victims:
            victim.kill()
        killed = time.monotonic()
        while fleet.tasks.left().keys() - set(queues) and time.monotonic() - killed < 60:
            time.sleep(0.05)
        delays.append(time.monotonic() - killed)
        rescuer.stop()
        worker = fleet.start("-Q", ",".join(queues), concurrency=4)
        ids += long + late
        fleet.tasks.settle(ids)
        worker.stop()
    return fleet.tasks.outcome(ids), delays


def main(arguments: list[str]) -> int:
    """Run one of the functions on a Redis server of its own and print what became of the tasks."""
    import docker  # noqa: PLC0415  only by hand

    from support.processes.services import RedisServer  # noqa: PLC0415

    runs: dict[str, Callable[[Fleet, argparse.Namespace], Outcome]] = {
        "kill_workers": lambda fleet, given: kill_workers(fleet, kills=given.kills, total=given.total),
        "kill_idle_workers": lambda fleet, given: kill_idle_workers(fleet, kills=given.kills),
        "stop_and_start": lambda fleet, given: stop_and_start(fleet, cycles=given.kills),
        "kill_while_stopping": lambda fleet, given: kill_while_stopping(fleet, times=given.kills)[0],
    }
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run", choices=runs)
    parser.add_argument("--kills", type=int, default=60, help="how many kills, or stops")
    parser.add_argument("--total", type=int, default=20_000, help="how many tasks")
    parser.add_argument("--plain", action="store_true", help="with plain Celery workers")
    given = parser.parse_args(arguments)
    server = RedisServer(docker.from_env())
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Fleet(Path(folder), server.url, plain=given.plain) as fleet,
        ):
            outcome = runs[given.run](fleet, given)
            left = fleet.tasks.left()
    finally:
        server.kill()
    kind = "plain Celery" if given.plain else "ours"
    print(f"{given.run}, {given.kills} times, {kind}: {outcome}; left in Redis: {left or 'nothing'}")  # noqa: T201
    return 0 if given.plain or not outcome.lost else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
