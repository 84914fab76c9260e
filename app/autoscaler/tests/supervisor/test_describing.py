"""An app is described by its own Python, whatever it prints, breaks or starts when it is imported."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.protocol import description
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.description import Description, DescriptionError, from_json, to_json
from celery_autoscaler.supervisor.describing import UndescribedError, describe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

APP = """
from celery import Celery
app = Celery("shop", broker="redis://:secret@nowhere:6379/3")
app.conf.task_default_queue = "orders"
"""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.sampled_from(ssl.VerifyMode),
    lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=8,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of an app that can be imported as `shop_app`."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "shop_app.py").write_text(APP)
    return tmp_path / "shop_app.py"


def test_an_app_is_described_without_being_imported_here(project: Path) -> None:
    with project.open("a") as file:
        file.write("""
import ssl
app.conf.update(task_acks_late=True, task_time_limit=30, worker_concurrency=4, worker_pool="threads")
app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_context": object()}
app.conf.broker_transport_options = {
    "socket_keepalive_options": {4: 60},
    "sentinel_kwargs": {"password": "secret", "retry": object()},
    "retry": object(),
}
""")

    found = describe("shop_app")

    assert found == Description(
        name="shop_app",
        main="shop",
        python=sys.executable,
        queues=("orders",),
        broker_urls=("redis://:secret@nowhere:6379/3",),
        transport_options={"socket_keepalive_options": {4: 60}, "sentinel_kwargs": {"password": "secret"}},
        use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED},
        concurrency=4,
        pool="threads",
        acks_late=True,
        time_limit=30,
        left_out=(
            "broker_transport_options.sentinel_kwargs.retry",
            "broker_transport_options.retry",
            "broker_use_ssl.ssl_context",
        ),
    )
    assert "shop_app" not in sys.modules


def test_what_the_app_prints_is_passed_on_and_never_read(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with project.open("a") as file:
        file.write("""
import atexit, sys
print('{"version": 1, "name": "printed"}')
print("a warning", file=sys.stderr)
atexit.register(print, "the end")
""")

    assert describe("shop_app").name == "shop_app"
    printed = capfd.readouterr()
    assert printed.out == ""
    assert sorted(printed.err.splitlines()) == ["a warning", '{"version": 1, "name": "printed"}']


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import gone",
            "app shop_app: ModuleNotFoundError: No module named 'gone' ({file}:1) "
            "(with {python}; $CELERY_APP_PYTHON names another)",
        ),
        (
            "raise ValueError('one\\ntwo')",
            "app shop_app: ValueError: Couldn't import 'shop_app': one ({file}:1)",
        ),
        ("import sys; sys.exit('no settings')", "app shop_app: SystemExit: no settings ({file}:1)"),
        (
            "import os; raise OSError(os.environ['DB_PASSWORD'])",
            "app shop_app: OSError: (DB_PASSWORD) ({file}:1)",
        ),
        ("x = 1", "app shop_app: there is no Celery app in shop_app"),
        ("import os; os._exit(3)", "app shop_app: its import ends {python} with status 3"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "app shop_app: its import ends {python} with status -9",
        ),
    ],
)
def test_an_app_that_cannot_be_imported_is_named_in_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "s3cret-s3cret")
    project.write_text(code)

    with pytest.raises(UndescribedError) as refused:
        describe("shop_app")

    assert refused.value.message == said.format(file=project, python=sys.executable)


def test_an_import_without_end_is_given_up_with_all_that_it_started(project: Path, tmp_path: Path) -> None:
    project.write_text(
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )

    with pytest.raises(UndescribedError, match="could not be imported within 5 s"):
        describe("shop_app", time_limit=5.0)

    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    # It may be a zombie for a moment.
    while (status := Path(f"/proc/{pid}/stat")).exists() and status.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_threads_and_children_of_the_app_do_not_hold_the_answer_up(project: Path) -> None:
    with project.open("a") as file:
        file.write("""
import subprocess, sys, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
""")

    assert describe("shop_app").queues == ("orders",)


def test_an_interpreter_that_is_none_is_named() -> None:
    with pytest.raises(UndescribedError) as refused:
        describe("shop_app", "/nowhere/python")

    assert refused.value.message == (
        "app shop_app: /nowhere/python (CELERY_APP_PYTHON): No such file or directory"
    )


def test_an_environment_without_our_packages_suffices(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_text("import sys\nsys.modules['celery_autoscaler'] = None\n" + APP)
    assert describe("shop_app").queues == ("orders",)

    monkeypatch.setenv("PYTHONPATH", str(project.parent))
    with pytest.raises(
        UndescribedError, match=r"app shop_app: ModuleNotFoundError: No module named 'celery'"
    ):
        describe("shop_app", "/usr/bin/python3")


def test_a_description_leads_to_the_broker_of_the_app(redis_url: str) -> None:
    app = Celery("shop", broker=redis_url)
    app.conf.broker_transport_options = {"global_keyprefix": "shop:", "sep": "|", "priority_steps": [0, 5]}

    ours = connect(description.describe(app, "shop_app"))

    theirs = connect(app)
    assert ours.keys == theirs.keys
    assert (ours.separator, list(ours.priority_steps)) == ("|", [0, 5])
    theirs.client.set("shop:known", "here")
    assert ours.client.get("shop:known") == b"here"


def read_or_refused(text: str | bytes) -> None:
    """Load a text; whatever else than a refusal is raised fails the test."""
    with suppress(DescriptionError):
        Description.load(text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES, VALUES)
def test_a_description_survives_the_channel(options: Any, use_ssl: Any) -> None:
    made = Description(
        "shop", transport_options={"x": options}, use_ssl=use_ssl if isinstance(use_ssl, dict) else True
    )

    assert Description.load(made.dump()) == made


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary() | st.text() | JSON.map(json.dumps))
def test_any_text_is_a_description_or_refused(text: str | bytes) -> None:
    read_or_refused(text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(vars(Description("x")))), JSON)
def test_a_field_that_others_wrote_is_read_or_refused(name: str, value: Any) -> None:
    text = json.dumps({"version": 1, "name": "shop", name: value})
    read_or_refused(text)


def test_another_version_is_refused() -> None:
    with pytest.raises(DescriptionError, match="has another version than 1"):
        Description.load('{"version": 2, "name": "shop"}')


def test_objects_of_code_are_no_json() -> None:
    with pytest.raises(TypeError):
        to_json({"x": [object()]})
    with pytest.raises((TypeError, ValueError)):
        from_json({"ssl": ["socket", 1]})


def test_the_program_imports_nothing_of_ours() -> None:
    code = (
        "import sys; sys.modules['celery_autoscaler'] = None; sys.argv = ['-', 'gone', '2']; "
        f"exec(compile(open({description.__file__!r}).read(), 'program', 'exec'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0
