"""Several projects on a host: what one of them has there is no other one's."""

import re
from typing import Any

import pytest
from celery_autoscaler.protocol.keys import Keys
from celery_autoscaler.supervisor.launchers.systemd import unit_of
from support.made_up_projects import INPUTS
from support.role_files import evaluate

WEB: dict[str, Any] = {"name": "web", "queues": ["web"], "pool": "prefork", "concurrency": 1, "workers": 1}
ONE: dict[str, Any] = INPUTS | {
    "celery_app_beat": True,
    "celery_app_files": [{"dest": "own.json", "content": "{}"}],
    "celery_app_supervised": True,
    "celery_app_worker_groups": [WEB | {"memory_max": "2G", "environment": {"TOKEN": "x"}}],
    "__celery_app_supervisor_bundle": {"release": "5ae0d1c2b3f4"},
}
SHOP = ONE | {"celery_app_project": "shop"}
# What the project without a name has on its host, as a unit, a folder or a command.
OF_THE_OTHER = re.compile(
    r"\bcelery-(worker@|beat\b|limits\b|launch\b|app\b|autoscaler\.service|autoscaler-launch)"
    r"|/(etc|opt|var/lib)/celery\b(?!-)|/run/celery-autoscaler|\b(User|StateDirectory)=celery$"
    r"|Slice=celery\.slice|\"celery\"",
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def files() -> list[dict[str, dict[str, Any]]]:
    """What both roles write on a host for each of two projects, by path."""
    app = evaluate("celery_app", "(__celery_app_files + __celery_app_secret_files)", [ONE, SHOP])
    names = [
        {
            "celery_app_user": user,
            "celery_app_root": f"/opt/{user}",
            "celery_app_stop_timeout": 60,
            "celery_app_start_timeout": 60,
        }
        for user in ("celery", "celery-shop")
    ]
    supervisor = evaluate(
        "celery_autoscaler",
        "(__celery_autoscaler_files + __celery_autoscaler_secret_files)",
        [ONE | names[0], SHOP | names[1]],
    )
    return [
        {file["path"]: file for file in [*own, *others]} for own, others in zip(app, supervisor, strict=True)
    ]


def test_two_projects_share_no_file(files: list[dict[str, dict[str, Any]]]) -> None:
    one, shop = files

    assert len(one) == len(shop)
    assert not one.keys() & shop.keys()
    assert [path for path in shop if OF_THE_OTHER.search(path)] == []


def test_no_file_of_a_project_names_what_is_another_one_s(files: list[dict[str, dict[str, Any]]]) -> None:
    one, shop = files

    found = {path: OF_THE_OTHER.findall(file["content"]) for path, file in shop.items()}
    assert {path for path, names in found.items() if names} == set()
    # The pattern finds them where they are.
    assert len([path for path, file in one.items() if OF_THE_OTHER.search(file["content"])]) > 5


def test_a_supervisor_may_not_touch_the_workers_of_another_project(
    files: list[dict[str, dict[str, Any]]],
) -> None:
    for own, other, user in ((0, "celery-shop-", "celery"), (1, "celery-", "celery-shop")):
        [rules] = [file["content"] for path, file in files[own].items() if path.endswith(".rules")]
        patterns = re.findall(r"/(\^.*\$)/\.test\(unit\)", rules)
        assert len(patterns) == 2
        assert f'subject.user !== "{user}"' in rules
        for pattern in patterns:
            assert re.search(pattern, f"{user}-worker@web-1.service")
            assert not re.search(pattern, f"{other}worker@web-1.service")


def test_the_processes_of_a_project_know_its_name() -> None:
    sandboxes = evaluate("celery_app", "__celery_app_sandbox", [ONE, SHOP])

    assert ["Environment=CELERY_APP_PROJECT=shop" in text.splitlines() for text in sandboxes] == [False, True]


def names_of(keys: Keys) -> set[str]:
    """The names of all keys, for a worker, a group, a host and a queue of one name."""
    found = set()
    for name in vars(Keys):
        part = getattr(keys, name)
        if name.startswith("_") or name in ("prefix", "project", "without_prefix", "set_aside"):
            continue
        found.add(part("workers") if callable(part) else part)
    return found


def test_two_projects_in_one_database_share_no_key() -> None:
    one, shop, eu = (names_of(Keys("app:", project)) for project in ("", "shop", "shop_eu"))

    assert len(one) == len(shop) > 15
    assert not one & shop
    assert not shop & eu
    assert {key.startswith("app:fleet:project:shop:") for key in shop} == {True}
    assert Keys().workers == "fleet:workers"
    assert Keys().dead_letter("web") == "dead_letter:web"


def test_the_environment_says_which_project_a_process_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unit_of("web-1") == "celery-worker@web-1.service"

    monkeypatch.setenv("CELERY_APP_PROJECT", "shop")

    assert unit_of("web-1") == "celery-shop-worker@web-1.service"
