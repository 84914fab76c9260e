"""Every service that a role installs or adds to is in the common sandbox, or in that of its package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.role_files import ROLES

# Their packages give them one, whose exposure is tested on hosts; the roles' additions widen nothing.
IN_THEIR_OWN = {"redis-server.service", "redis-sentinel.service"}
SANDBOX = "service-sandbox.j2"


def templates() -> dict[str, list[Path]]:
    """The templates of each unit, and of what is added to it."""
    found: dict[str, list[Path]] = {}
    for path in sorted(ROLES.glob("*/templates/etc/systemd/system/**/*.j2")):
        unit = re.search(r"([^/]+\.service)(?:\.d/|\.j2$)", str(path))
        if unit:
            found.setdefault(unit[1], []).append(path)
    return found


def included(path: Path) -> set[str]:
    """The templates that one includes, and those that they include."""
    names = set(re.findall(r"include ['\"]([^'\"]+)['\"]", path.read_text(encoding="utf-8")))
    root = next(parent for parent in path.parents if parent.name == "templates")
    return names.union(*[included(root / name) for name in names if (root / name) != path])


@pytest.mark.parametrize(("unit", "paths"), templates().items(), ids=list(templates()))
def test_a_service_is_in_the_sandbox(unit: str, paths: list[Path]) -> None:
    if unit in IN_THEIR_OWN:
        text = "".join(path.read_text(encoding="utf-8") for path in paths)
        assert not re.search(r"(?m)^(Protect|Private|Restrict|SystemCall|Capabilit|NoNewPriv)", text)
    else:
        assert SANDBOX in set().union(*map(included, paths))


def test_the_services_are_found() -> None:
    assert {"redis-backup.service", "prometheus.service", "celery-worker@.service"} <= templates().keys()
    assert templates().keys() >= IN_THEIR_OWN
