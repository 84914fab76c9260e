"""Which bounds hold for a group: those of its settings, unless an operator has set others."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from celery_autoscaler.protocol.overrides import ALL, KIND, Override
from celery_autoscaler.protocol.reading import Refusal
from celery_autoscaler.settings import Group


def in_force(
    overrides: Mapping[str, Override], groups: Iterable[Group]
) -> tuple[dict[str, Override], list[Refusal]]:
    """Return what holds for each group, and the bounds that cannot be together with those of its settings.

    What is set for all groups pauses each of them.
    """
    every, found, refused = overrides.get(ALL, Override()), {}, []
    for group in groups:
        own = overrides.get(group.name, Override())
        low = group.min_workers if own.min_workers is None else own.min_workers
        high = group.max_workers if own.max_workers is None else own.max_workers
        if low > high:
            why = f"min_workers {low} is more than max_workers {high}: both are ignored"
            refused.append(Refusal(KIND, group.name, why))
            own = replace(own, min_workers=None, max_workers=None)
        found[group.name] = replace(own, paused=True, by=every.by, pause=every.pause) if every.paused else own
    return found, refused


def bounds(group: Group, override: Override) -> tuple[int, int]:
    """Return the minimum and the maximum in force."""
    low = group.min_workers if override.min_workers is None else override.min_workers
    high = group.max_workers if override.max_workers is None else override.max_workers
    return min(low, high), high
