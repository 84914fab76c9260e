"""Errors that must not end a tick: each is logged once with its traceback, and spoils its own part alone."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as NoAnswer

from celery_autoscaler.protocol.masking import mask
from celery_autoscaler.supervisor.launchers import LaunchError

logger = logging.getLogger(__name__)

# What a server says that takes no commands for now, or none of ours at all.
SERVER_STATES = (
    *("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOAUTH", "NOREPLICAS"),
    *("READONLY", "TRYAGAIN", "UNKILLABLE", "WRONGPASS"),
)
# Faults that are remembered.
REMEMBERED = 100
# Ticks after which a part that was not tried again is there no more.
LASTING_TICKS = 60
# Characters of an error that are shown.
LONGEST_CHARACTERS = 500


class Faults:
    """Keeps account of what went wrong in the parts of a tick."""

    def __init__(self) -> None:
        self.count = 0
        """Faults since the start, each counted when it begins."""
        self._now: dict[str, str] = {}
        self._met: dict[str, int] = {}
        self._ticks = 0

    @contextmanager
    def contained(self, part: str) -> Iterator[None]:
        """Keep what goes wrong in a part of a tick, such as "group web", from everything else.

        Raises:
            redis.RedisError: The server is away or full: that concerns every part.
        """
        self._met[part] = self._ticks
        try:
            yield
        except LaunchError as error:
            self._take(part, str(error), None)
        except RedisError as error:
            if concerns_the_server(error):
                raise
            self._take(part, str(error), None)
        except Exception as error:  # noqa: BLE001  whatever it is, the other parts go on
            self._take(part, described(error), error)
        else:
            self._now.pop(part, None)

    def _take(self, part: str, what: str, bug: Exception | None) -> None:
        if self._now.get(part, "").partition(":")[0] == what.partition(":")[0]:
            return
        self.count += 1
        self._now[part] = what
        # With a traceback if it is a mistake of this program, and not the answer of another one.
        logger.error("%s: %s", part, what, exc_info=bug)

    def forget(self) -> None:
        """Forget the faults of parts that there are no more; to be called once a tick."""
        self._ticks += 1
        self._met = {part: tick for part, tick in self._met.items() if self._ticks - tick < LASTING_TICKS}
        self._now = {part: what for part, what in self._now.items() if part in self._met}

    def status(self) -> dict[str, str]:
        """Return what goes wrong now, by part."""
        return dict(list(self._now.items())[:REMEMBERED])


def described(error: BaseException) -> str:
    """Return an exception in one line that shows no secret; everybody who reads the status sees it."""
    lines = str(error).splitlines() or [""]
    return mask(f"{type(error).__name__}: {lines[0]}"[:LONGEST_CHARACTERS])


def concerns_the_server(error: BaseException) -> bool:
    """Return whether an error is the state of the whole server, and not of one key or command."""
    if isinstance(error, NoConnection | NoAnswer | OutOfMemoryError | ReadOnlyError):
        return True
    return isinstance(error, ResponseError) and str(error).startswith(SERVER_STATES)
