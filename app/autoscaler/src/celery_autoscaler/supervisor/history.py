"""What was seen of each group over the last day, for the page: one record of the fleet every ten seconds.

The records are a stream in Redis. The first of the living supervisors writes them.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.reading import UnreadableError, read_number, read_text
from celery_autoscaler.protocol.status import GroupStatus
from celery_autoscaler.supervisor.observation import FleetSeen

# Seconds between two records.
EVERY_SECONDS = 10
# Seconds for which they are kept, and their number.
KEPT_SECONDS = 24 * 3600
RECORDS = KEPT_SECONDS // EVERY_SECONDS
# What a record says of a group, in this order.
FIGURES = ("ready", "starting", "draining", "max_workers", "waiting", "age")
# Those of which the worst since the last record counts.
PEAKS = ("waiting", "age")
# No figure is larger.
MOST = 1e15


@dataclass
class Recorder:
    """Makes the records of a supervisor."""

    _slot: int = 0
    _peaks: dict[str, dict[str, float]] = field(default_factory=dict)
    """The most that waited, and the longest, in each group since the last record."""

    def record(self, host: str, seen: FleetSeen, groups: Mapping[str, GroupStatus]) -> dict[str, str]:
        """Return the record that is due: groups by name; nothing if it is not due, or another host's part."""
        for name, group in groups.items():
            peaks = self._peaks.setdefault(name, dict.fromkeys(PEAKS, 0.0))
            for figure in PEAKS:
                peaks[figure] = max(peaks[figure], getattr(group, figure))
        slot = int(seen.time // EVERY_SECONDS)
        if slot == self._slot:
            return {}
        self._slot = slot
        all_peaks, self._peaks = self._peaks, {}
        if min((peer.host for peer in seen.peers), default="") != host:
            return {}
        return {name: as_text(vars(group) | all_peaks[name]) for name, group in groups.items()}


def as_text(group: Mapping[str, Any]) -> str:
    """Return a record of a group from its figures."""
    return " ".join(f"{group[name]:.4g}" if name == "age" else str(int(group[name])) for name in FIGURES)


def read(broker: Broker, seconds: float, points: int = RECORDS) -> dict[str, dict[str, list[float]]]:
    """Return what was recorded of each group in the last seconds.

    Args:
        broker: The broker.
        seconds: How far to look back.
        points: Most points of a group; of records that share one the worst counts.

    Returns:
        For each group the times, ``at``, in seconds of the epoch, and as long a list for each figure.
    """
    now, _ = broker.client.time()
    width = max(EVERY_SECONDS, seconds / points)
    found: dict[str, dict[str, list[float]]] = {}
    for at, groups in _entries(broker, now - seconds):
        for name, figures in groups:
            columns = found.setdefault(name, {figure: [] for figure in ("at", *FIGURES)})
            if (
                columns["at"]
                and int(columns["at"][-1] // width) == int(at // width)
                and width > EVERY_SECONDS
            ):
                for figure, value in zip(FIGURES, figures, strict=True):
                    columns[figure][-1] = max(columns[figure][-1], value)
                continue
            for figure, value in zip(("at", *FIGURES), (at, *figures), strict=True):
                columns[figure].append(value)
    return found


def _entries(broker: Broker, since: float) -> Iterator[tuple[float, list[tuple[str, list[float]]]]]:
    """Yield the time and the groups of each record; what cannot be read is left out."""
    for entry_id, fields in broker.client.xrange(broker.keys.history, min=max(0, round(since * 1000))):
        groups = []
        for name, text in fields.items():
            with suppress(UnreadableError):
                groups.append((read_text(name), read_figures(text)))
        yield int(entry_id.partition(b"-")[0]) / 1000, groups


def read_figures(text: bytes) -> list[float]:
    """Return the figures of a group, in the order of :data:`FIGURES`.

    Raises:
        UnreadableError: They are something else.
    """
    figures = [read_number(part, 0.0, MOST) for part in read_text(text).split()]
    if len(figures) != len(FIGURES):
        raise UnreadableError(f"there are not {len(FIGURES)} figures")
    return figures
