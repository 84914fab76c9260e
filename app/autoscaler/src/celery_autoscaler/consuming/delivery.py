"""Hand one message over to its consumer, so that what it meets there costs no other.

Celery's event loop and kombu's transport take an exception out of a consumer for one of their own: it ends
the worker, or the connection. Here it is the message's. A message that cannot be decoded, routed or handled
becomes a dead letter with the reason, in every consumer. Where something else is away (a server of results,
a database) the message gets a few more tries first, by whichever worker is next.

Exceptions that end the process (``sys.exit`` in a callback) still do, and count as a death of the worker.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from celery.exceptions import BackendError
from celery.worker import state
from kombu.exceptions import OperationalError
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import TimeoutError as NoAnswer

from celery_autoscaler.consuming.agent import snapshot
from celery_autoscaler.consuming.ledger import UNRECORDED, Ledger, Return
from celery_autoscaler.protocol.marks import redeliveries
from celery_autoscaler.protocol.server_state import is_refusal
from celery_autoscaler.protocol.text import as_text

logger = logging.getLogger(__name__)

# What a consumer raises when something else is away: nothing is wrong with the message.
PASSING = (OSError, NoConnection, NoAnswer, OperationalError, BackendError)
# Seconds until such a message is in its list again, by the times that it has come back.
PAUSE_SECONDS = (1.0, 3.0, 9.0)
# Characters of a reason that are kept.
REASON_CHARACTERS = 500


class NoMessageError(ValueError):
    """What was in a list is no message of Celery's."""


def decoded(raw: bytes) -> dict[str, Any]:
    """Return a message as it stood in a list, in the form that kombu gives it.

    Raises:
        NoMessageError: It is something else.
        Exception: Its values are of types that cannot be read.
    """
    try:
        message = loads(bytes_to_str(raw))
    except (ValueError, RecursionError) as error:
        raise NoMessageError(error) from None
    if not isinstance(message, dict) or not isinstance(message.get("properties"), dict):
        raise NoMessageError("it has no properties")
    if not isinstance(message.get("headers") or {}, dict):
        raise NoMessageError("its headers are not an object")
    properties = message["properties"]
    if not isinstance(properties.get("delivery_info") or {}, dict):
        raise NoMessageError("its delivery_info is not an object")
    properties["delivery_info"] = properties.get("delivery_info") or {}
    return message


def deliver(
    ledger: Ledger, queue: str, token: str, raw: bytes, consume: Callable[[dict[str, Any]], Any]
) -> None:
    """Decode a message and call its consumer; never raise what is the message's, or the consumer's, fault.

    Args:
        ledger: What the worker holds.
        queue: The queue from which the message came.
        token: Its token in the worker's record.
        raw: The message as it stood in its list.
        consume: Called with the decoded message.

    Raises:
        BaseException: What is to end the process, and no exception of the usual kinds.
    """
    try:
        message = decoded(raw)
        properties = message["properties"]
        properties["delivery_info"]["queue"] = queue
        if token.startswith(UNRECORDED):
            # Kombu recognizes broadcasts by the tag of their producer, which may be anything.
            properties.setdefault("delivery_tag", token)
            ledger.broadcast = token
        else:
            properties["delivery_tag"] = token
        consume(message)
    except Exception as error:  # noqa: BLE001 - it is reported with the message
        refuse(ledger, token, error)
    except BaseException as error:
        if is_unsettled(ledger, token):
            # Sent when the worker closes: it would hold the end up now.
            ledger.returning[token] = Return(died=described(error))
            ledger.release(token)
        raise
    else:
        if token in ledger.incoming:
            # A consumer without acknowledgements.
            ledger.settle(token)
    finally:
        ledger.broadcast = None


def refuse(ledger: Ledger, token: str, error: Exception) -> None:
    """Take a message from the consumer that failed with it: put it aside, or back if something is away."""
    reason = described(error)
    message = ledger.delivered.get(token)
    forget_request(message)
    if not is_unsettled(ledger, token):
        # Settled before it failed, or a broadcast, which every worker has for itself.
        logger.error("A consumer failed: %s", reason, exc_info=error)
    elif isinstance(error, PASSING) or is_refusal(error):
        attempts = redeliveries(message.delivery_info) if message is not None else 0
        pause = PAUSE_SECONDS[min(attempts, len(PAUSE_SECONDS) - 1)]
        logger.warning("A message is tried again in %g s: %s", pause, reason)
        ledger.put_back(token, Return(died=reason, due=monotonic() + pause))
    else:
        trace = None if isinstance(error, NoMessageError) else error
        logger.error("A message cannot be handled: %s", reason, exc_info=trace)
        reason = getattr(message, "refused", None) or reason
        ledger.put_back(token, Return(died=reason, max_redeliveries=-1))


def is_unsettled(ledger: Ledger, token: str) -> bool:
    """Whether a recorded message is neither settled nor on its way back."""
    if token.startswith(UNRECORDED):
        ledger.release(token)
    return token in ledger.incoming or token in ledger.delivered


def forget_request(message: Any) -> None:
    """Let Celery no longer count a message's task among those that wait in this worker."""
    if message is None:
        return
    for request in snapshot(state.reserved_requests):
        if request.message is message:
            # Celery could not remember one whose id is no text.
            with suppress(TypeError):
                state.task_ready(request)


def described(error: BaseException) -> str:
    """Return an exception in one line, whatever its own description does."""
    try:
        text = as_text(error, REASON_CHARACTERS)
    except Exception:  # noqa: BLE001 - whatever a class of the app's does
        text = "its description cannot be read"
    if isinstance(error, NoMessageError):
        return f"it is no message of Celery's: {text}"
    return f"{type(error).__name__}: {text}"
