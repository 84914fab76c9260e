"""Check what the worker will be given, as the service `settings`: import the app, ask servers of your own.

Prints all findings, one a line. If there are any, nothing that depends on this service starts.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click
from celery.app.utils import find_app
from celery_autoscaler import settings as supervisor
from stack_settings import Settings, check_values, url_problem

# Seconds within which a server of your own has to accept a connection.
ANSWER = 5.0


def check_app() -> Iterator[str]:
    """Import the app as the worker will, and read the settings of the supervisor."""
    name = os.environ["CELERY_APP"]
    try:
        app = find_app(name)
        app.loader.import_default_modules()
    except Exception as error:  # noqa: BLE001  whatever the project's code raises
        yield f"CELERY_APP={name} is wrong: {type(error).__name__}: {masked(error)}"
        return
    try:
        supervisor.load(app)
    except click.ClickException as error:
        yield error.message
    url = app.conf.broker_url or ""
    if problem := url_problem(url, any_scheme=False):
        yield f"the broker of {name} is wrong: allowed is {problem}"


def masked(error: Exception) -> str:
    """Return the first line of an error without passwords."""
    lines = str(error).splitlines() or ["no reason given"]
    return re.sub(r"(://[^:/@\s]*:)[^@\s]*@", r"\1***@", lines[0])


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
    # The project's modules come first, not those beside this file.
    sys.path.remove(str(Path(__file__).resolve().parent))
    sys.exit(check_environment())
