"""The channel works over whatever connection the app's own settings describe, and loses nothing there."""

from __future__ import annotations

import kombu
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection
from support.processes.counted_tasks import NewFleet
from support.processes.services import RedisServer, RedisServerFactory, free_port, wait_for

MASTER = "fleet-master"
# In the server's container.
KEY, CERTIFICATE = "/run/tls.key", "/run/tls.crt"


def run_inside(server: RedisServer, *command: str) -> None:
    status, output = server.container.exec_run(list(command))
    assert status == 0, output


def tls_port(server: RedisServer) -> int:
    """Let the server speak TLS as well, with a certificate of its own."""
    run_inside(
        server,
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", KEY, "-out", CERTIFICATE),
    )
    port = free_port()
    with Redis.from_url(server.url) as client:
        client.config_set("tls-key-file", KEY)
        client.config_set("tls-cert-file", CERTIFICATE)
        client.config_set("tls-ca-cert-file", CERTIFICATE)
        client.config_set("tls-auth-clients", "no")
        client.config_set("tls-port", str(port))
    return port


def sentinel_port(server: RedisServer) -> int:
    """Start a Sentinel that watches the server, in the server's own container."""
    port = free_port()
    settings = f"port {port}\nbind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {server.port} 1\n"
    server.container.exec_run(
        [
            "sh",
            "-c",
            f"printf '{settings}' >/tmp/sentinel.conf; exec redis-server /tmp/sentinel.conf --sentinel",
        ],
        detach=True,
    )

    def answers() -> bool:
        with Redis(port=port) as client:
            try:
                return bool(client.ping())
            except NoConnection:
                return False

    wait_for(answers, "Sentinel does not answer")
    return port


def assert_a_killed_worker_loses_nothing(
    new_fleet: NewFleet, url: str, server_url: str | None = None, **settings: object
) -> None:
    fleet = new_fleet(settings, broker_url=url, server_url=server_url)
    first, _ = fleet.start_several(2)
    ids = fleet.tasks.send(300)
    fleet.tasks.wait_until_ended(ids[:20])
    first.kill()

    outcome = fleet.tasks.settle(ids)

    assert not outcome.lost, outcome
    assert fleet.tasks.left() == {}


@pytest.mark.versions
def test_tls(redis_server_factory: RedisServerFactory, new_fleet: NewFleet) -> None:
    port = tls_port(redis_server_factory())

    assert_a_killed_worker_loses_nothing(new_fleet, f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=none")


@pytest.mark.versions
def test_sentinel(redis_server_factory: RedisServerFactory, new_fleet: NewFleet) -> None:
    server = redis_server_factory()
    port = sentinel_port(server)
    # Before 5.6 kombu finds no server through Sentinel if keys have a prefix.
    prefix = {"global_keyprefix": "here:"} if kombu.VERSION >= (5, 6) else {}

    assert_a_killed_worker_loses_nothing(
        new_fleet,
        f"sentinel://127.0.0.1:{port}/0",
        server.url,
        broker_transport_options={"master_name": MASTER} | prefix,
        result_backend=None,
    )


def test_a_user_with_least_privilege(redis_server_factory: RedisServerFactory, new_fleet: NewFleet) -> None:
    server = redis_server_factory()
    with Redis.from_url(server.url) as client:
        client.acl_setuser(
            "app",
            enabled=True,
            passwords=["+a-password-for-the-test"],
            keys=["*"],
            channels=["*"],
            categories=[
                "-@all",
                *("+@read", "+@write", "+@pubsub", "+@blocking", "+@transaction", "+@connection"),
                *("+@scripting", "-@dangerous"),
            ],
            commands=["+info", "+time"],
        )

    assert_a_killed_worker_loses_nothing(
        new_fleet, server.url.replace("redis://", "redis://app:a-password-for-the-test@")
    )
