"""The Lua scripts: Redis takes each of them, their heads say what they are for, and a wheel holds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import celery_autoscaler
import pytest
from celery_autoscaler.protocol.script import script
from redis import Redis
from redis.exceptions import ResponseError

PACKAGE = Path(celery_autoscaler.__file__).parent
SCRIPTS = sorted(PACKAGE.rglob("*.lua"))


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_redis_takes_a_script_whose_head_names_its_keys(file: Path, redis_url: str) -> None:
    text = script(file.parent.parent.name, file.stem)

    assert Redis.from_url(redis_url).script_load(text)
    assert not text.startswith("--")
    assert file.read_text().startswith("-- KEYS: ")


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_a_script_is_read_by_one_module(file: Path) -> None:
    call = f'script("{file.parent.parent.name}", "{file.stem}")'

    assert sum(call in module.read_text() for module in PACKAGE.rglob("*.py")) == 1


def test_redis_refuses_a_script_with_a_mistake(redis_url: str) -> None:
    with pytest.raises(ResponseError):
        Redis.from_url(redis_url).script_load(script("protocol", "move") + "end")


def test_a_wheel_holds_them(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    subprocess.run(command, cwd=PACKAGE.parents[1], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")

    names = ZipFile(wheel).namelist()

    assert {f"celery_autoscaler/{file.relative_to(PACKAGE)}" for file in SCRIPTS} <= {*names}
