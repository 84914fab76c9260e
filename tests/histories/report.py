"""What is printed: a line for each history, a table of all, and the events of what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from histories.checker import Broken, Violation
from histories.events import Begun, Ended, History, Sent
from histories.play import Played
from histories.script import Script

# Lines of an excerpt for one violation.
LINES = 40


class Tally:
    """Counts over all histories."""

    def __init__(self) -> None:
        self.histories = 0
        self.tasks = 0
        self.unknown = 0
        self.runs = 0
        self.refused = 0
        self.seconds = 0.0
        self.faults: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()

    def add(self, played: Played, violations: Sequence[Violation]) -> None:
        """Count one history."""
        self.histories += 1
        self.tasks += sum(sent.accepted for sent in played.history.sent)
        self.unknown += sum(not sent.accepted for sent in played.history.sent)
        self.runs += len(played.history.begun)
        self.refused += played.refused
        self.seconds += played.seconds
        self.faults += played.faults
        self.kinds += Counter(sent.kind for sent in played.history.sent)
        self.broken += Counter(str(one.broken) for one in violations)

    def line(self, script: Script, played: Played, violations: Sequence[Violation]) -> str:
        """Return one history in a line."""
        history = played.history
        fleet = f"{script.pool}, {script.seats} workers, {script.supervisors} supervisors, ×{script.prefetch}"
        spent = ", ".join(f"{name} {seconds:.0f}" for name, seconds in played.spent.items() if seconds >= 1)
        return (
            f"seed {script.seed}: {fleet}: {len(history.sent)} tasks, {len(history.begun)} runs, "
            f"{played.faults.total()} faults, {len(history.letters)} dead letters in {played.seconds:.0f} s "
            f"({spent}): {f'{len(violations)} BROKEN' if violations else 'all kept'}"
        )

    def table(self) -> str:
        """Return all in a table."""
        lost, doubled, stuck = (self.broken[kind] for kind in (Broken.LOST, Broken.DOUBLED, Broken.STUCK))
        others = {
            kind: count for kind, count in self.broken.items() if kind not in {"lost", "doubled", "stuck"}
        }
        lines = [
            "",
            f"{self.histories} histories, {self.seconds / 60:.1f} minutes",
            f"{self.tasks} tasks accepted by the server, {self.unknown} more of which nobody knows, "
            f"{self.refused} refused by a full or read-only one; {self.runs} runs",
            *(f"    {count:8} {kind}" for kind, count in self.kinds.most_common()),
            f"{self.faults.total()} faults",
            *(f"    {count:8} {kind}" for kind, count in self.faults.most_common()),
            f"{lost} lost, {doubled} wrongly doubled, {stuck} stuck"
            + "".join(f", {count} {kind}" for kind, count in others.items()),
        ]
        return "\n".join(lines)


def excerpt(history: History, violations: Sequence[Violation]) -> str:
    """Return the events of each task that failed, among the faults of its time."""
    lines = []
    for one in violations[:20]:
        names = [word for word in one.subject.split() if word.startswith("task-")]
        of_tasks: tuple[Sent | Begun | Ended, ...] = (*history.sent, *history.begun, *history.ended)
        events = [(event.at, f"{type(event).__name__:6} {event}") for event in of_tasks if event.id in names]
        since, until = (min(events)[0] - 10, max(events)[0] + 10) if events else (0, history.ended_at)
        events += [
            (fault.since, f"fault  {fault}") for fault in history.faults if since <= fault.since <= until
        ]
        events += [(death.at, f"death  {death}") for death in history.deaths if since <= death.at <= until]
        lines += [str(one), *(f"    {at:.2f} {text}" for at, text in sorted(events)[-LINES:]), ""]
    return "\n".join(lines)
