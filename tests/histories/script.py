"""What is played in a history: a fleet, tasks and faults, drawn from one seed and kept as a text."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

from histories.events import FaultKind
from histories.kinds import KINDS, Kind

QUEUES = ("celery", "second", "third")
# Seconds that the lease of workers lasts; the longest silence is twice that.
LEASE = 3.0

SEND = "send"


@dataclass(frozen=True)
class Step:
    """Something that is done at a moment of the history."""

    at: float
    action: str
    """`send`, or a kind of fault."""
    what: str = ""
    """The kind of tasks."""
    count: int = 1
    queue: str = "celery"
    seconds: float = 0.0
    """How long the tasks take, or how long the fault lasts."""
    target: int = 0
    """Which of those who are there: counted round."""
    number: int = 0
    """A priority, a number of retries, a number of workers."""


# The lane of a fault: those of one lane are done one after the other.
LANES = {
    **{kind: "broker" for kind in FaultKind if kind.startswith(("broker", "failover"))},
    **{kind: "results" for kind in FaultKind if kind.startswith("results")},
}
# How often a fault is drawn, and how long it lasts.
FAULTS: dict[FaultKind, tuple[float, float, float]] = {
    FaultKind.KILL_WORKER: (3, 0, 0),
    FaultKind.KILL_CHILD: (6, 0, 0),
    FaultKind.FREEZE: (3, 0.2, 2 * LEASE),
    FaultKind.CUT_OFF: (2, 0.5, 2 * LEASE),
    FaultKind.DROP: (6, 0, 0),
    FaultKind.TERM: (2, 0, 0),
    FaultKind.QUIT: (1, 0, 0),
    FaultKind.HUP: (0.5, 0, 0),
    FaultKind.DRAIN: (2, 0.5, 3),
    FaultKind.DEPLOY: (0.5, 0, 0),
    FaultKind.STRETCH: (25, 0, 0),
    FaultKind.CLOCK: (2, 0.5, 8),
    FaultKind.BROKER_KILLED: (1.5, 0.1, 2 * LEASE),
    FaultKind.BROKER_PAUSED: (2.5, 0.1, 1.5 * LEASE),
    FaultKind.BROKER_FULL: (1.5, 0.5, 4),
    FaultKind.BROKER_READ_ONLY: (1.5, 0.5, 4),
    FaultKind.BROKER_SILENT: (0.7, 0.5, 2 * LEASE),
    FaultKind.FAILOVER: (1.5, 0.1, 1),
    FaultKind.RESULTS_KILLED: (1, 0.1, 4),
    FaultKind.RESULTS_PAUSED: (1.5, 0.1, 4),
    FaultKind.RESULTS_FULL: (1, 0.5, 3),
}
SUPERVISOR_FAULTS: dict[FaultKind, tuple[float, float, float]] = {
    FaultKind.KILL_SUPERVISOR: (2, 0, 0),
    FaultKind.FREEZE_SUPERVISOR: (2, 0.5, 8),
    FaultKind.TERM_SUPERVISOR: (0.7, 0, 0),
    FaultKind.RELOAD: (3, 0, 0),
    FaultKind.SCALE: (4, 0, 0),
}


@dataclass(frozen=True)
class Script:
    """A fleet, and what happens to it."""

    seed: int
    pool: str = "prefork"
    seats: int = 2
    """Workers that are restarted whenever they end, as systemd does."""
    supervisors: int = 0
    prefetch: int = 1
    tasks_per_child: int = 0
    """Tasks after which a child is replaced by another one; 0: never."""
    own_consumer: bool = False
    most: int = 0
    """Slots that a worker has at most, if workers stretch; 0: they do not."""
    steps: tuple[Step, ...] = ()

    def with_steps(self, steps: Sequence[Step]) -> Script:
        """Return the script with other steps."""
        return replace(self, steps=tuple(steps))

    def save(self, path: Path) -> None:
        """Write it down, a step a line, without what is as usual."""
        head = asdict(self)
        del head["steps"]
        usual = asdict(Step(0, ""))
        lines = [
            {name: value for name, value in asdict(step).items() if value != usual[name] or name == "at"}
            for step in self.steps
        ]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in (head, *lines)))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` has written."""
        head, *lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return cls(**head, steps=tuple(Step(**line) for line in lines))


