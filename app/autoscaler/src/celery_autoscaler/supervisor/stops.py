"""Which workers of this host a tick stops when there are too many of a group."""

from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.host_workers import HostWorkers
from celery_autoscaler.supervisor.policy.shares import Candidate, stop_candidates
from celery_autoscaler.supervisor.tick import Tick


class Stops:
    """Stops workers of this host in one tick, those first that cost the least to stop."""

    def __init__(self, context: Context, workers: HostWorkers, tick: Tick) -> None:
        self.context = context
        self.workers = workers
        self.tick = tick

    def shrink(self, state: GroupState, count: int, why: str, *, busy: int, may_return: bool = True) -> int:
        """Begin to stop the workers of a group that cost the least to stop.

        Args:
            state: The group.
            count: How many.
            why: Why, in words.
            busy: How many of them may run something; a task that outlasts their drain has to begin again.
            may_return: Whether they take messages again if they are needed before they have ended.

        Returns:
            How many.
        """
        local = self.context.local
        candidates = self._candidates(
            state, [w.name for w in local.values() if w.group == state.group.name and w.state == "ready"]
        )
        chosen: list[str] = []
        is_spare = busy <= 0
        for name in stop_candidates(len(candidates), candidates):
            if len(chosen) < count and (busy > 0 or not candidates[name].busy):
                chosen.append(name)
                busy -= candidates[name].busy > 0
        for name in chosen:
            worker = local[name]
            worker.spare = is_spare
            self.workers.stop(self.tick.now, worker, why, may_return=may_return and not worker.outdated)
        if chosen:
            state.quiet_since = self.tick.now
        return len(chosen)

    def replace_one(self, state: GroupState, outdated: list[str], replacement: str) -> None:
        """Begin to stop the outdated worker that costs the least, because another one has its place."""
        [name] = stop_candidates(1, self._candidates(state, outdated))
        self.workers.stop(self.tick.now, self.context.local[name], f"replaced by {replacement}")

    def _candidates(self, state: GroupState, names: list[str]) -> dict[str, Candidate]:
        times = state.service_times(self.tick.fleet)
        return {name: self.context.local[name].candidate(self.tick.fleet.time, times) for name in names}
