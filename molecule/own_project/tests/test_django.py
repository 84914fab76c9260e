"""What a Django project needs beside its Python modules."""

from typing import Any

from support.processes.services import wait_for

testinfra_hosts = ["ansible://django"]
units = ["celery-shop-worker@general-1"]

WITHIN = 120.0  # seconds


def test_a_template_came_along_and_routes_are_kept(project: Any, trace: str) -> None:
    [order] = project.send(trace, 1)

    confirmed = f"{order} {trace} is on its way."
    wait_for(lambda: project.executed(trace) == [confirmed], "the customer has no letter", WITHIN)
