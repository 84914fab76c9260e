"""The bounds of numbers, by variable and key; those of the supervisor are those of its settings."""

from __future__ import annotations

PORT = (1, 65535)
PERCENT = (1, 100)
COUNT = (1, 10_000)
SECONDS = (0.1, 86_400)
DAYS = (1, 36_500)
# What Redis and PostgreSQL take.
INTEGER = (1, 2**31 - 1)
FROM_ZERO = (0, 2**31 - 1)
CONNECTIONS = (1, 262_143)

# Keys of a worker group that the release before called otherwise.
FORMER_NAMES = {"promise": "target_wait", "minimum": "min_workers", "maximum": "max_workers"}

GROUP: dict[str, tuple[float, float]] = {
    "concurrency": COUNT,
    "workers": (0, 10_000),
    "min_workers": (0, 10_000),
    "max_workers": COUNT,
    "target_wait": SECONDS,
    "drain_timeout": SECONDS,
}

BOUNDS: dict[str, tuple[float, float]] = {
    **{f"celery_app_worker_groups.{name}": bounds for name, bounds in GROUP.items()},
    **{f"celery_autoscaler_groups.{name}": bounds for name, bounds in GROUP.items() if name != "workers"},
    **{f"celery_app_services.{name}": (1, 3_600) for name in ("start_timeout", "stop_timeout")},
    "celery_app_timers.randomized_delay": (0, 86_400),
    "celery_app_timers.timeout": (1, 604_800),
    "celery_app_keep_releases": (1, 1000),
    "celery_app_start_timeout": (1, 86_400),
    "celery_app_stop_timeout": (1, 86_400),
    "celery_autoscaler_cpu_threshold": PERCENT,
    "celery_autoscaler_memory_threshold": PERCENT,
    "celery_autoscaler_queue_threshold": (1, 1_000_000_000),
    "celery_autoscaler_stabilisation": (0, 86_400),
    "celery_autoscaler_tick": (0.1, 60),
    "common_certificate_days": DAYS,
    "common_certificate_renew_days": DAYS,
    "postgres_app_pool_size": (0, 10_000),
    "postgres_backup_keep_full": (1, 9_999_999),
    "postgres_backup_max_age_hours": INTEGER,
    "postgres_max_connections": CONNECTIONS,
    "postgres_memory_percent": PERCENT,
    "postgres_pgbouncer_max_clients": INTEGER,
    "postgres_pgbouncer_pool_size": INTEGER,
    "postgres_pgbouncer_port": PORT,
    "postgres_port": PORT,
    "postgres_promote_max_lag": (0, 2**63 - 1),
    "redis_backup_keep": INTEGER,
    "redis_databases": INTEGER,
    "redis_maxclients": INTEGER,
    "redis_maxmemory_percent": PERCENT,
    "redis_min_replicas_max_lag": FROM_ZERO,
    "redis_min_replicas_to_write": FROM_ZERO,
    "redis_port": PORT,
    "redis_sentinel_down_after": (1, 86_400),
    "redis_sentinel_failover_timeout": (1, 86_400),
    "redis_sentinel_port": PORT,
    "redis_sentinel_quorum": INTEGER,
    "redis_tcp_backlog": FROM_ZERO,
    "redis_tcp_keepalive": FROM_ZERO,
    "redis_timeout": FROM_ZERO,
}
