"""Logging: one line of `key=value` pairs an event, to stderr, for the journal."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any

from celery.signals import setup_logging

#: A value that needs no quotes.
PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")

#: Their lines for each task say the same as ours (tasks/signals.py), or print its result.
REPEATERS = ("celery.worker.strategy", "celery.app.trace")


class KeyValueFormatter(logging.Formatter):
    """Formats a record as `time=… level=… logger=… process=… message=…` and the pairs of its `fields`.

    Fields are given by `logger.info("…", extra={"fields": {"id": …}})`. A value with blanks or quotes stands
    in quotes, as JSON writes it: the line never breaks, not even for a traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        pairs: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            pairs.update(fields)
        if record.exc_info:
            pairs["traceback"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quoted(value)}" for key, value in pairs.items())


@setup_logging.connect
def configure_logging(loglevel: int = logging.INFO, logfile: str | None = None, **_: Any) -> None:
    """Send all log lines to stderr (or to the file of `--logfile`); called by worker and beat."""
    handler = WatchedFileHandler(logfile) if logfile else logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=loglevel, handlers=[handler], force=True)
    if loglevel >= logging.INFO:
        for name in REPEATERS:
            logging.getLogger(name).setLevel(logging.WARNING)


def _quoted(value: object) -> str:
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
