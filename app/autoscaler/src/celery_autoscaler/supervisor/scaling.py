"""What one host does about a decision: it starts, stops and replaces its part of a group's workers."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from zlib import crc32

from celery_autoscaler.supervisor.context import LEASE, Context
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.host_workers import HostWorkers
from celery_autoscaler.supervisor.launchers import LaunchError
from celery_autoscaler.supervisor.local import LocalWorker
from celery_autoscaler.supervisor.observation import Seen
from celery_autoscaler.supervisor.policy import limits, shares
from celery_autoscaler.supervisor.policy.limits import StartNeed, start_turns
from celery_autoscaler.supervisor.publishing import CLAIM_LEASE, START_SLOTS, Publisher

logger = logging.getLogger(__name__)

# Seconds for which a host must have been short of something before the others take over a part of its share.
SHORT = 5.0

# KEYS: the set of workers, the claims of the group.
# ARGV: group, name of the worker, the group's maximum, milliseconds for which the claim stands.
# Returns whether the worker may be started.
# Invariant: living workers and claims of a group are together never more than its max_workers.
CLAIM = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local names, count = {}, 0
local function add(name)
    if name and not names[name] then names[name] = true; count = count + 1 end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
    local name = string.match(id, '^(.*):')
    if name and string.match(name, '^(.*)%-%d+@') == ARGV[1] then add(name) end
end
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do add(name) end
if names[ARGV[2]] or count >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[2])
return 1
"""


@dataclass(frozen=True)
class Shortage:
    """What keeps this host from starting a worker."""

    kind: str = ""
    """CPU, memory, Redis or back-off; nothing if nothing does."""
    words: str = ""

    def __bool__(self) -> bool:
        return bool(self.words)


@dataclass(frozen=True)
class Plan:
    """What this host is to do for a group."""

    state: GroupState
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


