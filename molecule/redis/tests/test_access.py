"""Who may reach Redis, and what each user may do."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from celery.backends.redis import RedisBackend
from celery_autoscaler.operations.dead_letters import REPLAY
from celery_autoscaler.protocol.keys import Keys
from celery_autoscaler.protocol.recovery import MOVE
from kombu import Connection
from redis import Redis
from support.hosts.redis_provider import UNITS, provider
from support.hosts.scenario import Scenario, address
from support.hosts.secrets_scan import assert_no_secrets, find_secrets

SCENARIO = Scenario("redis")
READABLE = "/srv/readable"

units = UNITS


def connect(host: Any, user: str) -> Redis:
    return redis.Redis(
        host=address(host),
        username=user,
        password=SCENARIO.secrets[f"redis_{user}"],
        decode_responses=True,
        client_name="test",
        socket_timeout=5,
    )


@pytest.fixture
def app(host: Any) -> Iterator[Redis]:
    with connect(host, "app") as client:
        yield client


@pytest.fixture
def supervisor(host: Any) -> Iterator[Redis]:
    with connect(host, "supervisor") as client:
        yield client


@pytest.fixture
def operator(host: Any) -> Iterator[Redis]:
    with connect(host, "operator") as client:
        yield client


def socket(host: Any) -> str:
    return f"/run/{provider(host)}/{provider(host)}-server.sock"


def other_host(host: Any) -> Any:
    name = host.check_output("hostname")
    return next(other for other_name, other in SCENARIO.hosts().items() if other_name != name)


def test_a_client_without_a_user_is_refused(host: Any) -> None:
    name = host.check_output("hostname")
    ways = ((host, "-h 127.0.0.1"), (host, f"-s {socket(host)}"), (other_host(host), f"-h {name}"))
    for here, target in ways:
        answer = here.run(f"{provider(here)}-cli {target} ping")
        assert "NOAUTH" in answer.stdout + answer.stderr


@pytest.mark.parametrize("user", ["app", "supervisor", "operator", "default", "nobody"])
def test_a_wrong_password_is_refused(host: Any, user: str) -> None:
    name = host.check_output("hostname")
    for here, target in ((host, "-h 127.0.0.1"), (other_host(host), f"-h {name}")):
        answer = here.run(f"REDISCLI_AUTH=wrong {provider(here)}-cli --user {user} {target} ping")
        assert "WRONGPASS" in answer.stderr
        assert "PONG" not in answer.stdout


def test_it_listens_on_the_chosen_addresses_only(host: Any) -> None:
    listening = {line.split()[3] for line in host.check_output("ss -Hltn 'sport = :6379'").splitlines()}
    assert listening == {"127.0.0.1:6379", f"{address(host)}:6379"}


def test_the_socket_is_for_root_and_redis_only(host: Any) -> None:
    command = f"{provider(host)}-cli -s {socket(host)} ping"
    answer = host.run(f"setpriv --reuid=nobody --regid=nogroup --clear-groups {command}")
    assert "Permission denied" in answer.stderr


def test_the_app_can_do_what_redis_py_does(app: Redis) -> None:
    app.delete(*app.scan_iter("test:*"), "test:none")
    app.client_setname("worker")
    assert app.client_getname() == "worker"
    # Valkey has it too: the version of Redis that it stands for.
    assert app.info("server")["redis_version"]
    assert app.time()
    app.set("test:a", 1, ex=60)
    assert app.incr("test:a") == 2
    assert app.pexpire("test:a", 60_000)
    assert "test:a" in list(app.scan_iter("test:*"))

    app.rpush("test:list", "one")
    assert app.brpop(["test:list"], timeout=1) == ("test:list", "one")
    app.zadd("test:zset", {"member": 1})
    assert app.zrangebyscore("test:zset", 0, 2) == ["member"]
    app.xadd("test:stream", {"field": "value"}, maxlen=10)
    assert app.xlen("test:stream") == 1

    increment = app.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert increment(keys=["test:a"], args=[3]) == 5
    sha = app.script_load("return redis.call('TIME')")
    assert app.script_exists(sha) == [True]
    with app.lock("test:lock", timeout=10) as lock:
        assert lock.extend(5)

    def add_one(pipe: redis.client.Pipeline) -> None:
        value = int(pipe.get("test:a") or 0)
        pipe.multi()
        pipe.set("test:a", value + 1)

    app.transaction(add_one, "test:a")
    assert app.get("test:a") == "6"

    with app.pubsub() as pubsub:
        pubsub.psubscribe("test.*")
        assert pubsub.get_message(timeout=5)["type"] == "psubscribe"
        app.publish("test.channel", "hello")
        assert pubsub.get_message(timeout=5)["data"] == "hello"


def test_the_app_can_do_what_celery_and_kombu_do(host: Any) -> None:
    url = f"redis://app:{SCENARIO.secrets['redis_app']}@{address(host)}:6379/3"
    with Connection(url, transport_options={"queue_order_strategy": "priority"}) as connection:
        queue = connection.SimpleQueue("test-queue")
        queue.put({"n": 1}, priority=0)
        queue.put({"n": 2}, priority=9)
        bodies = []
        for _ in range(2):
            message = queue.get(timeout=10)
            bodies.append(message.payload["n"])
            message.ack()
        queue.put({"n": 3})
        message = queue.get(timeout=10)
        message.requeue()
        assert queue.get(timeout=10).payload == {"n": 3}
        assert queue.clear() == 0
        queue.close()
    assert sorted(bodies) == [1, 2]

    celery = Celery(broker=url, backend=url)
    assert isinstance(celery.backend, RedisBackend)
    with celery.connection_for_write() as connection:
        # Remote control: bindings, publish, a reply queue that expires.
        assert celery.control.ping(timeout=0.2, connection=connection) == []
    celery.backend.store_result("task-1", {"sum": 3}, "SUCCESS")
    assert celery.AsyncResult("task-1").get(timeout=5) == {"sum": 3}
    celery.backend.set_chord_size("group-1", 2)


@pytest.mark.parametrize(
    "command",
    [
        "ACL LIST",
        "ACL SETUSER app allcommands",
        "BGREWRITEAOF",
        "BGSAVE",
        "CLIENT KILL ID 1",
        "CLIENT LIST",
        "CONFIG GET *",
        "CONFIG SET maxmemory 0",
        "DEBUG SLEEP 0",
        "FLUSHALL",
        "FLUSHDB",
        "FUNCTION FLUSH",
        "KEYS *",
        "MODULE LIST",
        "MONITOR",
        "REPLICAOF NO ONE",
        "SAVE",
        "SCRIPT FLUSH",
        "SHUTDOWN NOSAVE",
        "SLOWLOG GET",
        "SWAPDB 0 1",
    ],
)
def test_neither_the_app_nor_the_supervisor_administers(app: Redis, supervisor: Redis, command: str) -> None:
    allowed = {"CLIENT LIST"}
    for user, client in (("app", app), ("supervisor", supervisor)):
        if user == "supervisor" and command in allowed:
            continue
        # DEBUG is switched off for everybody, before permissions are looked at.
        refusal = "DEBUG command not allowed" if command.startswith("DEBUG") else "permissions"
        with pytest.raises(redis.exceptions.ResponseError, match=refusal):
            client.execute_command(*command.split())


@pytest.mark.parametrize("end", ["LPUSH", "RPUSH"])
def test_the_supervisor_gives_back_what_a_dead_worker_held(app: Redis, supervisor: Redis, end: str) -> None:
    keys = Keys()
    app.hset(keys.unacked("dead@host:1"), "token", "test:queue\nmessage")
    app.hset(keys.unacked("dead@host:1"), "again", "test:queue\nanother")

    moved = supervisor.register_script(MOVE)(
        keys=[keys.unacked("dead@host:1"), "test:queue", "dead_letter:test"],
        args=[end, "token", "message", "again", "another"],
    )

    assert moved == [2]
    assert app.lrange("test:queue", 0, -1) == ["message"]
    assert app.lrange("dead_letter:test", 0, -1) == ["another"]
    assert app.delete("test:queue", "dead_letter:test") == 2
    assert not app.exists(keys.unacked("dead@host:1"))


def test_the_supervisor_puts_messages_into_queues_and_takes_none_out(app: Redis, supervisor: Redis) -> None:
    app.rpush("test:queue", "message")
    assert supervisor.llen("test:queue") == 1
    assert supervisor.info("clients")
    assert any(client["user"] == "supervisor" for client in supervisor.client_list())
    supervisor.hset("fleet:test", mapping={"state": "running"})
    supervisor.xadd("fleet:decisions", {"reason": "test"}, maxlen=10)
    for write in (
        lambda: supervisor.lpop("test:queue"),
        lambda: supervisor.lrem("test:queue", 1, "message"),
        lambda: supervisor.lmove("test:queue", "fleet:queue"),
        lambda: supervisor.set("test:other", 1),
        lambda: supervisor.rename("test:queue", "fleet:queue"),
        lambda: supervisor.delete("test:queue"),
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            write()
    for command in ("'DEL', KEYS[1]", "'RPOP', KEYS[1]", "'SET', KEYS[1], 1"):
        with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)permission|can't access"):
            supervisor.eval(f"return redis.call({command})", 1, "test:queue")
    assert app.llen("test:queue") == 1
    app.delete("test:queue")


def test_the_supervisor_sends_dead_letters_again_and_deletes_them(app: Redis, supervisor: Redis) -> None:
    app.rpush("dead_letter:test", "first", "second")

    replay = supervisor.register_script(REPLAY)
    again = [replay(keys=["dead_letter:test", "test:queue"], args=["first", "message"]) for _ in range(2)]

    assert again == [1, 0]
    assert app.lrange("test:queue", 0, -1) == ["message"]
    assert supervisor.delete("dead_letter:test") == 1
    app.delete("test:queue")


def test_nothing_is_evicted(app: Redis, operator: Redis) -> None:
    before = str(operator.config_get("maxmemory")["maxmemory"])
    assert int(before) > 0
    app.set("test:kept", "yes")
    operator.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            app.set("test:more", "no")
        assert app.get("test:kept") == "yes"
    finally:
        operator.config_set("maxmemory", before)


@pytest.mark.parametrize("stop", ["systemctl restart", "systemctl kill -s KILL"])
def test_the_data_outlive_the_server(host: Any, app: Redis, stop: str) -> None:
    app.set("test:outlives", stop)
    # Both are transactions in the append-only file.
    with app.pipeline(transaction=True) as transaction:
        transaction.set("test:first", stop)
        transaction.set("test:second", stop)
        transaction.execute()
    script = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('SET', KEYS[2], ARGV[1])"
    app.eval(script, 2, "test:third", "test:fourth", stop)
    run_id = app.info("server")["run_id"]
    host.check_output(f"{stop} {provider(host)}-server")
    retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.2), 50)
    app.set_retry(retry)
    for _ in range(50):
        try:
            if app.info("server")["run_id"] != run_id:
                break
        except redis.exceptions.BusyLoadingError:
            pass
    assert app.info("server")["run_id"] != run_id
    assert app.mget("test:outlives", "test:first", "test:second", "test:third", "test:fourth") == [stop] * 5


def test_no_secret_can_be_seen(host: Any) -> None:
    assert_no_secrets(host, SCENARIO.secrets.values())


def test_the_search_for_secrets_finds_them(host: Any) -> None:
    secret = SCENARIO.secrets["redis_app"]
    host.check_output(f"printf %s > {READABLE} && chmod 644 {READABLE}", secret)
    try:
        assert any(READABLE in place for place in find_secrets(host, [secret]))
    finally:
        host.check_output(f"rm {READABLE}")
