"""What the processes of a pool take over from their worker, whether they are forked or spawned.

A forked process has all that its worker has. One that is spawned (``worker_pool_start_method="spawn"``) is a
fresh interpreter which gets the app as it was pickled, without what was done to it.
"""

import os
from collections.abc import Iterator
from importlib import import_module
from threading import RLock
from typing import Any

from billiard import get_start_method
from celery.app.base import Celery
from celery.backends.base import Backend
from celery.loaders.base import BaseLoader
from celery.signals import worker_before_create_process
from kombu.utils.objects import cached_property

from celery_autoscaler.consuming import garbage

# By the scheme of the URL.
RESULT_BACKENDS = {
    "redis": "celery_autoscaler.consuming.results:RedisBackend",
    "rediss": "celery_autoscaler.consuming.results:RedisBackend",
    "sentinel": "celery_autoscaler.consuming.results:SentinelBackend",
}


def use_our_backends(loader: Any) -> None:
    """Have results wait for a server that is away for a moment, but for backends that an app names itself."""
    loader.override_backends = RESULT_BACKENDS | loader.override_backends


def adopt(worker: Any) -> None:
    """Have forked processes share memory, and others begin with :func:`initialize`, found by its name."""
    spawned = getattr(worker, "pool_start_method", "fork") != "fork" or get_start_method() != "fork"
    if spawned:
        prefork: Any = import_module("celery.concurrency.prefork")
        prefork.process_initializer = initialize
    else:
        worker_before_create_process.connect(share_memory, weak=False)
        os.register_at_fork(after_in_child=renew_locks)


def share_memory(**_: Any) -> None:
    """Keep the garbage collectors of forked processes from writing into the memory that they share.

    Processes that replace others profit as well.
    """
    garbage.keep_loaded()


def renew_locks() -> None:
    """Give the cached properties of apps and result backends locks that nobody holds.

    Another thread of the worker may read one while a process is forked, such as the one that tells what
    became of a task whose process was killed. It is not there to release the lock in the forked process.
    """
    for kind in (*with_subclasses(Celery), *with_subclasses(Backend)):
        for value in vars(kind).values():
            if isinstance(value, cached_property):
                value.lock = RLock()


def with_subclasses(kind: type) -> Iterator[type]:
    """Yield a class and all that inherit from it."""
    yield kind
    subclasses: list[type] = kind.__subclasses__()
    for each in subclasses:
        yield from with_subclasses(each)


def initialize(app: Any, hostname: str) -> None:
    """Begin as Celery's processes do, with what the worker has and was not pickled."""
    # Stamps what tasks publish.
    import_module("celery_autoscaler.worker")
    # The module of the tasks creates another app beside the one that was pickled.
    use_our_backends(BaseLoader)
    use_our_backends(app.loader)
    # In this interpreter it is Celery's own.
    import_module("celery.concurrency.prefork").process_initializer(app, hostname)