class Scaling:
    """Brings the number of this host's workers in step with the decisions."""

    def __init__(self, context: Context, workers: HostWorkers, publisher: Publisher) -> None:
        self.context = context
        self.workers = workers
        self.publisher = publisher
        self._room: int | None = None
        """Workers that this host may still start in this tick before Redis runs out of clients."""

    def act(self, now: float, states: Sequence[GroupState], seen: Seen) -> None:
        """Start and stop as many workers of each group as are this host's part."""
        context = self.context
        self._room = self._client_room(seen)
        plans: dict[str, Plan] = {}
        for state in states:
            with context.faults.contained(f"group {state.group.name}, planning"):
                plan = self._plan(now, state, seen)
                if plan is not None:
                    plans[state.group.name] = plan
        needs = [self._need(now, plan) for plan in plans.values()]
        starting = [worker.since for worker in context.local.values() if worker.state == "starting"]
        # Those that wait for something else than a CPU take nobody's place.
        waiting = len(starting) - limits.starting_load(now, starting, context.host_seen)
        turns = start_turns(needs, limits.HostLimits.starts_at_once(context.host_seen) + waiting)
        for need in sorted(needs, key=lambda need: need.order):
            with context.faults.contained(f"group {need.group}, scaling"):
                plan = plans[need.group]
                # In an emergency all starts are worth being slow.
                slots = plan.delta if plan.state.decision.emergency else turns[need.group]
                self._carry_out(now, plan, slots, seen)

    def _client_room(self, seen: Seen) -> int | None:
        """Return how many workers this host may start before Redis runs out of clients."""
        hosts = sorted({self.context.host, *(peer.host for peer in seen.peers)})
        starting = {name for names in seen.claims.values() for name in names}
        starting -= {worker.name for worker in seen.workers if worker.state}
        return self.context.clients_per_worker.room(
            seen.clients, len(starting), len(hosts), hosts.index(self.context.host)
        )

    def _need(self, now: float, plan: Plan) -> StartNeed:
        """Return what a group wants to start on this host now."""
        state, group = plan.state, plan.state.group
        starting = self.context.count(group.name, "starting")
        missing = 0 if plan.shortage else plan.delta - len(self._returning(state, plan.delta))
        low, _ = self.context.bounds(group)
        return StartNeed(
            group=group.name,
            missing=max(0, min(missing, state.backoff.allowed(now, starting))),
            starting=starting,
            below_minimum=state.seen.ready + state.seen.starting < low,
            overdue=state.seen.age / group.target_wait,
        )

    def _plan(self, now: float, state: GroupState, seen: Seen) -> Plan | None:
        """Return what this host is to do for a group; nothing if it is to leave it alone."""
        group, decision, host = state.group, state.decision, self.context.host
        if host in seen.leaving:
            self._leave_to_others(now, state, seen)
            return None
        state.leaving_since = None
        if decision.limit == "paused":
            state.held_back, state.limited_by, state.limit = "", "paused", None
            return None
        low, high = self.context.bounds(group)
        shortage = self._shortage(now, state, seen, self.context.host_seen)
        most, patient = high, False
        few = max(low, min(1, decision.want)) - state.seen.ready - state.seen.starting
        if shortage and few > 0:
            # Others' busy CPU must not keep a group below its minimum, or tasks waiting for nobody.
            shortage, most, patient = self._shortage(now, state, seen, self._calm()), few, True
        extra, no_replacement = self._replace(now, state, seen)
        mine = self.context.count(group.name, "starting", "ready") - extra
        if not shortage:
            state.short_since, state.limit = None, None
        elif state.short_since is None:
            state.short_since = now
        elif now - state.short_since >= SHORT:
            # Others take over what this host cannot run.
            state.limit = mine
        offers = [
            shares.Offer(
                peer.host, peer.weight, peer.limits[group.name], crc32(f"{group.name}@{peer.host}".encode())
            )
            for peer in seen.peers
            if group.name in peer.limits and peer.host not in seen.leaving
        ]
        delta = shares.moves(
            decision.want,
            high,
            self._by_host(group.name, seen) | {host: mine},
            offers,
            rebalance=now - state.quiet_since > self.context.settings.stabilisation,
        ).get(host, 0)
        return Plan(state, min(delta, most), shortage, patient, no_replacement)

    def _carry_out(self, now: float, plan: Plan, slots: int, seen: Seen) -> None:
        """Do what is to be done for a group, and tell what was done."""
        state, done = plan.state, Done()
        if plan.delta > 0:
            done = self._grow(now, plan, slots, seen)
        elif plan.delta < 0 and not state.seen.starting:
            _, high = self.context.bounds(state.group)
            # Workers beyond the maximum, or beyond what is of use, run something and end after it.
            most = state.decision.want if state.decision.limit == "throughput" else high
            over = state.seen.ready - most
            # To even out the hosts one worker may be moved though it runs something, if that is short.
            moves = len(seen.peers) > 1 and state.decision.want >= state.seen.ready
            moved = int(moves and self._runs_short_tasks(state, seen))
            busy = max(over, moved)
            done = Done(-self._shrink(now, state, -plan.delta, state.decision.reason, busy=busy))
        elif plan.shortage and state.decision.want > state.seen.ready + state.seen.starting:
            done = Done(0, plan.shortage.kind, plan.shortage.words)
        why = done.why or plan.no_replacement.words
        limited_by = done.limited_by or plan.no_replacement.kind or state.decision.limit
        state.held_back, state.limited_by = why, limited_by
        self.publisher.record(state, done.here, seen)

    def _leave_to_others(self, now: float, state: GroupState, seen: Seen) -> None:
        """Stop this host's workers of a group, once those of other hosts suffice or no more of them come."""
        state.held_back, state.limited_by, state.limit = "", "", 0
        if state.leaving_since is None:
            state.leaving_since = now
        mine = self.context.count(state.group.name, "starting", "ready")
        others = self._by_host(state.group.name, seen)
        ready = sum(
            w.alive and w.group == state.group.name and w.state == "running" and w.host in others
            for w in seen.workers
            if w.name not in seen.draining
        )
        why = f"{seen.leaving[self.context.host]} wants no workers on {self.context.host}"
        if ready >= state.decision.want:
            here = self._shrink(now, state, mine, why, busy=mine, may_return=False)
        elif ready == sum(others.values()) and now - max(state.quiet_since, state.leaving_since) > LEASE:
            here = self._shrink(now, state, 1, why, busy=1, may_return=False)
        else:
            here = 0
        if here:
            self.publisher.write(state, -here, why, "leaving", seen)

    def _replace(self, now: float, state: GroupState, seen: Seen) -> tuple[int, Shortage]:
        """Replace the outdated workers of a group on this host, one after the other.

        Another one is started first, one more than the group's maximum if need be; the outdated one drains
        once that consumes. Busy CPUs do not matter: in the end there are as many workers as before.

        Returns:
            How many workers there are in excess until an outdated one drains, 1 or 0, and what keeps another
            one from being started.
        """
        local = self.context.local
        mine = [w for w in local.values() if w.group == state.group.name]
        outdated = [w for w in mine if w.outdated and w.state == "ready"]
        new = local.get(state.replacement)
        if not outdated or new is None or new.state not in {"starting", "ready"}:
            state.replacement = ""
        if not outdated:
            return 0, Shortage()
        if not state.replacement:
            shortage = self._shortage(now, state, seen, self._calm())
            if not shortage and not self.context.count(state.group.name, "starting"):
                state.replacement = self.start(now, state, extra=1)
            return int(bool(state.replacement)), shortage
        if local[state.replacement].state == "ready":
            times = self._service_times(state)
            candidates = {w.name: w.candidate(seen.time, times) for w in outdated}
            [candidate] = shares.stop_candidates(1, candidates)
            self.workers.stop(now, local[candidate], f"{state.replacement} takes its place")
            state.replacement = ""
            return 0, Shortage()
        return 1, Shortage()

    def relieve(self, now: float, seen: Seen) -> None:
        """Give up one worker while the host is short of memory, or of CPUs to no avail."""
        context = self.context
        why = context.brakes.for_a_stop(now, context.host_seen, slowing=context.pace.is_slowing)
        spare = [
            state
            for state in context.groups.values()
            if context.count(state.group.name, "ready")
            and state.decision.limit != "paused"
            and state.seen.ready + state.seen.starting > context.bounds(state.group)[0]
        ]
        if why and spare:
            most = max(spare, key=lambda state: context.count(state.group.name, "ready"))
            here = self._shrink(now, most, 1, why, busy=1, may_return=False)
            if here:
                kind = "CPU" if why.startswith("CPU") else "memory"
                self.publisher.write(most, -here, why, kind, seen)

    def _calm(self) -> limits.HostSeen:
        """Return what is seen of the host as if its CPUs had time."""
        return replace(self.context.host_seen, cpu=0.0, cpu_pressure=0.0)

    def _by_host(self, group: str, seen: Seen) -> dict[str, int]:
        """Return how many workers of a group consume or start, by host; none of hosts that shall run none."""
        names = set(seen.claims.get(group, ()))
        for worker in seen.workers:
            if worker.alive and worker.group == group and worker.state in {"running", ""}:
                names.add(worker.name)
        counts: dict[str, int] = {}
        for name in names - seen.draining:
            host = name.partition("@")[2]
            if host not in seen.leaving:
                counts[host] = counts.get(host, 0) + 1
        return counts

    def _shortage(self, now: float, state: GroupState, seen: Seen, host: limits.HostSeen) -> Shortage:
        """Return what keeps this host from starting a worker of a group."""
        if seen.short:
            return Shortage("Redis", seen.short)
        if self._room is not None and self._room < 1:
            clients, each = seen.clients, self.context.clients_per_worker.value
            return Shortage(
                "Redis",
                f"Redis has {clients.connected} of at most {clients.most} clients, a worker takes {each:.0f}",
            )
        memory = [w.memory for w in seen.workers if w.alive and w.group == state.group.name and w.memory]
        words = self.context.brakes.against_starts(
            host,
            slowing=self.context.pace.is_slowing,
            worker_memory=max(memory, default=0),
            starting=self.context.count(None, "starting"),
        )
        if words:
            return Shortage("CPU" if words.startswith("CPU") else "memory", words)
        return Shortage("back-off", state.backoff.explain(now))

    def _returning(self, state: GroupState, count: int) -> list[LocalWorker]:
        """Return draining workers of a group that can take messages again, up to a number."""
        mine = [w for w in self.context.local.values() if w.group == state.group.name]
        return [w for w in mine if w.state == "draining" and w.may_return and not w.outdated][: max(0, count)]

    def _grow(self, now: float, plan: Plan, slots: int, seen: Seen) -> Done:
        """Let draining workers take messages again, and start others as far as anything allows."""
        state = plan.state
        began = 0
        for worker in self._returning(state, plan.delta):
            self.workers.let_return(worker)
            state.quiet_since = now
            began += 1
        host = self._calm() if plan.patient else self.context.host_seen
        started, limited = 0, ""
        why = ""
        while began < plan.delta:
            # Looked at again each time: those that were just started need memory and clients as well.
            shortage = self._shortage(now, state, seen, host)
            if shortage:
                limited, why = shortage.kind, shortage.words
            elif not state.backoff.allowed(now, self.context.count(state.group.name, "starting")):
                limited, why = "back-off", "one worker at a time after a failure"
            elif started >= slots:
                limited, why = START_SLOTS, f"{limits.STARTS_A_CPU} per CPU at a time"
            elif not self.start(now, state):
                limited, why = state.not_started
            if limited:
                break
            started, began = started + 1, began + 1
        if limited and began:
            why = f"started {began} of {plan.delta} ({why})"
        return Done(began, limited, why)

    def start(self, now: float, state: GroupState, extra: int = 0) -> str:
        """Start a worker, if the fleet's maximum and the extra number allow another one; return its name."""
        context, group = self.context, state.group
        keys, client = context.broker.keys, context.broker.client
        name = self._free_name(group.name)
        full_name = f"{name}@{context.host}"
        _, high = context.bounds(group)
        claimed = client.register_script(CLAIM)(
            keys=[keys.workers, keys.claims(group.name)],
            args=[group.name, full_name, high + extra, int(CLAIM_LEASE * 1000)],
        )
        if not claimed:
            state.not_started = (
                "max_workers",
                f"the fleet has {high} workers of it, those that drain included",
            )
            return ""
        client.srem(keys.drain, full_name)
        try:
            context.launcher.start(group, name)
        except LaunchError as error:
            client.zrem(keys.claims(group.name), full_name)
            state.start_failed(now, f"{name} cannot be started: {error}")
            state.not_started = "failure", state.last_failure
            logger.error("%s", state.last_failure)  # noqa: TRY400  one line says it all
            return ""
        context.local[name] = self.workers.new(now, name, group.name, group.drain_timeout)
        if context.launcher.gives_settings:
            context.local[name].launched = group
        context.counts.started[group.name] = context.counts.started.get(group.name, 0) + 1
        if self._room is not None:
            self._room -= 1
        state.quiet_since = now
        logger.info("%s starts", name)
        return name

    def _free_name(self, group: str) -> str:
        """Return the first name of a group that nothing on this host has, dead or alive."""
        taken = set(self.context.local)
        if self.context.seen is not None:
            taken |= {
                w.instance for w in self.context.seen.workers if w.name.endswith(f"@{self.context.host}")
            }
        number = 1
        while f"{group}-{number}" in taken:
            number += 1
        return f"{group}-{number}"

    def _shrink(
        self, now: float, state: GroupState, count: int, why: str, *, busy: int, may_return: bool = True
    ) -> int:
        """Begin to stop the workers of a group that cost the least to stop.

        Args:
            now: Of a steady clock.
            state: The group.
            count: How many.
            why: Why, in words.
            busy: How many of them may run something; a task that outlasts their drain has to begin again.
            may_return: Whether they take messages again if they are needed before they have ended.

        Returns:
            How many.
        """
        epoch = self.context.seen.time if self.context.seen else 0.0
        times = self._service_times(state)
        candidates = {
            worker.name: worker.candidate(epoch, times)
            for worker in self.context.local.values()
            if worker.group == state.group.name and worker.state == "ready"
        }
        chosen: list[str] = []
        is_spare = busy <= 0
        for name in shares.stop_candidates(len(candidates), candidates):
            if len(chosen) < count and (busy > 0 or not candidates[name].busy):
                chosen.append(name)
                busy -= candidates[name].busy > 0
        for name in chosen:
            self.context.local[name].spare = is_spare
            outdated = self.context.local[name].outdated
            self.workers.stop(now, self.context.local[name], why, may_return=may_return and not outdated)
        if chosen:
            state.quiet_since = now
        return len(chosen)

    def _runs_short_tasks(self, state: GroupState, seen: Seen) -> bool:
        """Whether no task of a group on this host has run for longer than the target wait."""
        return all(
            begun is not None and seen.time - begun <= state.group.target_wait
            for worker in self.context.local.values()
            if worker.group == state.group.name and worker.seen is not None
            for _, begun in worker.seen.running
        )

    def _service_times(self, state: GroupState) -> dict[str, float]:
        """Return the mean seconds of work of the tasks of a group by name, and of all under no name."""
        work: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for worker in self.context.seen.workers if self.context.seen else ():
            if worker.group == state.group.name:
                for name, done in worker.tasks.items():
                    work[name].append(done)
        times = {
            name: sum(seconds for _, seconds in done) / max(1, sum(begun for begun, _ in done))
            for name, done in work.items()
        }
        return times | state.run_times.by_name() | {"": state.seen.service_time or 0.0}
