"""A supervisor's health, metrics and status over HTTP, as a probe, Prometheus and a person ask for them."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.protocol.status import SupervisorStatus
from celery_autoscaler.settings import Group, Settings, SettingsError
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.web.endpoints import LATE_SECONDS, is_loopback, serve
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

LOCAL = "127.0.0.1:0"
GROUPS = {
    "default": Group(name="default", queues=("celery", "mails"), min_workers=0),
    "slow": Group(name="slow", queues=("reports",), min_workers=0, max_workers=3, target_wait=60.0),
}


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    text: str
    headers: dict[str, str]


class UnixConnection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def connect(self) -> None:
        """Connect to the socket whose path is the name of the host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self.host)


@dataclass(frozen=True)
class Client:
    """Asks a server."""

    address: str | tuple[str, int]

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send one request."""
        connection: http.client.HTTPConnection
        if isinstance(self.address, str):
            connection = UnixConnection(self.address)
        else:
            connection = http.client.HTTPConnection(*self.address, timeout=10)
        with closing(connection):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(), dict(response.getheaders()))

    def metrics(self) -> dict[str, Metric]:
        """Return the metrics by their name."""
        return {family.name: family for family in text_string_to_metric_families(self.ask("/metrics").text)}


class Serve(Protocol):
    """Serves until the test ends."""

    def __call__(self, http: str = LOCAL, token_file: str = "") -> Client:
        """Return a client of the server."""


@pytest.fixture
def supervisor(redis_url: str) -> Iterator[Supervisor]:
    """Return a supervisor that has looked once, has no worker, and sees five messages, one of them dead."""
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        for _ in range(3):
            app.send_task("t", queue="mails", ignore_result=True)
        app.send_task("t", queue="mails", ignore_result=True, countdown=600)
        made = Supervisor(describe(app, "proj"), Settings(groups=GROUPS, hostname="here"))
        made.broker.client.lpush(made.broker.keys.dead_letter("mails"), "{}")
        made.tick()
        yield made
        made.launcher.close()


@pytest.fixture
def served(supervisor: Supervisor) -> Iterator[Serve]:
    """Return a function that begins to serve."""
    with ExitStack() as stack:

        def begin(http: str = LOCAL, token_file: str = "") -> Client:
            server = serve(supervisor, replace(supervisor.settings, http=http, token_file=token_file))
            assert server is not None
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            address = server.server_address
            return Client(address if isinstance(address, str) else ("127.0.0.1", int(address[1])))

        yield begin


# --- Health --------------------------------------------------------------------------------------------


def test_a_supervisor_that_ticks_is_healthy(served: Serve) -> None:
    answer = served().ask("/healthz")

    assert (answer.status, answer.text) == (200, "ticking\n")


def test_a_supervisor_that_hangs_is_not_healthy(served: Serve, supervisor: Supervisor) -> None:
    client = served()
    supervisor.last_tick = time.monotonic() - supervisor.settings.tick - LATE_SECONDS - 1

    answer = client.ask("/healthz")

    assert (answer.status, answer.text) == (503, "the tick is late by 11 s\n")
    supervisor.tick()
    assert client.ask("/healthz").status == 200


def test_slow_ticks_are_not_late(served: Serve, supervisor: Supervisor) -> None:
    supervisor.context.settings = replace(supervisor.settings, tick=60.0)
    supervisor.last_tick = time.monotonic() - 65.0

    assert served().ask("/healthz").status == 200


# --- Metrics -------------------------------------------------------------------------------------------


def test_metrics_have_standard_names_units_and_few_labels(served: Serve) -> None:
    metrics = served().metrics()

    assert {(name, family.type) for name, family in metrics.items()} == {
        ("celery_autoscaler_workers_wanted", "gauge"),
        ("celery_autoscaler_slots", "gauge"),
        ("celery_autoscaler_slots_wanted", "gauge"),
        ("celery_autoscaler_min_workers", "gauge"),
        ("celery_autoscaler_max_workers", "gauge"),
        ("celery_autoscaler_workers", "gauge"),
        ("celery_autoscaler_tasks_running", "gauge"),
        ("celery_autoscaler_tasks_reserved", "gauge"),
        ("celery_autoscaler_tasks_overdue", "gauge"),
        ("celery_autoscaler_oldest_overdue_seconds", "gauge"),
        ("celery_autoscaler_not_served", "gauge"),
        ("celery_autoscaler_faults", "counter"),
        ("celery_autoscaler_clock_offset_seconds", "gauge"),
        ("celery_autoscaler_oldest_task_wait_seconds", "gauge"),
        ("celery_autoscaler_target_wait_seconds", "gauge"),
        ("celery_autoscaler_task_arrivals_per_second", "gauge"),
        ("celery_autoscaler_task_service_seconds", "gauge"),
        ("celery_autoscaler_worker_startup_seconds", "gauge"),
        ("celery_autoscaler_queue_messages", "gauge"),
        ("celery_autoscaler_queue_future_messages", "gauge"),
        ("celery_autoscaler_queue_oldest_message_seconds", "gauge"),
        ("celery_autoscaler_queue_dead_letters", "gauge"),
        ("celery_autoscaler_workers_started", "counter"),
        ("celery_autoscaler_workers_stopped", "counter"),
        ("celery_autoscaler_workers_died", "counter"),
        ("celery_autoscaler_messages_recovered", "counter"),
        ("celery_autoscaler_orphaned_records", "counter"),
        ("celery_autoscaler_unreadable", "counter"),
        ("celery_autoscaler_host_cpu_ratio", "gauge"),
        ("celery_autoscaler_host_memory_ratio", "gauge"),
        ("celery_autoscaler_blind", "gauge"),
        ("celery_autoscaler_tick_seconds", "gauge"),
        ("celery_tasks", "counter"),
        ("celery_task_runtime_seconds", "histogram"),
        ("celery_task_wait_seconds", "histogram"),
    }
    samples = [sample for family in metrics.values() for sample in family.samples]
    assert {label for sample in samples for label in sample.labels} == {"group", "queue", "state"}
    assert all(family.documentation.endswith(".") for family in metrics.values())
    assert len({(sample.name, *sorted(sample.labels.items())) for sample in samples}) == len(samples)


def test_metrics_say_what_is_seen(served: Serve, supervisor: Supervisor) -> None:
    supervisor.counts.died["slow"] = 2
    supervisor.counts.recovered = 7

    found = {
        (sample.name.removeprefix("celery_autoscaler_"), *sample.labels.values()): sample.value
        for family in served().metrics().values()
        for sample in family.samples
    }

    assert found["queue_messages", "default", "mails"] == 4
    assert found["queue_future_messages", "default", "mails"] == 1
    assert found["queue_messages", "slow", "reports"] == 0
    assert [found["queue_dead_letters", *of] for of in (("default", "mails"), ("slow", "reports"))] == [1, 0]
    assert found["workers_wanted", "default"] == supervisor.groups["default"].decision.want > 0
    assert found["max_workers", "slow"] == 3
    assert found["target_wait_seconds", "slow"] == 60
    assert [found["workers", "default", state] for state in ("ready", "starting", "draining")] == [0, 0, 0]
    assert [found["workers_died_total", group] for group in ("default", "slow")] == [0, 2]
    assert found[("messages_recovered_total",)] == 7
    assert 0 < found[("host_memory_ratio",)] < 1
    assert found[("blind",)] == 0
    assert 0 < found[("tick_seconds",)] < 10
    # No task was seen yet: no figure is better than a wrong one.
    assert ("task_service_seconds", "default") not in found


def test_a_supervisor_that_has_not_looked_yet_has_metrics(served: Serve, supervisor: Supervisor) -> None:
    supervisor.context.status = SupervisorStatus(host="here", state="starting")

    metrics = served().metrics()

    assert metrics["celery_autoscaler_queue_messages"].samples == []
    assert metrics["celery_autoscaler_blind"].samples[0].value == 0


# --- Status and the rest -------------------------------------------------------------------------------


def test_the_status_is_json(served: Serve, supervisor: Supervisor) -> None:
    answer = served().ask("/status")

    assert answer.headers["Content-Type"] == "application/json"
    status = json.loads(answer.text)
    assert (status["host"], status["state"], status["workers"]) == ("here", "supervising", [])
    assert status["groups"]["default"]["waiting"] == 3
    assert status["groups"]["default"]["reason"] == supervisor.groups["default"].decision.reason


def test_other_paths_and_methods_are_refused(served: Serve) -> None:
    client = served()

    assert client.ask("/anything").status == 404
    assert client.ask("/page/../http.py").status == 404
    assert client.ask("/status", "POST").status == 405
    assert client.ask("/metrics", "DELETE").status == 405


def test_a_client_that_says_nothing_keeps_nobody_waiting(served: Serve) -> None:
    client = served()
    assert isinstance(client.address, tuple)

    with ExitStack() as silent:
        # Together they are silent for longer than the client below waits.
        for _ in range(3):
            silent.enter_context(socket.create_connection(client.address))
        assert client.ask("/healthz").status == 200


# --- Who may ask ---------------------------------------------------------------------------------------


def test_with_a_token_only_health_is_told_to_all(served: Serve, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    client = served(token_file=str(tmp_path / "token"))

    assert client.ask("/healthz").status == 200
    for path in ("/metrics", "/status", "/events", "/anything"):
        refused = client.ask(path)
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert client.ask(path, Authorization="Bearer wrong").status == 401
        assert client.ask(path, Authorization="s3cret").status == 401
    assert client.ask("/metrics", Authorization="Bearer s3cret").status == 200
    assert client.ask("/status", Authorization="Bearer s3cret").status == 200


def test_a_unix_socket_is_for_its_owner_and_group(served: Serve, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    path.write_text("left behind")

    client = served(f"unix:{path}")

    assert client.ask("/healthz").text == "ticking\n"
    assert client.ask("/metrics").status == 200
    assert path.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.org:0"])
def test_an_address_open_to_others_needs_a_token(supervisor: Supervisor, address: str) -> None:
    with pytest.raises(SettingsError) as refused:
        serve(supervisor, replace(supervisor.settings, http=address))

    assert refused.value.message == (
        f"http='{address}' is wrong: allowed is an address of this host only (127.0.0.1, [::1], unix:/path), "
        "or any with a token_file"
    )


def test_an_open_address_with_a_token_is_served(served: Serve, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")

    client = served("0.0.0.0:0", str(tmp_path / "token"))

    assert client.ask("/status").status == 401


def test_a_token_file_must_hold_a_token(supervisor: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name, words in (("empty", "is empty: allowed is"), ("gone", "cannot be read: No such file")):
        with pytest.raises(SettingsError, match=f"token_file='{tmp_path / name}' {words}"):
            serve(supervisor, replace(supervisor.settings, token_file=str(tmp_path / name)))


@pytest.mark.parametrize("port", ["taken", "99999"])
def test_a_port_that_cannot_be_had_is_told_in_one_line(supervisor: Supervisor, port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1] if port == 'taken' else port}"
        with pytest.raises(SettingsError, match=f"http='{address}' cannot be served: ") as refused:
            serve(supervisor, replace(supervisor.settings, http=address))

    assert "\n" not in refused.value.message


def test_nothing_is_served_where_no_address_is_set(supervisor: Supervisor) -> None:
    assert serve(supervisor, replace(supervisor.settings, http="")) is None


def test_addresses_of_this_host_are_known() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("", "0.0.0.0", "::", "10.0.0.1", "host", "localhost.example.org")))  # noqa: S104
