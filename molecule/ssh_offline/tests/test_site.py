"""The site works where it was deployed over SSH on hosts that reach nothing but each other."""

from typing import Any

from releases import Rollouts, Source
from scenario import Scenario

testinfra_hosts = ["ansible://worker1"]

SCENARIO = Scenario("ssh_offline")
PLAYBOOKS = "../../playbooks"


def test_the_hosts_reach_nobody_else(host: Any) -> None:
    assert host.run("ip route get 192.0.2.1").rc != 0
    assert host.run("getent hosts data1").rc == 0


def test_whoever_logs_in_has_to_ask_for_what_he_may_do(host: Any) -> None:
    assert host.check_output("id --user --name") == "deploy"
    assert host.run("cat /etc/celery/app.env").rc != 0
    with host.sudo():
        assert host.check_output("id --user") == "0"


def test_a_second_run_changes_nothing_and_tasks_are_executed() -> None:
    again = SCENARIO.play("--diff")
    verified = SCENARIO.play(playbook=f"{PLAYBOOKS}/verify.yml")

    assert again.count("changed=0 ") == again.count("changed="), again
    assert "failed=0" in verified


def test_a_new_release_needs_no_network(host: Any, tmp_path: Any) -> None:
    source = Source.copy(tmp_path / "tasks")
    source.append("# Another release.")
    before = host.check_output("readlink /opt/celery/current")

    Rollouts(SCENARIO).deploy(source, rollout_seconds=1)

    assert host.check_output("readlink /opt/celery/current") != before


def test_nothing_is_left_that_others_could_read(host: Any) -> None:
    with host.sudo():
        left = host.check_output("find /home/deploy /tmp /var/tmp -name 'ansible*' -type f")
    assert not left
