"""Send tasks and show how the workers follow: `make compose-demo`; `make compose-burst` sends too many."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, cast

from celery_autoscaler.operations.terminal import (
    groups_table,
    last_change_view,
    new_console,
    plain,
    record_view,
)
from celery_autoscaler.protocol import broker as brokers
from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.status import GroupStatus
from celery_autoscaler.supervisor.describing import PYTHON_VARIABLE, describe
from celery_autoscaler.supervisor.fleet_status import FleetStatus, decisions, fleet_status
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

# Seconds between two looks.
LOOK = 0.5
# Seconds after which the workers are not waited for any longer.
PATIENCE = 300.0
# The load rises, stays and falls, in seconds.
RISE, STAY, FALL = 30.0, 15.0, 10.0
# The part of the largest number of workers that the load needs at its peak.
PEAK = 0.5
# Tasks of a burst.
BURST = 400
# Per cent of the CPUs above which they are a reason to be late.
BUSY = 80.0
# What sets a limit in .env.
VARIABLES = {"CPU": "CPU_THRESHOLD", "memory": "MEMORY_THRESHOLD, WORKER_MEMORY"}
BLOCKS = "▁▂▃▄▅▆▇█"


def curve(title: str, values: list[int], width: int) -> Text:
    """Draw figures over time in one line."""
    width = max(width, 1)
    shown = (
        [values[number * len(values) // width] for number in range(width)] if len(values) > width else values
    )
    highest = max(values, default=0) or 1
    line = "".join(BLOCKS[round((len(BLOCKS) - 1) * value / highest)] for value in shown)
    return Text.assemble((f"{title:<9}", "bold"), f"{values[-1] if values else 0:>5}  ", (line, "cyan"))


def due(elapsed: float, peak: float) -> int:
    """Return how many tasks a load that rises, stays and falls has sent after some seconds.

    Args:
        elapsed: Seconds since its begin.
        peak: Tasks a second in between.
    """
    rise = min(elapsed, RISE)
    stay = min(max(elapsed - RISE, 0.0), STAY)
    fall = min(max(elapsed - RISE - STAY, 0.0), FALL)
    return int(peak * (rise**2 / (2 * RISE) + stay + fall - fall**2 / (2 * FALL)))


class Sender:
    """The app in its own environment, which sends tasks and looks after their results."""

    def __init__(self, python: str, task: str, arguments: list[object]) -> None:
        self.task = task
        self.arguments = arguments
        # The project's modules come first, not those beside this file.
        command = [python, "-P", str(Path(__file__).with_name("app_side.py"))]
        # Ctrl-C is for the demo: the end of its input ends this one.
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
        )
        self.app = self._answer()

    def send(self, count: int) -> tuple[int, int]:
        """Send some more; return how many of all have not ended, and how many have failed."""
        line = json.dumps([self.task, self.arguments, count])
        cast(IO[bytes], self.process.stdin).write(f"{line}\n".encode())
        cast(IO[bytes], self.process.stdin).flush()
        left, failed = self._answer()
        return left, failed

    def _answer(self) -> Any:
        line = cast(IO[bytes], self.process.stdout).readline()
        if not line:
            sys.exit(f"the environment of the app ends with status {self.process.wait()}")
        return json.loads(line)


class Demo:
    """Tasks that are sent, and what is seen of them."""

    def __init__(self, broker: brokers.Broker, sender: Sender) -> None:
        self.broker = broker
        self.sender = sender
        self.progress = Progress(
            TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self.sent = self.progress.add_task("sent")
        self.done = self.progress.add_task("done")
        self.count = 0
        self.waiting: list[int] = []
        self.workers: list[int] = []
        self.oldest = 0.0
        self.target = 0.0
        self.failed = 0
        # Seconds in which a group's oldest task was late, by what kept it from more workers.
        self.late: defaultdict[str, float] = defaultdict(float)
        self.looked = time.monotonic()
        # Per cent of the CPUs that were in use, at each look.
        self.cpu: list[float] = []

    def run(self, live: Live, count: int, peak: float) -> None:
        """Send the tasks, and look until they have ended and the workers are as few as before.

        Args:
            live: Where it is shown.
            count: How many tasks.
            peak: Tasks a second at most; 0 sends all at once.
        """
        self.count = count
        for task in (self.sent, self.done):
            self.progress.update(task, total=count)
        before, since, sent = running(fleet_status(self.broker)), time.monotonic(), 0
        while (elapsed := time.monotonic() - since) < PATIENCE:
            wanted = due(elapsed, peak) if peak and elapsed < RISE + STAY + FALL else count
            left, self.failed = self.sender.send(wanted - sent)
            sent = wanted
            self.progress.update(self.sent, completed=sent)
            self.progress.update(self.done, completed=sent - left)
            status = fleet_status(self.broker)
            live.update(self.view(status, live.console.width), refresh=True)
            if sent == count and not left and running(status) <= before:
                return
            time.sleep(LOOK)

    @property
    def ended(self) -> int:
        """How many tasks have ended."""
        return int(self.progress.tasks[1].completed)

    def view(self, status: FleetStatus, width: int) -> RenderableType:
        """Return what is shown now."""
        self.waiting.append(sum(group.waiting for group in status.groups.values()))
        self.workers.append(running(status))
        held = []
        self.cpu += [host.cpu for host in status.supervisors.values()]
        now = time.monotonic()
        passed, self.looked = now - self.looked, now
        for name, group in status.groups.items():
            self.oldest = max(self.oldest, group.age)
            self.target = max(self.target, group.target_wait)
            if group.age > group.target_wait:
                self.late[cause(group)] += passed
            if reason := limit(group):
                held.append(plain(f"{name}: {reason}", "bold yellow"))
        return Group(
            self.progress,
            curve("waiting", self.waiting, width - 17),
            curve("workers", self.workers, width - 17),
            groups_table(status.groups),
            *held,
            last_change_view(status),
        )

    def outcome(self) -> Iterable[Text]:
        """Yield in words what became of the tasks, whether the target was kept, and if not, why."""
        failed = f", {self.failed} of them failed" if self.failed else ""
        yield Text(
            f"{self.ended} of {self.count} tasks ended{failed}; workers: {self.workers[0]} → "
            f"{max(self.workers)} → {self.workers[-1]}"
        )
        if self.ended < self.count:
            yield Text(
                f"Stopped waiting for the other {self.count - self.ended} after {PATIENCE:g} s.",
                style="bold red",
            )
        if self.oldest <= self.target:
            yield Text(
                f"Target wait {self.target:g} s: kept. The longest wait was {self.oldest:.1f} s.",
                style="bold green",
            )
            return
        yield Text(
            f"Target wait {self.target:g} s: exceeded. The longest wait was {self.oldest:.1f} s.",
            style="bold yellow",
        )
        for reason, seconds in sorted(self.late.items(), key=lambda each: -each[1]):
            yield plain(f"  for {seconds:.0f} s: {reason}")
        busy = sum(self.cpu) / len(self.cpu)
        if busy > BUSY:
            yield plain(f"  Average CPU usage: {busy:.0f} %, so tasks and starts took longer.")


def limit(group: GroupStatus) -> str:
    """Return what keeps a group from having more workers; nothing if nothing does."""
    have = group.ready + group.starting
    if group.held_back and have < group.want:
        if group.limit == "start slots":
            return "workers are starting, 2 per CPU at a time"
        variable = VARIABLES.get(group.limit, "")
        return f"held back: {group.held_back}{variable and f' ({variable})'}"
    if group.limit == "max_workers" and have >= group.max_workers:
        return f"limited by max_workers = {group.max_workers} (MAX_WORKERS)"
    return ""


def cause(group: GroupStatus) -> str:
    """Return why a group is late, without the figures of the moment, which would make one cause many."""
    reason = limit(group)
    if reason.startswith("held back") and group.limit in VARIABLES:
        return f"held back by {group.limit} ({VARIABLES[group.limit]})"
    return reason or "more workers have to start first"


def running(status: FleetStatus) -> int:
    """Return how many workers there are, those that start or end among them."""
    return sum(group.ready + group.starting + group.draining for group in status.groups.values())


def changes(found: Iterable[DecisionRecord], since: float) -> list[DecisionRecord]:
    """Return the decisions that started or stopped a worker, the oldest first."""
    return [record for record in found if (record.here or record.children) and record.at >= since][::-1]


def peak_load(demo: Demo, seconds: float) -> float:
    """Return the tasks a second, each so long, that keep a part of the largest number of workers busy."""
    slots = max(
        g.max_workers * (g.max_concurrency or g.concurrency)
        for g in fleet_status(demo.broker).groups.values()
    )
    return max(1.0, PEAK * float(slots) / seconds)


def check_task(said: Mapping[str, Any], name: str, task: str) -> None:
    """Exit with one line where an app has no such task, or its end cannot be seen.

    Args:
        said: What the app's environment says of its tasks.
        name: The app.
        task: The task.
    """
    if problem := said.get("problem"):
        sys.exit(f"CELERY_APP={name} is wrong: {problem}")
    tasks = said["tasks"]
    if task not in tasks:
        known = ", ".join(sorted(each for each in tasks if not each.startswith("celery.")))
        sys.exit(
            f"--task {task}: {name} has no such task; there are: {known}. Name one and what it "
            "takes: scripts/compose demo --task NAME --args '[…]' --seconds 0.5"
        )
    if not tasks[task]:
        sys.exit(f"--task {task}: it keeps no result; allowed is a task whose end can be seen")


def main() -> int:
    """Run the demonstration; the exit status says whether each task ended well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="tasks.io_intensive.wait", help="name of the task")
    parser.add_argument("--args", type=json.loads, default=[0.5], help="its arguments, as a JSON list")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long one takes, about")
    parser.add_argument("--burst", action="store_true", help="send them all at once")
    parser.add_argument("--count", type=int, default=BURST, help="how many, of a burst")
    arguments = parser.parse_args()
    name, python = os.environ["CELERY_APP"], os.environ[PYTHON_VARIABLE]
    sender = Sender(python, arguments.task, arguments.args)
    check_task(sender.app, name, arguments.task)
    console = new_console()
    begin = time.time()
    demo = Demo(brokers.connect(describe(name, python)), sender)
    peak = 0.0 if arguments.burst else peak_load(demo, arguments.seconds)
    count = arguments.count if arguments.burst else due(RISE + STAY + FALL, peak)
    how = "at once" if arguments.burst else f"in {RISE + STAY + FALL:.0f} s, up to {peak:g} a second"
    console.print(
        Text.assemble(f"{count} tasks ", (arguments.task, "bold"), f"{tuple(arguments.args)} {how}")
    )
    with Live(console=console, auto_refresh=False) as live:
        demo.run(live, count, peak)
    console.print(Text("\nWhat the supervisor did, and why", style="bold"))
    done = changes(decisions(demo.broker, 1000), begin)
    for record in done:
        console.print(record_view(record))
    if not done:
        console.print("It started and stopped no worker.")
    console.print()
    for line in demo.outcome():
        console.print(line)
    return int(demo.ended < count or demo.failed > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("Stopped watching: the tasks that were sent go on.")
