"""The options and bounds that the rules know are those of Celery, the supervisor and the roles."""

import celery.bin.worker
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import app
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.bounds import BOUNDS, GROUP
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.options import (
    ALLOWED,
    REFUSED,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.specs import options
from celery_autoscaler import settings as supervisor


def test_the_options_of_workers_are_those_of_celerys_command() -> None:
    assert ALLOWED.keys() | REFUSED.keys() == {
        parameter.name for parameter in celery.bin.worker.worker.params
    }
    assert not ALLOWED.keys() & REFUSED.keys()


def test_the_bounds_are_those_that_the_supervisor_takes() -> None:
    fields = {name: field.metadata for name, field in supervisor.Group.__dataclass_fields__.items()} | {
        name: field.metadata for name, field in supervisor.Settings.__dataclass_fields__.items()
    }
    ours = {name: bounds for name, bounds in GROUP.items() if name != "workers"} | {
        name.removeprefix("celery_autoscaler_"): bounds
        for name, bounds in BOUNDS.items()
        if name.startswith("celery_autoscaler_") and "." not in name
    }
    for name, (low, high) in ours.items():
        rule = fields[name]["rule"]
        assert rule.fits(low), name
        assert rule.fits(high), name
        assert not rule.fits(high + 1), name
        assert not rule.fits(low - 1), name
    assert app.GROUP_NAME.pattern == supervisor.GROUP_NAME


def test_each_bound_is_one_of_a_number_that_a_role_knows() -> None:
    for path in BOUNDS:
        name, _, key = path.partition(".")
        option = options()[name]
        # Raw is what may be a number or two.
        assert (option["options"][key] if key else option)["type"] in ("int", "float", "raw"), path


def test_the_defaults_of_the_roles_keep_the_bounds() -> None:
    for path, (low, high) in BOUNDS.items():
        if "." not in path and "default" in options()[path]:
            assert low <= options()[path]["default"] <= high, path


def test_each_whole_number_has_bounds() -> None:
    numbers = {name for name, option in options().items() if option.get("type") in ("int", "float")}

    assert numbers - BOUNDS.keys() == set()
