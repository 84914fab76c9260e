"""What one host does about a decision: it starts, stops and replaces its part of a group's workers."""

import logging
from collections import defaultdict
from dataclasses import replace
from zlib import crc32

from celery_autoscaler import limits, shares
from celery_autoscaler.context import LEASE, Context
from celery_autoscaler.group_state import GroupState
from celery_autoscaler.host_workers import HostWorkers
from celery_autoscaler.launchers import LaunchError
from celery_autoscaler.observation import Seen
from celery_autoscaler.publishing import CLAIM_LEASE, Publisher

logger = logging.getLogger(__name__)

# Seconds for which a host must have been short of something before the others take over a part of its share.
SHORT = 5.0

# KEYS: the set of workers, the claims of the group.
# ARGV: group, name of the worker, the group's maximum, milliseconds for which the claim stands.
# Returns whether the worker may be started.
# Invariant: living workers and claims of a group are together never more than its maximum.
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


class Scaling:
    """Brings the number of this host's workers in step with the decisions."""

    def __init__(self, context: Context, workers: HostWorkers, publisher: Publisher) -> None:
        self.context = context
        self.workers = workers
        self.publisher = publisher

    def act(self, now: float, state: GroupState, seen: Seen) -> None:
        """Start or stop as many workers of a group as are this host's part."""
        group, decision = state.group, state.decision
        if self.context.host in seen.leaving:
            self._leave_to_others(now, state, seen)
            return
        state.leaving_since = None
        if decision.limit == "paused":
            state.held_back, state.limit = "", None
            return
        low, high = self.context.override(group.name).bounds(group)
        shortage = self._shortage(now, state, seen, self.context.host_seen)
        most = high
        few = max(low, min(1, decision.want)) - state.seen.ready - state.seen.starting
        if shortage and few > 0:
            # Others' busy CPU must not keep a group below its minimum, or tasks waiting for nobody.
            calm = replace(self.context.host_seen, cpu=0.0, cpu_pressure=0.0)
            shortage, most = self._shortage(now, state, seen, calm), few
        state.held_back = shortage
        extra = self._replace(now, state, seen)
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
            self._by_host(group.name, seen) | {self.context.host: mine},
            offers,
            rebalance=now - state.quiet_since > self.context.settings.stabilisation,
        ).get(self.context.host, 0)
        why = decision.reason
        if delta > 0:
            self._grow(now, state, min(delta, most), shortage)
        elif delta < 0 and not state.seen.starting:
            self._shrink(now, state, -delta, why)
        self.publisher.record(state, delta, why, seen)

    def _leave_to_others(self, now: float, state: GroupState, seen: Seen) -> None:
        """Stop this host's workers of a group, once those of other hosts suffice or no more of them come."""
        state.held_back, state.limit = "", 0
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
            self._shrink(now, state, mine, why, may_return=False)
        elif ready == sum(others.values()) and now - max(state.quiet_since, state.leaving_since) > LEASE:
            self._shrink(now, state, 1, why, may_return=False)

    def _replace(self, now: float, state: GroupState, seen: Seen) -> int:
        """Replace the outdated workers of a group on this host, one after the other.

        Another one is started first, one more than the group's maximum if need be; the outdated one drains
        once that consumes. Busy CPUs do not matter: in the end there are as many workers as before.

        Returns:
            How many workers there are in excess until an outdated one drains: 1 or 0.
        """
        mine = [w for w in self.context.local.values() if w.group == state.group.name]
        outdated = [w for w in mine if w.outdated and w.state == "ready"]
        new = self.context.local.get(state.replacement)
        if not outdated or new is None or new.state not in {"starting", "ready"}:
            state.replacement = ""
        if not outdated:
            return 0
        if not state.replacement:
            calm = replace(self.context.host_seen, cpu=0.0, cpu_pressure=0.0)
            shortage = self._shortage(now, state, seen, calm)
            if shortage:
                state.held_back = shortage
            elif not self.context.count(state.group.name, "starting"):
                state.replacement = self.start(now, state, extra=1)
            return int(bool(state.replacement))
        if state.replacement in self.context.local and self.context.local[state.replacement].state == "ready":
            times = self._service_times(state)
            candidates = {w.name: w.candidate(seen.time, times) for w in outdated}
            [victim] = shares.victims(1, candidates)
            self.workers.stop(now, self.context.local[victim], f"{state.replacement} takes its place")
            state.replacement = ""
            return 0
        return 1

    def relieve(self, now: float) -> None:
        """Give up one worker while the host is short of memory, or of CPUs to no avail."""
        why = self.context.brakes.for_a_stop(
            now, self.context.host_seen, slowing=self.context.pace.is_slowing
        )
        spare = [
            state
            for state in self.context.groups.values()
            if self.context.count(state.group.name, "ready")
            and state.seen.ready + state.seen.starting > state.group.min_workers
        ]
        if why and spare:
            most = max(spare, key=lambda state: self.context.count(state.group.name, "ready"))
            self._shrink(now, most, 1, why, may_return=False)

    def _by_host(self, group: str, seen: Seen) -> dict[str, int]:
        """Return how many workers of a group consume or start, by host; none of hosts that shall run none."""
        names = set(seen.claims[group])
        for worker in seen.workers:
            if worker.alive and worker.group == group and worker.state in {"running", ""}:
                names.add(worker.name)
        counts: dict[str, int] = {}
        for name in names - seen.draining:
            host = name.partition("@")[2]
            if host not in seen.leaving:
                counts[host] = counts.get(host, 0) + 1
        return counts

    def _shortage(self, now: float, state: GroupState, seen: Seen, host: limits.HostSeen) -> str:
        """Return what keeps this host from starting a worker of a group, in words."""
        starting = self.context.count(None, "starting")
        memory = [w.memory for w in seen.workers if w.alive and w.group == state.group.name and w.memory]
        return (
            seen.short
            or self.context.brakes.against_starts(
                host,
                slowing=self.context.pace.is_slowing,
                worker_memory=max(memory, default=0),
                starting=starting,
            )
            or state.backoff.explain(now)
        )

    def _grow(self, now: float, state: GroupState, count: int, shortage: str) -> None:
        """Let draining workers take messages again, and start others."""
        keys, client = self.context.broker.keys, self.context.broker.client
        draining = [
            w for w in self.context.local.values() if w.group == state.group.name and w.state == "draining"
        ]
        again = [w for w in draining if w.may_return and not w.outdated][:count]
        for worker in again:
            client.srem(keys.drain, f"{worker.name}@{self.context.host}")
            worker.undo_stop()
            state.quiet_since = now
        if shortage:
            return
        count -= len(again)
        if not state.decision.emergency:
            at_once = limits.Brakes.starts_at_once(self.context.host_seen)
            count = min(count, at_once - self.context.count(None, "starting"))
        count = min(count, state.backoff.allowed(now, self.context.count(state.group.name, "starting")))
        while count > 0 and self.start(now, state):
            count -= 1

    def start(self, now: float, state: GroupState, extra: int = 0) -> str:
        """Start a worker, if the fleet's maximum and so many more allow another one; return its name."""
        group, keys, client = state.group, self.context.broker.keys, self.context.broker.client
        name = self._free_name(group.name)
        full_name = f"{name}@{self.context.host}"
        _, high = self.context.override(group.name).bounds(group)
        claimed = client.register_script(CLAIM)(
            keys=[keys.workers, keys.claims(group.name)],
            args=[group.name, full_name, high + extra, int(CLAIM_LEASE * 1000)],
        )
        if not claimed:
            return ""
        client.srem(keys.drain, full_name)
        try:
            self.context.launcher.start(group, name)
        except LaunchError as error:
            client.zrem(keys.claims(group.name), full_name)
            state.start_failed(now, f"{name} cannot be started: {error}")
            logger.error("%s", state.last_failure)  # noqa: TRY400  one line says it all
            return ""
        self.context.local[name] = self.workers.new(now, name, group.name, group.drain_timeout)
        self.context.counts.started[group.name] = self.context.counts.started.get(group.name, 0) + 1
        state.quiet_since = now
        logger.info("%s starts", name)
        return name

    def _free_name(self, group: str) -> str:
        """Return the first name of a group that nothing on this host has, dead or alive."""
        taken = set(self.context.local)
        if self.context.seen is not None:
            taken |= {
                worker.instance
                for worker in self.context.seen.workers
                if worker.name.endswith(f"@{self.context.host}")
            }
        number = 1
        while f"{group}-{number}" in taken:
            number += 1
        return f"{group}-{number}"

    def _shrink(
        self, now: float, state: GroupState, count: int, why: str, *, may_return: bool = True
    ) -> None:
        """Begin to stop the workers of a group that cost the least to stop."""
        epoch = self.context.seen.time if self.context.seen else 0.0
        times = self._service_times(state)
        candidates = {
            worker.name: worker.candidate(epoch, times)
            for worker in self.context.local.values()
            if worker.group == state.group.name and worker.state == "ready"
        }
        for name in shares.victims(count, candidates):
            outdated = self.context.local[name].outdated
            self.workers.stop(now, self.context.local[name], why, may_return=may_return and not outdated)
        state.quiet_since = now

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
        return times | {"": state.meter.service_time or 0.0}
