"""Names of the Redis keys that the fleet owns, in the database of the app's broker.

All of them begin with the app's ``global_keyprefix``, as its queues do. Those of a project with a name are
``fleet:project:NAME:*``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """The fleet's keys behind one prefix, and those of one project among them."""

    prefix: str = ""
    project: str = ""
    """Name of the project; the keys of one without a name have none in theirs."""

    @property
    def fleet(self) -> str:
        """What the names of the keys begin with."""
        return f"{self.prefix}fleet:project:{self.project}:" if self.project else f"{self.prefix}fleet:"

    @property
    def workers(self) -> str:
        """Sorted set: worker id → end of its lease, in milliseconds of the server's clock."""
        return f"{self.fleet}workers"

    def worker(self, worker_id: str) -> str:
        """Hash that lives as long as the worker's lease: session, heartbeat, and the slots it is to have."""
        return f"{self.fleet}worker:{worker_id}"

    def slots(self, worker_id: str) -> str:
        """Channel on which a worker that stretches is told its number of slots."""
        return f"{self.fleet}slots:{worker_id}"

    def unacked(self, worker_id: str) -> str:
        """Hash: token → name of the list, a line feed, the message as it stood in the list."""
        return f"{self.fleet}unacked:{worker_id}"

    def rescued(self, worker_id: str) -> str:
        """String that exists once somebody began to give the worker's messages back: the fence."""
        return f"{self.fleet}rescued:{worker_id}"

    @property
    def search_turn(self) -> str:
        """String that lives until the next search for records that belong to no worker."""
        return f"{self.fleet}search:turn"

    @property
    def search_position(self) -> str:
        """String: where the next step of that search begins, as Redis counts (``SCAN``)."""
        return f"{self.fleet}search:position"

    @property
    def orphans(self) -> str:
        """Number of the records that were found to belong to no worker."""
        return f"{self.fleet}orphans"

    @property
    def drain(self) -> str:
        """Set of the names of workers that shall take nothing new."""
        return f"{self.fleet}drain"

    @property
    def replace(self) -> str:
        """Set of the ids of workers in whose place others shall be started before they drain."""
        return f"{self.fleet}replace"

    def task_counts(self, host: str) -> str:
        """Hash: id of a worker of the host → its tasks, counted by name and queue, as JSON."""
        return f"{self.fleet}task_counts:{host}"

    @property
    def failures(self) -> str:
        """Stream of tasks that failed for good, with what it takes to run them again; see `failures.py`."""
        return f"{self.fleet}failures"

    @property
    def failure_kinds(self) -> str:
        """Hash: id of a kind of failure → how often it occurred and since when, as JSON."""
        return f"{self.fleet}failure_kinds"

    @property
    def failure_examples(self) -> str:
        """Hash: id of a kind of failure → the last failure of that kind, as JSON."""
        return f"{self.fleet}failure_examples"

    @property
    def failures_retried(self) -> str:
        """Hash: entry of the stream of failures whose task was sent again → who did that."""
        return f"{self.fleet}failures_retried"

    @property
    def task_history(self) -> str:
        """Hash: host and number of ten minutes since the epoch → the tasks that ended in them, as JSON."""
        return f"{self.fleet}task_history"

    @property
    def leaving(self) -> str:
        """Hash: host that shall run no workers → who wants that."""
        return f"{self.fleet}leaving"

    @property
    def supervisors(self) -> str:
        """Sorted set: host of a supervisor → end of its lease, in milliseconds of the server's clock."""
        return f"{self.fleet}supervisors"

    def supervisor(self, host: str) -> str:
        """Hash that lives as long as the supervisor's lease: what its host offers, what it sees and does."""
        return f"{self.fleet}supervisor:{host}"

    def claims(self, group: str) -> str:
        """Sorted set: name of a worker that is starting → end of the claim, in milliseconds."""
        return f"{self.fleet}claims:{group}"

    def run_times(self, group: str) -> str:
        """Hash that lives for a week: name of a task of the group → its run time, as JSON."""
        return f"{self.fleet}run_times:{group}"

    def record(self, group: str) -> str:
        """Hash that lives for a week: first ten seconds of a block of records of the group → the block."""
        return f"{self.fleet}record:{group}"

    @property
    def decisions(self) -> str:
        """Stream of decisions, the oldest of which are dropped."""
        return f"{self.fleet}decisions"

    @property
    def history(self) -> str:
        """Stream of what was seen of each group, for a day: group → figures."""
        return f"{self.fleet}history"

    @property
    def overrides(self) -> str:
        """Hash: group, or ``*`` for all → what an operator has set for it until it is taken back, as JSON."""
        return f"{self.fleet}overrides"

    def timed_pause(self, group: str) -> str:
        """String that lives as long as a pause of the group, or of all (``*``), as JSON."""
        return f"{self.fleet}pause:{group}"

    def timed_bounds(self, group: str) -> str:
        """String that lives as long as bounds that an operator has set for the group for a while, as JSON."""
        return f"{self.fleet}bounds:{group}"

    def dead_letter(self, queue: str) -> str:
        """List of the messages of a queue that came back too often, the newest first."""
        return f"{self.fleet if self.project else self.prefix}dead_letter:{queue}"

    def set_aside(self, key: str) -> str:
        """Whatever was in the place of one of the fleet's keys."""
        return f"{self.fleet}set_aside:{key.removeprefix(self.fleet)}"

    def without_prefix(self, key: str) -> str:
        """Return the name of a key as the app knows it."""
        return key.removeprefix(self.prefix)


def as_name(key: bytes) -> str:
    """Return a name as text, whatever its bytes are; the fleet's connections turn it into the same bytes."""
    return key.decode(errors="surrogateescape")


def as_bytes(name: str | bytes) -> bytes:
    """Return a name as the bytes that it is in Redis.

    Raises:
        UnicodeEncodeError: The text stands for no bytes.
    """
    return name if isinstance(name, bytes) else name.encode(errors="surrogateescape")
