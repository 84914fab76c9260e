"""The control law beside those of others, in simulated hours: waits, worker-hours, turns, as ratios.

``make bench-law`` runs it; nothing is started, no server is needed. Each load is met with several seeds by
our law on its hosts, by KEDA's and by Airflow's law whose workers start at once however many they are, and,
where a service behind the tasks saturates, by the fixed number that it bears. The p99 is the worst of the
seeds, other figures are medians.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from support.scaling_traces import LAWS, LOADS, Fixed, Load
from support.simulated_load import Law, Trace

SEEDS = (1, 2, 3, 4)
# Tasks that the service bears at a time in the loads that saturate one.
BEARS = 20
# Seconds of a wait below which nobody notices, so that ratios of two of them mean nothing.
LEAST = 0.5

console = Console(width=160)


@dataclass(frozen=True)
class Figures:
    """What a law made of a load."""

    p95: float
    p99: float
    hours: float
    turns: float

    @classmethod
    def of(cls, traces: list[Trace]) -> Figures:
        """Return the worst p99 of several runs, and the medians of the rest."""
        return cls(
            statistics.median(trace.wait(0.95) for trace in traces),
            max(trace.wait(0.99) for trace in traces),
            statistics.median(trace.hours for trace in traces),
            statistics.median(trace.turns(0.0) for trace in traces),
        )


def measure(load: Load, law: Callable[[], Law], *, braked: bool) -> Figures:
    """Let a law meet a load."""
    return Figures.of([load.run(law(), seed, braked=braked) for seed in SEEDS])


def ratio(theirs: float, ours: float) -> str:
    """Return how many times as great a figure is as ours."""
    found = max(theirs, LEAST) / max(ours, LEAST)
    return "∞" if math.isinf(found) else f"{found:.2g}"


def row(load: Load) -> list[str]:
    """Measure a load with all laws; return a row of the table."""
    ours = measure(load, LAWS["ours"], braked=True)
    target = load.group.target_wait
    kept = "yes" if ours.p99 < target else "no" if load.allowed else "cannot be"
    cells = [load.name, f"{ours.p95:.1f}", f"{ours.p99:.1f}", kept, f"{ours.hours:.1f}", f"{ours.turns:.0f}"]
    for name, law in LAWS.items():
        if name != "ours":
            found = measure(load, law, braked=False)
            cells += [
                f"{ratio(found.p95, ours.p95)} {ratio(found.p99, ours.p99)}",
                f"{found.hours / ours.hours:.2f}",
            ]
    if load.speed(MANY) < 1:
        fixed = measure(load, lambda: Fixed(BEARS), braked=False)
        cells.append(f"{ratio(fixed.p95, ours.p95)} {fixed.hours / ours.hours:.2f}")
    return cells


# Slots at which every service of the loads is slower, if it is one that saturates.
MANY = 60


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="loads to measure; all if none is named")
    names = parser.parse_args().names
    table = Table(title=f"Ours, and others in relation to ours; {len(SEEDS)} seeds, waits in seconds")
    for column in ("load", "p95", "p99", "target kept", "hours", "turns"):
        table.add_column(column)
    for name in LAWS:
        if name != "ours":
            table.add_column(f"{name}: p95 p99")
            table.add_column("hours")
    table.add_column("fixed: p95 hours")
    for load in LOADS:
        if not names or load.name in names:
            table.add_row(*row(load))
    console.print(table)


if __name__ == "__main__":
    main()
