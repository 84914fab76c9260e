"""What the role celery_app writes on a host, all of it or nothing, and why something is refused."""

import grp
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_module import Module, RefusedError
from support.role_files import CHECKOUT, load_module

files = load_module("celery_files")
run = load_module("celery_run")

SCRIPT = CHECKOUT / "roles/celery_app/files/import_app.py"


@pytest.fixture
def umask() -> Iterator[None]:
    """Root's umask on a hardened host."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def file(path: Path, text: str, mode: int = 0o644) -> Any:
    """A file as it should be."""
    return files.File(path, text.encode(), mode, os.getuid(), os.getgid())


def mode(path: Path) -> int:
    """The mode of a file or a folder."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("umask")
def test_files_have_their_modes_whatever_the_umask_is(tmp_path: Path) -> None:
    wanted = [
        file(tmp_path / "etc/celery/groups/web.env", "A=1"),
        file(tmp_path / "etc/celery/app.env", "B=1\r\n", 0o600),
        file(tmp_path / "sbin/launch", "#!/bin/sh\necho\n", 0o755),
    ]

    files.put(Module(), wanted, tmp_path / "kept.tar")

    assert all(each.is_there() for each in wanted)
    assert [mode(each.path) for each in wanted] == [0o644, 0o600, 0o755]
    assert mode(tmp_path / "etc/celery") == mode(tmp_path / "etc/celery/groups") == 0o755
    assert mode(tmp_path / "kept.tar") == 0o600
    assert sorted(path.name for path in (tmp_path / "etc/celery").iterdir()) == ["app.env", "groups"]


@pytest.mark.usefixtures("umask")
def test_a_folder_that_is_closed_to_others_is_opened(tmp_path: Path) -> None:
    folder = tmp_path / "celery"
    assert not files.is_open(folder)
    folder.mkdir()
    assert not files.is_open(folder)
    folder.chmod(0o755)
    assert files.is_open(folder) == (os.getuid() == 0)


@pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.toml", "a ="), ("a.conf", "")])
def test_settings_that_no_program_could_read_replace_nothing(tmp_path: Path, name: str, text: str) -> None:
    wanted = [file(tmp_path / name, text)]

    if name.endswith(".conf"):
        files.put(Module(), wanted, tmp_path / "kept.tar")
        assert wanted[0].is_there()
        return
    with pytest.raises(RefusedError, match=rf"^\S+/{name} would be refused: \S.*$"):
        files.put(Module(), wanted, tmp_path / "kept.tar")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_longer_named_are_found(tmp_path: Path) -> None:
    for name in ("old.py", "new.py", "other.py", "not-mine"):
        (tmp_path / name).touch()
    params = {
        "files": [{"path": str(tmp_path / "new.py")}],
        "others": [str(tmp_path / "other.py")],
        "owned": [f"{tmp_path}/*.py"],
    }

    assert files.left_over(params) == [str(tmp_path / "old.py")]
    assert files.left_over(params | {"owned": []}) == []


@pytest.mark.parametrize("place", ["first", "last"])
def test_one_file_that_is_refused_replaces_none(tmp_path: Path, place: str) -> None:
    before = file(tmp_path / "app.env", "A=1")
    files.put(Module(), [before], tmp_path / "kept.tar")
    bad, good = file(tmp_path / "launch", "#!/bin/sh\nif\n"), file(tmp_path / "app.env", "A=2")

    with pytest.raises(RefusedError, match=r"^\S+/launch would be refused: launch: .*[Ss]yntax error.*$"):
        files.put(Module(), [bad, good] if place == "first" else [good, bad], tmp_path / "kept.tar")

    assert before.is_there()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.env", "kept.tar"]


