"""What one host does about the decision for one group in one tick."""

from dataclasses import dataclass
from zlib import crc32

from celery_autoscaler.protocol.status import START_SLOTS
from celery_autoscaler.supervisor.context import SUPERVISOR_LEASE_SECONDS, Context
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.host_workers import HostWorkers
from celery_autoscaler.supervisor.local import LocalWorker
from celery_autoscaler.supervisor.policy import limits, shares
from celery_autoscaler.supervisor.publishing import Publisher
from celery_autoscaler.supervisor.start_room import Shortage, StartRoom
from celery_autoscaler.supervisor.starter import Starter
from celery_autoscaler.supervisor.stops import Stops
from celery_autoscaler.supervisor.stretching import Stretching
from celery_autoscaler.supervisor.tick import Tick

# A host must have been short of something for this time before the others take over a part of its share.
SHORT_SECONDS = 5.0


@dataclass(frozen=True)
class Tools:
    """What the groups of one tick share."""

    context: Context
    workers: HostWorkers
    publisher: Publisher
    starter: Starter
    room: StartRoom
    stops: Stops
    stretching: Stretching


@dataclass(frozen=True)
class Plan:
    """What this host is to do for a group."""

    delta: int
    """Workers to start, or to stop (negative)."""
    shortage: Shortage
    patient: bool
    """Whether a busy CPU does not matter, because the group has too few workers at all."""
    no_replacement: Shortage
    """What keeps this host from starting a worker in the place of an outdated one."""


@dataclass(frozen=True)
class Done:
    """What this host did for a group."""

    here: int = 0
    """Workers that it started, or began to stop (negative)."""
    limited_by: str = ""
    """What kept it from doing all: CPU, memory, Redis, back-off, start slots, maximum or failure."""
    why: str = ""
    """The same in words."""


