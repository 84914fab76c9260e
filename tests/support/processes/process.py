"""A Python module that runs as a process of its own, with all that it prints and starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGUSR1, Signals

import psutil

from support.processes.services import ServiceError, wait_for

STOP_SECONDS = 30.0


class PythonProcess:
    """`python -m COMMAND` in a session of its own."""

    def __init__(self, log: Path, *command: str, environment: Mapping[str, str]) -> None:
        """Start it in the folder of its log."""
        self.log = log
        self.family: set[psutil.Process] = set()
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=dict(environment),
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the main process."""
        return self.process.pid

    @property
    def status(self) -> int | None:
        """The exit status, once it has ended."""
        return self.process.poll()

    def output(self) -> str:
        """Return what was printed until now."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 60) -> str:
        """Return the last lines of what was printed."""
        return "\n".join(self.output().splitlines()[-lines:])

    def wait_for_output(self, pattern: str, within: float = 30.0) -> re.Match[str]:
        """Return the first match of a pattern in what the process prints.

        Raises:
            ServiceError: It has not come in time, or the process has ended without it.
        """

        def found() -> re.Match[str] | None:
            status = self.status
            match = re.search(pattern, self.output())
            if match is None and status is not None:
                raise ServiceError(f"ended with {status} without {pattern!r}: {self.tail()}")
            return match

        return wait_for(found, lambda: f"no {pattern!r} in {self.log}: {self.tail()}", within)

    def descendants(self) -> list[psutil.Process]:
        """Return the processes that it has started, with theirs, as far as they live."""
        with suppress(psutil.NoSuchProcess):
            self.family.update(psutil.Process(self.pid).children(recursive=True))
        return [process for process in self.family if process.is_running()]

    def signal(self, number: Signals) -> None:
        """Send a signal to the process alone; does nothing to one that has ended."""
        self.process.send_signal(number)

    def signal_group(self, number: Signals) -> None:
        """Send a signal to the process and its children; does nothing if none of them lives."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM)."""
        self.process.terminate()

    def wait(self, within: float = STOP_SECONDS) -> int:
        """Wait until the process has ended; return its exit status.

        Raises:
            ServiceError: It has not ended in time; its log says what each of its threads does.
        """
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired as error:
            # Celery answers with the stacks of all threads.
            self.process.send_signal(SIGUSR1)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
            raise ServiceError(f"has not ended after {within:g} s: {self.tail(200)}") from error

    def stop(self) -> int:
        """End the process as systemd would (SIGTERM) and return its exit status."""
        self.terminate()
        return self.wait()

    def freeze(self) -> None:
        """Stop the whole process group, as a suspended machine does."""
        self.signal_group(SIGSTOP)

    def wake(self) -> None:
        """Let the process group go on."""
        self.signal_group(SIGCONT)

    def kill(self) -> None:
        """End the whole process group at once; does nothing to one that has ended."""
        self.signal_group(SIGKILL)
        self.process.wait(STOP_SECONDS)

    def kill_family(self) -> None:
        """End it at once with all that it has started, in whatever session that runs."""
        everybody = self.descendants()
        self.wake()
        PythonProcess.kill(self)
        for process in everybody:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def clean_environment() -> dict[str, str]:
    """Return the environment without any setting of the application or of Celery."""
    return {name: value for name, value in os.environ.items() if not re.match(r"CELERY_|DB_|PG", name)}


def with_path(*folders: Path) -> dict[str, str]:
    """Return the variable that lets Python import from these folders first."""
    paths = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}
