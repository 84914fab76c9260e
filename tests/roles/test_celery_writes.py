"""What the role celery_app writes on a host, all of it or nothing, and why something is refused."""

import grp
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.role_files import CHECKOUT, load_module

files = load_module("celery_files")
run = load_module("celery_run")
target = load_module("celery_target")
release = load_module("celery_release")
current = load_module("celery_current")

SCRIPT = CHECKOUT / "roles/celery_app/files/import_app.py"


class RefusedError(Exception):
    """A module has failed."""


class Module:
    """What a module asks Ansible for."""

    def __init__(self, **params: Any) -> None:
        self.params = params

    def run_command(self, command: list[str], **_: Any) -> tuple[int, str, str]:
        """Run a command."""
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def fail_json(self, msg: str) -> None:
        """Fail."""
        raise RefusedError(msg)


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


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (run.Ended(1, "out\n", "Traceback\nValueError: no table\n\n"), "ValueError: no table"),
        (run.Ended(1, "no such command\n", " \n"), "no such command"),
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


def test_a_proof_holds_for_what_was_proved_and_nothing_else(tmp_path: Path) -> None:
    params = {"command": ["a"], "script": "", "environment": ["A=1"], "files": {}, "sandbox": ""}

    assert run.fingerprint(params) == run.fingerprint(dict(params))
    assert run.fingerprint(params) != run.fingerprint({**params, "environment": ["A=2"]})
    assert run.remembered(tmp_path / "nothing") == {}
    run.remember(tmp_path / "proof", "{damaged", 0o600)
    assert run.remembered(tmp_path / "proof") == {}
    assert mode(tmp_path / "proof") == 0o600


def prove(tmp_path: Path, code: str, proof: dict[str, Any], **environment: str) -> tuple[int, str, list[Any]]:
    """Import an app as it is done on a host; the status, the last line, and the answer."""
    (tmp_path / "app.py").write_text(f"import celery\napp = celery.Celery()\nprint('[imported]')\n{code}")
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    path = os.pathsep.join([str(CHECKOUT / "app/autoscaler/src"), str(tmp_path)])
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
        return done.returncode, answer["problem"], []
    return 0, (done.stderr.splitlines() or [""])[-1], [each["text"] for each in answer]


SAFE = "app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1)\n"


def test_settings_by_which_tasks_can_be_lost_are_the_answer(tmp_path: Path) -> None:
    toml = "[groups.web]\nqueues = ['mails']\n"
    (tmp_path / "autoscaler.toml").write_text(toml)

    assert prove(tmp_path, "app.conf.worker_prefetch_multiplier = 1", {})[2] == [
        "task_acks_late is off: a worker that is killed loses the tasks it runs"
    ]
    assert prove(tmp_path, SAFE, {}) == (0, "", [])
    assert prove(tmp_path, "", {"plain": True}) == (0, "", [])
    [queue, *_] = prove(tmp_path, SAFE, {"settings": "autoscaler.toml"})[2]
    assert queue == "queue celery of the app belongs to no group: its tasks wait forever"


@pytest.mark.parametrize("end", ["sys.exit(3)", "sys.exit('no settings')", "raise ValueError('no settings')"])
def test_an_app_that_ends_or_talks_at_its_end_is_refused_with_its_reason(tmp_path: Path, end: str) -> None:
    talk = "import atexit, sys\natexit.register(lambda: print('Sending 2 events', file=sys.stderr))\n"

    status, problem, _ = prove(tmp_path, talk + end, {})

    assert status == 4
    assert problem.startswith(("SystemExit: ", "ValueError: "))
    assert "no settings" in problem or "3" in problem