@dataclass(frozen=True)
class Wishes:
    """What scripts are drawn from."""

    seconds: float = 40.0
    """For how long tasks are sent and faults done."""
    tasks: float = 150.0
    """Tasks a second."""
    faults: float = 1.0
    """Faults a second."""
    pools: Sequence[str] = ("prefork", "prefork", "prefork", "threads", "gevent", "solo")
    without: frozenset[str] = field(default_factory=frozenset)
    """Kinds of tasks and of faults that are left out."""


def draw(seed: int, wishes: Wishes) -> Script:
    """Draw a script; the same seed and the same wishes give the same one."""
    chance = random.Random(seed)  # noqa: S311  not for secrets
    pool = chance.choice(list(wishes.pools))
    supervisors = chance.choice([0, 0, 1, 1, 2])
    script = Script(
        seed=seed,
        pool=pool,
        seats=chance.choice([2, 3] if supervisors == 0 else [1, 2]),
        supervisors=supervisors,
        prefetch=chance.choice([1, 1, 4]),
        tasks_per_child=chance.choice([0, 0, 200]) if pool == "prefork" else 0,
        own_consumer=chance.random() < 0.5 and "own consumer" not in wishes.without,
        most=chance.choice([0, 6]) if pool == "prefork" and FaultKind.STRETCH not in wishes.without else 0,
    )
    steps = [*draw_tasks(chance, script, wishes), *draw_faults(chance, script, wishes)]
    return script.with_steps(sorted(steps, key=lambda step: step.at))


def draw_tasks(chance: random.Random, script: Script, wishes: Wishes) -> list[Step]:
    """Draw the tasks."""
    kinds = [
        kind
        for kind in KINDS.values()
        if script.pool in kind.pools
        and kind.name not in wishes.without
        and (script.own_consumer or kind.name != "own consumer")
    ]
    mean = sum(kind.weight * kind.most / 2 for kind in kinds) / sum(kind.weight for kind in kinds)
    steps, at = [], 0.0
    while at < wishes.seconds:
        [kind] = chance.choices(kinds, [kind.weight for kind in kinds])
        steps.append(draw_send(chance, kind, round(at, 2)))
        at += chance.expovariate(wishes.tasks / mean)
    return steps


def draw_send(chance: random.Random, kind: Kind, at: float) -> Step:
    """Draw how many tasks of a kind are sent where, and what they do."""
    seconds = {
        "long": chance.uniform(1, 5),
        "long early": chance.uniform(1, 4),
        "soft limit": chance.choice([0.2, 3.0]),
        "hard limit": 6.0,
        "eta": chance.uniform(0.5, 6),
        "retry": chance.choice([0.0, 0.0, 1.0, 3.0]),
    }.get(kind.name, chance.choice([0.0, 0.0, 0.002]))
    return Step(
        at,
        SEND,
        what=kind.name,
        count=chance.randint(1, kind.most),
        queue=chance.choice(QUEUES),
        seconds=round(seconds, 3),
        number=chance.randint(0, 9) if kind.name == "priority" else chance.randint(1, 3),
    )


def draw_faults(chance: random.Random, script: Script, wishes: Wishes) -> list[Step]:
    """Draw the faults; none before the workers have had time for a few tasks."""
    table = FAULTS | (SUPERVISOR_FAULTS if script.supervisors else {})
    kinds = [kind for kind in table if kind not in wishes.without]
    if script.pool != "prefork":
        kinds = [kind for kind in kinds if kind is not FaultKind.KILL_CHILD]
    if not script.most:
        kinds = [kind for kind in kinds if kind is not FaultKind.STRETCH]
    steps, at = [], chance.uniform(0, 1)
    while kinds and wishes.faults and at < wishes.seconds:
        [kind] = chance.choices(kinds, [table[kind][0] for kind in kinds])
        _, shortest, longest = table[kind]
        # Shorter ones more often: a long one hides what follows.
        seconds = shortest + (longest - shortest) * chance.random() ** 2
        step = Step(
            round(at, 2),
            kind,
            seconds=round(seconds, 2),
            target=chance.randrange(12),
            number=chance.randint(1, script.most if kind is FaultKind.STRETCH else 3),
        )
        steps.append(step)
        at += chance.expovariate(wishes.faults)
    return steps
