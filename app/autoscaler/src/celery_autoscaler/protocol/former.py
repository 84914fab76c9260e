"""Names of the release before, which its workers and supervisors still write during a rolling deploy."""

from collections.abc import Mapping
from typing import Any

FORMER_NAMES = {"promise": "target_wait", "minimum": "min_workers", "maximum": "max_workers"}


def renamed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping whose former names are those of this release; a name of this release counts first."""
    former = {FORMER_NAMES[name]: value for name, value in found.items() if name in FORMER_NAMES}
    return former | {name: value for name, value in found.items() if name not in FORMER_NAMES}
