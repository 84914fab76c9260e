"""Words of release 0.1, which its supervisors and operators wrote and which a rolling deploy still meets.

Goes with release 0.3, whose changelog is to say that 0.1 is upgraded by way of 0.2.
"""

from collections.abc import Mapping
from typing import Any

FORMER_NAMES = {"promise": "target_wait", "minimum": "min_workers", "maximum": "max_workers"}


def renamed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping whose former names are those of this release; a name of this release counts first."""
    former = {FORMER_NAMES[name]: value for name, value in found.items() if name in FORMER_NAMES}
    return former | {name: value for name, value in found.items() if name not in FORMER_NAMES}
