"""Odd arguments, settings and keys for the command: it says what is wrong in a line, and never raises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery_autoscaler import cli
from celery_autoscaler.operations import command_line
from celery_autoscaler.supervisor.describing import describe
from click.testing import CliRunner, Result
from hypothesis import strategies as st
from redis import Redis
from support.fuzzing import fuzz, keep
from support.odd_keys import HEARTBEAT, Put, as_bytes, puts
from support.odd_values import TEXTS, cut, mutated, scalars
from support.processes.process import with_path

EXAMPLES = 120
# 0: done, 1: failed, 2: wrong usage, 3: no supervisor that could do it, 4: refused.
STATUSES = range(5)
APP = """
from celery import Celery
app = Celery("odd", broker={url!r}, backend="disabled://")
app.conf.task_acks_late = True
"""
# Of a supervisor, as far as others read it.
STATUS: dict[str, Any] = {
    "host": "here", "at": 1.0, "state": "supervising", "why": "", "pid": 1, "tick": {"every": 1.0,
    "took": 0.01},
    "peers": ["here"], "redis": "", "capacity": 2, "cpus": 2, "cpu": 10.0, "memory": 20.0,
    "memory_limit": 1000,
    "groups": {"default": {
        "min_workers": 1, "max_workers": 3, "want": 1, "ready": 1, "starting": 0, "draining": 0, "waiting": 3,
        "age": 1.0, "busy": 1,
        "slots": 2, "target_wait": 2.0, "reason": "x", "limit": "", "queues": {"celery": {"messages": 3,
        "dead_letters": 1}},
    }},
    "workers": [{"name": "default-1@here", "state": "ready", "group": "default", "active": 1}],
    "failures": {"t": 1},
}  # fmt: skip

words = st.sampled_from(("default", "celery", "here", "default-1@here", "default-9@here", "*", "--", "-1",
"--undo", "@")) | st.sampled_from(
    [text for text in TEXTS if "\x00" not in text and len(text) < 1000]
) | st.text(max_size=10).filter(lambda text: "\x00" not in text)  # fmt: skip
counts = st.sampled_from(
    ("0", "1", "3", "-1", "10001", "9" * 30, "9" * 5000, "1.5", "x", "", "nan", "²", "1e3", "0x3", "True")
)

usual: tuple[tuple[str, ...], ...] = (
    ("status",), ("status", "--json"), ("why",), ("check",), ("tally",), ("recover",), ("dead-letter",
    "list"), ("pause",),
    ("resume",), ("why", "default"), ("dead-letter", "list", "celery"), ("dead-letter", "replay",
    "celery"),
    ("dead-letter", "purge", "celery"),
)  # fmt: skip
# `replace` and `drain --wait` wait for what a supervisor would do; there is none.
commands = st.sampled_from(usual) | st.one_of(
    st.builds(lambda name, word: (name, word), st.sampled_from(("why", "pause", "resume", "drain",
        "recover")), words),
    st.builds(lambda word: ("drain", word, "--undo"), words),
    st.builds(lambda name, word: ("dead-letter", name, word), st.sampled_from(("list", "show", "replay",
        "purge")), words),
    st.builds(
        lambda group, low, high: ("scale", group, "--min-workers", low, "--max-workers", high),
        *(words, counts, counts),
    ),
    st.builds(lambda group, low: ("scale", group, "--min-workers", low), words, counts),
    st.builds(lambda group: ("scale", group, "--reset"), words),
    st.builds(lambda group: ("scale", group), words),
    st.builds(lambda number: ("why", "-n", number), counts),
    st.builds(lambda release, host, ended, failed, tolerance: ("gate", release, host, "--ended", ended,
        "--failed", failed,
              "--tolerance", tolerance, "--seconds", "0"), words, words, counts, counts, counts),
    st.lists(words, max_size=4).map(tuple).filter(lambda found: not {"run", "replace"} & set(found)),
)  # fmt: skip

GROUP: dict[str, Any] = {
    "queues": ["celery"], "pool": "prefork", "concurrency": 2, "target_wait": 2.0, "min_workers": 1,
    "max_workers": 3,
    "drain_timeout": 20.0, "options": {"max_tasks_per_child": 100},
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "hostname": "here", "launcher": "process", "http": "127.0.0.1:1", "tick": 1.0, "cpu_threshold": 80,
    "memory_threshold": 80,
    "queue_threshold": 100, "stabilisation": 60.0, "groups": {"default": GROUP, "slow": {**GROUP,
    "queues": ["reports"]}},
}  # fmt: skip


def toml(document: Any, name: str = "") -> str:
    """Return a document as TOML, as far as it can be said."""
    if not isinstance(document, dict):
        return f"value = {inline(document)}\n"
    plain = "".join(
        f"{key_of(key)} = {inline(value)}\n" for key, value in document.items() if not isinstance(value, dict)
    )
    tables = [
        (f"{name}.{key_of(key)}" if name else key_of(key), value)
        for key, value in document.items()
        if isinstance(value, dict)
    ]
    return plain + "".join(f"[{path}]\n{toml(value, path)}" for path, value in tables)


def key_of(key: Any) -> str:
    """Return a key of TOML."""
    return json.dumps(str(key))


def inline(value: Any) -> str:
    """Return a value of TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key_of(key)} = {inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


configs = mutated(st.just(SETTINGS)).map(lambda found: toml(found).encode("utf-8", "surrogatepass"))
variables = st.dictionaries(
    st.sampled_from(("MIN_WORKERS", "MAX_WORKERS", "CPU_THRESHOLD", "MEMORY_THRESHOLD", "QUEUE_THRESHOLD",
        "CELERY_APP_LEASE")),
    counts | scalars.map(str).filter(lambda text: "\x00" not in text and text.isprintable()), max_size=3,
)  # fmt: skip


@dataclass
class Commands:
    """The command, on a broker whose keys are odd."""

    redis: Redis
    folder: Path

    def run(self, arguments: tuple[str, ...], environment: dict[str, str] | None = None) -> Result:
        """Run the command; check how it ends.

        Raises:
            AssertionError: It raises, or ends with another status.
        """
        found = CliRunner().invoke(cli.main, ["-A", "odd_app", *arguments], env=environment, input="y\n")
        wrong = found.exception is not None and not isinstance(found.exception, SystemExit)
        if wrong or found.exit_code not in STATUSES or "Traceback" in found.output:
            kept = keep(
                "command", {"arguments": arguments, "keys": self.shown(), "error": repr(found.exception)}
            )
            print(f"what was run is in {kept}")  # noqa: T201
            if found.exception is not None and wrong:
                raise found.exception
            raise AssertionError(found.output)
        return found

    def shown(self) -> list[Any]:
        """Return what the keys hold."""
        return [[key.decode("latin-1"), repr(self.redis.dump(key))] for key in self.redis.scan_iter()]

    def check_keys(self, example: tuple[list[Put], list[tuple[str, ...]]]) -> None:
        """Run commands on odd keys."""
        writes, several = example
        self.redis.flushdb()
        for put in writes:
            put.apply(self.redis)
        for arguments in several:
            self.run(arguments)

    def check_settings(self, example: tuple[bytes, dict[str, str]]) -> None:
        """Read odd settings."""
        config, environment = example
        file = self.folder / "odd.toml"
        file.write_bytes(config)
        self.run(("check", "--config", str(file)))
        self.run(("check",), environment)


@pytest.fixture
def odd_commands(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    """Return the command for an app of its own."""
    (tmp_path / "odd_app.py").write_text(APP.format(url=redis_url))
    for name, value in with_path(tmp_path).items():
        monkeypatch.setenv(name, value)
    # Once, and not for each of thousands of commands.
    app = describe("odd_app")
    monkeypatch.setattr(command_line, "describe", lambda *_: app)
    with Redis.from_url(redis_url) as redis:
        yield Commands(redis, tmp_path)


def test_odd_keys_and_arguments_make_no_command_raise(odd_commands: Commands) -> None:
    examples = st.tuples(puts(STATUS), st.lists(commands, min_size=4, max_size=4))

    fuzz(odd_commands.check_keys, examples, EXAMPLES)


def test_odd_settings_are_refused_in_a_line(odd_commands: Commands) -> None:
    examples = st.tuples(configs | cut(configs), variables)

    fuzz(odd_commands.check_settings, examples, EXAMPLES)


def test_the_documents_that_are_made_odd_are_right_at_first(odd_commands: Commands) -> None:
    odd_commands.redis.hset(
        "fleet:worker:default-1@here:1", mapping={k: as_bytes(v) for k, v in HEARTBEAT.items()}
    )
    file = odd_commands.folder / "right.toml"
    file.write_text(toml(SETTINGS))

    found = odd_commands.run(("check", "--config", str(file)))

    # It finds things to say about the app, none about the settings.
    assert "Error" not in found.output, found.output
