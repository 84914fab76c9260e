"""The variables and the templates of the role monitoring, without a host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import of_role
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.evaluation import inventory
from support.made_up_fleets import as_written
from support.role_files import Place, evaluate, refusal, security_score

ROLE = Path(__file__).resolve().parents[2] / "roles/monitoring"
ALERTMANAGER = {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}
USERS = [{"name": "monitor", "preset": "monitor", "password": "a-monitors-password"}]
HERE = Place(
    host="data1",
    hosts={
        "data1": {"ansible_host": "2001:db8::11"},
        "monitor1": {"ansible_host": "2001:db8::21"},
        "monitor2": {"ansible_host": "monitor2.example"},
    },
    groups={"redis": ["data1"], "postgres": ["data1"], "monitoring": ["monitor1", "monitor2"]},
)
GIVEN: dict[str, Any] = {
    "monitoring_alertmanager": ALERTMANAGER,
    "postgres_monitor_password": "another-password",
    "redis_users": USERS,
    "redis_bind": ["2001:db8::11", "::1"],
}
RESOLVED = {
    "__monitoring_resolved": {
        "results": [
            {
                "item": "monitor2.example",
                "ansible_facts": {
                    "getent_ahosts": {
                        "monitor2.example": None,
                        "192.0.2.22": [["RAW"]],
                        "2001:db8::22": [["RAW"]],
                    }
                },
            }
        ]
    }
}


UNRESOLVED = {"__monitoring_resolved": {"results": [{"item": "monitor2.example", "ansible_facts": {}}]}}
WRONG: dict[str, dict[str, Any]] = {
    "monitoring_retention: is '15'; allowed: a time": {"monitoring_retention": "15"},
    "monitoring_scrape_interval: is 'often'; allowed: a time": {"monitoring_scrape_interval": "often"},
    "monitoring_alert_after: is '5 m'; allowed: a time": {"monitoring_alert_after": "5 m"},
    "monitoring_alertmanager: has no receivers": {"monitoring_alertmanager": {"route": {}}},
    "monitoring_addresses: 'monitor1' is no address": {"monitoring_addresses": ["monitor1"]},
}
CASES: dict[str, dict[str, Any]] = {
    "resolved": {**GIVEN, **RESOLVED},
    "unresolved": {**GIVEN, **UNRESOLVED},
    "a network": {**GIVEN, "monitoring_addresses": ["192.0.2.0/24"], "monitoring_retention": "1d12h"},
}
ASKED = ("allowed", "names", "unresolved", "exporter_units", "exporter_secrets", "files")


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """What the role makes of each case."""
    values = ", ".join(f"'{name}': __monitoring_{name}" for name in ASKED)
    results = evaluate("monitoring", f"({{{values}}})", list(CASES.values()), HERE)
    return dict(zip(CASES, results, strict=True))


def texts(found: dict[str, dict[str, Any]], case: str = "resolved") -> dict[str, str]:
    """The text of each file, by its path."""
    names = ("exporter_units", "exporter_secrets", "files")
    return {file["path"]: file["content"] for name in names for file in found[case][name]}


@pytest.mark.parametrize(
    "unit",
    [
        "prometheus",
        "prometheus-alertmanager",
        "prometheus-node-exporter",
        "prometheus-postgres-exporter",
        "prometheus-redis-exporter",
    ],
)
def test_the_units_expose_at_most_2_5(found: dict[str, dict[str, Any]], tmp_path: Path, unit: str) -> None:
    addition = texts(found)[f"/etc/systemd/system/{unit}.service.d/celery-fleet.conf"]
    # The packages' own have little more than a user and a command.
    (tmp_path / "a.service").write_text(addition + "\nUser=prometheus\nExecStart=/bin/true\n")

    score = security_score(tmp_path, "a.service")

    assert score.returncode == 0, score.stdout + score.stderr


def test_only_those_who_ask_and_the_host_itself_reach_its_exporters(found: dict[str, dict[str, Any]]) -> None:
    assert found["resolved"]["allowed"] == ["192.0.2.22", "2001:db8::11", "2001:db8::21", "2001:db8::22"]
    assert found["a network"]["allowed"] == ["192.0.2.0/24", "2001:db8::11"]
    assert found["a network"]["names"] == []
    unit = texts(found)["/etc/systemd/system/prometheus-redis-exporter.service.d/celery-fleet.conf"]
    assert "\nIPAddressDeny=any\nIPAddressAllow=localhost 192.0.2.22 2001:db8::11 2001:db8::21 " in unit


def test_a_name_that_cannot_be_resolved_is_named(found: dict[str, dict[str, Any]]) -> None:
    assert found["resolved"]["unresolved"] == []
    assert found["unresolved"]["unresolved"] == found["unresolved"]["names"] == ["monitor2.example"]


def test_addresses_of_ipv6_stand_in_brackets(found: dict[str, dict[str, Any]]) -> None:
    jobs = yaml.safe_load(texts(found)["/etc/prometheus/prometheus.yml"])["scrape_configs"]
    targets = {job["job_name"]: [entry["targets"] for entry in job["static_configs"]] for job in jobs}
    assert targets["redis"] == [["[2001:db8::11]:9121"]]
    settings = texts(found)["/etc/default/prometheus-redis-exporter"]
    assert "-web.listen-address=[2001:db8::11]:9121 " in settings
    assert 'REDIS_ADDR="redis://[2001:db8::11]:6379"' in settings


def test_the_exporter_of_redis_knows_the_password_of_one_server(found: dict[str, dict[str, Any]]) -> None:
    assert yaml.safe_load(texts(found)["/etc/prometheus-redis-exporter.json"]) == {
        "redis://[2001:db8::11]:6379": "a-monitors-password",
        "redis://monitor@[2001:db8::11]:6379": "a-monitors-password",
    }
    assert "a-monitors-password" not in texts(found)["/etc/default/prometheus-redis-exporter"]


def refused(inputs: dict[str, Any]) -> list[str]:
    """What the role refuses on a host that is watched and watches."""
    seen = inventory({"data1": GIVEN | inputs}, {group: ["data1"] for group in HERE.groups}, as_written)
    host = seen.hosts["data1"]
    found = [*of_role("monitoring", host, seen), *of_role("exporters", host, seen)]
    return [f"{finding.variable}: {finding.text}" for finding in found]


@pytest.mark.parametrize(("message", "inputs"), WRONG.items())
def test_wrong_input_is_named(message: str, inputs: dict[str, Any]) -> None:
    assert [line for line in refused(inputs) if line.startswith(message)]


@pytest.mark.parametrize("inputs", [{}, CASES["a network"], {"monitoring_alert_after": ""}])
def test_right_input_passes(inputs: dict[str, Any]) -> None:
    assert refused(inputs) == []


def test_the_role_itself_refuses_wrong_input() -> None:
    """In a playbook of somebody's own, with nothing but the path of the roles."""
    assert refusal("monitoring", {**GIVEN, "monitoring_retention": "15"}).startswith(
        "monitoring_retention: is '15'; allowed: a time"
    )


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1", ""),
        ("::", ""),
        ("localhost", ""),
        ("192.0.2.1", "monitoring_exporters_address: 192.0.2.1 is no address of this host"),
    ],
)
def test_an_address_at_which_no_exporter_can_listen_is_named(address: str, words: str) -> None:
    script = ROLE / "files/own_address.py"

    done = subprocess.run([sys.executable, script, address], check=False, capture_output=True, text=True)

    assert (done.returncode == 0) == (not words)
    assert done.stderr.startswith(words)
