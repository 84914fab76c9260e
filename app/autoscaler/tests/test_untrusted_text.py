"""Controls, markup and marks in names and reasons are shown as text, in tables, logs and refusals."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO

import pytest
from celery import Celery
from celery_autoscaler import cli
from celery_autoscaler.logs import JsonFormatter, PlainFormatter
from celery_autoscaler.operations.terminal import new_console, record_view
from celery_autoscaler.protocol.broker import Broker, connect
from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.protocol.text import as_lines, as_text, in_json, missing
from celery_autoscaler.settings import Settings
from celery_autoscaler.supervisor import fleet_status
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.web.metrics import registry
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from support.command_runs import context_of
from support.processes.counted_tasks import Fleet

# Each kind once: markup of the terminal library, emoji, the title and a link by OSC, colours, C1, a line that
# looks like a record, marks that turn the order of reading, one that is not seen, half a pair of UTF-16.
HOSTILE = (
    "[/x][bold]:smile:\x1b]0;taken\x07\x1b]8;;http://evil\x1b\\link\x1b[31m\x9b2J"
    "\n2026-01-01 00:00:00,000 CRITICAL forged\r\u2028\u202e\u2066\u200b\ud800"
)
HARMFUL = set("\x1b\x07\x9b\r\u2028\u202e\u2066\u200b\ud800")


def assert_harmless(output: str) -> None:
    """Assert that nothing in some output moves a terminal, and that no line was forged."""
    assert not HARMFUL & set(output)
    assert not any(line.startswith("2026-01-01") for line in output.splitlines())
    assert "forged" in output.replace("\n", "")


@given(st.text(st.characters()))
def test_any_text_is_one_printable_line(text: str) -> None:
    shown = as_text(text)

    assert shown.replace("\u3000", "").replace("\xa0", "").isprintable() or not text.isprintable()
    assert len(shown.splitlines()) <= 1
    shown.encode()


@given(st.text(st.characters()))
def test_text_of_several_lines_begins_none_but_the_first(text: str) -> None:
    first, *others = as_lines(text).splitlines() or [""]

    assert all(line.startswith("  ") for line in others)
    assert not HARMFUL & set(first)


@given(st.text(st.characters()))
def test_json_keeps_its_meaning(text: str) -> None:
    shown = in_json(json.dumps({"message": text}, ensure_ascii=False))

    assert json.loads(shown) == {"message": text}
    assert not HARMFUL & set(shown)


def test_what_is_printable_stays_as_it_is() -> None:
    text = "größer → 3 % [of] \\x1b 漢字 עברית"

    assert as_text(text) == text
    assert as_text("x" * 50, longest=10) == "x" * 9 + "…"


def test_what_there_is_not_is_said_with_what_there_is() -> None:
    assert missing("group", "wbe", ["web", "mails"]) == (
        "no group named 'wbe' (did you mean web?); there are: mails, web"
    )
    assert missing("worker", "\x1b[2J", []) == "no worker named '\\x1b[2J'; there are none"
    assert missing("queue", "x", map(str, range(50))).endswith(" and 30 more")


@pytest.mark.parametrize(
    "formatter", [PlainFormatter("%(asctime)s %(levelname)s %(message)s"), JsonFormatter()]
)
def test_no_record_of_a_log_is_forged(formatter: logging.Formatter) -> None:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("t")
    logger.addHandler(handler)
    try:
        int(HOSTILE)
    except ValueError:
        logger.exception("task %s failed", HOSTILE)

    assert_harmless(stream.getvalue())
    stream.getvalue().encode()


def test_a_worker_forges_no_record(fleet: Fleet) -> None:
    worker = fleet.start()
    fleet.tasks.app.send_task(f"single.nosuch{HOSTILE[:-1]}", task_id=HOSTILE[:-1])
    worker.wait_for_output("nosuch")
    [done] = fleet.tasks.send(1)
    fleet.tasks.wait_until_ended([done])
    assert worker.stop() == 0

    assert_harmless(worker.output())


def test_names_of_tasks_are_labels_that_prometheus_takes(redis_url: str) -> None:
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        supervisor = Supervisor(describe(app, "proj"), Settings(groups={}, hostname="here"))
        for name in (HOSTILE, "x" * 1000, "x" * 1001, "fine"):
            supervisor.task_counts.tallies.of((name, HOSTILE)).outcomes["failed"] += 1
        text = generate_latest(registry(supervisor)).decode()
        supervisor.launcher.close()

    assert_harmless(text.replace("# ", ""))
    [family] = [one for one in text_string_to_metric_families(text) if one.name == "celery_tasks"]
    assert len(family.samples) == 3
    assert {"fine", as_text(HOSTILE, 200)} <= {sample.labels["task"] for sample in family.samples}


# --- What is in Redis ----------------------------------------------------------------------------------


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    """Return a broker."""
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        yield connect(app)


def invoke(redis_url: str, *arguments: str) -> str:
    """Run a command; return what it prints."""
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        command = cli.main.commands[arguments[0]]
        found = CliRunner().invoke(command, arguments[1:], obj=context_of(app))
    assert found.exit_code in (0, 1, 4), found.exception
    assert found.exception is None or isinstance(found.exception, SystemExit)
    return found.output


def test_decisions_and_dead_letters_are_shown_as_text(broker: Broker, redis_url: str) -> None:
    text = HOSTILE[:-1]
    record = DecisionRecord(at=1.7e9, group="g", host=text, reason=text, here=1, held_back=text)
    fleet_status.write(broker, record)
    fleet_status.write(broker, replace(record, by=text))
    letter = {
        "queue": "q", "when": text, "reason": text, "worker": text, "redeliveries": 4,
        "message": json.dumps({"headers": {"task": text, "id": text}}),
    }  # fmt: skip
    broker.client.lpush(broker.keys.dead_letter("q"), json.dumps(letter))

    assert_harmless(invoke(redis_url, "why"))
    assert_harmless(invoke(redis_url, "dead-letter", "list"))


def test_the_status_is_shown_as_text(broker: Broker, redis_url: str) -> None:
    text = HOSTILE
    group = {
        "reason": text,
        "held_back": text,
        "age": 99,
        "target_wait": 1,
        "queues": {text: {"messages": 1}},
    }
    worker = {"name": text, "state": text, "why": text, "running": [{"task": text, "seconds": 1}]}
    status = {"host": text, "at": time.time(), "state": text, "why": text, "groups": {text: group}}
    status |= {"workers": [worker], "failures": {text: 3}}
    broker.client.hset(broker.keys.supervisor("there"), mapping={"status": json.dumps(status)})
    broker.client.zadd(broker.keys.supervisors, {"there": (time.time() + 60) * 1000})

    shown = invoke(redis_url, "status")

    assert_harmless(shown)
    assert "[/x][bold]:smile:" in shown.replace("\n", "")


def test_a_forged_name_is_quoted_as_text_in_a_refusal(redis_url: str) -> None:
    shown = invoke(redis_url, "drain", f"{HOSTILE[:-1]}@x")

    assert len(shown.splitlines()) == 1
    assert_harmless(shown)


def test_rich_reads_no_markup() -> None:
    stream = StringIO()
    console = new_console()
    console.file = stream
    record = DecisionRecord(at=1.7e9, host="h", group="g", have=1, want=2, here=1, reason=HOSTILE)
    console.print(record_view(record))

    assert_harmless(stream.getvalue())
    assert "[/x][bold]" in stream.getvalue()
