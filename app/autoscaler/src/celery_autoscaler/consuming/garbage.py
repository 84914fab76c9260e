"""The garbage collector rests while a worker or beat loads its app.

What is loaded stays, so that a collector finds next to nothing in it, and looking takes a sixth of a start.
"""

import gc
from dataclasses import dataclass


@dataclass
class _Collector:
    resting: bool = False
    thresholds: tuple[int, int, int] = (0, 0, 0)


_collector = _Collector()


def rest() -> None:
    """Collect nothing until :func:`work`."""
    _collector.resting = True
    _collector.thresholds = gc.get_threshold()
    gc.set_threshold(0)


def work() -> None:
    """Collect again, with the thresholds that the app has set if it set some."""
    if _collector.resting and gc.get_threshold()[0] == 0:
        gc.set_threshold(*_collector.thresholds)
    _collector.resting = False


def keep_loaded() -> None:
    """Look no more at what is loaded by now, so that its memory stays shared with processes forked later."""
    if not gc.get_freeze_count():
        gc.freeze()
        work()
