"""Check what the worker will be given, as the service `settings`: the app, and servers of your own.

Prints all findings, one a line. If there are any, nothing that depends on this service starts.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click
from celery_autoscaler import settings as supervisor
from celery_autoscaler.protocol.status import START_TIMEOUT_SECONDS
from celery_autoscaler.supervisor.describing import PYTHON_VARIABLE, describe
from stack_settings import Settings, check_values, url_problem

# Seconds within which a server of your own has to accept a connection.
ANSWER = 5.0


def check_app() -> Iterator[str]:
    """Have the app imported as the worker will, and read the settings of the supervisor."""
    name, python = os.environ["CELERY_APP"], os.environ[PYTHON_VARIABLE]
    if problem := import_problem(python):
        yield f"CELERY_APP={name} is wrong: {problem}"
        return
    try:
        app = describe(name, python)
        supervisor.load(app)
    except click.ClickException as error:
        yield error.message
        return
    if problem := url_problem(";".join(app.broker_urls), any_scheme=False):
        yield f"the broker of {name} is wrong: allowed is {problem}"


def import_problem(python: str) -> str:
    """Return why the app cannot be imported in its environment; nothing if it can."""
    program = Path(__file__).with_name("app_side.py")
    try:
        done = subprocess.run(
            [python, "-P", program],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=START_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"it could not be imported within {START_TIMEOUT_SECONDS:g} s"
    if not done.stdout:
        return f"its import ends {python} with status {done.returncode}"
    problem: str = json.loads(done.stdout).get("problem", "")
    return problem


def check_servers(environment: Mapping[str, str]) -> Iterator[str]:
    """Ask servers that are none of this stack whether they accept connections."""
    asked = []
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        for url in filter(None, environment.get(name, "").split(";")):
            scheme, parts = url.partition("://")[0], urlsplit(url)
            port = {"sentinel": 26379, "redis": 6379, "rediss": 6379}.get(scheme)
            if port and parts.hostname not in (None, "redis"):
                asked.append((name, str(parts.hostname), parts.port or port))
    if environment.get("DB_HOST", "postgres") != "postgres":
        asked.append(("DB_HOST", environment["DB_HOST"], int(environment["DB_PORT"])))
    for name, host, port in dict.fromkeys(asked):
        try:
            socket.create_connection((host, port), ANSWER).close()
        except OSError as error:
            yield f"{name}: {host}:{port} does not answer: {error.strerror or error}"


def check_environment() -> int:
    """Check the environment of the worker."""
    settings = Settings(os.environ, {}, {})
    findings = list(check_values(settings))
    if not findings:
        findings += check_app()
        findings += check_servers(os.environ)
    for finding in findings:
        print(f"settings: {finding}", flush=True)  # noqa: T201
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(check_environment())
