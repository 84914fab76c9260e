"""The options of `celery worker` that a worker group may have, and what their values are.

Celery itself is not there on the controller; a test compares this list with its command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .model import as_flag, as_number, as_text, as_whole
from .text import did_you_mean, shown

KINDS: dict[str, tuple[str, Any]] = {
    "flag": ("true or false", as_flag),
    "whole": ("a whole number", as_whole),
    "number": ("a number", as_number),
    "text": ("a text", as_text),
}
ALLOWED = {
    "autoscale": "text",
    "disable_prefetch": "flag",
    "exclude_queues": "text",
    "heartbeat_interval": "whole",
    "include": "text",
    "logfile": "text",
    "max_memory_per_child": "whole",
    "max_tasks_per_child": "whole",
    "optimization": "text",
    "pool_start_method": "text",
    "prefetch_multiplier": "whole",
    "soft_time_limit": "number",
    "statedb": "text",
    "task_events": "flag",
    "time_limit": "number",
    "without_heartbeat": "flag",
}
# Those that the role decides, or that no worker may have, and what to use.
REFUSED = {
    "beat": "use celery_app_beat",
    "concurrency": "use concurrency of the group",
    "detach": "systemd runs the worker",
    "executable": "the release decides it",
    "gid": "use celery_app_user",
    "hostname": "the role decides it",
    "loglevel": "use celery_app_log_level",
    "pidfile": "systemd runs the worker",
    "pool": "use pool of the group",
    "purge": "each start of a worker would delete all messages",
    "queues": "use queues of the group",
    "schedule_filename": "the schedule is that of beat",
    "scheduler": "the schedule is that of beat",
    "uid": "use celery_app_user",
    "umask": "the unit decides it",
    "without_gossip": "the role decides it",
    "without_mingle": "the role decides it",
}


def problems(options: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the options of a group."""
    for name, value in options.items():
        if name in REFUSED:
            yield f"{name} is not allowed; {REFUSED[name]}"
        elif name not in ALLOWED:
            yield f"{name} is unknown; {did_you_mean(name, ALLOWED)}"
        else:
            words, read = KINDS[ALLOWED[name]]
            if read(value) is None:
                yield f"{name} is {shown(value)}; allowed: {words}"
