"""Sentinels that name no primary are one line, whichever redis-py words it."""

from __future__ import annotations

import pytest
from celery import Celery
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.sentinels import one_line
from celery_autoscaler.protocol.server_state import with_clear_errors
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel
from support.processes.services import RedisServerFactory, free_port

ONCE = Retry(NoBackoff(), 0)


def app(*ports: int, login: str | None = None) -> Celery:
    urls = ";".join(f"sentinel://127.0.0.1:{port}/0" for port in ports)
    found = Celery("app", broker=urls, set_as_current=False)
    found.conf.broker_transport_options = {
        "master_name": "celery",
        "sentinel_kwargs": {"retry": ONCE, "password": login},
    }
    return found


def test_sentinels_that_are_away_are_named_with_the_reason() -> None:
    ports = free_port(), free_port()

    with pytest.raises(MasterNotFoundError) as met:
        connect(app(*ports))

    assert str(met.value) == (
        "no sentinel names a primary for 'celery': "
        f"127.0.0.1:{ports[0]} cannot be reached, 127.0.0.1:{ports[1]} cannot be reached"
    )


def test_a_sentinel_that_refuses_the_password_is_named(redis_server_factory: RedisServerFactory) -> None:
    server = redis_server_factory()
    with Redis.from_url(server.url) as client:
        client.config_set("requirepass", "the-right-one")

    with pytest.raises(MasterNotFoundError) as met:
        connect(app(server.port, login="the-wrong-one"))

    assert str(met.value) == (
        f"no sentinel names a primary for 'celery': 127.0.0.1:{server.port} refuses the password"
    )


def test_a_connection_that_asks_them_again_says_it_too() -> None:
    port = free_port()
    pool = (
        Sentinel([("127.0.0.1", port)], sentinel_kwargs={"retry": ONCE}, retry=ONCE)
        .master_for("celery")
        .connection_pool
    )
    pool.connection_class = with_clear_errors(pool.connection_class)

    with pytest.raises(MasterNotFoundError) as met:
        Redis(connection_pool=pool).ping()

    assert str(met.value) == f"no sentinel names a primary for 'celery': 127.0.0.1:{port} cannot be reached"


@pytest.mark.parametrize(
    "entry",
    [
        "Redis<ConnectionPool<Connection<host=data1,port=26379,db=0>>> - "
        "ConnectionError('Error 111 connecting to data1:26379. Connection refused.')",
        "<redis.client.Redis(<redis.connection.ConnectionPool(<redis.connection.Connection(db=0,host=data1,"
        "port=26379,retry=<redis.retry.Retry object at 0x7f>)>)>)> - network:ConnectionError",
    ],
    ids=["redis-py 5", "redis-py 8"],
)
def test_the_words_of_every_redis_py_are_understood(entry: str) -> None:
    error = MasterNotFoundError(f"No master found for 'celery' : {entry}, {entry.replace('data1', 'data2')}")

    assert one_line(error) == (
        "no sentinel names a primary for 'celery': "
        "data1:26379 cannot be reached, data2:26379 cannot be reached"
    )


@given(st.text())
def test_whatever_it_says_is_one_line(text: str) -> None:
    assert len(one_line(MasterNotFoundError(text)).splitlines()) == 1
