"""Prometheus sees the whole fleet, alerts fire when something ends, and nobody else reaches what we run."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.hosts.scenario import Scenario, address
from support.hosts.secrets_scan import assert_no_secrets
from support.hosts.unit_exposure import exposed
from support.processes.services import wait_for
from testinfra.host import Host

ROLE = Path(__file__).resolve().parents[3] / "roles/monitoring"
HOSTS = ("monitor12", "monitor13")
SCENARIO = Scenario("monitoring")
WITHIN = 60.0  # seconds
EXPORTERS = (9100, 9121, 9187)
REDIS = "redis-cli --tls --cacert /etc/ssl/celery-fleet/authority.pem --user {}"
# Of the exporters; the tests of the supervisor know its own.
METRIC = r"\b(?:celery_fleet|node|pg|redis)_\w+"
SQL = "runuser -u postgres -- psql --no-psqlrc --command"


def ask(host: Host, path: str) -> Any:
    """What Prometheus answers."""
    script = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    answer = host.check_output("python3 -c %s %s", script, f"http://127.0.0.1:9090/api/v1/{path}")
    return json.loads(answer)["data"]


def firing(host: Host) -> set[tuple[str, str]]:
    """The alerts that fire, each with the host that it is about."""
    found = [alert["labels"] for alert in ask(host, "alerts")["alerts"] if alert["state"] == "firing"]
    return {(labels["alertname"], labels.get("host", "")) for labels in found}


def test_every_target_of_the_inventory_is_seen(host: Host) -> None:
    expected = {("supervisor", "monitor13")}
    expected |= {(job, name) for job in ("node", "redis", "postgres") for name in HOSTS}

    def up() -> bool:
        targets = ask(host, "targets")["activeTargets"]
        assert {(target["labels"]["job"], target["labels"]["host"]) for target in targets} == expected
        return all(target["health"] == "up" for target in targets)

    wait_for(up, "a target is down", WITHIN)


def of_hosts(host: Host, metric: str) -> dict[str, float]:
    """What Prometheus knows of a metric, by host."""
    found = ask(host, f"query?query={metric}")["result"]
    return {entry["metric"]["host"]: float(entry["value"][1]) for entry in found}


@pytest.mark.parametrize("metric", ["redis_up", "pg_up"])
def test_the_exporters_reach_their_servers(host: Host, metric: str) -> None:
    wait_for(
        lambda: of_hosts(host, metric) == dict.fromkeys(HOSTS, 1.0), f"{metric} is not 1 of each", WITHIN
    )


def test_the_ends_of_the_certificates_are_known(host: Host) -> None:
    metric = "celery_fleet_certificate_expires_timestamp_seconds"
    wait_for(lambda: of_hosts(host, metric).keys() == set(HOSTS), "the end of one is not known", WITHIN)
    ends = of_hosts(host, metric)
    assert all(364 < (end - time.time()) / 86400 <= 365 for end in ends.values()), ends


def test_no_alert_fires_when_all_is_well(host: Host) -> None:
    def fires() -> set[tuple[str, str]]:
        return firing(host) - {("DiskFull", name) for name in HOSTS}

    wait_for(lambda: not fires(), lambda: f"{fires()} fire", WITHIN)


@dataclass(frozen=True)
class Trouble:
    """What goes wrong on a host, how it ends, and the alerts that tell of it."""

    host: str
    begin: str
    end: str
    alerts: frozenset[tuple[str, str]]


# The exporter of PostgreSQL tells of slots only while there are any.
SLOT = Trouble(
    "monitor12",
    f"{SQL} \"SELECT pg_create_physical_replication_slot('gone', true)\"",
    f"{SQL} \"SELECT pg_drop_replication_slot('gone')\"",
    frozenset({("PostgresReplicaBehind", "monitor12")}),
)


def stopped(host: str, unit: str, *alerts: tuple[str, str]) -> Trouble:
    """A service that is stopped."""
    return Trouble(host, f"systemctl stop {unit}", f"systemctl start {unit}", frozenset(alerts))


def troubles() -> Iterator[Trouble]:
    """What takes less than a minute to be told; the other rules are tested by promtool alone."""
    redis = REDIS.format("operator")
    yield stopped("monitor13", "celery-autoscaler", ("SupervisorAway", "monitor13"))
    yield stopped("monitor13", "celery-beat", ("BeatAway", ""))
    yield stopped("monitor12", "prometheus-node-exporter", ("HostAway", "monitor12"))
    yield stopped("monitor12", "postgresql", ("PostgresAway", "monitor12"))
    yield stopped(
        "monitor12",
        "redis-server",
        ("RedisAway", "monitor12"),
        ("RedisReplicaBehind", "monitor13"),
        ("SupervisorBlind", "monitor13"),
    )
    yield Trouble(
        "monitor13",
        f"{redis} config get maxmemory | tail -n 1 >/run/maxmemory && {redis} config set maxmemory 1mb",
        f"{redis} config set maxmemory $(cat /run/maxmemory)",
        frozenset({("RedisMemory", "monitor13")}),
    )
    # A letter that nobody could read is told like any other.
    yield Trouble(
        "monitor12",
        f"{redis} rpush dead_letter:default unreadable",
        f"{redis} del dead_letter:default",
        frozenset({("DeadLetters", "")}),
    )
    yield SLOT
    yield Trouble(
        "monitor13",
        "! systemd-run --quiet --wait --unit=redis-backup false",
        "systemctl reset-failed redis-backup",
        frozenset({("BackupFailed", "monitor13")}),
    )
    yield Trouble(
        "monitor12",
        "mkdir --mode=0700 /etc/valkey /etc/valkey/tls && openssl req -x509 -newkey rsa:2048 -noenc -days 13 "
        "-subj /CN=monitor12 -keyout /etc/valkey/tls/key.pem -out /etc/valkey/tls/certificate.pem && "
        "systemctl start celery-fleet-certificates",
        "rm -r /etc/valkey && systemctl start celery-fleet-certificates",
        frozenset({("CertificateExpires", "monitor12")}),
    )


@contextmanager
def happening(trouble: Trouble) -> Iterator[None]:
    """While it goes wrong."""
    host, password = SCENARIO.hosts("monitoring")[trouble.host], SCENARIO.secrets["redis_operator"]
    host.check_output(f"export REDISCLI_AUTH={password}; {trouble.begin}")
    try:
        yield
    finally:
        host.check_output(f"export REDISCLI_AUTH={password}; {trouble.end}")


@pytest.mark.parametrize("trouble", troubles(), ids=lambda trouble: "-".join(sorted(dict(trouble.alerts))))
def test_what_goes_wrong_is_told(trouble: Trouble) -> None:
    hosts = SCENARIO.hosts("monitoring")

    def told(by: Callable[[set[tuple[str, str]]], bool]) -> Callable[[], bool]:
        return lambda: all(by(firing(host)) for host in hosts.values())

    with happening(trouble):
        wait_for(told(trouble.alerts.issubset), f"{trouble.alerts} do not fire", WITHIN)
    wait_for(told(trouble.alerts.isdisjoint), f"{trouble.alerts} go on", WITHIN)


@pytest.mark.parametrize("file", ["dashboard.json", "rules.yml"])
def test_the_exporters_tell_what_the_dashboard_and_the_rules_ask_for(host: Host, file: str) -> None:
    asked = set(re.findall(METRIC, (ROLE / "files" / file).read_text()))

    with happening(SLOT):
        wait_for(
            lambda: asked.issubset(ask(host, "label/__name__/values")),
            lambda: f"nobody tells {asked.difference(ask(host, 'label/__name__/values'))}",
            WITHIN,
        )


def test_prometheus_answers_all_queries_of_the_dashboard(host: Host) -> None:
    panels = json.loads((ROLE / "files/dashboard.json").read_text())["panels"]
    for query in [target["expr"] for panel in panels for target in panel.get("targets", [])]:
        ask(host, f"query?query={quote(query.replace('$__rate_interval', '1m'))}")


def test_the_rules_fire_when_they_should(host: Host) -> None:
    rules, test = (ROLE / "files/rules.yml").read_text(), (ROLE / "tests/rules.yml").read_text()

    host.run_expect([0], "mkdir -p /run/files /run/tests && printf %%s %s > /run/files/rules.yml", rules)
    host.run_expect([0], "printf %%s %s > /run/tests/rules.yml", test)
    host.run_expect([0], "promtool test rules /run/tests/rules.yml")


def test_prometheus_and_alertmanager_do_not_listen_to_others(host: Host) -> None:
    assert host.socket("tcp://127.0.0.1:9090").is_listening
    assert host.socket("tcp://127.0.0.1:9093").is_listening
    listening = host.check_output("ss -Hltn | awk '{print $4}'").split()
    ports = (":9090", ":9093", ":9094")
    assert [at for at in listening if at.endswith(ports) and not at.startswith("127.0.0.1:")] == []


def test_the_passwords_of_the_exporters_are_for_root_only(host: Host) -> None:
    for name in ("redis", "postgres"):
        file = host.file(f"/etc/default/prometheus-{name}-exporter")
        assert (file.user, file.mode) == ("root", 0o600)


def test_the_exporter_of_redis_may_read_no_key_and_no_setting(host: Host) -> None:
    password = SCENARIO.secrets["redis_monitor"]
    for command in ("get any", "config get masterauth", "slowlog get 1", "client list", "acl list"):
        refused = host.run(f"REDISCLI_AUTH={password} {REDIS.format('monitor')} {command}")
        assert "NOPERM" in refused.stdout + refused.stderr, command


def test_nobody_but_prometheus_reaches_an_exporter(host: Host) -> None:
    def reached(port: int) -> bool:
        try:
            socket.create_connection((address(host), port), timeout=2).close()
        except OSError:
            return False
        return True

    # This machine is on the same network, and no host of the group monitoring.
    assert [port for port in EXPORTERS if reached(port)] == []
    asked = " ".join(f"http://{name}:{port}/metrics" for name in HOSTS for port in EXPORTERS)
    script = "import sys, urllib.request as r; [r.urlopen(url, timeout=30) for url in sys.argv[1:]]"
    host.check_output(f"python3 -c '{script}' {asked}")


# Writes down what it is sent; to clients of PostgreSQL it says that it wants an unencrypted password.
LISTENER = r"""
import socket
WANTED = b"R\0\0\0\x08\0\0\0\x03"
with socket.create_server(("127.0.0.1", 7777)) as server, open("/run/sent", "wb", buffering=0) as sent:
    while True:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(1)
            try:
                while received := connection.recv(4096):
                    sent.write(received)
                    connection.sendall(WANTED if b"user" in received else b"-ERR no\r\n")
            except OSError:
                pass