def test_settings_that_the_supervisor_refuses_are_named(tmp_path: Path) -> None:
    (tmp_path / "autoscaler.toml").write_text("[groups.web]\nqueues = ['celery']\ntarget_wait = -5\n")

    status, line, _ = prove(tmp_path, SAFE, {"settings": "autoscaler.toml"})

    assert status == 4
    assert line.endswith(
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

    status, line, _ = prove(tmp_path, SAFE, {"groups": [group]})

    assert (status, line) == (4, f"celery_app_worker_groups: web: options: {words}")


@pytest.mark.parametrize(("creates", "status"), [(False, 4), (True, 0)])
def test_a_queue_without_which_a_worker_would_not_start_is_named(
    tmp_path: Path, creates: bool, status: int
) -> None:
    queues = (
        f"app.conf.task_create_missing_queues = {creates}\napp.conf.task_queues = [kombu.Queue('mails')]\n"
    )
    group = {"name": "web", "pool": "solo", "queues": ["mials"]}

    found, line, _ = prove(tmp_path, f"{SAFE}import kombu\n{queues}", {"groups": [group]})

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
    (tmp_path / "autoscaler.toml").write_text("http = '192.0.2.1:9541'\n[groups.web]\nqueues = ['celery']\n")

    status, line, _ = prove(tmp_path, SAFE, {"settings": "autoscaler.toml"})

    assert status == 4
    assert line.startswith("celery_autoscaler_http: 192.0.2.1 is no address of this host")
    with socket.create_server(("127.0.0.1", 0)) as running:
        (tmp_path / "autoscaler.toml").write_text(
            f"http = '127.0.0.1:{running.getsockname()[1]}'\n[groups.web]\nqueues = ['celery']\n"
        )
        assert prove(tmp_path, SAFE, {"settings": "autoscaler.toml"})[0] == 0


def test_options_that_celery_has_are_good(tmp_path: Path) -> None:
    options = {"max_tasks_per_child": 50, "autoscale": "4,1", "without_heartbeat": True, "time_limit": 1.5}

    assert prove(tmp_path, SAFE, {"groups": [{"name": "web", "pool": "solo", "options": options}]})[0] == 0


# --- What a release runs on ----------------------------------------------------------------------------


def test_the_python_of_the_host_is_asked_and_not_that_of_ansible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho '[3, 99, \"glibc 2.77\"]'\n")
    python.chmod(0o755)
    monkeypatch.setattr(target, "PYTHON", str(python))
    assert target.ask_python(Module()) == ("3.99", "2.77")

    python.write_text("#!/bin/sh\necho No module named venv >&2\nexit 1\n")
    with pytest.raises(RefusedError, match=r"which releases run on, does not work: No module named venv"):
        target.ask_python(Module())


def test_a_user_who_is_there_stays_as_it_is_unless_it_may_do_everything() -> None:
    me = next(user for user in pwd.getpwall() if user.pw_uid)

    assert target.group_of(Module(), me.pw_name) == grp.getgrgid(me.pw_gid).gr_name
    assert target.group_of(Module(), "nobody-of-this-name") == ""
    with pytest.raises(RefusedError, match="celery_app_user: root may do everything"):
        target.group_of(Module(), "root")


# --- Another Python ------------------------------------------------------------------------------------


def environment(path: Path, python: str) -> Path:
    """A virtual environment of a release."""
    packages = path / f"venv-{python}/lib/python{python}/site-packages"
    packages.mkdir(parents=True)
    (packages / "proj.py").write_text(python)
    return path / f"venv-{python}"


@pytest.mark.parametrize("is_link", [False, True])
def test_a_release_gets_a_second_environment_and_keeps_the_first_in_its_place(
    tmp_path: Path, is_link: bool
) -> None:
    first = environment(tmp_path, "3.11")
    if is_link:
        release.point(tmp_path, first)
    else:
        first.rename(tmp_path / "venv")
    (tmp_path / "manifest.json").write_text("")
    assert release.python_of(tmp_path) == "3.11"
    assert current.other_python(tmp_path, Path("/usr/bin/python3.13")).endswith(
        "was installed for Python 3.11, and the host has 3.13 now: deploy it again, which rebuilds it"
    )

    release.point(tmp_path, environment(tmp_path, "3.13"))

    assert release.python_of(tmp_path) == "3.13"
    for python in ("3.11", "3.13"):
        assert (tmp_path / f"venv/lib/python{python}/site-packages/proj.py").read_text() == python
        assert (tmp_path / f"venv/lib/python{python}/../../../manifest.json").exists()
    assert current.other_python(tmp_path, Path("/usr/bin/python3.13")) == ""


def test_a_release_that_is_rebuilt_stays_as_old_as_it_was(tmp_path: Path) -> None:
    for number, name in enumerate(("r1", "r2"), start=1):
        manifest = tmp_path / name / "manifest.json"
        manifest.parent.mkdir()
        manifest.write_text("")
        os.utime(manifest, (number, number))
    unpacked = tmp_path / "r1/unpacked"
    unpacked.mkdir()
    (unpacked / "manifest.json").write_text("{}")
    (tmp_path / "r1/proved.json").write_text("")

    release.finish(tmp_path / "r1", unpacked, environment(tmp_path / "r1", "3.13"))

    assert [path.name for path in current.by_age(tmp_path)] == ["r1", "r2"]
    assert not (tmp_path / "r1/proved.json").exists()
    assert (tmp_path / "r1/manifest.json").read_text() == "{}"
