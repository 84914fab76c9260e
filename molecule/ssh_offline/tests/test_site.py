"""The site works where it was deployed over SSH on hosts that reach nothing but each other."""

import subprocess
from typing import Any

import pytest
from support.hosts.releases import Source
from support.hosts.scenario import Scenario

# The plays come over SSH; who looks does not.
testinfra_hosts = ["docker://celery-fleet-ssh-offline-worker1"]

SCENARIO = Scenario("ssh_offline")
PLAYBOOKS = "../../playbooks"


def test_the_hosts_reach_nobody_else(host: Any) -> None:
    assert host.run("ip route get 192.0.2.1").rc != 0
    assert host.run("getent hosts data1").rc == 0


def test_whoever_logs_in_has_to_ask_for_what_he_may_do(host: Any) -> None:
    assert host.run("runuser -u deploy -- cat /etc/celery/app.env").rc != 0
    assert host.check_output("runuser -u deploy -- sudo -n id --user") == "0"
    assert "Accepted publickey for deploy" in host.check_output("journalctl --no-pager --unit=ssh.service")


# It takes the host, for else pytest would run it after those that do.
@pytest.mark.usefixtures("host")
def test_a_second_run_changes_nothing_and_tasks_are_executed() -> None:
    again = SCENARIO.play("--diff")
    verified = SCENARIO.play(playbook=f"{PLAYBOOKS}/verify.yml")

    assert again.count("changed=0 ") == again.count("changed="), again
    assert "failed=0" in verified


def test_a_release_of_a_git_repository_needs_no_network(host: Any, tmp_path: Any) -> None:
    source = Source.copy(tmp_path / "tasks")
    source.append("# Another release.")
    git = ["git", "-C", str(source.folder), "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (
        ["init", "--quiet", "--initial-branch=ours"],
        ["add", "."],
        ["commit", "--quiet", "-m", "A release"],
    ):
        subprocess.run([*git, *words], check=True)
    before = host.check_output("readlink /opt/celery/current")

    SCENARIO.play(
        playbook=f"{PLAYBOOKS}/deploy.yml",
        celery_app_source=f"file://{source.folder}",
        celery_app_revision="ours",
        rollout_seconds=1,
    )

    assert host.check_output("readlink /opt/celery/current") != before
    show = "import tasks.celery; print(open(tasks.celery.__file__).read())"
    assert host.check_output("celery-app python -c %s", show).endswith("# Another release.")


def test_nothing_is_left_that_others_could_read(host: Any) -> None:
    assert not host.check_output("find /home/deploy /tmp /var/tmp -name 'ansible*' -type f")
