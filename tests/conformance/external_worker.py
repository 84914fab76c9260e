"""Pytest plugin: Celery's integration tests against a worker in a process of its own.

Environment:
    CONFORMANCE_MODULE    what starts the worker: ``celery`` or ``celery_autoscaler.launch``
    CONFORMANCE_POOL      the worker's pool
    CONFORMANCE_LOG       file for what the worker prints
    CONFORMANCE_OUTCOMES  file for the outcome of each test, as JSON
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery._state import _set_task_join_will_block  # type: ignore[attr-defined]
from celery.contrib.testing import worker as testing
from celery.utils.nodenames import anon_nodename

READY_WITHIN = 300.0  # seconds; a busy machine imports slowly
STOP_WITHIN = 30.0  # seconds
# The entry of the outcomes if the suite's worker has ended.
ENDED = "no message ends the worker"
# From the best to the worst: a test is as good as the worst of its phases and its subtests.
SEVERITY = ("passed", "xfailed", "skipped", "xpassed", "failed")

_embedded_worker = testing.start_worker
_outcomes: dict[str, str] = {}
_workers: list[ExternalWorker] = []


class ExternalWorker:
    """The worker of the suite; one that a test's message ends is started again before the next test."""

    def __init__(self) -> None:
        self.log = Path(os.environ["CONFORMANCE_LOG"])
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", "-A", "conformance_app", "worker"]
        command += ["-P", os.environ["CONFORMANCE_POOL"], "-c", "1", "-n", anon_nodename(), "-l", "INFO"]
        command += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + READY_WITHIN
        while b"ready." not in self.log.read_bytes()[begin:]:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.exit(f"the worker does not start: see {self.log}", returncode=3)
            time.sleep(0.1)
        return process

    def revive(self) -> None:
        """Start the worker again if it has ended, and note that it has."""
        if self.process.poll() is not None:
            _note(ENDED, "failed")
            self.process = self._start()

    def stop(self) -> None:
        """End the worker."""
        if self.process.poll() is not None:
            _note(ENDED, "failed")
        self.process.terminate()
        try:
            self.process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def start_worker(app: Celery, pool: str = "solo", **options: Any) -> Iterator[Any]:
    """Take the place of Celery's function: the suite's own worker becomes a process.

    A test that asks for an embedded worker of another pool still gets one.
    """
    if pool != "prefork":
        with _embedded_worker(app, pool=pool, **options) as embedded:
            yield embedded
        return
    worker = ExternalWorker()
    _workers.append(worker)
    try:
        yield None
    finally:
        _workers.remove(worker)
        worker.stop()


def pytest_configure() -> None:
    """Put the external worker in the place of the embedded one, in tests that start workers as well."""
    testing.start_worker = start_worker  # type: ignore[assignment]
    if module := os.environ["CONFORMANCE_MODULE"]:
        sys.executable = _python_that_starts(module)


def _python_that_starts(module: str) -> str:
    """Return an interpreter for which ``-m celery`` is ``-m module``; ``celery`` in PATH is the same."""
    folder = Path(os.environ["CONFORMANCE_LOG"]).with_suffix(".bin")
    folder.mkdir(exist_ok=True)
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\nif [ "$1 $2" = "-m celery" ]; then shift 2; set -- -m {module} "$@"; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    celery = folder / "celery"
    celery.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
    for script in (python, celery):
        script.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return str(python)


def pytest_runtest_setup() -> None:
    """Give each test a worker that lives, and let it wait for results, whatever another test has done."""
    for worker in _workers:
        worker.revive()
    _set_task_join_will_block(False)


def _note(test: str, outcome: str) -> None:
    _outcomes[test] = max(outcome, _outcomes.get(test, SEVERITY[0]), key=SEVERITY.index)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the outcome of a test, which is the last of its reruns."""
    if report.outcome == "rerun":  # type: ignore[comparison-overlap]  # pytest-rerunfailures
        _outcomes.pop(report.nodeid, None)
    elif hasattr(report, "wasxfail"):
        _note(report.nodeid, "xpassed" if report.passed else "xfailed")
    else:
        _note(report.nodeid, report.outcome)


def pytest_sessionfinish() -> None:
    """Write down what became of each test."""
    Path(os.environ["CONFORMANCE_OUTCOMES"]).write_text(json.dumps(_outcomes, indent=1))
