"""What a supervisor leaves behind when it ends and its workers go on."""

from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.launchers import StopSignal
from celery_autoscaler.supervisor.local import LocalWorker
from celery_autoscaler.supervisor.loop import Supervisor
from redis import Redis

NOW = 0.0


def local_worker(name: str) -> LocalWorker:
    """A worker that consumes."""
    return LocalWorker(name, "default", NOW, ready_at=NOW)


def test_workers_that_drain_for_want_of_work_take_messages_again(redis_url: str) -> None:
    workers = {name: local_worker(name) for name in ("default-1", "default-2", "default-3", "default-4")}
    workers["default-2"].stop(NOW, "too many", 600.0, may_return=True)
    workers["default-3"].stop(NOW, "drained by an operator", 600.0)
    workers["default-4"].stop(NOW, "too many", 600.0, may_return=True)
    workers["default-4"].signals[StopSignal.TERM] = NOW
    draining = {f"{name}@here" for name in ("default-2", "default-3", "default-4")}
    groups = {"default": Group(name="default", queues=("celery",))}
    with (
        Redis.from_url(redis_url, decode_responses=True) as redis,
        Celery("proj", broker=redis_url, set_as_current=False) as app,
    ):
        redis.sadd("fleet:drain", *draining)
        supervisor = Supervisor(
            describe(app, "proj"), Settings(groups=groups, hostname="here", launcher="systemd")
        )
        supervisor.context.local = workers

        supervisor.stop()
        supervisor.run()

        assert redis.smembers("fleet:drain") == draining - {"default-2@here"}
