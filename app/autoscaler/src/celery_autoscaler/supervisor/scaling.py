"""What one host does about the decisions of a tick: it starts, stops and replaces its part of the workers."""

from collections.abc import Sequence

from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.group_scaling import GroupScaling, Plan, Tools
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.host_workers import HostWorkers
from celery_autoscaler.supervisor.policy.limits import HostLimits, StartNeed, start_turns, starting_load
from celery_autoscaler.supervisor.publishing import Publisher
from celery_autoscaler.supervisor.start_room import StartRoom
from celery_autoscaler.supervisor.starter import Starter
from celery_autoscaler.supervisor.stops import Stops
from celery_autoscaler.supervisor.stretching import Stretching
from celery_autoscaler.supervisor.tick import Tick


class Scaling:
    """Brings the number of this host's workers in step with the decisions."""

    def __init__(self, context: Context, workers: HostWorkers, publisher: Publisher) -> None:
        self.context = context
        self.workers = workers
        self.publisher = publisher
        self.starter = Starter(context, workers)

    def act(self, tick: Tick, states: Sequence[GroupState], *, only_start: bool = False) -> None:
        """Start and stop as many workers of each group as are this host's part.

        Args:
            tick: What is known.
            states: The groups that were decided for.
            only_start: Whether to leave all stops to the next tick.
        """
        context = self.context
        room = StartRoom(context, tick)
        tools = Tools(
            context,
            self.workers,
            self.publisher,
            self.starter,
            room,
            Stops(context, self.workers, tick),
            Stretching(context, tick, room),
        )
        planned: dict[str, tuple[GroupScaling, Plan]] = {}
        for state in states:
            scaling = GroupScaling(tools, tick, state)
            with context.faults.contained(f"group {scaling.name}, planning"):
                plan = scaling.plan()
                if plan is not None:
                    planned[scaling.name] = scaling, plan
        needs = [scaling.need(plan) for scaling, plan in planned.values()]
        turns = start_turns(needs, HostLimits.starts_at_once(tick.host) + self._waiting_starts(tick, needs))
        for need in sorted(needs, key=lambda need: need.order):
            with context.faults.contained(f"group {need.group}, scaling"):
                scaling, plan = planned[need.group]
                if not only_start or plan.delta > 0:
                    scaling.carry_out(plan, turns[need.group], only_grow=only_start)
                else:
                    scaling.grow_workers()

    def _waiting_starts(self, tick: Tick, needs: Sequence[StartNeed]) -> float:
        """Return the weight of the starts that wait for something else than a CPU: they take no place."""
        weight = 0.0
        for need in needs:
            starting = [
                worker.since
                for worker in self.context.local.values()
                if worker.state == "starting" and worker.group == need.group
            ]
            weight += need.weight * (len(starting) - starting_load(tick.now, starting, tick.host))
        return weight

    def relieve(self, tick: Tick) -> None:
        """Give up one worker while the host is short of memory, or of CPUs without effect."""
        context = self.context
        why = context.host_limits.for_a_stop(tick.now, tick.host, slowing=context.slowdown.is_slowing)
        spare = [
            state
            for state in context.groups.values()
            if context.count(state.group.name, "ready")
            and state.decision.limit != "paused"
            and state.seen.ready + state.seen.starting > context.bounds(state.group)[0]
        ]
        if not why:
            return
        for state in context.groups.values():
            fewer = Stretching(context, tick, StartRoom(context, tick)).relieve(state)
            if fewer:
                self.publisher.write(state, 0, why, limit_of(why), tick.fleet, children=-fewer)
                return
        if spare:
            most = max(spare, key=lambda state: context.count(state.group.name, "ready"))
            here = Stops(context, self.workers, tick).shrink(most, 1, why, busy=1, may_return=False)
            if here:
                self.publisher.write(most, -here, why, limit_of(why), tick.fleet)


def limit_of(why: str) -> str:
    """Return in a word what a host is short of."""
    return "CPU" if why.startswith("CPU") else "memory"
