"""Log lines of supervisor, workers, beat and tasks: plain, or JSON where ``LOG_FORMAT=json`` asks for it.

What tasks and messages bring reaches no log as it is: see :mod:`celery_autoscaler.protocol.text`.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from copy import copy
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from celery import Celery
from celery._state import get_current_task
from celery.app.log import Logging, TaskFormatter
from celery.utils.log import ColorFormatter

from celery_autoscaler.protocol.identity import group_of
from celery_autoscaler.protocol.text import as_lines, as_text, in_json

VARIABLE = "LOG_FORMAT"
FORMATS = ("plain", "json")

logger = logging.getLogger(__name__)


class LogFormatError(ValueError):
    """The environment asks for a format that there is not; says so in one line."""


def wants_json() -> bool:
    """Return whether the environment asks for JSON.

    Raises:
        LogFormatError: It asks for something else than there is.
    """
    wanted = os.environ.get(VARIABLE) or FORMATS[0]
    if wanted not in FORMATS:
        raise LogFormatError(f"{VARIABLE}={wanted!r} is wrong: allowed is {' or '.join(FORMATS)}")
    return wanted == "json"


def json_line(created: float, level: str, name: str, message: str, **known: Any) -> str:
    """Return a line: what every line has, and of the rest what is known."""
    time = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    line = {"time": time, "level": level, "logger": name, "message": message}
    release = os.environ.get("CELERY_APP_RELEASE")
    found = {key: value for key, value in (known | {"release": release}).items() if value}
    return in_json(json.dumps(line | found, ensure_ascii=False, default=str))


def of_worker(name: str | None) -> dict[str, str]:
    """Return the fields that name a worker, ``group-n@host``."""
    if not name:
        return {}
    return {"worker": name, "group": group_of(name)}


class PlainFormatter(logging.Formatter):
    """Formats a record so that nothing in it passes for another one: only its first line is not indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and those of a traceback below it."""
        shown = copy(record)
        shown.msg, shown.args = as_lines(record.getMessage()), None
        if record.exc_info:
            shown.exc_text = "  " + as_lines(self.formatException(record.exc_info))
        if record.stack_info:
            shown.stack_info = "  " + as_lines(record.stack_info)
        return super().format(shown)


class PlainWorkerFormatter(PlainFormatter, ColorFormatter):
    """The same with the colours of Celery's workers."""


class PlainTaskFormatter(PlainFormatter, TaskFormatter):
    """The same with the name and id of the task that runs."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; the task's id is what its publisher chose."""
        line = super().format(record)
        task = get_current_task()
        given = str(task.request.id) if task is not None and task.request.id else ""
        return line.replace(given, as_text(given)) if given and not given.isprintable() else line


class PlainLogging(Logging):
    """Celery's set-up of logging, with lines that cannot be forged; an app's own is left alone."""

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: Any,
        format: str,  # noqa: A002  the name is Celery's
        colorize: Any,
        formatter: type[logging.Formatter] = ColorFormatter,
        **options: Any,
    ) -> logging.Logger:
        """Add a handler to a logger that has none."""
        ours = PLAIN_FORMATTERS.get(formatter, formatter)
        made: logging.Logger = super().setup_handlers(
            logger, logfile, format, colorize, formatter=ours, **options
        )
        return made


# By Celery's own.
PLAIN_FORMATTERS: dict[type[logging.Formatter], type[logging.Formatter]] = {
    ColorFormatter: PlainWorkerFormatter,
    TaskFormatter: PlainTaskFormatter,
}


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object, with the task that runs or that the record is about."""

    def __init__(self, worker: str | None = None) -> None:
        """Format for a worker, or for a process that is none."""
        super().__init__()
        self.worker = of_worker(worker)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = getattr(record, "fields", None)
        known: dict[str, Any] = dict(fields) if isinstance(fields, Mapping) else {}
        known |= self.worker | of_task(record)
        if record.exc_info:
            known["exception"] = self.formatException(record.exc_info)
        for key in ("created", "level", "name", "message"):
            known.pop(key, None)
        return json_line(record.created, record.levelname, record.name, record.getMessage(), **known)


def of_task(record: logging.LogRecord) -> dict[str, Any]:
    """Return the id, name and queue of the task that runs, or that Celery's record is about."""
    task = get_current_task()
    if task is not None and task.request.id:
        queue = (task.request.delivery_info or {}).get("routing_key")
        return {"task_id": task.request.id, "task": task.name, "queue": queue}
    data = getattr(record, "data", None)
    return {"task_id": data.get("id"), "task": data.get("name")} if isinstance(data, Mapping) else {}


class JsonLogging(Logging):
    """Celery's set-up of logging, or the app's own, with lines of JSON."""

    def setup_logging_subsystem(self, *arguments: Any, **options: Any) -> Any:
        """Set up whatever is to be, then have all handlers write JSON."""
        if self.already_setup:
            return None
        receivers = super().setup_logging_subsystem(*arguments, **options)
        formatter = JsonFormatter(options.get("hostname"))
        for found in (logging.getLogger(), *logging.root.manager.loggerDict.values()):
            for handler in getattr(found, "handlers", ()):
                handler.setFormatter(formatter)
        return receivers


def log_plain(stream: Any, level: str) -> None:
    """Have this process write plain lines to a stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def log_plain_of_celery() -> None:
    """Have the Celery command of this process write plain lines that cannot be forged."""
    Celery.log_cls = f"{__name__}:{PlainLogging.__qualname__}"


def log_json(stream: Any) -> None:
    """Have this process write JSON to a stream: log lines, warnings, and the error that ends it."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught


def log_json_of_celery() -> None:
    """Have the Celery command of this process write nothing but JSON."""
    from celery.apps import worker  # noqa: PLC0415  it takes long, and others need it not

    log_json(sys.stderr)
    Celery.log_cls = f"{__name__}:{JsonLogging.__qualname__}"
    # Celery prints a banner, and says on which signal it ends, past the log.
    sys.argv.insert(1, "--quiet")
    worker.safe_say = _say  # type: ignore[attr-defined]


def _say(message: str, stream: Any = sys.__stderr__) -> None:
    """Write a line from a handler of signals, where logging may be under way."""
    line = json_line(datetime.now(UTC).timestamp(), "INFO", "celery.apps.worker", message.strip())
    os.write(stream.fileno(), f"{line}\n".encode())


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logger.critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))
