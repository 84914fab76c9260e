"""What goes into a release of the user's project runs with whatever version of Celery that has."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from support.processes.process import clean_environment

pytestmark = pytest.mark.versions

FOLDER = Path(__file__).parents[1]
WHEEL = tomllib.loads((FOLDER / "worker/pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]
INCLUDED = WHEEL["build"]["targets"]["wheel"]["force-include"].values()
PACKAGES = ["celery_autoscaler.consuming", "celery_autoscaler.protocol"]
MODULES = sorted(
    name.removesuffix(".py").replace("/", ".") for name in INCLUDED if name.endswith(".py")
) + sorted(
    found.name
    for package in PACKAGES
    for found in pkgutil.iter_modules([str(FOLDER / "src" / package.replace(".", "/"))], f"{package}.")
)


def test_every_module_can_be_imported() -> None:
    assert "celery_autoscaler.smoke_test" in MODULES
    assert "celery_autoscaler.consuming.channel" in MODULES
    imports = "".join(f"import {name.removesuffix('.__init__')}\n" for name in MODULES)

    done = subprocess.run(
        [sys.executable, "-c", imports],
        check=False,
        capture_output=True,
        text=True,
        env=clean_environment(),
    )

    assert done.returncode == 0, done.stderr
