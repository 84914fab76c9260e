"""The plugin `services` gives real, empty servers and leaves nothing behind."""

from __future__ import annotations

import subprocess

import docker
import psycopg
import pytest
import redis
from support.processes import services


def test_redis_is_empty_at_the_start_of_each_test(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left over", "1")


def test_redis_is_empty_even_after_a_test_that_wrote(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


def test_redis_comes_back_on_its_port_after_a_kill(
    redis_server: services.RedisServer, redis_url: str
) -> None:
    redis_server.kill()
    with redis.Redis.from_url(redis_url) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    redis_server.start()
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


def test_redis_takes_arguments_of_the_test(
    redis_server_factory: services.RedisServerFactory,
) -> None:
    server = redis_server_factory("--maxmemory", "3mb")
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(3 * 1024 * 1024)}


def test_a_server_that_cannot_start_says_why(redis_server_factory: services.RedisServerFactory) -> None:
    with pytest.raises(services.ServiceError, match=r"(?s)Redis ended: .*no-such-option"):
        redis_server_factory("--no-such-option", "1")


def test_the_database_is_empty_and_belongs_to_its_user(database: services.Database) -> None:
    with database.connect() as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone() == (0,)
        connection.execute("CREATE TABLE mine (id integer)")


def test_the_database_is_dropped_even_if_still_in_use(postgres_server: services.PostgresServer) -> None:
    with postgres_server.database() as created:
        connection = created.connect()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        created.connect()


def test_containers_of_a_dead_session_are_removed(docker_client: docker.DockerClient) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    orphan = docker_client.containers.create(services.IMAGE, labels={services.OWNER_LABEL: str(dead.pid)})
    services.remove_orphans(docker_client)
    with pytest.raises(docker.errors.NotFound):
        docker_client.containers.get(str(orphan.id))
