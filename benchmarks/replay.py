"""Whether a replay does what a real fleet did: five loads, a supervisor, its workers, and their record.

``make bench-replay`` runs each load for a minute and a half, and replays its record with the settings that
were in force. Waits are those of the tasks themselves, from sending to their first line.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import docker
from celery_autoscaler.protocol.recording import Record
from celery_autoscaler.supervisor.record_store import records_of
from celery_autoscaler.supervisor.replay.comparison import Comparison, compare
from measured_app import app_folder, console, counts, hash_of, new_table
from redis import Redis
from support.processes.services import RedisServer, wait_for
from support.processes.supervisors import GROUP, SupervisedFleet
from support.simulated_load import even, poisson, repeatable

SECONDS = 90.0
GROUP_SETTINGS = {"concurrency": 2, "min_workers": 1, "max_workers": 6, "target_wait": 5.0}
# A task that takes longer the more of its kind run at a time.
DOWNSTREAM = """

@app.task(bind=True)
def downstream(task, seconds):
    begin(task)
    running = counts.incr("running")
    time.sleep(seconds * max(1.0, running / 4))
    counts.decr("running")
    end(task)
"""


def burst() -> list[float]:
    """Three tasks a second, and twice 60 more at once."""
    calm = poisson(3.0, SECONDS, repeatable(1))
    return sorted([*calm, *even(600.0, 0.1, 20.0), *even(600.0, 0.1, 60.0)])


def steady() -> list[float]:
    """Eight tasks a second."""
    return poisson(8.0, SECONDS, repeatable(2))


def cron() -> list[float]:
    """Each half minute 40 tasks at once, and nothing between."""
    return [at for begin in (5.0, 35.0, 65.0) for at in even(400.0, 0.1, begin)]


def on_off() -> list[float]:
    """Ten seconds of eight tasks a second in each 30."""
    return [at for begin in (5.0, 35.0, 65.0) for at in poisson(8.0, 10.0, repeatable(3), begin)]


LOADS: dict[str, tuple[Callable[[], list[float]], str, float]] = {
    "burst": (burst, "work", 0.5),
    "steady": (steady, "work", 0.5),
    "cron": (cron, "work", 0.8),
    "on-off": (on_off, "work", 0.8),
    "slow downstream": (steady, "downstream", 0.4),
}


def measure(url: str, name: str) -> tuple[float, Comparison]:
    """Let a fleet meet a load; return the p95 wait of its tasks, and what its record and its replay say."""
    times, task, size = LOADS[name]
    Redis.from_url(url).flushall()
    Redis.from_url(counts(url)).flushall()
    with app_folder() as folder, SupervisedFleet(folder, url, counts(url)) as fleet:
        source = folder / "single.py"
        source.write_text(source.read_text(encoding="utf-8") + DOWNSTREAM, encoding="utf-8")
        fleet.start(group=GROUP_SETTINGS, stabilisation=15)
        fleet.wait_for_workers(1)
        # The tasks' run time is known, and a whole record is before the load.
        fleet.tasks.wait_until_ended(fleet.tasks.send(2, size, name=task))
        time.sleep(22)
        begin, sent = time.time(), {}
        for at in times():
            time.sleep(max(0.0, begin + at - time.time()))
            now = time.time()
            sent[fleet.tasks.send(1, size, name=task)[0]] = now
        fleet.tasks.wait_until_ended(sent, within=5 * SECONDS)
        end = time.time()
        records = wait_for(lambda: recorded(fleet, end), "the record is not written", SECONDS)
        begun = hash_of(fleet.tasks.counts, "at")
    waits = sorted(float(begun[each]) - at for each, at in sent.items())
    kept = [record for record in records if begin - 10 <= 10 * record.slot <= end + 20]
    return waits[int(0.95 * len(waits))], compare(kept, {})


def recorded(fleet: SupervisedFleet, end: float) -> list[Record] | None:
    """Return the records of the group once they reach to a time; nothing before."""
    blocks: dict[bytes, bytes] = Redis.from_url(fleet.broker_url).hgetall(f"fleet:record:{GROUP}")  # type: ignore[assignment]
    records, _ = records_of(blocks.values())
    return records if records and 10 * records[-1].slot > end else None


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loads", nargs="*", default=list(LOADS), help=f"of {', '.join(LOADS)} (default: all)")
    options = parser.parse_args()
    columns = (
        "tasks",
        "p95 wait of the tasks",
        "recorded",
        "replayed",
        "worker-hours",
        "replayed",
        "reliable",
    )
    table = new_table("A replay of what five real fleets did", "", *columns)
    server = RedisServer(docker.from_env())
    try:
        for name in options.loads:
            wait, found = measure(server.url, name)
            table.add_row(
                name,
                str(found.measured.tasks),
                f"{wait:.2f} s",
                f"{found.measured.waits[1]:.2f} s",
                f"{found.replayed.waits[1]:.2f} s ({found.replayed.waits[1] / wait - 1:+.0%})",
                f"{found.measured.worker_hours:.3f}",
                f"{found.replayed.worker_hours:.3f} ({found.hours_off:+.0%})",
                "yes" if found.is_reliable else "no",
            )
            console.print(table)
    finally:
        server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
