"""The run times of tasks by name, kept in Redis for a week: a job that comes once an hour is no riddle."""

from celery_autoscaler.protocol.bounded_hash import bounded_hash, read_bounded
from celery_autoscaler.protocol.keys import as_bytes, as_name
from celery_autoscaler.protocol.wrong_types import replies_of, set_aside
from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.observation import FleetSeen
from celery_autoscaler.supervisor.policy.run_times import NAMES, REMEMBERED_SECONDS

# Seconds between two writings.
EVERY_SECONDS = 30.0
# Records of a group beyond which the key holds what is not the fleet's.
MOST_RECORDS = 5 * NAMES


class RunTimeStore:
    """Reads the run times of each group once, and writes what is new now and then."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._read: set[str] = set()
        self._written = 0.0

    def update(self, seen: FleetSeen) -> None:
        """Read and write what is due; of several supervisors the first one writes.

        Raises:
            redis.RedisError: The server does not answer.
        """
        for name, state in self.context.groups.items():
            if name not in self._read:
                self._load(state, seen.time)
                self._read.add(name)
        if seen.time - self._written < EVERY_SECONDS:
            return
        since, self._written = self._written, seen.time
        if seen.peers and min(peer.host for peer in seen.peers) == self.context.host:
            for state in self.context.groups.values():
                self._save(state, since)

    def _load(self, state: GroupState, now: float) -> None:
        client, keys = self.context.broker.client, self.context.broker.keys
        key = keys.run_times(state.group.name)
        with client.pipeline(transaction=False) as pipe:
            read_bounded(pipe, key)
            [reply] = replies_of(pipe)
        if isinstance(reply, Exception):
            self.context.unreadable.keep(set_aside(client, keys, key))
            return
        found, refused = bounded_hash("run times", key, reply)
        if len(found) > MOST_RECORDS or refused:
            # More or longer ones are not the fleet's.
            client.unlink(key)
            return
        useless = state.run_times.load(now, {as_name(name): text for name, text in found.items()})
        if useless:
            client.hdel(key, *map(as_bytes, useless))

    def _save(self, state: GroupState, since: float) -> None:
        records = state.run_times.dump(state.run_times.changed_since(since))
        if not records:
            return
        client, key = self.context.broker.client, self.context.broker.keys.run_times(state.group.name)
        fields = {as_bytes(name): text for name, text in records.items()}
        with client.pipeline(transaction=False) as pipe:
            written, _ = replies_of(pipe.hset(key, mapping=fields).expire(key, int(REMEMBERED_SECONDS)))
        if isinstance(written, Exception):
            self.context.unreadable.keep(set_aside(client, self.context.broker.keys, key))
