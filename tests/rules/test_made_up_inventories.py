"""The rules over made-up inventories: they never fail, and find each planted fault in one line."""

import copy
from typing import Any
from urllib.parse import quote

from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.specs import options
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kombu.utils.url import url_to_parts
from support.made_up_fleets import CPU, GENERAL, GROUPS, HOSTS, findings, with_group, with_values

NAMES = sorted(options())
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["true", "no", "{{ undefined }}", "{{ ansible_facts['x'] }}", "redis://a:b@c:1/0", "data1"]
    )
    | st.dates()
    | st.binary(max_size=4)
)
KEYS = st.text(max_size=8) | st.sampled_from(
    [key for option in options().values() for key in option.get("options", {})] + ["CELERY_BROKER_URL"]
)
# Whatever YAML can hold.
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS | st.integers() | st.booleans() | st.none(), inner, max_size=5)
    ),
    max_leaves=12,
)
VARIABLES = st.dictionaries(
    st.sampled_from([*NAMES, "ansible_host", "ansible_port", "ansible_connection"]) | st.text(max_size=12),
    VALUES,
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(changes=st.dictionaries(st.sampled_from([*HOSTS, "other"]), VARIABLES, min_size=1))
def test_any_value_of_any_variable_gives_lines_and_no_failure(changes: dict[str, dict[str, Any]]) -> None:
    hosts: dict[str, dict[str, Any]] = copy.deepcopy(HOSTS)
    for host, values in changes.items():
        hosts.setdefault(host, {}).update(values)

    for line in findings(hosts, GROUPS):
        assert line.isprintable()
        assert line.count(": ") >= 1


@settings(max_examples=100, deadline=None)
@given(
    groups=st.dictionaries(
        st.sampled_from(["redis", "postgres", "workers", "worker", "beat", "monitoring"])
        | st.text(max_size=8),
        st.lists(st.sampled_from([*HOSTS, "nobody"]), max_size=4),
        max_size=6,
    )
)
def test_any_groups_give_lines_and_no_failure(groups: dict[str, list[str]]) -> None:
    assert all(line.isprintable() for line in findings(HOSTS, groups))


COUNTS = st.integers(1, 100)
QUEUE = st.text("abcdefghijklmnopqrstuvwxyz_.-é", min_size=1, max_size=12)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[dict[str, dict[str, Any]], dict[str, list[str]]]:
    """A fleet without a fault: other groups, bounds, users and numbers of hosts."""
    low = draw(st.integers(0, 50))
    queues = draw(st.lists(QUEUE, min_size=2, max_size=6, unique=True))
    cut = draw(st.integers(1, len(queues) - 1))
    general = GENERAL | {
        "queues": queues[:cut],
        "concurrency": draw(COUNTS),
        "min_workers": low,
        "max_workers": low + draw(COUNTS),
        "pool": draw(st.sampled_from(["prefork", "threads", "gevent", "solo"])),
        "target_wait": draw(st.floats(0.1, 86_400)),
    }
    names = [f"worker{number}" for number in range(1, draw(st.integers(1, 8)) + 1)]
    spelt = draw(st.sampled_from([True, "true", "yes", 1]))
    hosts = {"data1": copy.deepcopy(HOSTS["data1"])}
    for number, name in enumerate(names):
        hosts[name] = copy.deepcopy(HOSTS["worker1"]) | {
            "ansible_host": f"198.51.100.{100 + number}",
            "celery_app_supervised": spelt,
            "celery_app_worker_groups": [general, {**CPU, "queues": queues[cut:]}],
        }
    return hosts, {**GROUPS, "workers": names}


@settings(max_examples=60, deadline=None)
@given(fleets())
def test_a_fleet_without_a_fault_has_no_findings(
    fleet: tuple[dict[str, dict[str, Any]], dict[str, list[str]]],
) -> None:
    assert findings(*fleet) == []


@settings(max_examples=60, deadline=None)
@given(fleets(), st.data())
def test_one_planted_fault_is_found(
    fleet: tuple[dict[str, dict[str, Any]], dict[str, list[str]]], data: st.DataObject
) -> None:
    hosts, groups = fleet
    host = data.draw(st.sampled_from(sorted(hosts)))
    role = "redis_" if host == "data1" else "celery_app_"
    name = data.draw(
        st.sampled_from([name for name in NAMES if name.startswith(role) and name not in hosts[host]])
    )
    # A letter left out, two exchanged, or a value that no type takes.
    cut = data.draw(st.integers(len(role), len(name) - 2))
    misspelt = data.draw(
        st.sampled_from(
            [name[:cut] + name[cut + 1 :], name[:cut] + name[cut + 1] + name[cut] + name[cut + 2 :]]
        )
    )
    variable, value = data.draw(st.sampled_from([(misspelt, True), (name, None), (name, object())]))
    if variable in NAMES and value is True:
        return
    hosts[host][variable] = value

    assert [line for line in findings(hosts, groups) if variable in line.split(": ")[1]]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(GENERAL)), st.data())
def test_a_misspelt_key_of_a_group_is_found(key: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(key) - 1))
    misspelt = key[:cut] + key[cut + 1 :]
    group = {name: value for name, value in GENERAL.items() if name != key} | {misspelt: GENERAL[key]}

    found = with_values("workers", celery_app_worker_groups=[group, CPU])

    assert [line for line in found if f"{misspelt} is unknown; " in line]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 10_000))
def test_bounds_are_refused_where_there_is_no_number_between_them(low: int, high: int) -> None:
    assert bool(with_group(min_workers=low, max_workers=high)) == (low > high)


def with_password(password: str, url: str) -> list[str]:
    """What is wrong when the user of the app has a password, and the app a URL of the broker."""
    hosts = copy.deepcopy(HOSTS)
    hosts["data1"]["redis_users"][0]["password"] = password
    for name in GROUPS["workers"]:
        hosts[name]["celery_app_environment"] = {"CELERY_BROKER_URL": url}
    return findings(hosts, GROUPS)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda ending: "=" not in ending))
@example("@0?")
@example("@0/#")
def test_a_password_is_what_the_app_logs_in_with_or_the_url_is_refused(ending: str) -> None:
    password = f"long-enough-password{ending}"
    as_it_is = f"redis://app:{password}@data1:6379/0"
    encoded = f"redis://app:{quote(password, safe='')}@data1:6379/0"

    if not with_password(password, as_it_is):
        assert url_to_parts(as_it_is).password == password
    assert with_password(password, encoded) == []
    assert url_to_parts(encoded).password == password
