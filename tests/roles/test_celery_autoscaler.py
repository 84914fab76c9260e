"""The role celery_autoscaler without a host: its settings, its rights, its unit."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import of_role
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.evaluation import inventory
from support.made_up_fleets import as_written
from support.role_files import Place, evaluate, refusal, render, security_score

TOML = "etc/celery/autoscaler.toml.j2"
ENVIRONMENT = "etc/celery/autoscaler.env.j2"
RULES = "etc/polkit-1/rules.d/50-celery-autoscaler.rules.j2"
UNIT = "etc/systemd/system/celery-autoscaler.service.j2"

GENERAL: dict[str, Any] = {
    "name": "general",
    "queues": ["default", 'with "quotes"', "größer"],
    "pool": "prefork",
    "concurrency": 2,
    "workers": 3,
    "options": {"max_tasks_per_child": 100},
}
CPU: dict[str, Any] = {
    "name": "cpu-bound",
    "queues": ["cpu"],
    "pool": "solo",
    "concurrency": 1,
    "workers": 1,
    "min_workers": 0,
    "max_workers": "4",
    "target_wait": 2.5,
    "drain_timeout": 30,
}
OWN = {name: value for name, value in CPU.items() if name != "workers"}
APP: dict[str, Any] = {
    "__celery_app_target": {"python": "3.13", "glibc": "2.41", "group": "celery"},
    "__celery_app_bundle": {"python": "3.13"},
    "__celery_app_supervisor_bundle": {"release": "5ae0d1c2b3f4"},
    "celery_app_name": "proj",
    "celery_app_root": "/opt/celery",
    "celery_app_user": "celery",
    "celery_app_stop_timeout": 900,
    "celery_app_start_timeout": 400,
    "celery_app_environment": {"CELERY_BROKER_URL": "redis://app:secret@data1:6379/0"},
    "celery_app_supervised": True,
    "celery_app_worker_groups": [GENERAL, CPU],
}

# A required variable that these tests are not about.
NOT_GIVEN = {"celery_app_source"}


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The rendered files."""
    return render("celery_autoscaler", [TOML, ENVIRONMENT, RULES, UNIT], APP)


def test_another_address_restarts_the_supervisor_which_reads_it_at_start_only() -> None:
    cases: list[dict[str, Any]] = [
        {},
        {"celery_autoscaler_cpu_threshold": 91},
        {"celery_autoscaler_http": "127.0.0.1:9542"},
    ]

    usual, reloaded, moved = evaluate(
        "celery_autoscaler", "__celery_autoscaler_definition", [APP | case for case in cases]
    )

    assert usual == reloaded != moved


def test_the_page_leads_to_those_of_the_other_projects_of_the_host() -> None:
    here: dict[str, Any] = {"ansible_host": "198.51.100.21", "celery_app_supervised": True}
    place = Place(
        host="worker1",
        hosts={
            "worker1": here,
            "shop1": here | {"celery_app_project": "shop", "celery_autoscaler_http": "127.0.0.1:9542"},
            "plain1": here | {"celery_app_project": "plain", "celery_app_supervised": False},
            "silent1": here | {"celery_app_project": "silent", "celery_autoscaler_http": ""},
            "shop2": {"celery_app_project": "other", "celery_app_supervised": True},
        },
        play="all",
        groups={"workers": ["worker1", "shop1", "plain1", "silent1", "shop2"]},
    )

    found = evaluate("celery_autoscaler", "__celery_autoscaler_pages", [APP], place)

    assert found == [{"shop": "127.0.0.1:9542"}]


def test_the_settings_are_those_of_the_inventory(files: dict[str, str]) -> None:
    settings = tomllib.loads(files[TOML])

    assert settings["launcher"] == "systemd"
    assert settings["hostname"] == "localhost"  # as the inventory calls it, whatever the machine says
    assert settings["groups"] == {
        "general": {
            "queues": GENERAL["queues"],
            "pool": "prefork",
            "concurrency": 2,
            "drain_timeout": 900.0,
        },
        "cpu-bound": {
            "queues": ["cpu"],
            "pool": "solo",
            "concurrency": 1,
            "min_workers": 0,
            "max_workers": 4,
            "target_wait": 2.5,
            "drain_timeout": 30.0,
        },
    }


def test_workers_of_a_group_with_a_least_and_a_most_stretch() -> None:
    inputs = {**APP, **changed(GENERAL, concurrency=["2", 16])}
    files = render("celery_autoscaler", [TOML], inputs)

    assert tomllib.loads(files[TOML])["groups"]["general"]["concurrency"] == [2, 16]


