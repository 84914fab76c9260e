"""The tasks that a record stands for: when each came, what it is called, and how long it takes."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.recording import SECONDS, Record

# Deviation of run times in relation to their mean: below the first they do not differ, between the others
# exponential.
SAME, LEAST_EXPONENTIAL, MOST_EXPONENTIAL = 0.05, 0.9, 1.1
# Records by which the time at which a task began may be wrong.
UNSURE = 3
# What a task is taken to be before any is known.
UNKNOWN = (1.0, "?")


Body = tuple[float, str]
"""How long a task takes, and what it is called."""
Task = tuple[float, float, str]
"""When a task came, in seconds since the first record, how long it takes, and what it is called."""


class Demand:
    """Draws the tasks of some records."""

    def __init__(self, records: Sequence[Record], seed: int) -> None:
        self.records = records
        self._chance = random.Random(seed)  # noqa: S311  nothing is kept secret by it

    def tasks(self) -> Iterator[list[Task]]:
        """Yield the tasks that came in each second; those that waited at the beginning come first."""
        bodies, chance = self._bodies(), self._chance.random
        before = max(0, self.records[0].waiting[0] - self.records[0].arrivals[0])
        for place, record in enumerate(self.records):
            for second, count in enumerate(record.arrivals, place * SECONDS):
                if count or before:
                    times = [second + chance() for _ in range(count)]
                    times.sort()
                    times[:0] = [float(second)] * before
                    before = 0
                    some = islice(bodies, len(times))
                    yield [(at, size, kind) for at, (size, kind) in zip(times, some, strict=True)]
                else:
                    yield []

    def _bodies(self) -> Iterator[Body]:
        """Yield what each task is, in the order in which they began."""
        begun = self._begun()
        numbers = [len(some) for some in begun]
        known: list[Body] = []
        latest = [UNKNOWN]
        for place, count in enumerate(begun_counts(self.records)):
            # What is known of tasks that should have begun long ago is of others.
            lasting = sum(numbers[max(0, place - UNSURE) : place])
            known = known[max(0, len(known) - lasting) :] + begun[place]
            borrowed = len(known) < count
            for ahead in range(place + 1, min(place + UNSURE + 1, len(begun))):
                missing = max(0, count - len(known))
                known += begun[ahead][:missing]
                begun[ahead] = begun[ahead][missing:]
            some, known = known[:count], known[count:]
            if borrowed:
                # Those that ended later took longer, and did not begin later for that.
                some.sort(key=self._any_order)
            latest = some or latest
            yield from some
            yield from self._chance.choices(latest, k=count - len(some))
        while True:
            yield self._chance.choice(latest)

    def _begun(self) -> list[list[Body]]:
        """Return the tasks that began in each record, going by when they ended and how long they took."""
        begun: list[list[Body]] = [[] for _ in self.records]
        for place, record in enumerate(self.records):
            for kind, ended in record.ended.items():
                earlier = round(ended.seconds / ended.tasks / SECONDS)
                some = begun[max(0, place - earlier)]
                is_mixed = bool(some)
                some += [(size, kind) for size in self._sizes(ended)]
                if is_mixed:
                    some.sort(key=self._any_order)
        return begun

    def _any_order(self, _: Body) -> float:
        return self._chance.random()

    def _sizes(self, ended: Ended) -> list[float]:
        """Return run times of as many tasks as have ended, which differ as much as those did."""
        count, mean, chance = int(ended.tasks), ended.seconds / ended.tasks, self._chance
        part = math.sqrt(ended.variance) / mean if mean > 0 else 0.0
        if part < SAME:
            return [mean] * count
        if LEAST_EXPONENTIAL <= part <= MOST_EXPONENTIAL:
            return [chance.expovariate(1 / mean) for _ in range(count)]
        if part < 1:
            shape = 1 / part**2
            return [chance.gammavariate(shape, mean / shape) for _ in range(count)]
        sigma = math.sqrt(math.log(1 + part**2))
        return [chance.lognormvariate(math.log(mean) - sigma**2 / 2, sigma) for _ in range(count)]


def begun_counts(records: Iterable[Record]) -> Iterator[int]:
    """Yield how many tasks began in each record: those that came or waited, and wait no more."""
    waited: int | None = None
    for record in records:
        if waited is None:
            waited = max(0, record.waiting[0] - record.arrivals[0])
        yield max(0, waited + sum(record.arrivals) - record.waiting[-1])
        waited = record.waiting[-1]
