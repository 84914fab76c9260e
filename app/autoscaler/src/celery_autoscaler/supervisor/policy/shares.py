"""Which hosts run a group's workers, and which workers are stopped first. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Offer:
    """What a host offers to a group."""

    host: str
    weight: float
    """Its capacity in relation to the others."""
    limit: int | None = None
    """The most workers that it can run now, if it is short of something."""
    turn: int = 0
    """Decides between equals; another one in each group, or one host would run the first worker of all."""


def share(want: int, offers: Sequence[Offer]) -> dict[str, int]:
    """Divide workers among hosts by their weight.

    One worker after the other goes to the host with the highest ``weight / (workers + 1)`` (D'Hondt), which
    does not depend on how many follow: supervisors that want different numbers for a moment still give every
    host at most what the largest of these numbers gives it, so that together they keep the bounds.
    """
    given = {offer.host: 0 for offer in offers}
    open_offers = sorted(offers, key=lambda offer: (offer.turn, offer.host))
    for _ in range(want):
        open_offers = [o for o in open_offers if o.limit is None or given[o.host] < o.limit]
        if not open_offers:
            break
        best = max(open_offers, key=lambda offer: offer.weight / (given[offer.host] + 1))
        given[best.host] += 1
    return given


def moves(
    want: int, max_workers: int, have: Mapping[str, int], offers: Sequence[Offer], *, rebalance: bool
) -> dict[str, int]:
    """Return how many workers each host should start (positive) or stop (negative) now.

    Every supervisor computes the same from the same; each acts for its own host only. Workers are not moved
    for the sake of even shares while demand goes up or down anyway: who has too few starts, who has too many
    stops.

    Args:
        want: Workers of the fleet.
        max_workers: Workers that the fleet must not exceed.
        have: Workers that consume or start, by host; those of hosts without a supervisor among them.
        offers: What the hosts with a supervisor offer.
        rebalance: Whether to move one worker to a host that has too few, when the number itself is right.
    """
    hosts = [offer.host for offer in offers]
    alone = sum(count for host, count in have.items() if host not in hosts)
    targets = share(max(0, want - alone), offers)
    counts = {host: have.get(host, 0) for host in hosts}
    deltas = dict.fromkeys(hosts, 0)

    def lacking(host: str) -> int:
        return targets[host] - counts[host] - deltas[host]

    missing = want - alone - sum(counts.values())
    if missing == 0 and rebalance and is_uneven(counts, offers, targets):
        missing = 1 if want < max_workers else -1
    step = 1 if missing > 0 else -1
    for _ in range(abs(missing)):
        candidates = [host for host in sorted(hosts) if step * lacking(host) > 0]
        if not candidates:
            break
        deltas[max(candidates, key=lambda host: step * lacking(host))] += step
    return deltas


def is_uneven(counts: Mapping[str, int], offers: Sequence[Offer], targets: Mapping[str, int]) -> bool:
    """Return whether moving a worker from one host to another makes the shares more even."""
    weights = {offer.host: offer.weight for offer in offers}
    over = [host for host in counts if counts[host] > targets[host]]
    under = [host for host in counts if counts[host] < targets[host]]
    return any(
        counts[rich] / weights[rich] > (counts[poor] + 1) / weights[poor] for rich in over for poor in under
    )


def stop_candidates(count: int, candidates: Mapping[str, "Candidate"]) -> list[str]:
    """Return the workers to stop: outdated ones first, then idle ones, then those with least work left."""
    ordered = sorted(candidates, key=lambda name: (candidates[name].order, name))
    return ordered[: max(0, count)]


@dataclass(frozen=True)
class Candidate:
    """A worker that could be stopped."""

    outdated: bool
    busy: int
    """Messages that it runs or holds."""
    remaining: float
    """Seconds of work that it probably still has."""

    @property
    def order(self) -> tuple[bool, bool, float]:
        """Sorts the cheapest to stop first."""
        return (not self.outdated, self.busy > 0, self.remaining)
