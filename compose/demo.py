"""Send a burst of tasks and show how the workers follow it: `make compose-demo`."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable

from celery import Celery
from celery.app.utils import find_app
from celery_autoscaler import broker as brokers
from celery_autoscaler.fleet_status import FleetStatus, Record, fleet_status, records
from celery_autoscaler.terminal import groups_table, last_change_view, record_view
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

# Seconds between two looks.
LOOK = 0.5
# Seconds after which the workers are not waited for any longer.
PATIENCE = 300.0
BLOCKS = "▁▂▃▄▅▆▇█"


def curve(title: str, values: list[int], width: int) -> Text:
    """Draw figures over time in one line."""
    shown = (
        [values[number * len(values) // width] for number in range(width)] if len(values) > width else values
    )
    highest = max(values, default=0) or 1
    line = "".join(BLOCKS[round((len(BLOCKS) - 1) * value / highest)] for value in shown)
    return Text.assemble((f"{title:<9}", "bold"), f"{values[-1] if values else 0:>5}  ", (line, "cyan"))


class Demo:
    """One burst, and what is seen of it."""

    def __init__(self, app: Celery, task: str, arguments: list[object], count: int) -> None:
        self.app = app
        self.broker = brokers.connect(app)
        self.progress = Progress(
            TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        )
        self.sent = self.progress.add_task("sent", total=count)
        self.done = self.progress.add_task("done", total=count)
        self.signature = app.signature(task, args=arguments)
        self.count = count
        self.waiting: list[int] = []
        self.workers: list[int] = []
        self.oldest = 0.0
        self.failed = 0

    def run(self, live: Live) -> None:
        """Send the tasks, and look until they have ended and the workers are as few as before."""
        before, since = running(fleet_status(self.broker)), time.monotonic()
        results = []
        for _ in range(self.count):
            results.append(self.signature.apply_async())
            self.progress.advance(self.sent)
        left = results
        while time.monotonic() - since < PATIENCE:
            self.failed += sum(result.failed() for result in left)
            left = [result for result in left if not result.ready()]
            self.progress.update(self.done, completed=self.count - len(left))
            status = fleet_status(self.broker)
            live.update(self.view(status, live.console.width), refresh=True)
            if not left and running(status) <= before:
                return
            time.sleep(LOOK)

    def view(self, status: FleetStatus, width: int) -> RenderableType:
        """Return what is shown now."""
        self.waiting.append(sum(int(group["waiting"]) for group in status.groups.values()))
        self.workers.append(running(status))
        self.oldest = max(self.oldest, *(float(group["age"]) for group in status.groups.values()))
        return Group(
            self.progress,
            curve("waiting", self.waiting, width - 17),
            curve("workers", self.workers, width - 17),
            groups_table(status.groups),
            last_change_view(status),
        )


def running(status: FleetStatus) -> int:
    """Return how many workers there are, those that start or end among them."""
    return sum(
        int(group[state]) for group in status.groups.values() for state in ("ready", "starting", "draining")
    )


def changes(found: Iterable[Record], since: float) -> list[Record]:
    """Return the decisions that started or stopped a worker, the oldest first."""
    return [record for record in found if record.here and record.at >= since][::-1]


def main() -> int:
    """Run the demonstration; the exit status tells whether each task ended well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="tasks.io_intensive.wait", help="name of the task")
    parser.add_argument("--args", type=json.loads, default=[0.5], help="its arguments, as a JSON list")
    parser.add_argument("--count", type=int, default=400, help="how many")
    arguments = parser.parse_args()
    app = find_app(os.environ["CELERY_APP"])
    app.loader.import_default_modules()
    if arguments.task not in app.tasks:
        known = ", ".join(sorted(name for name in app.tasks if not name.startswith("celery.")))
        sys.exit(f"--task {arguments.task}: {app.main} has no such task; there are: {known}")
    if app.tasks[arguments.task].ignore_result:
        sys.exit(f"--task {arguments.task}: it keeps no result; allowed is a task whose end can be seen")
    console = Console()
    console.print(f"{arguments.count} tasks [bold]{arguments.task}[/]{tuple(arguments.args)} at once")
    begin = time.time()
    demo = Demo(app, arguments.task, arguments.args, arguments.count)
    with Live(console=console, auto_refresh=False) as live:
        demo.run(live)
    console.print("\n[bold]What the supervisor did, and why[/]")
    for record in changes(records(demo.broker, 1000), begin):
        console.print(record_view(record))
    ended = int(demo.progress.tasks[1].completed)
    console.print(
        f"\n{ended} of {arguments.count} tasks ended, {demo.failed} of them failed; the longest wait was "
        f"{demo.oldest:.1f} s; workers: {demo.workers[0]} → {max(demo.workers)} → {demo.workers[-1]}"
    )
    return int(ended < arguments.count or demo.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
