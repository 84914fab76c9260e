"""Supervisors that end, change or are switched off: the workers go on."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
from support.hosts.deployed_app import WITHIN
from support.hosts.fleet_workers import load
from support.hosts.scenario import Scenario
from support.hosts.supervised_fleet import (
    MAXIMUM,
    SLOTS,
    SUPERVISOR,
    SupervisedHost,
    all_once,
    full_load,
    wait_for_workers,
)
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://worker1"]
units = [SUPERVISOR]

CURRENT = "/opt/celery-fleet/supervisor/current"
UPGRADED = "/opt/celery-fleet/supervisor/releases/upgraded"
AUTOSCALER = "celery-app celery-autoscaler -A tasks"
FILES = [
    "/etc/celery/autoscaler.env",
    "/etc/celery/autoscaler.toml",
    "/etc/polkit-1/rules.d/50-celery-autoscaler.rules",
    "/etc/systemd/system/celery-autoscaler.service",
    "/usr/local/sbin/celery-autoscaler-launch",
]


def wait_for_all_workers(hosts: dict[str, SupervisedHost]) -> None:
    """Wait until the fleet has as many workers as it may, the same number on each host."""
    # Also from all workers on one host: then one after the other moves.
    wait_for_workers(
        lambda seen: seen == dict.fromkeys(hosts, MAXIMUM // 2), "two workers on each host", 2 * WITHIN
    )


@contextmanager
def all_workers_busy(hosts: dict[str, SupervisedHost], trace: str) -> Iterator[list[str]]:
    """Keep all workers of the fleet busy until the block ends."""
    with full_load(trace) as ids:
        wait_for_all_workers(hosts)
        yield ids


@contextmanager
def paused(host: SupervisedHost) -> Iterator[None]:
    """Let no supervisor start or stop a worker until the block ends."""
    host.host.check_output(f"{AUTOSCALER} pause general")
    try:
        yield
    finally:
        host.host.check_output(f"{AUTOSCALER} resume general")


def processes(hosts: dict[str, SupervisedHost]) -> dict[str, dict[str, int]]:
    """Return the process of each worker."""
    return {name: host.workers() for name, host in hosts.items()}


def restart(host: SupervisedHost) -> None:
    """Restart the supervisor."""
    host.host.check_output(f"systemctl restart {SUPERVISOR}")


def kill(host: SupervisedHost) -> None:
    """Kill the supervisor, as a lack of memory would."""
    host.host.check_output(f"systemctl kill --signal=KILL {SUPERVISOR}")


def upgrade(host: SupervisedHost) -> None:
    """Let the supervisor come from another environment, then from the present one again."""
    host.host.check_output(
        f"release=$(readlink -f {CURRENT}) && cp --archive $release {UPGRADED}"
        f' && sed -i "1s|$release|{UPGRADED}|" {UPGRADED}/venv/bin/celery-autoscaler'
        f" && ln -sfn {UPGRADED} {CURRENT} && systemctl restart {SUPERVISOR} && ln -sfn $release {CURRENT}"
    )
    assert UPGRADED in host.host.check_output(f"tr '\\0' ' ' </proc/{host.supervisor()}/cmdline")
    host.host.check_output(f"rm --recursive {UPGRADED} && systemctl restart {SUPERVISOR}")


def has_another(host: SupervisedHost, supervisor: int) -> bool:
    """Whether another supervisor than this one runs."""
    return host.supervisor() not in {0, supervisor}


@pytest.mark.parametrize("change", [restart, kill, upgrade])
def test_workers_go_on_while_their_supervisor_is_replaced(
    hosts: dict[str, SupervisedHost], trace: str, change: Callable[[SupervisedHost], None]
) -> None:
    with all_workers_busy(hosts, trace) as ids:
        before, since = processes(hosts), time.time()
        supervisors = {name: host.supervisor() for name, host in hosts.items()}
        for name, host in hosts.items():
            change(host)
            wait_for(partial(has_another, host, supervisors[name]), "no new supervisor")
            for instance in before[name]:
                host.wait_for_words(f"{instance} adopted: it was running before", since)
        assert processes(hosts) == before

    assert all_once(trace, ids)


def test_a_second_deployment_changes_nothing_and_does_not_interfere(
    hosts: dict[str, SupervisedHost], trace: str
) -> None:
    with all_workers_busy(hosts, trace) as ids:
        before = processes(hosts)
        supervisors = {name: host.supervisor() for name, host in hosts.items()}

        printed = Scenario("scaling").play("--limit=workers")

        assert set(re.findall(r"changed=(\d+)", printed)) == {"0"}
        assert processes(hosts) == before
        assert {name: host.supervisor() for name, host in hosts.items()} == supervisors

    assert all_once(trace, ids)


def test_a_changed_setting_reaches_the_running_supervisor(
    hosts: dict[str, SupervisedHost], idle: None
) -> None:
    del idle
    host, since = hosts["worker1"], time.time()
    supervisor, workers = host.supervisor(), host.workers()

    printed = Scenario("scaling").play("--limit=worker1", celery_autoscaler_queue_threshold=200)

    assert "celery-autoscaler.service outdated" in printed
    host.wait_for_words("Settings reloaded: general", since)
    assert (host.supervisor(), host.workers()) == (supervisor, workers)
    Scenario("scaling").play("--limit=worker1")


@pytest.mark.usefixtures("idle")  # so that the first worker of each host is among those that run
def test_switched_off_and_on_again_the_workers_that_fit_go_on(
    hosts: dict[str, SupervisedHost], trace: str
) -> None:
    fixed = {"general-1"}
    with ExitStack() as stack:
        with full_load(trace) as ids:
            wait_for_all_workers(hosts)
            stack.enter_context(paused(hosts["worker1"]))
        # No more than the fixed workers can do.
        fewer = stack.enter_context(load(f"{trace}-less", rate=SLOTS / 4, seconds=1))
        before = processes(hosts)
        assert all(fixed < set(workers) for workers in before.values())

        Scenario("scaling").play("--limit=workers", celery_app_supervised=False)

        kept = {name: {unit: workers[unit] for unit in fixed} for name, workers in before.items()}
        assert processes(hosts) == kept
        for host in hosts.values():
            assert host.property("celery-worker@general-1.service", "UnitFileState") == "enabled"
            assert host.property(SUPERVISOR, "LoadState") == "not-found"
            assert [path for path in FILES if host.host.file(path).exists] == []

        since = time.time()
        Scenario("scaling").play("--limit=workers")

        assert processes(hosts) == kept
        for host in hosts.values():
            host.wait_for_words("general-1 adopted: it was running before", since)
            assert host.property("celery-worker@general-1.service", "UnitFileState") == "disabled"

    assert all_once(trace, ids)
    assert all_once(f"{trace}-less", fewer)


@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        ("start celery-worker@general-9.service", True),
        ("kill --signal=TERM celery-worker@general-9.service", True),
        ("stop celery-worker@general-9.service", True),
        ("start celery-worker@other-1.service", False),
        ("stop celery-worker@other-1.service", True),
        ("enable celery-worker@general-1.service", False),
        ("stop celery-autoscaler.service", False),
        ("stop systemd-journald.service", False),
        ("set-property --runtime celery-worker@general-1.service MemoryMax=1G", False),
        ("daemon-reload", False),
    ],
)
def test_the_supervisors_user_may_start_and_stop_its_workers_only(
    host: Host, command: str, allowed: bool
) -> None:
    done = host.run(
        f"setpriv --reuid=celery --regid=celery --init-groups systemctl --no-ask-password {command}"
    )

    assert (done.rc == 0) is allowed, done.stderr
    if not allowed:
        assert re.search("access denied|authentication required", done.stderr, re.IGNORECASE)


def test_it_tells_its_state_on_the_host_only(host: Host) -> None:
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9541/{}').read().decode())"

    assert '"general"' in host.check_output("python3 -c %s", ask.format("status"))
    assert "fleet" in host.check_output("python3 -c %s", ask.format("metrics"))
    host.check_output("python3 -c %s", ask.format("healthz"))
    listening = {line.split()[3] for line in host.check_output("ss -Hltn 'sport = :9541'").splitlines()}
    assert listening == {"127.0.0.1:9541"}
    host.run_expect([0], f"systemd-analyze security --threshold=25 {SUPERVISOR}")
