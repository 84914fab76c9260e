"""The lists of the last failures and successes."""

from typing import Any

import pytest
from support.hosts.deployed_app import Batch, records, send

testinfra_hosts = ["ansible://worker1"]
units = ["celery-worker@general-1"]

KEPT = 1000


@pytest.mark.usefixtures("one_worker")  # so that the tasks end in the order in which they were sent
@pytest.mark.parametrize(
    ("outcome", "task", "kwargs", "shown"),
    [
        ("successes", "tasks.default.echo", {"value": "x"}, {"result": "x"}),
        ("failures", "tasks.default.fail", {"message": "x"}, {"error": "DemandedError('x')"}),
    ],
)
def test_the_last_thousand_are_recorded(
    trace: str, outcome: str, task: str, kwargs: dict[str, Any], shown: dict[str, str]
) -> None:
    ids = send(trace, Batch(task, KEPT + 50, kwargs))

    recorded = records(outcome, newest=ids[-1])

    assert [record["id"] for record in recorded] == ids[-KEPT:][::-1]
    assert recorded[0].items() >= {"name": task, "queue": "default", **shown}.items()
    assert recorded[0]["kwargs"].items() >= kwargs.items()
    assert recorded[0]["runtime"] > 0
