"""Nothing begins in a pool whose worker may have lost its messages, whatever asks the pool to run something.

A request asks before it begins. A library with a strategy of its own, which runs several messages at once,
goes to the pool directly.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from celery.exceptions import TaskRevokedError

from celery_autoscaler.consuming.ledger import Ledger
from celery_autoscaler.consuming.request import UNCERTAIN_SECONDS, is_lost


def guard(pool: Any, ledger: Ledger, hub: Any) -> None:
    """Have a pool wait while it is unknown whether the worker's lease lives, and refuse once it is over."""
    begin: Callable[..., Any] = pool.apply_async

    @wraps(begin)
    def apply_async(*arguments: Any, **options: Any) -> Any:
        if ledger.sessions and ledger.silent and not ledger.fenced and hub is not None:
            # The event loop must not wait for it.
            hub.call_later(UNCERTAIN_SECONDS, partial(apply_async, *arguments, **options))
            return None
        if ledger.fenced or (ledger.sessions and is_lost(ledger)):
            raise TaskRevokedError("other workers got the messages of this worker")
        return begin(*arguments, **options)

    pool.apply_async = apply_async
