"""What is beside a release: the settings, files and limits of each worker group."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.made_up_projects import INPUTS
from support.role_files import evaluate, render, security_score

WEB: dict[str, Any] = {"name": "web", "queues": ["web"], "pool": "prefork", "concurrency": 1, "workers": 1}
MAILS = WEB | {"name": "mails", "environment": {"SMTP_PASSWORD": "se$cret"}, "memory_max": "2G"}
OWN: dict[str, Any] = INPUTS | {
    "celery_app_worker_groups": [WEB, MAILS],
    "celery_app_files": [
        {"dest": "all.py", "content": "A = 1\n"},
        {"dest": "mails.json", "content": "{}", "read_by": ["mails"], "mode": "0644"},
    ],
}
FILES = "(__celery_app_files + __celery_app_secret_files)"


def contents(inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the role writes, by path."""
    [found] = evaluate("celery_app", FILES, [inputs])
    return {file["path"]: file for file in found}


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, Any]]:
    """What the role writes."""
    return contents(OWN)


def test_a_secret_of_a_group_is_read_by_the_app_alone(files: dict[str, dict[str, Any]]) -> None:
    secret = files["/etc/celery/groups/mails.secret.env"]

    assert (secret["mode"], secret["group"]) == ("0640", "celery")
    assert 'SMTP_PASSWORD="se\\$cret"' in secret["content"].splitlines()
    assert "/etc/celery/groups/web.secret.env" not in files
    assert not [file for file in files.values() if file is not secret and "se$cret" in file["content"]]
    own = files["/etc/celery/files/all.py"]
    assert (own["content"], own["mode"], own["group"]) == ("A = 1\n", "0640", "celery")


def test_only_those_that_read_what_changed_are_restarted(files: dict[str, dict[str, Any]]) -> None:
    def restarted(**changes: Any) -> set[str]:
        after = contents(OWN | changes)
        groups = {
            path.rpartition("/")[2]: file["content"] for path, file in files.items() if "groups" in path
        }
        return {
            name
            for name, text in groups.items()
            if after.get(f"/etc/celery/groups/{name}", {}).get("content") != text and "secret" not in name
        }

    all_py, mails = OWN["celery_app_files"]
    assert restarted(celery_app_files=[all_py, mails | {"content": "[]"}]) == {"mails.env"}
    assert restarted(celery_app_files=[all_py | {"content": "A = 2"}, mails]) == {
        "beat.env", "mails.env", "web.env",
    }  # fmt: skip
    assert restarted(celery_app_worker_groups=[WEB, MAILS | {"memory_max": "3G"}]) == {"mails.env"}
    assert restarted(celery_app_worker_groups=[WEB, MAILS | {"environment": {}}]) == {"mails.env"}
    assert restarted(celery_app_worker_groups=[WEB, MAILS | {"environment": {"SMTP_PASSWORD": "x"}}]) == set()


def test_the_settings_of_a_group_belong_to_the_environment_of_its_units() -> None:
    [units] = evaluate("celery_app", "__celery_app_worker_units", [OWN])

    assert [unit["environment_files"][1:] for unit in units] == [
        ["/etc/celery/groups/web.env"],
        ["/etc/celery/groups/mails.env", "/etc/celery/groups/mails.secret.env"],
    ]


def test_each_group_has_its_own_limits(files: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    script = files["/usr/local/sbin/celery-limits"]["content"].replace("exec /usr/bin/systemctl", "echo")

    def limits(worker: str) -> str:
        return subprocess.run(
            ["sh", "-c", script, "-", worker], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert limits("mails-12") == (
        "set-property --runtime celery-worker@mails-12.service MemoryMax=2G CPUQuota="
    )
    assert limits("web-1") == (
        "set-property --runtime celery-worker@web-1.service MemoryMax=infinity CPUQuota="
    )
    worker = files["/etc/systemd/system/celery-worker@.service"]["content"]
    assert "Requires=celery-limits@%i.service\nAfter=celery-limits@%i.service\n" in worker
    unit = "celery-limits@.service"
    (tmp_path / unit).write_text(files[f"/etc/systemd/system/{unit}"]["content"])
    score = security_score(tmp_path, unit)
    assert score.returncode == 0, score.stdout + score.stderr


def test_worker_that_stretches_knows_its_least_and_its_most() -> None:
    groups = [WEB | {"concurrency": [2, 16]}, MAILS]
    found = contents(OWN | {"celery_app_worker_groups": groups, "celery_app_supervised": True})

    web = found["/etc/celery/groups/web.env"]["content"].splitlines()
    assert 'CELERY_WORKER_CONCURRENCY="2"' in web
    assert 'CELERY_APP_MAX_CONCURRENCY="16"' in web
    assert "CELERY_APP_MAX_CONCURRENCY" not in found["/etc/celery/groups/mails.env"]["content"]


def test_without_limits_nothing_sets_any() -> None:
    found = contents(OWN | {"celery_app_worker_groups": [WEB]})

    assert not [path for path in found if "limits" in path]
    assert "celery-limits" not in found["/etc/systemd/system/celery-worker@.service"]["content"]


def test_the_sandbox_lets_the_app_write_in_its_directories() -> None:
    inputs = OWN | {"celery_app_directories": [{"path": "/srv/data"}, {"path": "/mnt/x", "mount": True}]}
    unit = "etc/systemd/system/celery-beat.service.j2"

    lines = render("celery_app", [unit], inputs)[unit].splitlines()

    assert {"ReadWritePaths=/srv/data", "ReadWritePaths=/mnt/x"} <= set(lines)
    assert "RequiresMountsFor=/srv/data /mnt/x" in lines


def test_commands_run_on_the_hosts_that_they_name() -> None:
    here, there, first = (
        {"command": ["a"], "hosts": ["localhost"]},
        {"command": ["b"], "hosts": ["x"]},
        {"command": ["c"]},
    )

    [steps] = evaluate(
        "celery_app",
        "__celery_app_steps",
        [OWN | {"celery_app_after_migrate_commands": [here, there, first]}],
    )

    assert steps == [here, first]
