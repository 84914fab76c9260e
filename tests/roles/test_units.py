"""Every service that a role installs or adds to is in the common sandbox, or in that of its package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.role_files import ROLES

# Their packages give them one, whose exposure is tested on hosts; the roles' additions widen nothing.
IN_THEIR_OWN = {"redis-server.service", "redis-sentinel.service"}
SANDBOX = re.compile(
    r"(\| celery_fleet\.platform\.(service|app)_sandbox|\{\{ __celery_(app|autoscaler)_sandbox) \}\}"
)


def templates() -> dict[str, list[Path]]:
    """The templates of each unit, and of what is added to it."""
    found: dict[str, list[Path]] = {}
    for path in sorted(ROLES.glob("*/templates/etc/systemd/system/**/*.j2")):
        unit = re.search(r"([^/]+\.service)(?:\.d/|\.j2$)", str(path))
        if unit:
            found.setdefault(unit[1], []).append(path)
    return found


def text_of(path: Path) -> str:
    """The text of a template, and of those that it includes."""
    text = path.read_text(encoding="utf-8")
    root = next(parent for parent in path.parents if parent.name == "templates")
    return text + "".join(text_of(root / name) for name in re.findall(r"include ['\"]([^'\"]+)['\"]", text))


@pytest.mark.parametrize(("unit", "paths"), templates().items(), ids=list(templates()))
def test_a_service_is_in_the_sandbox(unit: str, paths: list[Path]) -> None:
    if unit in IN_THEIR_OWN:
        text = "".join(path.read_text(encoding="utf-8") for path in paths)
        assert not re.search(r"(?m)^(Protect|Private|Restrict|SystemCall|Capabilit|NoNewPriv)", text)
    else:
        assert SANDBOX.search("".join(map(text_of, paths)))


def test_the_services_are_found() -> None:
    assert {"redis-backup.service", "prometheus.service", "celery-worker@.service"} <= templates().keys()
    assert templates().keys() >= IN_THEIR_OWN
