"""Whether the workers keep up, in two words and in a sentence: the worst first, then the rest."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from celery_autoscaler.protocol.reading import Refusal
from celery_autoscaler.protocol.status import START_SLOTS, GroupStatus, SupervisorStatus
from celery_autoscaler.protocol.text import listed
from celery_autoscaler.supervisor.policy.law import FIRST_TASK_SECONDS

# Failures of a task in an hour below which their part says nothing, and the part above which it does.
FEW, PART = 5, 0.05
# Failures of a task in an hour that are many whatever their part.
MANY = 1000

# What settings are called by which tasks can be lost, doubled or left waiting.
UNSAFE = "unsafe settings"

# What a group that is held back is called, by its limit.
LIMITS = {
    "CPU": "limited by CPU",
    "memory": "limited by memory",
    "Redis": "limited by Redis",
    "max_workers": "at max_workers",
    "back-off": "starts fail",
    "failure": "starts fail",
    START_SLOTS: "starting",
    "throughput": "limited by throughput",
}

Groups = Mapping[str, GroupStatus]
Hosts = Mapping[str, SupervisorStatus]


@dataclass(frozen=True)
class Finding:
    """Something that is to be said of the fleet."""

    word: str
    """One of the verdicts."""
    why: str


@dataclass(frozen=True)
class Failures:
    """Executions of one task in the last hour, on all hosts."""

    task: str
    failed: int
    ended: int
    """Nothing where no supervisor says so."""

    @property
    def part(self) -> float:
        """The part of them that failed."""
        return self.failed / self.ended if self.ended else 1.0

    @property
    def is_many(self) -> bool:
        """Whether somebody should look at it."""
        return self.failed >= MANY or (self.failed >= FEW and self.part >= PART)

    def __str__(self) -> str:
        of = f" of {self.ended} executions" if self.ended else " executions"
        part = f" ({100 * self.part:.0f} %)" if self.ended else ""
        return f"{self.failed}{of} of {self.task} failed in the last hour{part}"


def findings(
    hosts: Hosts, groups: Groups, unwatched: Mapping[str, int], unreadable: Sequence[Refusal]
) -> list[Finding]:
    """Return what is to be said of a fleet, the worst first; that it keeps up where nothing else is.

    Args:
        hosts: What the living supervisors say, by host.
        groups: The groups.
        unwatched: Hosts with living workers and without a supervisor, and how many.
        unreadable: What in Redis could not be read.
    """
    if not hosts:
        return [Finding("no supervisor", "no supervisor is alive: dead workers are not replaced")]
    found = [
        *without_supervisor(unwatched),
        *without_workers(hosts, groups),
        *falling_behind(groups),
        *failing(hosts),
        *paused(groups),
        *dead_letters(groups),
    ]
    named = [f"{refusal.kind} {refusal.name}: {refusal.why}" for refusal in unreadable]
    passed_over = [*named, *unreadable_by_supervisors(hosts)]
    if passed_over:
        found.append(Finding("unreadable", f"unreadable in Redis: {listed(passed_over)}"))
    found += unsafe(hosts)
    leaving = [host for host, status in hosts.items() if status.state == "leaving"]
    if leaving:
        found.append(Finding("leaving", f"drained: {listed(leaving)}"))
    if all(finding.word in {"leaving", UNSAFE} for finding in found):
        found.insert(0, Finding("keeping up", waiting(groups)))
    return found


def without_supervisor(unwatched: Mapping[str, int]) -> Iterator[Finding]:
    """Find hosts whose workers have no supervisor."""
    if unwatched:
        workers = sum(unwatched.values())
        names = listed(sorted(unwatched))
        yield Finding("no supervisor", f"no supervisor on {names}: nothing replaces its {workers} workers")


def without_workers(hosts: Hosts, groups: Groups) -> Iterator[Finding]:
    """Find groups that nothing serves although they should be served."""
    all_leave = all(status.state == "leaving" for status in hosts.values())
    for name, group in groups.items():
        wanted = group.min_workers or (all_leave and group.waiting)
        begins = group.starting and not group.failed_starts
        if group.ready or not wanted or begins or group.limit == "paused":
            continue
        if all_leave:
            why = f"drained: {listed(sorted(hosts))}"
        elif group.failed_starts:
            why = f"{group.failed_starts} starts failed: {group.last_failure}"
        else:
            why = group.held_back or group.reason
        since = f" for {group.unserved:.0f} s" if group.unserved >= 1 else ""
        tasks = f", {group.waiting} tasks waiting" if group.waiting else ""
        yield Finding("no workers", f"{name}: none of at least {group.min_workers}{since}{tasks}; {why}")


def falling_behind(groups: Groups) -> Iterator[Finding]:
    """Find groups that miss their target wait, or will because something limits them; the worst first."""
    for name, group in sorted(groups.items(), key=lambda named: lateness(named[1]), reverse=True):
        if lateness(group) <= 1:
            continue
        wait = f"the oldest task of {name} has waited {group.age:.0f} s"
        if group.age <= group.target_wait:
            wait = f"tasks of {name} are expected to wait {expected_wait(group):.0f} s"
        held = f"; held back: {group.held_back}" if group.held_back else ""
        eta = f"; {group.overdue} tasks whose ETA has come wait in workers" if group.overdue else ""
        why = f"{wait}, target wait {group.target_wait:g} s; {group.reason}{eta}{held}"
        yield Finding("falling behind", why)


def lateness(group: GroupStatus) -> float:
    """Return the longest wait of a group in relation to its target: of its oldest task, or the expected one.

    What is expected counts only if something keeps the group from more workers: otherwise they come.
    """
    expected = expected_wait(group) if is_limited(group) else 0.0
    return max(group.age, expected) / group.target_wait


def expected_wait(group: GroupStatus) -> float:
    """Return the seconds until the last waiting task begins with the workers there are, or with one."""
    ready = group.slots if group.max_concurrency else group.ready * group.concurrency
    slots = max(1, group.concurrency, ready + group.starting * group.concurrency)
    idle = max(0, ready - group.busy)
    tasks = max(0, group.waiting + group.held - idle)
    return tasks * (group.service_time or FIRST_TASK_SECONDS) / slots


def is_limited(group: GroupStatus) -> bool:
    """Return whether something keeps a group from more workers, other than that they start in turn."""
    if group.limit in {"paused", START_SLOTS}:
        return False
    at_most = group.ready + group.starting >= group.max_workers
    if group.max_concurrency:
        at_most = group.slots >= group.max_workers * group.max_concurrency
    return bool(limit_words(group)) or at_most


def failing(hosts: Hosts) -> Iterator[Finding]:
    """Find tasks that fail often, the worst first."""
    for each in failures(hosts):
        if each.is_many:
            yield Finding("failing", f"{each}; fleet failures --task {quote(each.task)} shows why")


def failures(hosts: Hosts) -> list[Failures]:
    """Return the tasks that have failed on any host in the last hour, the most frequent first."""
    failed: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for status in hosts.values():
        failed.update(status.failures)
        ended.update(status.ended)
    return [Failures(task, count, ended[task]) for task, count in failed.most_common() if count]


def dead_letters(groups: Groups) -> Iterator[Finding]:
    """Find queues with messages that were put aside."""
    counts = {
        queue: found.dead_letters
        for group in groups.values()
        for queue, found in group.queues.items()
        if found.dead_letters
    }
    if counts:
        total = sum(counts.values())
        messages = "1 message was" if total == 1 else f"{total} messages were"
        yield Finding("dead letters", f"{messages} put aside: queue {listed(sorted(counts))}")


def unreadable_by_supervisors(hosts: Hosts) -> list[str]:
    """Return the names of what supervisors cannot read now."""
    names: dict[str, None] = {}
    for status in hosts.values():
        for kind, found in status.unreadable.items():
            names |= dict.fromkeys(f"{kind} {name}" for name in found.names)
    return list(names)


def unsafe(hosts: Hosts) -> Iterator[Finding]:
    """Find settings by which tasks can be lost, each once."""
    texts = dict.fromkeys(text for status in hosts.values() for text in status.problems)
    for text in texts:
        yield Finding(UNSAFE, text)


def paused(groups: Groups) -> Iterator[Finding]:
    """Find groups whose workers are neither started nor stopped."""
    by_reason: dict[str, list[str]] = {}
    for name, group in groups.items():
        if group.limit == "paused":
            by_reason.setdefault(group.reason, []).append(name)
    for reason, names in by_reason.items():
        yield Finding("paused", f"{', '.join(names)}: {reason}")


def waiting(groups: Groups) -> str:
    """Return how many tasks wait, in words."""
    oldest = max((group.age for group in groups.values()), default=0.0)
    number = sum(group.waiting for group in groups.values())
    return f"{number} tasks waiting, oldest {oldest:.1f} s" if number else "no tasks waiting"


def limit_words(group: GroupStatus) -> str:
    """Return in a few words what keeps a group from the workers that it wants; nothing if nothing does."""
    have = group.ready + group.starting
    if group.limit == "max_workers" and have >= group.max_workers:
        return "at max_workers"
    lacks = have < group.want or (group.max_concurrency and group.slots < group.want_slots)
    if group.limit == "throughput" or (lacks and group.held_back):
        return LIMITS.get(group.limit, "held back")
    return ""