"""


@pytest.fixture
def listener(host: Host) -> Iterator[str]:
    """An address of another machine, which writes down what it is sent."""
    host.check_output("systemd-run --quiet --unit=listener python3 -c %s", LISTENER)
    wait_for(lambda: host.socket("tcp://127.0.0.1:7777").is_listening or None, "nobody listens", WITHIN)
    yield "127.0.0.1:7777"
    host.check_output("systemctl stop listener; rm /run/sent")


@pytest.mark.parametrize(
    ("exporter", "path"),
    [
        ("redis", "9121/scrape?target=redis://{}"),
        ("redis", "9121/scrape?target=redis://monitor@{}"),
        ("redis", "9121/scrape?target={}"),
        ("postgres", "9187/probe?target={}"),
        ("postgres", "9187/probe?target=postgresql://monitor@{}/postgres%3Fsslmode%3Ddisable"),
    ],
)
def test_an_exporter_sends_its_password_to_no_other_server(
    host: Host, listener: str, exporter: str, path: str
) -> None:
    url = f"http://{host.check_output('hostname')}:{path.format(listener)}"
    host.run("python3 -c %s %s", "import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=5)", url)

    sent = host.check_output("tr -cd '[:print:]' </run/sent")

    assert SCENARIO.secrets[f"{exporter}_monitor"] not in sent


def test_the_services_may_do_only_what_they_must(host: Host) -> None:
    assert exposed(host) == {}


CONFIGURATION = "/etc/prometheus /etc/default/prometheus* /etc/systemd/system/prometheus*"


def test_what_alertmanager_would_refuse_is_refused_before_a_file_is_written() -> None:
    hosts = SCENARIO.hosts("monitoring").values()
    sums = f"find {CONFIGURATION} -type f -exec sha256sum {{}} + | sort"
    before = [host.check_output(sums) for host in hosts]
    wrong = {"route": {"receiver": "nobody"}, "receivers": [{"name": "somebody"}]}

    with pytest.raises(AssertionError, match=r"undefined receiver .{1,3}nobody"):
        SCENARIO.play(playbook="watch.yml", monitoring_alertmanager=wrong, monitoring_retention="16d")

    assert [host.check_output(sums) for host in hosts] == before


def test_no_secret_can_be_seen(host: Host) -> None:
    assert_no_secrets(host, SCENARIO.secrets.values())
