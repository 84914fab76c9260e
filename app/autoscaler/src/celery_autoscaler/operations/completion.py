"""Names that complete a command: what the supervisor of this host says, in a moment or not at all.

It is asked over HTTP: it answers at once, for users who may not read the settings too, where its page has no
token. A key that completes never prints an error.
"""

import http.client
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from celery_autoscaler.operations import host_projects
from celery_autoscaler.settings import CONFIG_VARIABLE, Settings

WITHIN_SECONDS = 1.0
MOST_BYTES = 10_000_000
# What a shell takes as one word, without quotes.
WORD = re.compile(r"[\w.@:+-]{1,200}")
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
Names = dict[str, Any]


def completing(*kinds: str) -> Complete:
    """Return what completes a word by names of some kinds: ``groups``, ``queues``, ``hosts``, ``workers``."""

    def complete(context: click.Context, _: click.Parameter, word: str) -> list[CompletionItem]:
        project = context.find_root().params.get("project")
        return items(
            {name for found in living(project) for kind in kinds for name in of_kind(found, kind)}, word
        )

    return complete


def of_kind(found: Names, kind: str) -> list[str]:
    """Return the names of a kind; another release may have others."""
    names = found.get(kind)
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def projects(_: click.Context, __: click.Parameter, word: str) -> list[CompletionItem]:
    """Complete the name of a project."""
    return items((project.name for project in host_projects.projects()), word)


def items(names: Iterable[str], word: str) -> list[CompletionItem]:
    """Return those of the names that begin with a word."""
    return [CompletionItem(name) for name in sorted(names) if name.startswith(word) and WORD.fullmatch(name)]


def living(project: str | None = None) -> list[Names]:
    """Return what the supervisors of this host say, of one project or of all."""
    if own := os.environ.get(CONFIG_VARIABLE):
        files = [Path(own)]
    else:
        there = host_projects.projects()
        files = [each.settings / "autoscaler.toml" for each in there if project in (None, each.name)]
    return [found for file in files if (found := ask(file)) is not None]


def ask(config: Path) -> Names | None:
    """Return the names that the supervisor with these settings knows; nothing if it is silent."""
    try:
        settings = tomllib.loads(config.read_text(encoding="utf-8"))
        host, _, port = str(settings.get("http", Settings({}).http)).rpartition(":")
        if host in {"0.0.0.0", "*", "[::]"}:  # noqa: S104 -- asked, not served
            host = "127.0.0.1"
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=WITHIN_SECONDS)
        try:
            connection.request("GET", "/names", headers=credentials(settings))
            response = connection.getresponse()
            found = json.loads(response.read(MOST_BYTES)) if response.status == http.client.OK else None
        finally:
            connection.close()
    except (OSError, ValueError, OverflowError, RecursionError, http.client.HTTPException):
        return None
    return found if isinstance(found, dict) else None


def credentials(settings: dict[str, Any]) -> dict[str, str]:
    """Return the header with a token that this user may read; none where there is no such file."""
    for name in ("read_token_file", "token_file"):
        try:
            token = Path(settings[name]).read_text(encoding="ascii").strip()
        except (KeyError, TypeError, OSError, ValueError):
            continue
        return {"Authorization": f"Bearer {token}"}
    return {}