def test_what_was_replaced_comes_back_and_what_was_new_goes(tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar"
    before = file(tmp_path / "app.env", "A=1\r\n", 0o600)
    files.put(Module(), [before], archive)
    files.put(Module(), [file(before.path, "A=2"), file(tmp_path / "new.env", "B")], archive)

    kept, absent = files.kept(archive)

    assert [(each.path, each.content, each.mode) for each in kept] == [(before.path, b"A=1\r\n", 0o600)]
    assert absent == [tmp_path / "new.env"]


# Django's system checks, with what only warns at the end.
CHECKS = """SystemCheckError: System check identified some issues:

ERRORS:
?: (otp.E010) Relying party ID not configured.
\tHINT: Set the OTP_WEBAUTHN_RP_ID setting.

WARNINGS:
?: (shop.W033) Command not found: hg
\tHINT: https://docs.example.com
"""
UNKNOWN_TABLE = """Traceback (most recent call last):
  File "ab.py", line 1, in <module>
    raise known from error
sqlalchemy.exc.ProgrammingError: relation "ab" does not exist
LINE 1: SELECT name FROM ab
                         ^

[SQL: SELECT name
FROM ab]
(Background on this error at: https://sqlalche.me/e/14/f405)
"""


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (run.Ended(1, "out\n", "Traceback\nValueError: no table\n\n"), "ValueError: no table"),
        (run.Ended(1, "no such command\n", " \n"), "no such command"),
        (run.Ended(1, "", CHECKS), "?: (otp.E010) Relying party ID not configured."),
        (run.Ended(1, "", UNKNOWN_TABLE), 'sqlalchemy.exc.ProgrammingError: relation "ab" does not exist'),
        (run.Ended(1, "", UNKNOWN_TABLE + "CommandError: no way on\n"), "CommandError: no way on"),
        (run.Ended(2, "", "Usage: superset\n\nError: No such command.\n"), "No such command."),
        (run.Ended(137, "", ""), "it was killed by SIGKILL (out of memory?)"),
        (run.Ended(7, "", ""), "it ended with status 7 and said nothing"),
        (
            run.Ended(
                200,
                "",
                "",
                "Started x.service.\nx.service: Changing to the requested working directory failed: "
                "Permission denied\nx.service: Failed at step CHDIR spawning env\n"
                "x.service: Failed with result 'exit-code'.",
            ),
            "Changing to the requested working directory failed: Permission denied",
        ),
        (run.Ended(203, "", "", ""), "systemd could not start it (EXEC)"),
    ],
)
def test_a_failure_is_always_told_in_one_line(ended: Any, words: str) -> None:
    assert run.reason(ended) == words


def test_what_an_app_prints_is_never_taken_for_the_answer() -> None:
    assert run.answer_in('{"a": 1}\nanswer-other:[]\nanswer-1:[2]\nbye\n', "answer-1:") == [2]
    assert run.answer_in('[{"level": "error"}]\n', "answer-1:") is None


def test_the_settings_of_a_sandbox_are_those_of_the_unit() -> None:
    sandbox = "# A comment = none\nUser=celery\nEnvironmentFile=/etc/x\n\nSystemCallFilter=~@privileged\n"

    assert run.properties(sandbox) == ["--property=User=celery", "--property=SystemCallFilter=~@privileged"]


@pytest.mark.usefixtures("umask")
def test_settings_for_a_proof_can_be_read_by_root_alone_and_go_with_it() -> None:
    with run.staged({"x.json": "[]"}, ["A=1"]) as (folder, [settings]):
        assert (mode(folder), mode(folder / "x.json"), mode(settings)) == (0o711, 0o644, 0o600)
    assert not folder.exists()


@pytest.mark.usefixtures("umask")
def test_a_command_finds_the_files_of_the_inventory_in_the_place_of_those_of_the_host(tmp_path: Path) -> None:
    target = tmp_path / "etc/files"
    group = grp.getgrgid(os.getgid()).gr_name
    wanted = [{"path": f"{target}/settings.py", "content": "A = 1\r\n", "mode": "0640"}]

    with run.overlaid(tmp_path, {"directory": str(target), "group": group, "files": wanted}) as shown:
        assert shown == [f"--property=BindReadOnlyPaths={tmp_path}/overlay:{target}"]
        assert target.is_dir()
        staged = tmp_path / "overlay/settings.py"
        assert (staged.read_bytes(), mode(staged)) == (b"A = 1\r\n", 0o640)
    assert not target.exists()
    with run.overlaid(tmp_path, {}) as shown:
        assert shown == []


