"""Failures of a worker, noted in memory as tasks end, and told by the thread of the heartbeat.

A task that fails costs its worker a look at the traceback and a lock. What is told is made of it later: texts
are cut and masked, messages encoded. Of each kind the first failures since the last report and the newest one
are told one by one, the rest are counted.
"""

import os
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePath
from threading import Lock
from typing import Any

from kombu.utils.json import dumps

from celery_autoscaler.protocol.failures import (
    ARGUMENTS_CHARACTERS,
    MESSAGE_BYTES,
    MOST_KINDS,
    OTHERS,
    TEXT_CHARACTERS,
    TRACEBACK_CHARACTERS,
    Failure,
    Kind,
    Report,
)
from celery_autoscaler.protocol.identity import worker_name
from celery_autoscaler.protocol.masking import mask

# Of each kind, the failures in a row that are told one by one, and of all kinds together.
FIRST, MOST = 50, 200
# Bytes of the messages among them, beyond which only the first of each kind is told.
MOST_BYTES = 2**20
# Characters of a traceback that are kept until it is masked: a secret must not be cut in two.
RAW_CHARACTERS = 4 * TRACEBACK_CHARACTERS
# What belongs to Python and to no app.
LIBRARY = sysconfig.get_path("stdlib")

Place = tuple[str, int, str]
"""File, line, function."""
NOWHERE: Place = ("", 0, "")


@dataclass(frozen=True, eq=False)
class Noted:
    """A failure as it is noted, unmasked."""

    message: Any
    """Kombu's."""
    can_be_sent: bool
    """Whether it is to be kept for another run: it is small, and was for one worker only."""
    id: str
    kind: Kind
    line: int
    text: str
    traceback: str
    queue: str
    at: float


@dataclass
class Pending:
    """Failures of one kind since the last report."""

    count: int = 0
    first: list[Noted] = field(default_factory=list)
    newest: Noted | None = None


class Failures:
    """Failures that have not been told. Pools of threads end tasks in threads of their own."""

    def __init__(self) -> None:
        self._pending: dict[Kind, Pending] = {}
        self._kept = 0
        self._bytes = 0
        self._lock = Lock()
        # At the end of a worker another thread tells the last ones.
        self._telling = Lock()
        self._number = 0
        self._untold: Report | None = None

    def add(self, request: Any, exc: BaseException, exc_info: Any) -> None:
        """Note that a task failed for good.

        Args:
            request: The task's.
            exc: Why.
            exc_info: Where, as billiard has it; nothing if the task's process did not tell it.
        """
        file, line, function = place_of(exc_info.tb, request.task.__module__) if exc_info else NOWHERE
        kind = Kind(request.name, type_name(exc), file, function)
        message, queue = request._message, request.fleet_kind[1]
        size = len(message.body or b"")
        is_broadcast = queue in getattr(message.channel, "_fanout_queues", ())
        noted = Noted(
            message=message,
            can_be_sent=size <= MESSAGE_BYTES and not is_broadcast,
            id=str(request.id),
            kind=kind,
            line=line,
            text=ends_of(message.died.partition(": ")[2], RAW_CHARACTERS),
            traceback=ends_of(str(exc_info.traceback or ""), RAW_CHARACTERS) if exc_info else "",
            queue=queue,
            at=time.time(),
        )
        with self._lock:
            if kind not in self._pending and len(self._pending) >= MOST_KINDS:
                kind = Kind(OTHERS, OTHERS)
            pending = self._pending.setdefault(kind, Pending())
            pending.count += 1
            has_room = self._kept < MOST and self._bytes < MOST_BYTES and len(pending.first) < FIRST
            if has_room or not pending.first:
                pending.first.append(noted)
                self._kept += 1
                self._bytes += min(size, MESSAGE_BYTES)
            else:
                pending.newest = noted

    def tell(self, send: Callable[[Report], Any], worker_id: str) -> None:
        """Tell what has not been told, if there is any; a report that was not heard is told again first."""
        with self._telling:
            if self._untold is None:
                with self._lock:
                    pending, self._pending = self._pending, {}
                    self._kept = self._bytes = 0
                if not pending:
                    return
                self._number += 1
                self._untold = report(self._number, pending, worker_name(worker_id))
            send(self._untold)
            self._untold = None