class GroupScaling:
    """Brings this host's part of a group in step with the decision, in one tick."""

    def __init__(self, tools: Tools, tick: Tick, state: GroupState) -> None:
        self.tools = tools
        self.context = tools.context
        self.tick = tick
        self.state = state
        self.name = state.group.name

    # --- Planning --------------------------------------------------------------------------------------

    def plan(self) -> Plan | None:
        """Return what this host is to do for the group; nothing if it is to leave it alone."""
        state, decision, host, now = self.state, self.state.decision, self.context.host, self.tick.now
        if host in self.tick.fleet.leaving:
            self._leave_to_others()
            return None
        state.leaving_since = None
        if decision.limit == "paused":
            state.held_back, state.limited_by, state.limit = "", "paused", None
            return None
        low, high = self.context.bounds(state.group)
        shortage, most, patient = self.tools.room.shortage(state, self.tick.host), high, False
        few = max(low, min(1, decision.want)) - state.seen.ready - state.seen.starting
        if shortage and few > 0:
            # Others' busy CPU must not keep a group below its minimum, or leave tasks without any worker.
            shortage, most, patient = self._shortage_beside_cpu(), few, True
        extra, no_replacement = self._replace_outdated()
        mine = self.context.count(self.name, "starting", "ready") - extra
        if not shortage:
            state.short_since, state.limit = None, None
        elif state.short_since is None:
            state.short_since = now
        elif now - state.short_since >= SHORT_SECONDS:
            # Others take over what this host cannot run.
            state.limit = mine
        delta = shares.moves(
            decision.want,
            high,
            self.tick.fleet.workers_by_host(self.name) | {host: mine},
            self._offers(),
            rebalance=now - state.quiet_since > self.context.settings.stabilisation,
        ).get(host, 0)
        return Plan(min(delta, most), shortage, patient, no_replacement)

    def need(self, plan: Plan) -> limits.StartNeed:
        """Return what the group wants to start on this host now."""
        state = self.state
        starting = self.context.count(self.name, "starting")
        missing = 0 if plan.shortage else plan.delta - len(self._returning(plan.delta))
        low, _ = self.context.bounds(state.group)
        return limits.StartNeed(
            group=self.name,
            missing=max(0, min(missing, state.backoff.allowed(self.tick.now, starting))),
            starting=starting,
            weight=state.start_weight.value,
            below_minimum=state.seen.ready + state.seen.starting < low,
            overdue=state.seen.age / state.group.target_wait,
        )

    def _offers(self) -> list[shares.Offer]:
        """Return what each host that may run workers of the group offers."""
        fleet, name = self.tick.fleet, self.name
        return [
            shares.Offer(peer.host, peer.weight, peer.limits[name], crc32(f"{name}@{peer.host}".encode()))
            for peer in fleet.peers
            if name in peer.limits and peer.host not in fleet.leaving
        ]

    def _shortage_beside_cpu(self) -> Shortage:
        """Return what keeps this host from starting a worker, as if its CPUs had time."""
        return self.tools.room.shortage(self.state, self.tick.host.with_idle_cpus())

    def _returning(self, count: int) -> list[LocalWorker]:
        """Return draining workers of the group that can take messages again, up to a number."""
        mine = [w for w in self.context.local.values() if w.group == self.name]
        return [w for w in mine if w.state == "draining" and w.may_return and not w.outdated][: max(0, count)]

    # --- Acting ----------------------------------------------------------------------------------------

    def grow_workers(self) -> None:
        """Let workers that stretch have more slots, and record it."""
        if children := self.tools.stretching.stretch(self.state, only_grow=True):
            self.tools.publisher.record(self.state, 0, self.tick.fleet, children=children)

    def carry_out(self, plan: Plan, slots: int, *, only_grow: bool) -> None:
        """Do what is planned, and record it.

        Args:
            plan: What is to be done.
            slots: Workers that the host may start for the group now.
            only_grow: Whether workers that stretch may have more slots now, and not fewer.
        """
        state, decision, done = self.state, self.state.decision, Done()
        children = self.tools.stretching.stretch(state, only_grow=only_grow)
        if plan.delta > 0:
            # In an emergency all starts are worth being slow.
            done = self._grow(plan, plan.delta if decision.emergency else slots)
        elif plan.delta < 0 and not state.seen.starting:
            done = Done(-self._shrink(-plan.delta))
        elif plan.shortage and self._lacks_any(children):
            done = Done(0, plan.shortage.kind, plan.shortage.words)
        state.held_back = done.why or plan.no_replacement.words
        state.limited_by = done.limited_by or plan.no_replacement.kind or decision.limit
        self.tools.publisher.record(state, done.here, self.tick.fleet, children=children)

    def _lacks_any(self, children: int) -> bool:
        """Whether there are fewer workers than are wanted, or fewer slots and none that is added here."""
        seen, decision = self.state.seen, self.state.decision
        return decision.want > seen.ready + seen.starting or (decision.slots > seen.slots and not children)

    def _grow(self, plan: Plan, slots: int) -> Done:
        """Let draining workers take messages again, and start others as far as anything allows."""
        state, began, started = self.state, 0, 0
        for worker in self._returning(plan.delta):
            self.tools.workers.let_return(worker)
            state.quiet_since = self.tick.now
            began += 1
        limited, why = "", ""
        while began < plan.delta:
            limited, why = self._start_next(plan, started, slots)
            if limited:
                break
            started, began = started + 1, began + 1
        if limited and began:
            why = f"started {began} of {plan.delta} ({why})"
        return Done(began, limited, why)

    def _start_next(self, plan: Plan, started: int, slots: int) -> tuple[str, str]:
        """Start one more worker; return what keeps this host from it, in a word and in a sentence."""
        # Looked at again each time: those that were just started need memory and clients as well.
        host = self.tick.host.with_idle_cpus() if plan.patient else self.tick.host
        shortage = self.tools.room.shortage(self.state, host)
        if shortage:
            return shortage.kind, shortage.words
        if not self.state.backoff.allowed(self.tick.now, self.context.count(self.name, "starting")):
            return "back-off", "one worker at a time after a failure"
        if started >= slots:
            return (
                START_SLOTS,
                f"{limits.STARTS_PER_CPU / self.state.start_weight.value:.0f} per CPU at a time",
            )
        return ("", "") if self._start() else self.state.not_started

    def _start(self, extra: int = 0) -> str:
        name = self.tools.starter.start(self.tick.now, self.state, extra)
        if name:
            self.tools.room.take_one()
        return name

    def _shrink(self, count: int) -> int:
        """Begin to stop workers that are too many; return how many."""
        state, decision = self.state, self.state.decision
        _, high = self.context.bounds(state.group)
        # Workers beyond the maximum, or beyond what is of use, run something and end after it.
        over = state.seen.ready - (decision.want if decision.limit == "throughput" else high)
        # To even out the hosts one worker may be moved though it runs something, if that is short.
        moves = len(self.tick.fleet.peers) > 1 and decision.want >= state.seen.ready
        busy = max(over, int(moves and self._runs_short_tasks()))
        return self.tools.stops.shrink(state, count, decision.reason, busy=busy)

    def _runs_short_tasks(self) -> bool:
        """Whether no task of the group on this host has run for longer than the target wait."""
        return all(
            begun is not None and self.tick.fleet.time - begun <= self.state.group.target_wait
            for worker in self.context.local.values()
            if worker.group == self.name and worker.seen is not None
            for _, begun in worker.seen.running
        )

    def _leave_to_others(self) -> None:
        """Stop this host's workers, once those of other hosts are enough or no more of them come."""
        state, fleet, now = self.state, self.tick.fleet, self.tick.now
        state.held_back, state.limited_by, state.limit = "", "", 0
        if state.leaving_since is None:
            state.leaving_since = now
        others = fleet.workers_by_host(self.name)
        ready = sum(
            w.alive and w.group == self.name and w.state == "running" and w.host in others
            for w in fleet.workers
            if w.name not in fleet.draining
        )
        why = f"{self.context.host} is leaving, requested by {fleet.leaving[self.context.host]}"
        if ready >= state.decision.want:
            count = self.context.count(self.name, "starting", "ready")
        elif (
            ready == sum(others.values())
            and now - max(state.quiet_since, state.leaving_since) > SUPERVISOR_LEASE_SECONDS
        ):
            count = 1
        else:
            return
        here = self.tools.stops.shrink(state, count, why, busy=count, may_return=False)
        if here:
            self.tools.publisher.write(state, -here, why, "leaving", fleet)

    def _replace_outdated(self) -> tuple[int, Shortage]:
        """Replace the outdated workers on this host, one after the other.

        Another one is started first, one more than the group's maximum if need be; the outdated one drains
        once that consumes. Busy CPUs do not matter: in the end there are as many workers as before.

        Returns:
            How many workers there are in excess until an outdated one drains, 1 or 0, and what keeps another
            one from being started.
        """
        state, local = self.state, self.context.local
        outdated = [
            w.name for w in local.values() if w.group == self.name and w.outdated and w.state == "ready"
        ]
        new = local.get(state.replacement)
        if not outdated or new is None or new.state not in {"starting", "ready"}:
            state.replacement = ""
        if not outdated:
            return 0, Shortage()
        if not state.replacement:
            shortage = self._shortage_beside_cpu()
            if not shortage and not self.context.count(self.name, "starting"):
                state.replacement = self._start(extra=1)
            return int(bool(state.replacement)), shortage
        if local[state.replacement].state == "ready":
            self.tools.stops.replace_one(state, outdated, state.replacement)
            state.replacement = ""
            return 0, Shortage()
        return 1, Shortage()
