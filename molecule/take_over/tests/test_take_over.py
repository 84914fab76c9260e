"""Hosts that were in use before keep what they hold; what is refused changes nothing."""

import re
import subprocess
from typing import Any

import pytest
import redis
from support.hosts.scenario import address
from support.hosts.taken_over import (
    HOSTS,
    MESSAGES,
    REDIS_HOSTS,
    ROWS,
    SCENARIO,
    SITE,
    assert_whole,
    host,
    messages,
    operator,
    reboot,
    refusal,
    rows,
    running,
)
from support.processes.services import wait_for
from support.role_tasks import modes

PLAYBOOKS = "../../playbooks"


def test_the_hosts_are_hardened_and_speak_another_language() -> None:
    secrets = SCENARIO.inventory / ".secrets"
    ssh = ["ssh", "-i", str(secrets / "ssh_key"), "-o", f"UserKnownHostsFile={secrets / 'known_hosts'}"]
    for name in HOSTS:
        assert host(name).run("runuser -u deploy -- sudo -n true").rc != 0
        told = subprocess.run(
            [*ssh, f"deploy@{address(host(name))}", "sudo -S -p '' sh -c 'umask; locale'"],
            input=SCENARIO.secrets["sudo"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert told.startswith("0077\n")
        assert "LANG=de_DE.UTF-8" in told
        for folder in ("/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 -- on the host
            host(name).check_output(f"cp /bin/true {folder}/")
            assert host(name).run(f"{folder}/true").rc == 126
            host(name).check_output(f"rm {folder}/true")


def test_every_message_and_row_is_there_and_tasks_are_executed() -> None:
    assert_whole()
    for name in REDIS_HOSTS:
        assert operator(name).config_get("appendonly") == {"appendonly": "yes"}


def test_every_file_has_the_mode_that_the_role_gives_it_whatever_the_umask() -> None:
    wanted = modes()
    seen: dict[str, str] = {}
    for name in HOSTS:
        lines = host(name).run(f"stat --format='%n %a %U %G' {' '.join(wanted)}").stdout.splitlines()
        seen |= dict(line.split(" ", 1) for line in lines)

    assert len(seen) > 5
    assert seen == {path: wanted[path] for path in seen}


def test_the_app_can_read_its_release_and_write_nothing_there() -> None:
    # What was proved before is root's affair.
    unreadable = (
        "runuser -u celery -- find /opt/celery/current/ ! -type l ! -readable"
        " ! -name proved.json ! -name supervised.json"
    )
    writable = "runuser -u celery -- find /opt/celery/ ! -type l -writable"

    assert host(SITE).check_output(unreadable) == ""
    assert host(SITE).check_output(writable) == ""


def test_every_service_comes_back_after_a_reboot_with_every_message_and_row() -> None:
    before = {name: set(running(name)) for name in HOSTS}
    assert sum(map(len, before.values())) > 15

    for name in HOSTS:
        reboot(name, before[name])

    assert_whole()


def test_the_password_from_before_opens_nothing() -> None:
    for name in REDIS_HOSTS:
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis(host=address(host(name)), password=SCENARIO.secrets["present"]).ping()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"redis_extra_settings": {"hz": "often"}}, "hz: "),
        ({"redis_extra_settings": {"rename-command": "CONFIG hidden extra"}}, "rename-command: "),
        ({"redis_bind": ["192.0.2.1"]}, "192.0.2.1 is no address of this host"),
    ],
)
def test_what_redis_would_refuse_is_refused_before_a_file_is_written(variables: Any, reason: str) -> None:
    printed = refusal("redis", **variables)

    assert len(re.findall(re.escape(reason), printed)) >= len(REDIS_HOSTS), printed


def test_a_rule_that_redis_does_not_know_is_refused_before_a_file_is_written() -> None:
    users = [
        {"name": "app", "preset": "app", "password": SCENARIO.secrets["redis_app"], "rules": ["+no-such"]},
        {"name": "backup", "preset": "backup", "password": SCENARIO.secrets["redis_backup"]},
        {"name": "operator", "preset": "operator", "password": SCENARIO.secrets["redis_operator"]},
    ]

    printed = refusal("redis", redis_users=users)

    assert "Unknown command or category name" in printed, printed
    assert SCENARIO.secrets["redis_app"] not in printed


def test_a_server_that_lets_nobody_in_is_refused_before_a_file_is_written() -> None:
    users = [
        {"name": "backup", "preset": "backup", "password": SCENARIO.secrets["redis_backup"]},
        {"name": "operator", "preset": "operator", "password": "another-password-0123456789"},
    ]

    printed = refusal("redis", redis_users=users)

    assert "cannot ask Redis as the user operator" in printed


def test_a_stopped_server_with_data_and_no_append_only_file_is_refused() -> None:
    broker = host("broker12")
    operator("broker12").save()
    broker.check_output("systemctl stop redis-server && mv /var/lib/redis/appendonlydir /var/lib/redis/aside")
    try:
        printed = refusal("redis", "--limit", "broker12")
        assert re.search(r"holds data and redis-server\.service does not run", printed), printed
    finally:
        broker.check_output(
            "mv /var/lib/redis/aside /var/lib/redis/appendonlydir && systemctl start redis-server"
        )
    wait_for(lambda: messages("broker12") == MESSAGES, "messages are missing", 30)


def test_what_was_there_in_postgresql_is_as_it_was() -> None:
    assert rows() == ROWS
    settings = host(SITE).check_output(
        "runuser -u postgres -- psql -Atc 'SHOW lc_messages' -c 'SHOW work_mem'"
    )
    assert settings.splitlines()[0] == "de_DE.UTF-8"


def test_a_second_run_changes_nothing_and_the_site_is_verified() -> None:
    again = SCENARIO.play("--diff")
    verified = SCENARIO.play(playbook=f"{PLAYBOOKS}/verify.yml")

    assert again.count("changed=0 ") == again.count("changed="), again
    assert "failed=0" in verified
