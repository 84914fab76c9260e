"""How this project connects to Redis: to a server, or through sentinels to whichever is the primary.

A host that dies or is cut off says no good-bye: the kernel gives its connections up when nothing is answered.
"""

from __future__ import annotations

import socket
from ssl import CERT_REQUIRED
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from tasks.settings import sentinels, settings

#: Seconds without an answer after which a connection is given up, and within which one must be made.
ANSWER_WITHIN_SECONDS = 5
CONNECT_WITHIN_SECONDS = 2
#: The same for a sentinel: there are others to ask.
SENTINEL_WITHIN_SECONDS = 1
#: How often a state or a result that is not taken is written again, once a second.
RETRIES = 60

#: In the words of redis-py.
SOCKET_OPTIONS: dict[str, Any] = {
    "socket_connect_timeout": CONNECT_WITHIN_SECONDS,
    "socket_keepalive": True,
    "socket_keepalive_options": {
        socket.TCP_KEEPIDLE: 1,
        socket.TCP_KEEPINTVL: 1,
        socket.TCP_USER_TIMEOUT: ANSWER_WITHIN_SECONDS * 1000,
    },
}


class _Once(Retry):
    """No second try. Part of the options that a worker sends as JSON when it is asked for its statistics."""

    def __init__(self) -> None:
        super().__init__(NoBackoff(), 0)

    def __json__(self) -> str:
        return "once"


def client(url: str, **options: Any) -> Redis:
    """Return a client of the server, with these options of redis-py."""
    found = sentinels(url)
    if found is None:
        return Redis.from_url(url, **options)
    sentinel: Any = Sentinel  # untyped upstream
    asked = sentinel(found.addresses, sentinel_kwargs=_sentinel_options(url, found.login))
    options = {**found.login, **tls_options(url, ssl=True), **SOCKET_OPTIONS, **options}
    primary: Redis = asked.master_for(settings().celery_sentinel_master, db=found.database, **options)
    return primary


def tls_options(url: str, **more: bool) -> dict[str, Any]:
    """Return how to speak TLS with servers found through sentinels; the URL of a server says it itself.

    In the words of Celery; redis-py wants `ssl=True` as well.
    """
    authority = settings().celery_sentinel_authority
    if not authority or sentinels(url) is None:
        return {}
    return {"ssl_cert_reqs": CERT_REQUIRED, "ssl_ca_certs": authority, **more}


def broker_options(url: str) -> dict[str, Any]:
    """Return the transport options that lead to the primary: with a server's URL there are none."""
    found = sentinels(url)
    if found is None:
        return {}
    return {
        "master_name": settings().celery_sentinel_master,
        "sentinel_kwargs": _sentinel_options(url, found.login),
    }


def result_options(url: str) -> dict[str, Any]:
    """Return the same for a result backend, which has to wait for the end of a failover.

    Until a new primary has its replicas it refuses what is written, and so does an old one that is cut off. A
    task whose state cannot be written fails, and Celery acknowledges it.
    """
    options = broker_options(url)
    if options:
        options["additional_connection_errors"] = [ResponseError]
        options["retry_policy"] = {"max_retries": RETRIES}
    return options


def redbeat_options(url: str) -> tuple[str, dict[str, Any]]:
    """Return RedBeat's URL and its options, which are words of its own."""
    found = sentinels(url)
    if found is None:
        return url, {}
    return "redis-sentinel://", {
        "sentinels": found.addresses,
        "service_name": settings().celery_sentinel_master,
        "sentinel_kwargs": _sentinel_options(url, found.login),
        "db": found.database,
        **found.login,
    }


def _sentinel_options(url: str, login: dict[str, str]) -> dict[str, Any]:
    return {
        **login,
        **tls_options(url, ssl=True),
        "socket_timeout": SENTINEL_WITHIN_SECONDS,
        "socket_connect_timeout": SENTINEL_WITHIN_SECONDS,
        "retry": _Once(),
    }
