"""`fleet` on a host: it finds the projects, asks the one that is meant, and names what it cannot do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from celery_autoscaler.operations.host_projects import HostError, chosen, projects, run
from hypothesis import given
from hypothesis import strategies as st
from support.processes.process import clean_environment

# Says what it was given; one project has tasks that are late.
LAUNCHER = """#!/bin/sh
name={name}
case "$*" in
    *--json*) printf '{{"project": "%s"}}' "$name" ;;
    *) echo "$name: $*" ;;
esac
if [ "$name" = shop ]; then exit 6; fi
"""


def deploy(root: Path, *names: str) -> None:
    """Install launchers as the roles do, and what else stands beside them."""
    folder = root / "usr/local/sbin"
    folder.mkdir(parents=True)
    for name in names:
        prefix = "celery" if name == "celery" else f"celery-{name}"
        (root / "etc" / prefix).mkdir(parents=True)
        for file in ("app", "launch", "autoscaler-launch"):
            (folder / f"{prefix}-{file}").write_text(LAUNCHER.format(name=name))
            (folder / f"{prefix}-{file}").chmod(0o755)


def fleet(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as root would on a host."""
    program = (
        "import sys; from pathlib import Path; from celery_autoscaler.operations import host_projects\n"
        "try: sys.exit(host_projects.run(sys.argv[2:], Path(sys.argv[1]), is_root=True))\n"
        "except host_projects.HostError as error: sys.exit(f'Error: {error}')"
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(root), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=clean_environment(),
    )


def test_one_project_needs_no_option(tmp_path: Path) -> None:
    deploy(tmp_path, "celery")
    (tmp_path / "etc/celery/autoscaler.env").touch()

    done = fleet(tmp_path, "pause", "web")

    assert done.stdout == f"celery: -e {tmp_path}/etc/celery/autoscaler.env /usr/local/bin/fleet pause web\n"


def test_of_several_projects_the_named_one_is_asked(tmp_path: Path) -> None:
    deploy(tmp_path, "celery", "shop")

    assert [project.name for project in projects(tmp_path)] == ["celery", "shop"]
    for option in (["-p", "shop"], ["-pshop"], ["--project", "shop"], ["--project=shop"]):
        done = fleet(tmp_path, *option, "pause", "web")
        assert (done.stdout, done.returncode) == ("shop: /usr/local/bin/fleet pause web\n", 6)
    assert fleet(tmp_path, "-p", "shp", "status").stderr == (
        "Error: no project named 'shp' (did you mean shop?); there are: celery, shop\n"
    )


def test_what_changes_something_is_not_done_to_several_projects_at_once(tmp_path: Path) -> None:
    deploy(tmp_path, "celery", "shop")

    done = fleet(tmp_path, "pause", "web")

    assert done.stdout == ""
    assert done.stderr == (
        "Error: this host has several projects: celery, shop; name one: fleet -p celery pause web\n"
    )


def test_the_status_of_all_projects_is_shown_and_the_worst_exit_status_is_theirs(tmp_path: Path) -> None:
    deploy(tmp_path, "celery", "shop")

    done = fleet(tmp_path, "status", "--exit-code")

    assert done.stdout == (
        "Project celery\ncelery: /usr/local/bin/fleet status --exit-code\n\n"
        "Project shop\nshop: /usr/local/bin/fleet status --exit-code\n"
    )
    assert done.returncode == 6
    found = json.loads(fleet(tmp_path, "dead-letter", "list", "--json").stdout)
    assert found == {"celery": {"project": "celery"}, "shop": {"project": "shop"}}


@pytest.mark.parametrize(
    ("names", "is_root", "words"),
    [
        ((), True, "no project is deployed on this host, and CELERY_APP names no app"),
        (("celery",), False, "only root may read the settings of this host: sudo fleet status --json"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    tmp_path: Path, names: tuple[str, ...], is_root: bool, words: str
) -> None:
    deploy(tmp_path, *names)

    with pytest.raises(HostError) as raised:
        run(["status", "--json"], tmp_path, is_root=is_root)

    assert str(raised.value) == words


@given(st.lists(st.text(max_size=6) | st.sampled_from(["-p", "--project", "-pa", "--project=a"]), max_size=4))
def test_any_arguments_are_told_apart(arguments: list[str]) -> None:
    name, rest = chosen(arguments)

    assert rest == arguments[len(arguments) - len(rest) :]
    assert (name is None) == (len(rest) == len(arguments))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["pause", "--help"], ["status"]])
def test_help_needs_neither_root_nor_a_project(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery_autoscaler.fleet", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment() | {"COLUMNS": "80"},
    )

    if arguments == ["status"]:
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        return
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "..." not in done.stdout.replace("[ARGS]...", "")
    assert "-A" not in done.stdout
