"""Reads what the workers of this host have counted of their tasks."""

from celery_autoscaler.protocol.bounded_hash import bounded_hash, read_bounded
from celery_autoscaler.protocol.identity import read_worker_id
from celery_autoscaler.protocol.reading import Refusal, UnreadableError, shown
from celery_autoscaler.protocol.tallies import Tallies
from celery_autoscaler.protocol.wrong_types import replies_of, set_aside
from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.observation import FleetSeen
from celery_autoscaler.supervisor.task_history import TaskHistory

KIND = "task counts"


class CountReader:
    """Takes in the counts of this host's workers, and forgets workers that are gone."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.refused: list[Refusal] = []
        """What could not be read at the last look."""
        self._gone: set[str] = set()
        self._history = TaskHistory()

    def update(self, seen: FleetSeen) -> None:
        """Read the counts.

        Raises:
            redis.RedisError: The server does not answer.
        """
        context = self.context
        key = context.broker.keys.task_counts(context.host)
        found = self._read(key)
        context.task_counts.update(seen.time, found)
        for refusal in self._history.update(
            context.broker, context.host, seen.time, context.task_counts.tallies
        ):
            context.unreadable.keep(refusal)
        context.slowdown.update(seen.time, context.task_counts.runtimes())
        gone = found.keys() - {worker.id for worker in seen.workers}
        # Gone at two looks: a worker reports its last counts before it goes; one that is fenced tells none.
        if silent := gone & self._gone:
            context.broker.client.hdel(key, *silent)
        context.task_counts.forget(self._gone - found.keys())
        self._gone = gone

    def _read(self, key: str) -> dict[str, Tallies]:
        """Return the counts by the id of their worker."""
        broker, found = self.context.broker, {}
        with broker.client.pipeline(transaction=False) as pipe:
            read_bounded(pipe, key)
            [reply] = replies_of(pipe)
        if isinstance(reply, Exception):
            self.context.unreadable.keep(set_aside(broker.client, broker.keys, key))
            reply = ()
        told, self.refused = bounded_hash(KIND, key, reply)
        for member, text in told.items():
            try:
                found[read_worker_id(member)] = Tallies.load(text)
            except UnreadableError as error:
                self.refused.append(Refusal(KIND, shown(member), str(error)))
        return found
