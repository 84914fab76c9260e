"""Settings of the desk stack are checked before anything starts: all findings at once, one line each."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.role_files import CHECKOUT

URL = "redis://user:password@host:port/0"
PORTS = ("REDIS_PORT", "POSTGRES_PORT", "PAGE_PORTS", "FLOWER_PORT", "PROMETHEUS_PORT")
PROJECT = "a folder below app/ of this checkout"
MEMORY = "at least 256m, written as 1536m or 2g"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What of a checkout the check reads; its stack and its ports are nobody else's."""
    folder = tmp_path / "celery-fleet-settings-test"
    shutil.copytree(CHECKOUT / "compose", folder / "compose")
    shutil.copytree(CHECKOUT / "app/tasks", folder / "app/tasks")
    shutil.copy(CHECKOUT / "compose.yaml", folder)
    return folder


def check(checkout: Path, text: str = "", **environment: str) -> tuple[str, list[str]]:
    """Return the settings that the check finds in force, and its findings."""
    free = "".join(f"{name}=0\n" for name in PORTS if name not in text)
    (checkout / ".env").write_text(text + free, encoding="utf-8")
    known = (checkout / ".env").read_text(encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if name not in known}
    done = subprocess.run(
        [sys.executable, "-B", "compose/check_machine.py"],
        check=False,
        cwd=checkout,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )
    findings = done.stderr.splitlines()
    assert done.returncode == bool(findings), done
    assert all(line.startswith("compose: ") for line in findings), findings
    return done.stdout, [line.removeprefix("compose: ") for line in findings]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MIN_WORKERS=0\nMAX_WORKERS=10000\n",
        "MIN_WORKERS=\nWORKER_MEMORY=\n",
        "MIN_WORKERS='2'   # at least\nexport LOG_FORMAT=\"json\"\r\n",
        "CPU_THRESHOLD=92.5\nWORKER_MEMORY=2g\nPROJECT=./app/tasks\n",
        "CELERY_BROKER_URL=rediss://app:p%40ss@redis.example.com:6380/3\n",
        "CELERY_BROKER_URL=sentinel://:pw@a:26379/0;sentinel://:pw@b:26379/0\n",
        "CELERY_RESULT_BACKEND=db+postgresql://me:pw@db/results\n",
        "DB_HOST=db.example.com\nDB_PASSWORD=#!$\n",
        "COMPOSE_PROFILES=flower,prometheus\nCOMPOSE_PROJECT_NAME=shop-2\n",
    ],
)
def test_right_settings_are_accepted(checkout: Path, text: str) -> None:
    said, findings = check(checkout, text)
    assert findings == []
    assert "PROJECT=" in said


@pytest.mark.parametrize(
    ("setting", "allowed"),
    [
        ("MIN_WORKERS=abc", "a whole number from 0 to 10000"),
        ("MIN_WORKERS=9", "at most MAX_WORKERS=8"),
        ("MAX_WORKERS=1.5", "a whole number from 1 to 10000"),
        ("CPU_THRESHOLD=101", "a number from 1 to 100"),
        ("MEMORY_THRESHOLD=nan", "a number from 1 to 100"),
        ("WORKER_MEMORY=64m", MEMORY),
        ("WORKER_MEMORY=much", MEMORY),
        ("LOG_FORMAT=xml", "plain or json"),
        ("DB_PORT=0", "a whole number from 1 to 65535"),
        ("PAGE_PORTS=9542-9541", "a port from 0 to 65535, or a range such as 9541-9542"),
        ("COMPOSE_PROFILES=flowr", "flower,prometheus, or one of them"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(
    checkout: Path, setting: str, allowed: str
) -> None:
    said, findings = check(checkout, f"{setting}\n")
    assert findings == [f".env:1: {setting} is wrong: allowed is {allowed}"]
    assert said == ""


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("amqp://x", f"{URL}, rediss://… or sentinel://…: the workers need Redis"),
        ("redis://localhost/0", "a host that containers reach: localhost is the container itself"),
    ],
)
def test_a_wrong_url_is_refused_and_not_shown(checkout: Path, url: str, allowed: str) -> None:
    _, findings = check(checkout, f"CELERY_BROKER_URL={url}\n")
    assert findings == [f".env:1: CELERY_BROKER_URL is wrong: allowed is {allowed}"]


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("MIN_WORKER=2", "MIN_WORKER is no setting of this stack: did you mean MIN_WORKERS?"),
        ("SOMETHING=2", "SOMETHING is no setting of this stack: .env.example names them all"),
        ("min workers 3", "'min workers 3' is no setting: allowed is NAME=value"),
        ("DB_HOST=db", "DB_HOST=db needs its DB_PASSWORD, which is not set"),
    ],
)
def test_what_is_no_setting_or_lacks_another_is_refused(checkout: Path, line: str, finding: str) -> None:
    _, findings = check(checkout, f"{line}\n")
    assert findings == [f".env:1: {finding}"]