def report(number: int, pending: dict[Kind, Pending], worker: str) -> Report:
    """Return what is told of failures."""
    release = os.environ.get("CELERY_APP_RELEASE", "")
    told: list[tuple[str, Failure, bytes]] = []
    for kind, those in pending.items():
        several = [*those.first, *([those.newest] if those.newest else ())]
        for noted in several:
            # Those of one kind differ little, and masking takes longer than all else.
            shows_where = noted in (several[0], several[-1])
            told.append((kind.id, failure_of(noted, worker, release, shows_where), message_of(noted)))
    return Report(
        number=number,
        release=release,
        counts={kind.id: those.count for kind, those in pending.items()},
        # Later ones replace earlier ones.
        examples={kind: failure for kind, failure, _ in told},
        failures=told,
    )


def failure_of(noted: Noted, worker: str, release: str, shows_where: bool) -> Failure:
    """Return a failure as it is told: cut, without secrets, with its traceback or without."""
    headers = noted.message.headers or {}
    shown = " ".join(str(headers.get(name) or "") for name in ("argsrepr", "kwargsrepr")).strip()
    retries = headers.get("retries")
    return Failure(
        **vars(noted.kind),
        line=noted.line,
        text=ends_of(mask(noted.text), TEXT_CHARACTERS),
        id=noted.id,
        queue=noted.queue,
        worker=worker,
        release=release,
        at=round(noted.at, 3),
        retries=retries if isinstance(retries, int) and retries >= 0 else 0,
        arguments=ends_of(mask(ends_of(shown, RAW_CHARACTERS)), ARGUMENTS_CHARACTERS),
        traceback=ends_of(mask(noted.traceback), TRACEBACK_CHARACTERS) if shows_where else "",
    )


def message_of(noted: Noted) -> bytes:
    """Return the message as it stood in its list; nothing if it is not to be kept."""
    if not noted.can_be_sent:
        return b""
    try:
        text = str(dumps(noted.message.serializable())).encode(errors="surrogateescape")
    except Exception:  # noqa: BLE001 - whatever stands in the message: it can be shown, not sent
        return b""
    return text if len(text) <= 2 * MESSAGE_BYTES else b""


def type_name(exc: BaseException) -> str:
    """Return the type of an exception, with its module unless Python has it built in."""
    # Celery puts something else in the place of what cannot be pickled.
    module = getattr(exc, "exc_module", None) or type(exc).__module__
    name = getattr(exc, "exc_cls_name", None) or type(exc).__qualname__
    return str(name) if module == "builtins" else f"{module}.{name}"


def place_of(traceback: Any, module: str) -> Place:
    """Return where an exception was raised: in the innermost function of the app's own code.

    That is what is in the package of the task, or in no library; where nothing is, the innermost of all.

    Args:
        traceback: From the outermost frame on.
        module: The module of the task.
    """
    package, own, innermost = module.partition(".")[0], None, None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        name = traceback.tb_frame.f_globals.get("__name__") or ""
        innermost = (code.co_filename, name, traceback.tb_lineno, code.co_name)
        if name.partition(".")[0] == package or not is_library(code.co_filename):
            own = innermost
        traceback = traceback.tb_next
    found = own or innermost
    if found is None:
        return NOWHERE
    file, name, line, function = found
    return short(file, name), line, function


@lru_cache(maxsize=10_000)
def is_library(file: str) -> bool:
    """Return whether a file belongs to Python or to an installed package."""
    if not file.endswith(".py") or file.startswith(LIBRARY):
        return True
    return not {"site-packages", "dist-packages"}.isdisjoint(PurePath(file).parts)


@lru_cache(maxsize=10_000)
def short(file: str, module: str) -> str:
    """Return a file from the first package on: the folders before it are those of a release."""
    parts = PurePath(file).parts
    number = module.count(".") + 1 + parts[-1:].count("__init__.py")
    return "/".join(parts[-number:])


def ends_of(text: str, most: int) -> str:
    """Return a text, or of a longer one its beginning and, three times as long, its end."""
    if len(text) <= most:
        return text
    begin = most // 4
    return f"{text[:begin]}\n…\n{text[begin - most + 3 :]}"
