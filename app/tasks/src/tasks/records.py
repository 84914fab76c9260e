"""Records of ended tasks: made presentable, then kept in Redis."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from redis import RedisError

from tasks.store import IMPATIENT_SECONDS, redis_client

#: How many records each list keeps.
LIMIT = 1000
#: Seconds without another try after Redis refused or did not answer: tasks must not wait for it.
PAUSE_SECONDS = 10.0

MASK = "***"
MAX_TEXT = 500  # characters of one string
MAX_ITEMS = 20  # of one list or object
MAX_DEPTH = 5  # of lists and objects within each other

SECRET_NAME = re.compile(
    r"passw(or)?d|passphrase|secret|token|api_?key|private_?key|authorization|credential|cookie"
)
URL_PASSWORD = re.compile(r"(\w://[^\s:/@]*:)[^\s@]+@")

logger = logging.getLogger(__name__)


class Recorder:
    """Writes records; a Redis that is down, slow or full costs a record, never a task."""

    def __init__(self) -> None:
        self._paused_until = 0.0

    def write(self, key: str, record: Mapping[str, Any]) -> None:
        """Put a record at the head of a list and cut the list to its limit, in one round trip."""
        if time.monotonic() < self._paused_until:
            return
        try:
            with redis_client(IMPATIENT_SECONDS).pipeline(transaction=False) as pipe:
                pipe.lpush(key, json.dumps(record, allow_nan=False))
                pipe.ltrim(key, 0, LIMIT - 1)
                pipe.execute()
        except RedisError as error:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            logger.warning("no records of tasks for %g s: %s", PAUSE_SECONDS, error)


def is_secret(name: object) -> bool:
    """Tell whether a value of this name must not be shown."""
    return isinstance(name, str) and SECRET_NAME.search(name.lower().replace("-", "_")) is not None


def presentable(value: object, depth: int = 0) -> Any:
    """Return a value that JSON can hold: secrets masked, long parts cut, anything unknown by its repr."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str):
        return cut(value)
    if depth < MAX_DEPTH and isinstance(value, Mapping):
        return _presentable_items(value, depth)
    if depth < MAX_DEPTH and isinstance(value, list | tuple):
        return _presentable_list(value, len(value), depth)
    return cut(safe_repr(value))


def cut(text: str) -> str:
    """Return the text without passwords in URLs, cut to `MAX_TEXT` characters."""
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}… ({len(text)} characters)"
    return URL_PASSWORD.sub(rf"\1{MASK}@", text)


def safe_repr(value: object) -> str:
    """Return the repr of any object, even of one whose repr fails."""
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001  it is the object's own code
        return f"<{type(value).__name__}: its repr raises {type(error).__name__}>"


def _presentable_items(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    shown = {
        cut(name if isinstance(name, str) else safe_repr(name)): MASK
        if is_secret(name)
        else presentable(item, depth + 1)
        for name, item in islice(value.items(), MAX_ITEMS)
    }
    if len(value) > MAX_ITEMS:
        shown["…"] = f"{len(value)} items"
    return shown


def _presentable_list(value: Iterable[Any], length: int, depth: int) -> list[Any]:
    shown = [presentable(item, depth + 1) for item in islice(value, MAX_ITEMS)]
    if length > MAX_ITEMS:
        shown.append(f"… ({length} items)")
    return shown
