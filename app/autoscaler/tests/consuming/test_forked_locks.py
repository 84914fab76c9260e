"""A forked process waits for no thread that only its worker has."""

from __future__ import annotations

from support.processes.counted_tasks import NewFleet
from support.processes.launched_workers import APP

# A thread reads the client of the result backend, slowly, while a process is forked.
READING = """
import threading
from celery.backends.redis import RedisBackend
from celery.signals import worker_ready


@worker_ready.connect
def _read(**_):
    def read():
        with vars(RedisBackend)["client"].lock:
            time.sleep(5)

    threading.Thread(target=read, daemon=True).start()
"""


def test_a_lock_that_a_thread_held_during_the_fork_stops_no_process(new_fleet: NewFleet) -> None:
    fleet = new_fleet({"task_ignore_result": False})
    (fleet.folder / "single.py").write_text(APP + READING)
    fleet.start(concurrency=1)

    fleet.tasks.send(1, name="die")
    (task_id,) = fleet.tasks.send(1, "x", name="echo")

    # The process stores it, with the client of the backend.
    assert fleet.tasks.app.AsyncResult(task_id).get(30) == "x"
