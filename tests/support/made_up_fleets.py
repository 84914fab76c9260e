"""Made-up inventories for the rules: a whole fleet that is right, and what becomes of it with one fault."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import lines, validate
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.evaluation import (
    Evaluate,
    inventory,
)

APP, SUPERVISOR, OPERATOR, OWNER = (f"{name}-password-of-the-tests" for name in ("app", "sup", "op", "owner"))

GENERAL: dict[str, Any] = {
    "name": "general",
    "queues": ["default", "priority"],
    "pool": "prefork",
    "concurrency": 2,
    "workers": 1,
    "min_workers": 2,
    "max_workers": 6,
    "target_wait": 10,
    "options": {"max_tasks_per_child": 50},
}
CPU: dict[str, Any] = {
    "name": "cpu",
    "queues": ["cpu_intensive"],
    "pool": "prefork",
    "concurrency": 1,
    "workers": 1,
    "max_workers": 2,
}
DATA: dict[str, Any] = {
    "redis_bind": ["127.0.0.1", "198.51.100.11"],
    "redis_maxmemory_percent": 25,
    "redis_users": [
        {"name": "app", "preset": "app", "password": APP},
        {"name": "supervisor", "preset": "supervisor", "password": SUPERVISOR},
        {"name": "operator", "preset": "operator", "password": OPERATOR},
    ],
    "postgres_memory_percent": 50,
    "postgres_users": [{"name": "celery_owner", "password": OWNER}],
    "postgres_databases": [{"name": "celery", "owner": "celery_owner"}],
    "postgres_grants": [{"database": "celery", "user": "celery_owner", "access": "read_write"}],
    "postgres_clients": [
        {"databases": ["celery"], "users": ["celery_owner"], "addresses": ["198.51.100.0/24"], "tls": False}
    ],
}
WORKERS: dict[str, Any] = {
    "celery_app_name": "tasks",
    "celery_app_source": "/srv/project",
    "celery_app_supervised": True,
    "celery_app_environment": {
        "CELERY_BROKER_URL": f"redis://app:{APP}@data1:6379/0",
        "CELERY_RESULT_BACKEND": f"redis://app:{APP}@data1:6379/1",
        "DB_PORT": 5432,
        "DEBUG": False,
        "EMPTY": "",
    },
    "celery_autoscaler_broker_url": f"redis://supervisor:{SUPERVISOR}@data1:6379/0",
    "celery_app_worker_groups": [GENERAL, CPU],
}
HOSTS: dict[str, dict[str, Any]] = {
    "data1": {"ansible_host": "198.51.100.11", **DATA},
    "worker1": {"ansible_host": "198.51.100.21", "celery_app_beat": True, **WORKERS},
    "worker2": {"ansible_host": "198.51.100.22", **WORKERS},
}
GROUPS: dict[str, list[str]] = {
    "redis": ["data1"],
    "postgres": ["data1"],
    "workers": ["worker1", "worker2"],
    "beat": ["worker1"],
}


def as_written(_variables: Mapping[str, Any]) -> Evaluate:
    """Evaluate nothing: each value is what is written."""
    return lambda value: value


def findings(hosts: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """What is wrong with an inventory, in lines."""
    everybody = {**groups, "all": list(hosts)}
    seen = inventory(hosts, everybody, as_written)
    return lines(validate(seen), seen)


def with_values(host: str, **values: Any) -> list[str]:
    """What is wrong when a host, or each host of a group, has other values."""
    hosts = copy.deepcopy(HOSTS)
    for name in GROUPS.get(host, [host]):
        hosts[name].update(copy.deepcopy(values))
    return findings(hosts, GROUPS)


def with_group(**values: Any) -> list[str]:
    """What is wrong when the first worker group has other values on all hosts."""
    return with_values("workers", celery_app_worker_groups=[{**GENERAL, **values}, CPU])


def with_settings(**values: Any) -> list[str]:
    """What is wrong when the app has other settings."""
    return with_values("workers", celery_app_environment={**WORKERS["celery_app_environment"], **values})