def test_a_start_may_take_as_long_for_systemd_as_for_the_supervisor(files: dict[str, str]) -> None:
    units = ["worker@", "beat"]
    others = render("celery_app", [f"etc/systemd/system/celery-{name}.service.j2" for name in units], APP)

    assert tomllib.loads(files[TOML])["start_timeout"] == 400.0
    for unit in (files[UNIT], *others.values()):
        assert "TimeoutStartSec=400" in unit.splitlines(), unit


def test_only_the_environment_holds_the_broker_url() -> None:
    own = "redis://supervisor:another-secret@data1:6379/0"
    rendered = render(
        "celery_autoscaler", [TOML, ENVIRONMENT, UNIT], {**APP, "celery_autoscaler_broker_url": own}
    )

    assert f'CELERY_BROKER_URL="{own}"' in rendered[ENVIRONMENT].splitlines()
    assert "another-secret" not in rendered[TOML] + rendered[UNIT]


def test_without_one_of_its_own_the_apps_url_counts(files: dict[str, str]) -> None:
    assert "CELERY_BROKER_URL" not in files[ENVIRONMENT]


def changed(group: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Inputs in which one group has other values."""
    return {
        "celery_app_worker_groups": [other | (values if other is group else {}) for other in (GENERAL, CPU)]
    }


WRONG: list[tuple[dict[str, Any], str]] = [
    (changed(CPU, min_workers=5), "'cpu-bound': min_workers is 5 and max_workers is 4"),
    (changed(CPU, min_workers=-1), "'cpu-bound': min_workers is -1; allowed: a whole number from 0"),
    (changed(CPU, target_wait=0), "'cpu-bound': target_wait is 0; allowed: a number from 0.1"),
    (changed(CPU, drain_timeout=-3), "drain_timeout is -3"),
    (
        changed(CPU, concurrency=[1, 4]),
        "'cpu-bound': concurrency is a list with pool solo; allowed: one number, or pool prefork and gevent",
    ),
    (
        {"celery_autoscaler_groups": [{**OWN, "concurrency": [4, 2]}]},
        "'cpu-bound': concurrency is a list; allowed: a whole number from 1 to 10000, or a least and a most",
    ),
    (changed(CPU, queues=["cpu", "default"]), "queue 'default' belongs to general and cpu-bound"),
    (
        {"celery_autoscaler_groups": [{**OWN, "name": "gpu"}]},
        "'gpu': no such group in celery_app_worker_groups; allowed: general, cpu-bound",
    ),
    (
        {"celery_autoscaler_groups": [{**OWN, "min_workers": 5}]},
        "'cpu-bound': min_workers is 5 and max_workers is 4",
    ),
    ({"celery_app_worker_groups": []}, "there is nothing to supervise"),
    ({"celery_autoscaler_cpu_threshold": 101}, "celery_autoscaler_cpu_threshold: is 101; allowed: a number"),
    ({"celery_autoscaler_memory_threshold": 0}, "celery_autoscaler_memory_threshold: is 0; allowed"),
    ({"celery_autoscaler_queue_threshold": 0}, "celery_autoscaler_queue_threshold: is 0; allowed"),
    ({"celery_autoscaler_tick": 0}, "celery_autoscaler_tick: is 0; allowed: a number from 0.1 to 60"),
    ({"celery_autoscaler_stabilisation": -1}, "celery_autoscaler_stabilisation: is -1; allowed"),
    ({"celery_autoscaler_http": "0.0.0.0:9541"}, "celery_autoscaler_http: is open to other hosts"),
    (
        {"celery_autoscaler_http": "127.example:9541", "celery_autoscaler_http_token": "short"},
        "16 characters or more",
    ),
    (
        {"celery_autoscaler_http": "0.0.0.0:9541", "celery_autoscaler_http_read_token": "short"},
        "16 characters or more",
    ),
    (
        {
            "celery_autoscaler_http": "0.0.0.0:9541",
            "celery_autoscaler_http_token": "short",
            "celery_autoscaler_http_read_token": "x" * 16,
        },
        "16 characters or more",
    ),
    (
        {"celery_autoscaler_http_token": "x" * 16, "celery_autoscaler_http_read_token": "x" * 16},
        "celery_autoscaler_http_read_token: is celery_autoscaler_http_token",
    ),
    ({"celery_autoscaler_enabled": False}, "is false, but celery_app_supervised is true"),
    (
        {"celery_app_supervised": False, "celery_autoscaler_enabled": True},
        "is true, but celery_app_supervised is false",
    ),
]
RIGHT: list[dict[str, Any]] = [
    {},
    {"celery_app_supervised": False, "celery_app_worker_groups": []},
    {"celery_autoscaler_cpu_threshold": 100, "celery_autoscaler_stabilisation": 0},
    {"celery_autoscaler_http": ""},
    changed(GENERAL, concurrency=[2, 16]),
    {"celery_autoscaler_http": "unix:/run/celery-autoscaler/http"},
    {"celery_autoscaler_http": "0.0.0.0:9541", "celery_autoscaler_http_token": "x" * 16},
    {"celery_autoscaler_http": "0.0.0.0:9541", "celery_autoscaler_http_read_token": "x" * 16},
]


def found(inputs: dict[str, Any]) -> list[str]:
    """What the role refuses in its inputs."""
    seen = inventory({"worker1": {**APP, **inputs}}, {"workers": ["worker1"]}, as_written)
    own = [*of_role("celery_autoscaler", seen.hosts["worker1"], seen)]
    # The role celery_app looks at its groups.
    own += of_role("celery_app", seen.hosts["worker1"], seen)
    # Both look at the bounds.
    told = dict.fromkeys(own)
    return [f"{finding.variable}: {finding.text}" for finding in told if finding.variable not in NOT_GIVEN]


@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_wrong_input_is_named_in_one_line(inputs: dict[str, Any], message: str) -> None:
    (line,) = found(inputs)

    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize("inputs", RIGHT)
def test_right_input_passes(inputs: dict[str, Any]) -> None:
    assert found(inputs) == []


def test_the_role_itself_refuses_wrong_input() -> None:
    """In a playbook of somebody's own, with nothing but the path of the roles."""
    inputs = {**APP, "celery_autoscaler_cpu_threshold": "much", "celery_autoscaler_http": "0.0.0.0:9541"}

    refused = refusal("celery_autoscaler", inputs)

    assert "celery_autoscaler_cpu_threshold: is 'much'; allowed: a number from 1 to 100" in refused
    assert "celery_autoscaler_http: is open to other hosts" in refused
    assert refusal("celery_autoscaler", APP) == ""


def test_the_unit_exposes_at_most_2_5(files: dict[str, str], tmp_path: Path) -> None:
    unit = "celery-autoscaler.service"
    (tmp_path / unit).write_text(files[UNIT])

    score = security_score(tmp_path, unit)

    assert score.returncode == 0, score.stdout + score.stderr
    assert "Overall exposure level" in score.stdout


def test_groups_without_their_workers_are_named_with_the_reason() -> None:
    def status(**ready: int) -> dict[str, Any]:
        groups = {
            name.replace("_", "-"): {
                "ready": number, "min_workers": 1, "limit": "", "held_back": "", "last_failure": "it died",
            }
            for name, number in ready.items()
        }  # fmt: skip
        return {"__celery_autoscaler_status": {"stdout": json.dumps({"groups": groups}), "stderr_lines": []}}

    silent = {"__celery_autoscaler_status": {"stdout": "", "stderr_lines": ["Error: Redis is away"]}}
    cases = [status(general=1, cpu_bound=2), status(general=0, cpu_bound=1), status(general=1), silent]

    served, failing, unknown, no_answer = evaluate(
        "celery_autoscaler", "__celery_autoscaler_unserved", [APP | case for case in cases]
    )

    assert served == []
    assert failing == ["general (it died)"]
    assert unknown == ["cpu-bound"]
    assert no_answer == ["general (Error: Redis is away)", "cpu-bound (Error: Redis is away)"]


def test_the_supervisor_may_stop_workers_of_a_group_that_is_no_longer_named(files: dict[str, str]) -> None:
    starts, ends = (re.compile(found) for found in re.findall(r"/(\^.*\$)/\.test", files[RULES]))

    assert starts.match("celery-worker@cpu-bound-12.service")
    assert not starts.match("celery-worker@gone-before-12.service")
    assert ends.match("celery-worker@gone-before-12.service")
    assert not ends.match("celery-beat.service")
    assert not ends.match("celery-worker@gone.service")


def test_a_token_is_read_from_a_file_that_others_cannot_read() -> None:
    tokens = {"celery_autoscaler_http_token": "t" * 16, "celery_autoscaler_http_read_token": "r" * 16}
    rendered = render("celery_autoscaler", [TOML, UNIT], {**APP, **tokens})

    assert 'token_file = "/etc/celery/autoscaler.token"' in rendered[TOML].splitlines()
    assert 'read_token_file = "/etc/celery/autoscaler.read-token"' in rendered[TOML].splitlines()
    assert not any(token in rendered[TOML] + rendered[UNIT] for token in tokens.values())
