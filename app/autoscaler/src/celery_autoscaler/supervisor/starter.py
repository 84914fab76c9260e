"""Starts workers on this host: a place claimed in the fleet, a free name, then the launcher."""

import logging

from celery_autoscaler.protocol.script import script
from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.host_workers import HostWorkers
from celery_autoscaler.supervisor.launchers import LaunchError
from celery_autoscaler.supervisor.publishing import CLAIM_LEASE_SECONDS

logger = logging.getLogger(__name__)

CLAIM = script("protocol", "claim_start")


class Starter:
    """Starts workers on this host as far as the fleet's maximum allows."""

    def __init__(self, context: Context, workers: HostWorkers) -> None:
        self.context = context
        self.workers = workers

    def start(self, now: float, state: GroupState, extra: int = 0) -> str:
        """Start a worker of a group; return its name.

        Args:
            now: By a steady clock, in seconds.
            state: The group; it remembers why nothing was started.
            extra: Workers that the fleet may have beyond the group's maximum.

        Returns:
            The name; nothing if no worker was started.
        """
        context, group = self.context, state.group
        keys, client = context.broker.keys, context.broker.client
        name = self._free_name(group.name)
        full_name = f"{name}@{context.host}"
        _, high = context.bounds(group)
        claimed = client.register_script(CLAIM)(
            keys=[keys.workers, keys.claims(group.name)],
            args=[group.name, full_name, high + extra, int(CLAIM_LEASE_SECONDS * 1000)],
        )
        if not claimed:
            state.not_started = (
                "max_workers",
                f"the fleet has {high} workers of this group, including draining ones",
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
