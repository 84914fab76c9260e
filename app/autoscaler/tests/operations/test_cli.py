"""The command by either of its names, and what it says of an app or a broker that it cannot use."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from celery import Celery
from celery_autoscaler import cli
from celery_autoscaler.protocol.overrides import Override
from click.testing import CliRunner
from support.command_runs import invoke, overrides
from support.processes.launched_workers import write_app
from support.processes.process import clean_environment


@pytest.mark.parametrize(
    "command",
    [
        ("celery_autoscaler.cli", "-A", "single"),
        ("celery", "-A", "single", "autoscaler"),
        ("celery", "-A", "single.app", "autoscaler"),
    ],
)
def test_the_command_is_known_by_both_its_names(
    tmp_path: Path, redis_url: str, app: Celery, command: tuple[str, ...]
) -> None:
    write_app(tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", *command, "pause", "default"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment() | {"BROKER": redis_url},
    )

    assert (done.returncode, done.stdout) == (0, "default: paused\n"), done.stderr
    assert overrides(app) == {"default": Override(paused=True, by=getpass.getuser())}


def test_an_app_that_is_not_there_is_named_in_one_line() -> None:
    result = CliRunner().invoke(cli.main, ["-A", "not_there", "status"])

    assert result.exit_code == 1
    assert result.output == (
        "Error: app not_there: ModuleNotFoundError: No module named 'not_there' "
        f"(with {sys.executable}; $CELERY_APP_PYTHON names another)\n"
    )


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:1/0", "memory://"])
def test_a_broker_that_cannot_be_used_is_told_in_one_line(broker: str) -> None:
    with Celery("proj", broker=broker, set_as_current=False) as app:
        result = invoke(app, "status")

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1


def test_what_is_refused_is_told_apart_from_what_another_host_may_be_able_to_do(app: Celery) -> None:
    with Celery("proj", broker="redis://127.0.0.1:1/0", set_as_current=False) as lost:
        assert invoke(lost, "scale", "default", "--max-workers", "0").exit_code == 1

    assert invoke(app, "scale", "default", "--max-workers", "0").exit_code == 4


def test_what_an_app_prints_is_not_mixed_with_an_answer(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(
        "import atexit, os, celery\nprint('[1]')\nos.system('echo 2')\natexit.register(print, '3')\n"
        "app = celery.Celery()\napp.config_from_object('talk_settings')\n"
    )
    (tmp_path / "talk_settings.py").write_text(f"print('4')\nbroker_url = '{redis_url}'\n")

    done = subprocess.run(
        [sys.executable, "-m", "celery_autoscaler.cli", "-A", "talk", "tally"],
        env=clean_environment()
        | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout) == {"ended": 0, "failed": 0}
    assert done.stderr.split() == ["[1]", "2", "4"]
