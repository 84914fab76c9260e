"""The supervisor measured on a real Redis with real workers: its reaction, its cost, and one burst drawn.

``make bench-scaling`` runs all of it and redraws docs/burst.svg; ``--help`` says how to run a part. The
tasks are those of the single-file app of the tests, and one more that also notes its process. Times depend
on the machine: what counts is the ratio between rows of the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import burst_picture
import docker
from idle_cost import idle_cost
from measured_app import app_folder, console, counts, hash_of, new_table, status
from reaction import ROUNDS, reaction
from redis import Redis
from rich.table import Table
from support.processes.services import RedisServer
from support.processes.supervisors import SupervisedFleet

# Burst: seconds, tasks a second all the time, the burst's size and moment, seconds a task.
BURST_SECONDS, TRICKLE, BURST, BURST_AT, BURST_TASK = 120, 1.0, 100, 10, 0.5


PICTURE = Path(__file__).parents[1] / "docs/burst.svg"


def burst(url: str, picture: Path) -> Table:
    """Let our supervisor follow a burst with its default settings; draw what happened."""
    redis: Any = Redis.from_url(url, decode_responses=True)
    redis.flushall()
    seen: list[dict[str, Any]] = []
    with app_folder() as folder, SupervisedFleet(folder, url, counts(url)) as fleet:
        group = {"concurrency": 1, "min_workers": 1, "max_workers": 10, "target_wait": 10.0}
        fleet.start(group=group)
        fleet.wait_for_workers(1)
        begin, sent = time.time(), {}
        for second in range(BURST_SECONDS):
            for _ in range(int(TRICKLE) + (BURST if second == BURST_AT else 0)):
                at = time.time()
                sent[fleet.tasks.send(1, BURST_TASK, name="work")[0]] = at
            time.sleep(max(0.0, begin + second + 1 - time.time()))
            seen.append(status(redis) | {"length": int(redis.llen("celery"))})
        begun = {name: float(at) for name, at in hash_of(fleet.tasks.counts, "at").items()}
        decisions = fleet.decisions()
    rows = [row(one, begin, sent, begun) for one in seen]
    picture.write_text(burst_picture.draw(rows, target_wait=group["target_wait"]))
    for decision in decisions:
        at = float(decision["at"]) - begin
        change = f"{decision['have']} → {decision['want']}"
        console.print(f"{at:4.0f} s  {change}: {decision['reason']}", highlight=False, soft_wrap=True)
    waits = sorted(at - sent[name] for name, at in begun.items())
    table = new_table(f"a burst of {BURST} tasks of {BURST_TASK:g} s, drawn in {picture.name}", "", "")
    table.add_row("95 % of the tasks waited at most, s", f"{waits[int(0.95 * len(waits))]:.1f}")
    table.add_row("longest wait, s", f"{waits[-1]:.1f}")
    table.add_row("most workers", str(max(one["ready"] for one in rows)))
    return table


def row(
    seen: Mapping[str, Any], begin: float, sent: Mapping[str, float], begun: Mapping[str, float]
) -> dict[str, Any]:
    """Return a second of the burst: what the supervisor saw, and how long the oldest task had waited."""
    at, group = seen["at"], seen["groups"]["default"]
    waiting = [since for name, since in sent.items() if since < at < begun.get(name, at + 1)]
    return {
        "second": round(at - begin, 2),
        "messages": seen["length"],
        "ready": group["ready"],
        "starting": group["starting"],
        "draining": group["draining"],
        "wait": round(at - min(waiting), 2) if waiting else 0.0,
        "estimate": group["age"],
    }


def main() -> None:
    """Run the parts that are asked for, or all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="reaction, cost, burst; by default all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of the reaction (default: {ROUNDS})")
    parser.add_argument("--scale", type=float, default=1.0, help="of the seconds for the cost (default: 1)")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where to draw the burst")
    options = parser.parse_args()
    server = RedisServer(docker.from_env())
    parts: dict[str, Callable[[], Table]] = {
        "reaction": lambda: reaction(server.url, options.rounds),
        "cost": lambda: idle_cost(server.url, options.scale),
        "burst": lambda: burst(server.url, options.picture),
    }
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    try:
        for name in options.parts or parts:
            console.print(parts[name]())
    finally:
        server.kill()


if __name__ == "__main__":
    main()
