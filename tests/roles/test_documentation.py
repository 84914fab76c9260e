"""Each role: its defaults, its argument specs and the table in its README say the same."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parent for path in (CHECKOUT / "roles").glob("*/tasks"))
SECRET = re.compile(r"(password|passphrase|secret|token)$")


def load(path: Path) -> dict[str, Any]:
    """The content of a YAML file, or nothing."""
    if not path.exists():
        return {}
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return content


def specs(role: Path) -> dict[str, Any]:
    """The entry points of a role."""
    entries: dict[str, Any] = load(role / "meta/argument_specs.yml").get("argument_specs", {})
    return entries


def options(role: Path) -> dict[str, Any]:
    """The variables of all entry points."""
    found: dict[str, Any] = {}
    for entry in specs(role).values():
        found.update(entry.get("options") or {})
    return found


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_entry_point_is_described(role: Path) -> None:
    assert "main" in specs(role)
    for entry, spec in specs(role).items():
        assert (role / f"tasks/{entry}.yml").exists(), f"{entry} is described but not there"
        assert spec.get("short_description"), entry


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_defaults_are_those_of_the_argument_specs(role: Path) -> None:
    described = {name: option["default"] for name, option in options(role).items() if "default" in option}
    assert load(role / "defaults/main.yml") == described


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_is_described_and_carries_the_name_of_the_role(role: Path) -> None:
    for name, option in options(role).items():
        assert name.startswith(f"{role.name}_"), name
        assert option.get("description"), name
        assert "default" in option or option.get("required") or option.get("type"), name


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_no_secret_and_no_version_has_a_default(role: Path) -> None:
    for name in load(role / "defaults/main.yml"):
        assert not SECRET.search(name), f"{name} has a default"
        assert not name.endswith("_version"), f"{name} has a default"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_internal_variables_are_marked_as_such(role: Path) -> None:
    for name in load(role / "vars/main.yml"):
        assert name.startswith(f"__{role.name}_"), name


def test_the_readmes_are_current() -> None:
    done = subprocess.run(
        [CHECKOUT / "scripts/role-docs", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
