"""Several projects in an inventory: what they may share, and what they may not."""

import copy
from typing import Any

import pytest
from support.made_up_fleets import APP, GROUPS, HOSTS, SUPERVISOR, findings, with_values

# A second project on worker1, and one on a host of its own, in databases of their own.
SHOP: dict[str, Any] = {
    **HOSTS["worker1"],
    "celery_app_project": "shop",
    "celery_app_name": "shop",
    "celery_app_environment": {"CELERY_BROKER_URL": f"redis://app:{APP}@data1:6379/2"},
    "celery_autoscaler_broker_url": f"redis://supervisor:{SUPERVISOR}@data1:6379/2",
    "celery_autoscaler_http": "127.0.0.1:9542",
}
BLOG: dict[str, Any] = {
    **SHOP,
    "ansible_host": "198.51.100.23",
    "celery_app_project": "blog",
    "celery_app_name": "blog",
    "celery_app_environment": {"CELERY_BROKER_URL": f"redis://app:{APP}@data1:6379/4"},
    "celery_autoscaler_broker_url": f"redis://supervisor:{SUPERVISOR}@data1:6379/4",
}


def found(shop: dict[str, Any] | None = None, blog: dict[str, Any] | None = None) -> list[str]:
    """What is wrong with three projects, of which two have other values."""
    hosts = copy.deepcopy({**HOSTS, "shop1": SHOP | (shop or {}), "blog1": BLOG | (blog or {})})
    groups = {**GROUPS, "workers": [*GROUPS["workers"], "shop1", "blog1"], "beat": [*GROUPS["beat"], "shop1"]}
    return findings(hosts, groups)


def test_projects_with_names_share_a_host_and_an_inventory() -> None:
    assert found() == []


@pytest.mark.parametrize("name", ["Shop", "shop-eu", "1shop", "", "fleet", "s" * 21, "shop eu"])
def test_a_name_of_a_project_can_be_in_units_users_and_keys(name: str) -> None:
    found = with_values("worker1", celery_app_project=name)

    assert any(line.startswith("worker1: celery_app_project: is ") for line in found)


@pytest.mark.parametrize("name", ["celery", "shop", "shop_eu", "s" * 20, "worker", "s1"])
def test_names_of_projects(name: str) -> None:
    assert with_values("workers", celery_app_project=name) == []


def test_two_apps_are_two_projects() -> None:
    [line] = found(blog={"celery_app_project": "celery"})

    assert line == (
        "blog1: celery_app_project: 'celery' is the project of worker1, too, which has the app 'tasks'; "
        "allowed: a project of its own for each app"
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("celery_autoscaler_http", "127.0.0.1:9541"),
        ("celery_app_user", "celery"),
        ("celery_app_root", "/opt/celery"),
        ("celery_app_files_directory", "/etc/celery/files"),
    ],
)
def test_two_projects_of_a_host_take_nothing_from_each_other(variable: str, value: str) -> None:
    assert found(blog={variable: value}) == []  # on another host

    [line] = found(shop={variable: value})

    same = f"is '{value}', as on worker1, which is the same host"
    assert line.startswith(f"shop1: {variable}: {same}; allowed: another")


def test_a_project_without_a_supervisor_takes_no_port() -> None:
    shop = {"celery_autoscaler_http": "127.0.0.1:9541", "celery_app_supervised": False}

    assert not [line for line in found(shop=shop) if "celery_autoscaler_http" in line]


def test_a_host_has_one_name_for_each_project() -> None:
    lines = found(shop={"celery_app_project": "celery"})

    assert any("shop1 and worker1 are one host" in line for line in lines)


def test_a_queue_of_one_name_in_one_database_is_named() -> None:
    shop = {
        "celery_app_environment": {"CELERY_BROKER_URL": f"redis://app:{APP}@data1/0"},
        "celery_autoscaler_broker_url": HOSTS["worker1"]["celery_autoscaler_broker_url"],
    }

    [line] = found(shop)

    assert line.startswith(
        "shop1: celery_app_environment: CELERY_BROKER_URL: names the database of the project celery, which "
        "has the queues cpu_intensive, default, priority, too; allowed: another database"
    )
    groups = [SHOP["celery_app_worker_groups"][0] | {"queues": ["other"]}]
    assert found(shop | {"celery_app_worker_groups": groups}) == []


def test_a_supervisor_looks_into_the_database_of_its_app() -> None:
    [line] = found(shop={"celery_autoscaler_broker_url": f"redis://supervisor:{SUPERVISOR}@data1:6379/0"})

    assert line == (
        "shop1: celery_autoscaler_broker_url: names database 0, where the supervisor finds no workers; "
        "allowed: that of CELERY_BROKER_URL in celery_app_environment, 2"
    )


def test_bounds_of_a_group_are_those_of_its_project() -> None:
    group = SHOP["celery_app_worker_groups"][0] | {"max_workers": 7}

    assert found(shop={"celery_app_worker_groups": [group]}) == []
