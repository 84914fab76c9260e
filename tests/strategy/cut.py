"""Ansible's linear strategy, cut off by a controller that dies after the first step that changed something.

CUT_LOG names the file that gets the name of the step. What no step changes is played to its end.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ansible.plugins.strategy.linear import StrategyModule as Linear

# The controller's own files are no host's.
LOCAL = {"localhost", "127.0.0.1"}


class StrategyModule(Linear):  # type: ignore[misc]
    """Kills the play where it is about to go on after a change."""

    def _process_pending_results(self, *arguments: Any, **options: Any) -> Any:
        """Look at each result when it comes."""
        results = super()._process_pending_results(*arguments, **options)
        for result in results:
            if result.is_changed() and result.task.delegate_to not in LOCAL:
                Path(os.environ["CUT_LOG"]).write_text(result.task.get_name(), encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
        return results