def test_a_proof_holds_for_what_was_proved_and_nothing_else(tmp_path: Path) -> None:
    params = {
        "command": ["a"],
        "script": "",
        "environment": ["A=1"],
        "files": {},
        "overlay": {},
        "sandbox": "",
    }

    assert run.fingerprint(params) == run.fingerprint(dict(params))
    assert run.fingerprint(params) != run.fingerprint({**params, "environment": ["A=2"]})
    assert run.remembered(tmp_path / "nothing") == {}
    run.remember(tmp_path / "proof", "{damaged", 0o600)
    assert run.remembered(tmp_path / "proof") == {}
    assert mode(tmp_path / "proof") == 0o600


SOURCES = str(CHECKOUT / "app/autoscaler/src")


def prove(tmp_path: Path, code: str, proof: dict[str, Any], **environment: str) -> tuple[int, str]:
    """Import an app as it is done on a host; the status, and what is said of it in a line."""
    (tmp_path / "app.py").write_text(f"import celery\napp = celery.Celery()\nprint('[imported]')\n{code}")
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    path = os.pathsep.join([SOURCES, str(tmp_path)])
    done = subprocess.run(
        [sys.executable, SCRIPT, "app", str(tmp_path / "proof.json"), "word:"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    answer = run.answer_in(done.stdout, "word:")
    if done.returncode:
        ended = run.Ended(done.returncode, done.stdout, done.stderr)
        return done.returncode, run.told(ended, answer, "the app").removeprefix("the app: ")
    return 0, "; ".join(finding["text"] for finding in answer)


def check(tmp_path: Path, code: str, toml: str = "") -> tuple[str, list[str]]:
    """Have the supervisor look at an app and its settings as on a host; what it refuses, or what it finds."""
    (tmp_path / "app.py").write_text(f"import celery\napp = celery.Celery()\nprint('[imported]')\n{code}")
    (tmp_path / "autoscaler.toml").write_text(toml)
    options = ["--config", str(tmp_path / "autoscaler.toml")] if toml else []
    done = subprocess.run(
        [sys.executable, "-m", "celery_autoscaler.cli", "-A", "app", "prove", *options],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join([SOURCES, str(tmp_path)])},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return run.reason(run.Ended(done.returncode, done.stdout, done.stderr)), []
    return "", [finding["text"] for finding in json.loads(done.stdout)]


SAFE = "app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1)\n"


def test_settings_by_which_tasks_can_be_lost_are_the_answer(tmp_path: Path) -> None:
    assert check(tmp_path, "app.conf.worker_prefetch_multiplier = 1") == (
        "",
        ["task_acks_late is off: a worker that is killed loses the tasks it runs"],
    )
    assert check(tmp_path, SAFE) == ("", [])
    [queue, *_] = check(tmp_path, SAFE, "[groups.web]\nqueues = ['mails']\n")[1]
    assert queue == "queue celery of the app belongs to no group: its tasks wait forever"


def test_workers_of_plain_celery_are_no_secret(tmp_path: Path) -> None:
    assert prove(tmp_path, "", {}) == (0, "")
    assert prove(tmp_path, "", {"plain": True})[1].startswith(
        "celery_app_plain_workers: the workers are plain Celery's"
    )


OWN = "import celery.beat\nclass Own({}): ...\nOwn.__module__ = 'own'\napp.conf.beat_scheduler = Own"


@pytest.mark.parametrize(
    ("code", "hosts", "status", "words"),
    [
        ("", ["a"], 0, ""),
        ("", ["a", "b"], 4, "celery_app_beat: a, b: celery.beat.PersistentScheduler takes no lock"),
        ("app.conf.beat_scheduler = 'redbeat.RedBeatScheduler'", ["a", "b"], 0, ""),
        (
            OWN.format("celery.beat.Scheduler"),
            ["a", "b"],
            0,
            "celery_app_beat: a, b: own.Own has to take a lock",
        ),
        (OWN.format("__import__('redbeat').RedBeatScheduler"), ["a", "b"], 0, ""),
    ],
)
def test_beat_runs_on_several_hosts_only_with_a_lock(
    tmp_path: Path, code: str, hosts: list[str], status: int, words: str
) -> None:
    found, line = prove(tmp_path, f"app.conf.redbeat_redis_url = 'redis://'\n{code}", {"beats": hosts})

    assert found == status
    assert line.startswith(words) if words else line == ""


@pytest.mark.parametrize("end", ["sys.exit(3)", "sys.exit('no settings')", "raise ValueError('no settings')"])
def test_an_app_that_ends_or_talks_at_its_end_is_refused_with_its_reason(tmp_path: Path, end: str) -> None:
    talk = "import atexit, sys\natexit.register(lambda: print('Sending 2 events', file=sys.stderr))\n"

    status, problem = prove(tmp_path, talk + end, {})

    assert status == 4
    assert problem.startswith(("SystemExit: ", "ValueError: "))
    assert "no settings" in problem or "3" in problem


def test_settings_that_the_supervisor_refuses_are_named(tmp_path: Path) -> None:
    refused, _ = check(tmp_path, SAFE, "[groups.web]\nqueues = ['celery']\ntarget_wait = -5\n")

    assert refused.endswith(
        "autoscaler.toml: groups.web.target_wait=-5 is wrong: allowed is a number from 0.1 to 86400 seconds"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"max-tasks-per-child": 50},
            "'max-tasks-per-child' is no option of celery worker; did you mean max_tasks_per_child?",
        ),
        (
            {"max_task_per_child": 50},
            "'max_task_per_child' is no option of celery worker; did you mean max_tasks_per_child?",
        ),
        (
            {"max_tasks_per_child": "many"},
            "max_tasks_per_child='many' is wrong: 'many' is not a valid integer.",
        ),
    ],
)
def test_options_that_celery_would_refuse_are_named(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    group = {"name": "web", "pool": "prefork", "options": options}

    status, line = prove(tmp_path, SAFE, {"groups": [group]})

    assert (status, line) == (4, f"celery_app_worker_groups: web: options: {words}")


@pytest.mark.parametrize(("creates", "status"), [(False, 4), (True, 0)])
def test_a_queue_without_which_a_worker_would_not_start_is_named(
    tmp_path: Path, creates: bool, status: int
) -> None:
    queues = (
        f"app.conf.task_create_missing_queues = {creates}\napp.conf.task_queues = [kombu.Queue('mails')]\n"
    )
    group = {"name": "web", "pool": "solo", "queues": ["mials"]}

    found, line = prove(tmp_path, f"{SAFE}import kombu\n{queues}", {"groups": [group]})

    assert found == status
    assert line == (
        ""
        if creates
        else "celery_app_worker_groups: web: queues: the app has no queue 'mials' (task_queues); "
        "did you mean mails?; it has mails"
    )


def test_an_address_that_the_supervisor_cannot_have_is_named_before_anything_runs_there(
    tmp_path: Path,
) -> None:
    group = "[groups.web]\nqueues = ['celery']\n"

    assert check(tmp_path, SAFE, f"http = '192.0.2.1:9541'\n{group}")[0].startswith(
        "http: 192.0.2.1 is no address of this host"
    )
    with socket.create_server(("127.0.0.1", 0)) as running:
        port = running.getsockname()[1]
        assert check(tmp_path, SAFE, f"http = '127.0.0.1:{port}'\n{group}")[0] == ""


def test_options_that_celery_has_are_good(tmp_path: Path) -> None:
    options = {"max_tasks_per_child": 50, "autoscale": "4,1", "without_heartbeat": True, "time_limit": 1.5}

    assert prove(tmp_path, SAFE, {"groups": [{"name": "web", "pool": "solo", "options": options}]})[0] == 0
