"""The shares of the hosts, and who is stopped first: what holds for any fleet."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from celery_autoscaler.supervisor.policy.shares import (
    Candidate,
    Offer,
    is_uneven,
    moves,
    share,
    stop_candidates,
)
from hypothesis import given, settings
from hypothesis import strategies as st

# The machine may be busy, and each run is the same.
properties = settings(deadline=None, max_examples=70, derandomize=True)

# --- Shares of the hosts -------------------------------------------------------------------------------

names = ["a", "b", "c", "d", "e"]


@st.composite
def offers(draw: st.DrawFn) -> list[Offer]:
    """What some hosts offer."""
    hosts = draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    return [Offer(host, draw(st.floats(0.5, 64)), draw(st.none() | st.integers(0, 20))) for host in hosts]


@properties
@given(st.integers(0, 60), offers())
def test_shares_sum_up_and_keep_the_limits(want: int, hosts: list[Offer]) -> None:
    given_out = share(want, hosts)

    limits = [want if offer.limit is None else offer.limit for offer in hosts]
    assert sum(given_out.values()) == min(want, sum(limits))
    assert all(given_out[offer.host] <= limit for offer, limit in zip(hosts, limits, strict=True))


@properties
@given(st.integers(0, 60), offers())
def test_more_workers_take_none_from_any_host(want: int, hosts: list[Offer]) -> None:
    fewer, more = share(want, hosts), share(want + 1, hosts)

    assert all(fewer[host] <= more[host] for host in fewer)


@properties
@given(st.integers(0, 60), offers(), st.randoms(use_true_random=False))
def test_shares_do_not_depend_on_the_order_of_the_offers(
    want: int, hosts: list[Offer], chance: object
) -> None:
    shuffled = list(hosts)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]

    assert share(want, hosts) == share(want, shuffled)


def test_shares_follow_the_weights() -> None:
    assert share(12, [Offer("a", 1.0), Offer("b", 2.0), Offer("c", 3.0)]) == {"a": 2, "b": 4, "c": 6}


def test_what_a_short_host_cannot_take_the_others_get() -> None:
    assert share(6, [Offer("a", 1.0, limit=0), Offer("b", 1.0), Offer("c", 1.0)]) == {"a": 0, "b": 3, "c": 3}


# --- Moves ---------------------------------------------------------------------------------------------

counts = st.dictionaries(st.sampled_from([*names, "dead"]), st.integers(0, 15))


def moved(have: dict[str, int], deltas: dict[str, int]) -> dict[str, int]:
    """Return how many workers there are after all hosts have acted."""
    return dict(Counter(have) + Counter({h: d for h, d in deltas.items() if d > 0})) | {
        host: have.get(host, 0) + delta for host, delta in deltas.items()
    }


@st.composite
def fleets(draw: st.DrawFn) -> tuple[int, int, dict[str, int], list[Offer]]:
    """A number wanted, a maximum, what there is, and what is offered."""
    max_workers = draw(st.integers(1, 40))
    return draw(st.integers(0, max_workers)), max_workers, draw(counts), draw(offers())


@properties
@given(fleets(), st.booleans())
def test_the_fleet_never_grows_beyond_its_maximum(
    fleet: tuple[int, int, dict[str, int], list[Offer]], rebalance: bool
) -> None:
    want, max_workers, have, hosts = fleet

    then = moved(have, moves(want, max_workers, have, hosts, rebalance=rebalance))

    assert sum(then.values()) <= max(max_workers, sum(have.values()))
    assert all(count >= 0 for count in then.values())


@properties
@given(fleets(), st.data())
def test_supervisors_that_disagree_for_a_moment_do_not_exceed_the_maximum_together(
    fleet: tuple[int, int, dict[str, int], list[Offer]], data: st.DataObject
) -> None:
    _, max_workers, have, hosts = fleet
    own = {}
    for offer in hosts:
        want = data.draw(st.integers(0, max_workers))
        own[offer.host] = moves(want, max_workers, have, hosts, rebalance=False)[offer.host]

    assert sum(moved(have, own).values()) <= max(max_workers, sum(have.values()))


@properties
@given(fleets())
def test_the_wanted_number_is_reached_where_the_hosts_can(
    fleet: tuple[int, int, dict[str, int], list[Offer]],
) -> None:
    want, max_workers, have, hosts = fleet
    # A limit is what a host has, or more.
    hosts = [
        offer if offer.limit is None else replace(offer, limit=max(offer.limit, have.get(offer.host, 0)))
        for offer in hosts
    ]
    alone = sum(count for host, count in have.items() if host not in {offer.host for offer in hosts})

    then = moved(have, moves(want, max_workers, have, hosts, rebalance=False))

    room = [want if offer.limit is None else offer.limit for offer in hosts]
    assert sum(then.values()) == max(alone, min(want, alone + sum(room)))


@properties
@given(fleets())
def test_nothing_moves_while_the_number_is_right(
    fleet: tuple[int, int, dict[str, int], list[Offer]],
) -> None:
    _, max_workers, have, hosts = fleet

    deltas = moves(sum(have.values()), max_workers, have, hosts, rebalance=False)

    assert not any(deltas.values())


def test_the_first_workers_of_several_groups_are_not_all_on_one_host() -> None:
    def first(turns: tuple[int, int]) -> str:
        offers = [Offer(host, 1.0, turn=turn) for host, turn in zip(("a", "b"), turns, strict=True)]
        [host] = [host for host, count in share(1, offers).items() if count]
        return host

    assert first((1, 2)) == "a"
    assert first((2, 1)) == "b"


@properties
@given(fleets())
def test_rebalancing_ends_when_no_move_makes_it_more_even_and_strays_by_one(
    fleet: tuple[int, int, dict[str, int], list[Offer]],
) -> None:
    _, max_workers, have, hosts = fleet
    hosts = [replace(offer, limit=None) for offer in hosts]
    have = {host: count for host, count in have.items() if host in {offer.host for offer in hosts}}
    want = sum(have.values())
    max_workers = max(max_workers, want)
    for _ in range(2 * want + 2):
        have = moved(have, moves(want, max_workers, have, hosts, rebalance=True))
        assert want - 1 <= sum(have.values()) <= min(want + 1, max_workers)

    assert not is_uneven(have, hosts, share(want, hosts))
    assert not any(moves(want, max_workers, have, hosts, rebalance=True).values())


def test_rebalancing_gives_a_new_host_its_share() -> None:
    hosts = [Offer("a", 1.0), Offer("new", 1.0)]

    assert moves(4, 5, {"a": 4}, hosts, rebalance=True) == {"a": 0, "new": 1}
    assert moves(4, 5, {"a": 4, "new": 1}, hosts, rebalance=True) == {"a": -1, "new": 0}
    assert moves(4, 4, {"a": 4}, hosts, rebalance=True) == {"a": -1, "new": 0}
    assert moves(4, 4, {"a": 3}, hosts, rebalance=True) == {"a": 0, "new": 1}


def test_rebalancing_moves_nothing_that_would_be_as_uneven_elsewhere() -> None:
    hosts = [Offer("a", 1.0), Offer("b", 1.0)]

    assert moves(3, 5, {"a": 1, "b": 2}, hosts, rebalance=True) == {"a": 0, "b": 0}


def test_workers_of_a_host_without_a_supervisor_count() -> None:
    hosts = [Offer("a", 1.0), Offer("b", 1.0)]

    assert moves(6, 6, {"a": 1, "dead": 3}, hosts, rebalance=False) == {"a": 1, "b": 1}
    assert moves(2, 6, {"a": 1, "b": 1, "dead": 3}, hosts, rebalance=False) == {"a": -1, "b": -1}


def test_a_share_is_taken_over_from_a_host_that_is_gone() -> None:
    assert moves(4, 4, {"a": 2}, [Offer("a", 1.0)], rebalance=False) == {"a": 2}


# --- Victims -------------------------------------------------------------------------------------------


def test_outdated_workers_go_first_then_idle_ones_then_those_with_least_left() -> None:
    workers = {
        "busy-long": Candidate(outdated=False, busy=1, remaining=60.0),
        "busy-short": Candidate(outdated=False, busy=2, remaining=1.0),
        "idle": Candidate(outdated=False, busy=0, remaining=0.0),
        "old": Candidate(outdated=True, busy=1, remaining=100.0),
        "old-idle": Candidate(outdated=True, busy=0, remaining=0.0),
    }

    assert stop_candidates(5, workers) == ["old-idle", "old", "idle", "busy-short", "busy-long"]
    assert stop_candidates(2, workers) == ["old-idle", "old"]
    assert stop_candidates(0, workers) == stop_candidates(-1, workers) == []


def test_equal_workers_go_by_their_names() -> None:
    workers = {name: Candidate(outdated=False, busy=0, remaining=0.0) for name in ("c", "a", "b")}

    assert stop_candidates(2, workers) == ["a", "b"]
