"""What there is: groups, queues, hosts and workers, so that nothing says yes to a name that is none.

Known is what living supervisors say, what the settings say where a file of them is at hand, and who has a
lease. Where none of that says anything, a name cannot be judged, and is taken.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from celery_autoscaler import settings as all_settings
from celery_autoscaler.operations import dead_letters
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.description import Description
from celery_autoscaler.protocol.identity import group_of, host_of, worker_name
from celery_autoscaler.protocol.lease import leased_workers
from celery_autoscaler.protocol.reading import decoded
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.fleet_status import FleetStatus, fleet_status


@dataclass(frozen=True)
class Known:
    """The names that there are."""

    status: FleetStatus
    settings: dict[str, Group] = field(default_factory=dict)
    """The groups of the settings, where a file of them is at hand."""
    leases: frozenset[str] = frozenset()
    """Ids of the workers that have a lease, or had one and were not given up."""
    leaving: frozenset[str] = frozenset()
    """Hosts that shall run no workers, whether their supervisors live or not."""
    app_queues: frozenset[str] = frozenset()

    @property
    def groups(self) -> set[str]:
        """Names of the groups; none where they cannot be known."""
        found = {*self.status.groups, *self.settings}
        of_workers = {group_of(name) for name in self.workers}
        return found | (of_workers - {""}) if found else set()

    @property
    def workers(self) -> set[str]:
        """Names of the workers, ``group-n@host``."""
        return {worker_name(each) for each in self.leases} | {each.name for each in self.status.workers}

    @property
    def hosts(self) -> set[str]:
        """Names of the hosts, as Celery has them."""
        of_workers = {host_of(name) for name in self.workers}
        return {*self.status.supervisors, *self.leaving, *of_workers}

    @property
    def queues(self) -> set[str]:
        """Names of the queues that groups serve, or that the app has."""
        served = {queue for group in self.status.groups.values() for queue in group.queues}
        listed = {queue for group in self.settings.values() for queue in group.queues}
        return served | listed | self.app_queues


def known(broker: Broker, app: Description | None = None) -> Known:
    """Look at what there is.

    Args:
        broker: The broker.
        app: The app, whose queues count as well.

    Raises:
        redis.RedisError: The server does not answer.
    """
    keys, client = broker.keys, broker.client
    return Known(
        status=fleet_status(broker),
        settings=groups_of_settings(app) if app is not None else {},
        leases=frozenset(leased_workers(client, keys)),
        leaving=frozenset(map(decoded, client.hkeys(keys.leaving))),
        app_queues=frozenset(app.queues) if app is not None else frozenset(),
    )


def groups_of_settings(app: Description) -> dict[str, Group]:
    """Return the groups of the file that the environment names; none without one that can be read."""
    if os.environ.get(all_settings.CONFIG_VARIABLE):
        with suppress(all_settings.SettingsError):
            return dict(all_settings.load(app).groups)
    return {}


def queues_with_dead_letters(broker: Broker) -> set[str]:
    """Return the queues that have dead letters, whether anybody serves them or not."""
    return set(dead_letters.queues(broker))


def named(names: Iterable[str], worker: str) -> list[str]:
    """Return the ids that belong to a worker's name, or are it."""
    return [each for each in names if worker in (each, worker_name(each))]