@pytest.mark.parametrize("password", ["pa/ss", "pa#ss", "pa@ss/", "pa?ss"])
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(checkout: Path, password: str) -> None:
    _, [finding] = check(checkout, f"CELERY_BROKER_URL=redis://:{password}@redis.example.com:6379/0\n")
    assert "%2F" in finding
    assert "pa" not in finding.replace("password", "")


def test_a_project_of_your_own_needs_a_lock(checkout: Path) -> None:
    _, findings = check(checkout, "PROJECT=app/shop\nMIGRATE_COMMAND=true\n")
    assert findings == [f".env:1: PROJECT=app/shop is wrong: allowed is {PROJECT}"]
    shutil.copytree(checkout / "app/tasks", checkout / "app/shop")
    _, findings = check(checkout, "PROJECT=app/shop\nCELERY_APP=shop\nPACKAGES=git libpq5\n")
    assert findings == []
    own = "PROJECT=app/shop\nREQUIREMENTS=uv.lock\n"
    _, findings = check(checkout, own)
    assert findings == [
        f".env:1: PROJECT=app/shop is wrong: allowed is {PROJECT}, with a uv.lock that has hashes"
    ]
    (checkout / "app/shop/uv.lock").touch()
    said, findings = check(checkout, f"{own}REQUIREMENTS_EXTRAS=mail,pdf\n")
    assert findings == []
    assert "REQUIREMENTS=uv.lock\nREQUIREMENTS_EXTRAS=mail,pdf\n" in said


@pytest.mark.parametrize(
    ("app", "words"), [("shop", "shop has no migrations"), ("tasks", "DB_HOST is not set")]
)
def test_only_the_example_is_migrated_without_a_command(checkout: Path, app: str, words: str) -> None:
    script = checkout / "compose/migrate.sh"

    done = subprocess.run(
        ["sh", script],
        cwd=script.parent,
        env={"CELERY_APP": app, "PATH": os.environ["PATH"], "PYTHONSAFEPATH": "1"},
        check=False,
        capture_output=True,
        text=True,
    )

    assert words in done.stdout + done.stderr
    assert done.returncode == (app == "tasks")


def test_a_project_brings_settings_of_its_own(checkout: Path) -> None:
    script = (checkout / "compose/with-secrets").read_text().replace("/project", str(checkout))
    (checkout / "compose.env").write_text("SHOP_COLOUR='dark red'\n")

    done = subprocess.run(
        ["sh", "-c", script, "-", "printenv", "SHOP_COLOUR"], check=True, capture_output=True, text=True
    )

    assert done.stdout == "dark red\n"


def test_all_findings_come_at_once_in_the_order_of_the_file(checkout: Path) -> None:
    _, findings = check(checkout, "# mine\nMAX_WORKERS=x\nMAX_WORKER=3\n\nMIN_WORKERS=-1\n")
    assert [finding.split(":")[1] for finding in findings] == ["2", "3", "5"]


def test_the_environment_comes_before_the_file(checkout: Path) -> None:
    _, findings = check(checkout, "MIN_WORKERS=2\n", MIN_WORKERS="many")
    assert findings == [
        "the environment: MIN_WORKERS=many is wrong: allowed is a whole number from 0 to 10000"
    ]
    _, findings = check(checkout, "MIN_WORKERS=many\n", MIN_WORKERS="2")
    assert findings == []


def test_a_setting_of_an_override_file_is_known(checkout: Path) -> None:
    (checkout / "compose.override.yaml").write_text("services: {worker: {environment: {SHOP: '${SHOP:-x}'}}}")
    _, findings = check(checkout, "SHOP=2\n")
    assert findings == []


def test_a_port_that_somebody_else_has_is_refused(checkout: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _, findings = check(checkout, "", REDIS_PORT=str(port))
    expected = (
        f"the environment: REDIS_PORT={port} is wrong: allowed is a free port: another program has {port}"
    )
    assert findings == [expected]


def test_two_services_on_one_port_are_refused(checkout: Path) -> None:
    _, findings = check(checkout, "", REDIS_PORT="7001", POSTGRES_PORT="7001")
    assert [re.sub(r"^.*?: ", "", finding) for finding in findings] == [
        "POSTGRES_PORT=7001 is wrong: allowed is a port that REDIS_PORT does not have"
    ]
