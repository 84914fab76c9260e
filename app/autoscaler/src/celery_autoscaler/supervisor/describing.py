"""Have an app described in its own environment, which nothing of this process is part of."""

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import click

from celery_autoscaler.protocol import description
from celery_autoscaler.protocol.description import MOST_BYTES, Description, DescriptionError
from celery_autoscaler.protocol.status import START_TIMEOUT_SECONDS
from celery_autoscaler.protocol.text import as_text

PYTHON_VARIABLE = "CELERY_APP_PYTHON"
# What systemd gives to this process alone.
OWN_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


class UndescribedError(click.ClickException):
    """The app cannot be described; the message says why in one line."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(as_text(f"app {name}: {why}"))


def describe(name: str, python: str = "", time_limit: float = START_TIMEOUT_SECONDS) -> Description:
    """Describe the app that ``-A`` names.

    What the app prints goes to this process's standard error.

    Args:
        name: The app.
        python: The interpreter of its environment; by default this process's.
        time_limit: Seconds after which it is given up; its import is most of the start of a worker.

    Raises:
        UndescribedError: It cannot be imported, there is no app of this name, or it takes too long.
    """
    python = python or sys.executable
    try:
        return Description.load(ask(name, python, time_limit))
    except DescriptionError as error:
        # Most often the environment is the wrong one.
        where = (
            f" (with {python}; ${PYTHON_VARIABLE} names another)" if "No module named" in str(error) else ""
        )
        raise UndescribedError(name, f"{error}{where}") from error


def ask(name: str, python: str, time_limit: float) -> bytes:
    """Return what the app's environment answers.

    Raises:
        DescriptionError: It answers nothing.
    """
    reader, writer = os.pipe()
    environment = {key: value for key, value in os.environ.items() if key not in OWN_VARIABLES}
    with os.fdopen(reader, "rb", buffering=0) as channel:
        try:
            with Path(description.__file__).open("rb") as program:
                process = subprocess.Popen(
                    [python, "-", name, str(writer)],
                    stdin=program,
                    stdout=2,
                    env=environment,
                    pass_fds=(writer,),
                    process_group=0,
                )
        except OSError as error:
            raise DescriptionError(f"{python} ({PYTHON_VARIABLE}): {error.strerror}") from error
        finally:
            os.close(writer)
        try:
            answer = read_all(channel.fileno(), time.monotonic() + time_limit)
            if not answer:
                raise DescriptionError(f"its import ends {python} with status {process.wait(1)}")
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            raise DescriptionError(f"it could not be imported within {time_limit:g} s") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return answer


def read_all(channel: int, deadline: float) -> bytes:
    """Return what comes from a channel until its end, and no more than is read of a description.

    Raises:
        TimeoutError: It does not end in time.
    """
    parts: list[bytes] = []
    while sum(map(len, parts)) <= MOST_BYTES:
        ready, _, _ = select.select([channel], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        part = os.read(channel, 65536)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)
