"""Prometheus and Alertmanager run with our targets and rules, and nobody else reaches them."""

import json
import time
from pathlib import Path
from typing import Any

from scenario import Scenario
from secrets_scan import assert_no_secrets
from testinfra.host import Host

ROLE = Path(__file__).resolve().parents[3] / "roles/monitoring"


def ask(host: Host, path: str) -> Any:
    """What Prometheus answers."""
    script = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    answer = host.check_output("python3 -c %s %s", script, f"http://127.0.0.1:9090/api/v1/{path}")
    return json.loads(answer)["data"]


def test_the_supervisors_of_the_inventory_are_the_targets(host: Host) -> None:
    targets = ask(host, "targets")["activeTargets"]

    assert {target["labels"]["host"] for target in targets} == {"monitor12", "monitor13"}


def test_a_supervisor_that_does_not_answer_is_noticed(host: Host) -> None:
    deadline = time.monotonic() + 30
    while True:
        alerts = ask(host, "alerts")["alerts"]
        found = [alert["labels"] for alert in alerts]
        away = {labels["host"] for labels in found if labels["alertname"] == "SupervisorAway"}
        if away == {"monitor12", "monitor13"}:
            break
        assert time.monotonic() < deadline, alerts
        time.sleep(0.5)


def test_the_rules_fire_when_they_should(host: Host) -> None:
    installed = "/etc/prometheus/celery-fleet.rules.yml"
    test = (ROLE / "tests/rules.yml").read_text().replace("../files/rules.yml", installed)

    host.run_expect([0], "printf %%s %s > /run/rules.yml && promtool test rules /run/rules.yml", test)


def test_nothing_listens_to_others(host: Host) -> None:
    assert host.socket("tcp://127.0.0.1:9090").is_listening
    assert host.socket("tcp://127.0.0.1:9093").is_listening
    listening = host.check_output("ss -Hltn | awk '{print $4}'").split()
    ports = (":9090", ":9093", ":9094")
    assert [at for at in listening if at.endswith(ports) and not at.startswith("127.0.0.1:")] == []


def test_no_secret_can_be_seen(host: Host) -> None:
    assert_no_secrets(host, Scenario("monitoring").secrets.values())
