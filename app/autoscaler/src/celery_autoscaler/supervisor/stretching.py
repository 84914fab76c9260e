"""Tells the workers of this host that stretch how many slots to have, in one tick."""

from celery_autoscaler.protocol.slots import tell
from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.members import members
from celery_autoscaler.supervisor.policy.stretch import Member, spread
from celery_autoscaler.supervisor.start_room import StartRoom
from celery_autoscaler.supervisor.tick import Tick


class Stretching:
    """Brings the slots of this host's workers in step with the decisions, in one tick."""

    def __init__(self, context: Context, tick: Tick, room: StartRoom) -> None:
        self.context = context
        self.tick = tick
        self.room = room

    def stretch(self, state: GroupState, *, only_grow: bool = False) -> int:
        """Tell this host's workers of a group how many slots to have, where that is another number.

        Returns:
            The slots that are added here, or given up (negative).
        """
        fleet, host = self.tick.fleet, self.context.host
        if not state.group.max_concurrency or state.decision.limit == "paused":
            return 0
        consuming = members(state.group, fleet)
        wanted = spread(
            state.decision.slots,
            consuming,
            weights={peer.host: peer.weight for peer in fleet.peers},
            room={host: self.room.children(state, self.tick.host)},
        )
        changed = 0
        for one in consuming:
            change = wanted[one.name] - one.slots
            if one.host == host and change and not (only_grow and change < 0):
                changed += change if self._tell(one.name, wanted[one.name]) else 0
        if changed:
            state.quiet_since = self.tick.now
        return changed

    def relieve(self, state: GroupState) -> int:
        """Give up the idle slots of the worker of this host that has the most; return how many."""
        here = [
            one
            for one in members(state.group, self.tick.fleet)
            if one.host == self.context.host and one.most > one.least
        ]
        idlest = max(here, key=_idle, default=None)
        if idlest is None or _idle(idlest) <= 0:
            return 0
        return _idle(idlest) if self._tell(idlest.name, idlest.slots - _idle(idlest)) else 0

    def _tell(self, name: str, slots: int) -> bool:
        """Tell a worker how many slots to have; return whether it was there to hear of it."""
        ids = [w.id for w in self.tick.fleet.workers if w.alive and w.name == name]
        return sum(tell(self.context.broker, worker_id, slots) for worker_id in ids) > 0


def _idle(one: Member) -> int:
    """Return the slots that a worker can give up."""
    return one.slots - max(one.least, one.busy)
