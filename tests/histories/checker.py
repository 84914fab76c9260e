"""Checks a whole history against docs/explanation/guarantees.md. Pure: no clock, no server, no process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from histories.events import (
    BROKER_AWAY,
    KILLS,
    RESULTS_AWAY,
    SILENCES,
    STOPS,
    STOPS_OF_SUPERVISORS,
    Begun,
    Death,
    Ended,
    FaultKind,
    History,
    Letter,
    Outcome,
    Sent,
)
from histories.kinds import KINDS, Kind

# Seconds within which a run that has ended is settled, on a busy machine, once the servers answer.
SETTLED = 3.0
# Seconds within which a message that is settled when its task begins is settled.
SETTLED_EARLY = 1.5
# Seconds between two events on this machine that may be seen in the wrong order.
ORDER = 0.5
# The share of a lease after which a silent worker may be given up: its last heartbeat is some time ago.
SHARE = 0.6
# Seconds within which a worker connects again, and two silences count as one.
RECONNECT = 2.0
# How often a message may come back because something died.
REDELIVERIES = 3
# Seconds that a worker may take to end with nothing in its way: its tasks, then itself, on a busy machine.
STOP = 30.0
FENCED = 75
# Tasks that a worker of a pool runs at a time, where it is not two.
SLOTS = {"gevent": 20, "solo": 1}
NO_CHILDREN = "Could not start worker processes"
# Seconds around a broadcast in which a worker must consume, and nothing be wrong, to be sure to hear it.
HEARS = 6.0


class Broken(StrEnum):
    """How a promise is broken."""

    LOST = "lost"
    DOUBLED = "doubled"
    STUCK = "stuck"
    DEAD_LETTER = "dead letter without cause"
    LATE = "rescued late"
    ENDED = "ended without cause"
    STOPPED_LATE = "stopped late"
    LEFT_BEHIND = "left behind"
    NO_RESULT = "result not stored"


@dataclass(frozen=True)
class Violation:
    """A promise that is broken."""

    broken: Broken
    subject: str
    why: str

    def __str__(self) -> str:
        return f"{self.broken}: {self.subject}: {self.why}"


def check(history: History) -> list[Violation]:
    """Return every promise that the history breaks."""
    return list(Check(history).violations())


@dataclass(frozen=True)
class Interval:
    """Some seconds."""

    since: float
    until: float

    def meets(self, since: float, until: float) -> bool:
        """Whether it has a moment in common with another one."""
        return self.since <= until and since <= self.until


class Check:
    """One history, and what is looked up in it."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.begins: defaultdict[str, list[Begun]] = defaultdict(list)
        for begun in history.begun:
            self.begins[begun.id].append(begun)
        self.ends: defaultdict[str, list[Ended]] = defaultdict(list)
        for ended in history.ended:
            self.ends[ended.id].append(ended)
        self.letters: dict[str, Letter] = {letter.id: letter for letter in history.letters}
        self.unseen: list[Sent] = []
        self._silences: dict[int, list[Interval]] = {}

    def violations(self) -> Iterator[Violation]:
        """Yield every broken promise."""
        for sent in self.history.sent:
            yield from self.of_task(sent, KINDS[sent.kind])
        yield from self.of_unseen()
        kinds = {sent.id: KINDS[sent.kind] for sent in self.history.sent}
        for letter in self.history.letters:
            yield from self.of_letter(letter, kinds.get(letter.id))
        for death in self.history.deaths:
            yield from self.of_death(death)
        for overdue in self.history.overdue:
            yield Violation(
                Broken.LATE, overdue.worker, f"its messages lay there for {overdue.seconds:.1f} s"
            )
        for key, count in self.history.left.items():
            yield Violation(Broken.STUCK, key, f"{count} messages are left in it")
        for key in self.history.keys:
            yield Violation(Broken.LEFT_BEHIND, key, "is left when all workers have ended")

    # --- Tasks -----------------------------------------------------------------------------------------

    def of_task(self, sent: Sent, kind: Kind) -> Iterator[Violation]:
        """Yield what is broken of one task."""
        attempts: defaultdict[int, list[Begun]] = defaultdict(list)
        for begun in self.begins[sent.id]:
            attempts[begun.attempt].append(begun)
        if kind.everywhere:
            yield from self.of_broadcast(sent)
            return
        for attempt, begins in sorted(attempts.items()):
            allowed = self.sources(sent, attempt) + self.requeues(sent, attempt)
            allowed += sum(self.interrupted(begun, kind) for begun in begins)
            if len(begins) > allowed:
                words = ", ".join(f"{begun.at:.2f} in {begun.pid} of {begun.main}" for begun in begins)
                yield self.task(
                    Broken.DOUBLED, sent, f"attempt {attempt} began at {words}; allowed is {allowed}"
                )
        most = 1 + REDELIVERIES + sum(fault.kind in SILENCES for fault in self.history.faults)
        if kind.dies and len(self.begins[sent.id]) > most:
            yield self.task(Broken.DOUBLED, sent, f"began {len(self.begins[sent.id])} times")
        if reason := self.lost(sent, kind):
            yield self.task(Broken.LOST, sent, reason)
        ended_well = any(ended.outcome is Outcome.DONE for ended in self.ends[sent.id])
        if kind.stored and ended_well and self.history.results.get(sent.id) != "SUCCESS":
            yield self.task(Broken.NO_RESULT, sent, f"stored is {self.history.results.get(sent.id)}")

    @staticmethod
    def task(broken: Broken, sent: Sent, why: str) -> Violation:
        """Return a violation of a promise about a task."""
        return Violation(broken, f"{sent.kind} {sent.id} sent at {sent.at:.2f}", why)

    def of_unseen(self) -> Iterator[Violation]:
        """Early acknowledged tasks may be settled and killed before they have recorded that they began.

        No kill does that to more of them than a worker runs at a time.
        """
        deaths = [fault.since for fault in self.history.faults if fault.kind in KILLS | SILENCES]
        slots = max(self.history.most, SLOTS.get(self.history.pool, 2))
        room = [at for at in deaths for _ in range(slots)]
        for sent in sorted(self.unseen, key=lambda sent: sent.at, reverse=True):
            # The last kill that may have done it.
            if room and max(room) >= sent.at - ORDER:
                room.remove(max(room))
            else:
                yield self.task(Broken.LOST, sent, "never began")

    def of_broadcast(self, sent: Sent) -> Iterator[Violation]:
        """Each worker runs a broadcast once at most, and all do that consume while nothing is wrong."""
        mains = [begun.main for begun in self.begins[sent.id]]
        calm = not any(
            Interval(fault.since, fault.until).meets(sent.at - HEARS, sent.at + HEARS)
            for fault in self.history.faults
        )
        for main in sorted(self.consuming_at(sent.at) - set(mains)) if calm and sent.accepted else ():
            yield self.task(Broken.LOST, sent, f"worker {main} has not run it")
        for main in sorted(set(mains)):
            if mains.count(main) > 1:
                yield self.task(Broken.DOUBLED, sent, f"worker {main} ran it {mains.count(main)} times")

    def consuming_at(self, at: float) -> set[int]:
        """Return the workers that began tasks shortly before and shortly after a moment."""
        before = {begun.main for begun in self.history.begun if at - HEARS <= begun.at < at}
        # What begins at once may have been taken before.
        return {
            begun.main for begun in self.history.begun if at + HEARS / 2 <= begun.at < at + HEARS
        } & before

    def sources(self, sent: Sent, attempt: int) -> int:
        """Return how often the message of an attempt may have been sent: once by each run that sends it.

        And once more where the broker did not answer: the sender tries again what it may have heard.
        """
        if attempt:
            senders = [begun for begun in self.begins[sent.id] if begun.attempt == attempt - 1]
            return len(senders) + sum(map(self.unanswered, senders))
        senders = [begun for name in sent.after for begun in self.begins[name]]
        extra = max(0, len(senders) - len(sent.after)) + sum(map(self.unanswered, senders))
        if KINDS[sent.kind].canvas and not sent.after:
            extra += self.is_away(sent.at - ORDER, sent.at + SETTLED)
        return 1 + extra

    def unanswered(self, begun: Begun) -> bool:
        """Whether the broker was away when a run sent something at its end."""
        ends = [ended.at for ended in self.ends[begun.id] if ended.pid == begun.pid and ended.at >= begun.at]
        return self.is_away(begun.at - ORDER, min(ends, default=begun.at) + SETTLED)

    def is_away(self, since: float, until: float) -> bool:
        """Whether the broker was away meanwhile, or lost a connection."""
        return any(one.meets(since, until) for one in self.away)

    def requeues(self, sent: Sent, attempt: int) -> int:
        """Return how often the task itself asked to run again."""
        return sum(
            ended.attempt == attempt and ended.outcome is Outcome.REQUEUED for ended in self.ends[sent.id]
        )

    def interrupted(self, begun: Begun, kind: Kind) -> bool:
        """Whether something documented may have led to another run of the same message."""
        ends = [ended.at for ended in self.ends[begun.id] if ended.pid == begun.pid and ended.at >= begun.at]
        until = min(ends, default=self.history.ended_at)
        if kind.early:
            until = min(until, self.settled(begun.at, SETTLED_EARLY, BROKER_AWAY))
        else:
            waits_for = BROKER_AWAY | RESULTS_AWAY if kind.stored else BROKER_AWAY
            until = self.settled(until, SETTLED, waits_for) if ends else until
        if self.killed(begun, begun.at, until) or self.given_up(begun.main, begun.at, until):
            return True
        # What ends while the broker is away is settled later, or never if its worker is stopped before that.
        unheard = any(self.is_away(at - ORDER, at + SETTLED) for at in ends)
        return unheard and self.stopped(begun.main, begun.at, until)

    def stopped(self, main: int, since: float, until: float) -> bool:
        """Whether a worker was asked to end or to restart, so that it may have ended meanwhile."""
        launched = any(death.pid == main and "@" in death.name for death in self.history.deaths)
        return any(
            (
                (fault.kind in STOPS and fault.concerns(main))
                or (fault.kind in STOPS_OF_SUPERVISORS and not launched)
            )
            and fault.since <= until + ORDER
            and since <= fault.until + STOP
            for fault in self.history.faults
        )

    def killed(self, begun: Begun, since: float, until: float) -> bool:
        """Whether its process, or its worker, was killed meanwhile."""
        return any(
            fault.kind in KILLS
            and fault.concerns(begun.pid, begun.main)
            and fault.since <= until + ORDER
            and since <= fault.until + ORDER
            for fault in self.history.faults
        )

    def given_up(self, main: int, since: float, until: float) -> bool:
        """Whether its worker was silent for so long that others may have had its messages meanwhile."""
        return any(silence.meets(since - ORDER, until + ORDER) for silence in self.silences(main))

    def silences(self, main: int) -> list[Interval]:
        """Return when a worker was silent for longer than its lease, the servers' own absence included."""
        if main not in self._silences:
            self._silences[main] = [
                silence
                for silence, own in joined(self.own_silences(main), self.away)
                if own and silence.until - silence.since >= SHARE * self.history.lease
            ]
        return self._silences[main]

    def own_silences(self, main: int) -> list[Interval]:
        """Return when a worker alone did not speak."""
        return [
            Interval(fault.since, fault.until)
            for fault in self.history.faults
            if fault.kind in SILENCES and fault.concerns(main)
        ]

    @cached_property
    def away(self) -> list[Interval]:
        """When the broker did not answer."""
        return [
            Interval(fault.since, fault.until) for fault in self.history.faults if fault.kind in BROKER_AWAY
        ]

    def settled(self, at: float, within: float, away: frozenset[FaultKind]) -> float:
        """Return when a message is settled for certain, whose time has come at a moment."""
        by = at + within
        for fault in sorted(self.history.faults, key=lambda fault: fault.since):
            if fault.kind in away and fault.since <= by and at <= fault.until:
                by = max(by, fault.until + RECONNECT + within)
        return by

    def lost(self, sent: Sent, kind: Kind) -> str:
        """Return why a task counts as lost, or nothing if it does not."""
        if not sent.accepted or kind.silent or self.was_never_due(sent) or sent.id in self.letters:
            return ""
        begins, ends = self.begins[sent.id], self.ends[sent.id]
        if kind.dies:
            return f"is no dead letter, and began {len(begins)} times"
        if any(ended.outcome in kind.ends for ended in ends):
            return ""
        if kind.early and any(self.cut_short(begun) for begun in begins):
            return ""
        if kind.early and not begins:
            self.unseen.append(sent)
            return ""
        found = ", ".join(f"{ended.outcome} (attempt {ended.attempt}) at {ended.at:.2f}" for ended in ends)
        began = ", ".join(f"{begun.at:.2f} in {begun.pid} of {begun.main}" for begun in begins)
        return f"began {began or 'never'}, ended {found or 'never'}"

    def was_never_due(self, sent: Sent) -> bool:
        """Whether a task that sends it has not come to its end; that one is judged itself."""
        return any(not any(ended.outcome is Outcome.DONE for ended in self.ends[name]) for name in sent.after)

    def cut_short(self, begun: Begun) -> bool:
        """Whether something ended the process of a run whose message was settled."""
        until = self.history.ended_at
        return self.killed(begun, begun.at, until) or self.given_up(begun.main, begun.at, until)

    # --- Dead letters ----------------------------------------------------------------------------------

    def of_letter(self, letter: Letter, kind: Kind | None) -> Iterator[Violation]:
        """A message becomes a dead letter if it is wrong itself, or if too many died of it."""
        if kind is None or kind.dies or kind.name in {"malformed", "unknown"}:
            return
        deaths = sum(
            fault.kind in KILLS | SILENCES | {FaultKind.KILL_SUPERVISOR} for fault in self.history.faults
        )
        if letter.redeliveries < REDELIVERIES or deaths <= REDELIVERIES:
            yield Violation(
                Broken.DEAD_LETTER,
                f"{kind.name} {letter.id} of {letter.queue}",
                f"{letter.reason}; {letter.redeliveries} redeliveries",
            )

    # --- Processes -------------------------------------------------------------------------------------

    def of_death(self, death: Death) -> Iterator[Violation]:
        """A worker ends if it is asked to, if it is fenced, or if somebody kills it."""
        subject = f"{death.name} ({death.pid})"
        killed = any(
            fault.kind in KILLS | {FaultKind.KILL_SUPERVISOR}
            and death.pid in fault.pids
            and fault.since <= death.at + ORDER
            for fault in self.history.faults
        )
        if killed:
            return
        silent = [one for one in self.silences(death.pid) if one.since <= death.at + ORDER]
        if death.status == FENCED and silent:
            return
        if self.lost_its_first_child(death):
            return
        if death.status < 0 and death.asked is not None and not death.ready:
            # Before it has begun, the signal ends it as it does any process.
            return
        if death.status or death.asked is None:
            asked = "nobody had asked it to end" if death.asked is None else "it was asked to end"
            words = f"status {death.status} at {death.at:.2f}; {asked}: {death.last_words}"
            yield Violation(Broken.ENDED, subject, words)
        elif (took := death.at - death.asked) > STOP + self.in_the_way(death.asked, death.at):
            yield Violation(Broken.STOPPED_LATE, subject, f"took {took:.1f} s")

    def lost_its_first_child(self, death: Death) -> bool:
        """Whether Celery has given up because the processes of the pool died before the worker consumed."""
        return NO_CHILDREN in death.last_words and any(
            fault.kind is FaultKind.KILL_CHILD and fault.subject == str(death.pid) and fault.since <= death.at
            for fault in self.history.faults
        )

    def in_the_way(self, since: float, until: float) -> float:
        """Return for how many seconds some fault lasted meanwhile."""
        return sum(
            max(0.0, min(fault.until, until) - max(fault.since, since))
            for fault in self.history.faults
            if fault.kind in SILENCES | BROKER_AWAY | RESULTS_AWAY
        )


def joined(own: Iterable[Interval], others: Iterable[Interval]) -> Iterator[tuple[Interval, bool]]:
    """Join what follows each other closely; yield each stretch, and whether one's own part is in it."""
    everything = sorted(
        [(one.since, one.until, True) for one in own] + [(one.since, one.until, False) for one in others]
    )
    current: tuple[float, float, bool] | None = None
    for since, until, mine in everything:
        if current is not None and since <= current[1] + RECONNECT:
            current = current[0], max(current[1], until), current[2] or mine
            continue
        if current is not None:
            yield Interval(current[0], current[1]), current[2]
        current = since, until, mine
    if current is not None:
        yield Interval(current[0], current[1]), current[2]
