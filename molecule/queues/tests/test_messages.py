"""Messages that are not JSON."""

import json
import pickle
from typing import Any

import pytest
from support.hosts.deployed_app import Batch, executions, publish_raw, send, started
from support.hosts.worker_units import Workers
from testinfra.host import Host

testinfra_hosts = ["ansible://worker1"]
units = ["celery-worker@general-1"]

ECHO = "tasks.default.echo"
EVIDENCE = "/var/lib/celery/unpickled"  # where a worker may write


class Exploit:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, (EVIDENCE, "w"))


def dump(kind: str, trace: str) -> tuple[bytes, str, str]:
    """Return body, content type and encoding of a message that would be executed if it were accepted."""
    body: list[Any] = [[], {"trace_key": trace}, {}]
    if kind == "pickle":
        body[2]["exploit"] = Exploit()
        return pickle.dumps(body), "application/x-python-serialize", "binary"
    return json.dumps(body).encode(), f"application/x-{kind}", "utf-8"  # JSON is YAML


@pytest.mark.parametrize("kind", ["pickle", "yaml", "unheard-of"])
def test_what_is_not_json_is_refused_and_the_worker_lives_on(
    host: Host, one_worker: Workers, trace: str, kind: str
) -> None:
    host.check_output(f"rm --force {EVIDENCE}")
    process = one_worker.property("general-1", "MainPID")
    refused = f"{trace}-refused"
    headers = {"task": ECHO, "id": refused, "lang": "py", "root_id": refused, "parent_id": None}

    publish_raw("default", *dump(kind, trace), headers)
    accepted = send(trace, Batch(ECHO))

    assert started(trace, 1) == accepted
    assert executions(trace, 1) == {1: 1}  # nothing is left that could come back
    assert one_worker.property("general-1", "MainPID") == process
    assert not host.file(EVIDENCE).exists
