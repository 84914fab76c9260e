"""Why Redis could not be asked: where it should be, and the cause."""

from __future__ import annotations

import socket
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from celery import Celery
from celery_autoscaler.operations.reach import address_of
from kombu import Connection
from support.command_runs import invoke
from support.processes.services import RedisServer


def said(url: str) -> str:
    """Return what a command says of a broker; it waits for no more than a moment."""
    with Celery("proj", broker=url, set_as_current=False) as app:
        app.conf.broker_transport_options = {"socket_timeout": 0.3, "socket_connect_timeout": 0.3}
        result = invoke(app, "status")
    assert result.exit_code == 1
    return result.output


def test_a_server_that_is_not_there_is_named_with_the_cause() -> None:
    assert said("redis://user:secret@127.0.0.1:1/2") == (
        "Error: cannot reach Redis at 127.0.0.1:1: connection refused\n"
    )
    assert said("redis://nowhere.invalid/0") == (
        "Error: cannot reach Redis at nowhere.invalid:6379: no host has this name\n"
    )


def test_a_server_that_is_silent_is_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]

        assert said(f"redis://127.0.0.1:{port}/0") == (
            f"Error: cannot reach Redis at 127.0.0.1:{port}: no answer in time\n"
        )


def test_a_wrong_password_is_told_from_a_server_that_is_away(redis_server: RedisServer) -> None:
    netloc = urlsplit(redis_server.url).netloc.rpartition("@")[2]

    words = said(f"redis://somebody:wrong@{netloc}/0")

    assert words.startswith(f"Error: Redis at {netloc} refuses the log-in: invalid username-password pair")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://u:p@data1", "data1:6379"),
        ("rediss://:p@data1:7000/3", "data1:7000"),
        ("redis://[::1]:6380/0", "[::1]:6380"),
        ("redis+socket:///run/redis/redis.sock?virtual_host=3", "/run/redis/redis.sock"),
        ("sentinel://:p@a:26379", ""),
    ],
)
def test_an_address_has_no_password(url: str, address: str) -> None:
    assert address_of(Connection(url)) == address
