"""A step that breaks leaves host and services as they were; after a play that is cut off they restart.

`make break-steps` plays all; the suite plays one refusal of each part (conftest.py).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from support.hosts.scenario import ROOT
from support.hosts.taken_over import (
    HOSTS,
    PARTS,
    REDIS_HOSTS,
    SERVICES,
    SITE,
    assert_whole,
    cut,
    host,
    older_supervisor,
    operator,
    play_part,
    reboot,
    refusal,
    restart_all,
    running,
)

ALL = os.environ.get("BREAK_STEPS") == "all"
TOO_MANY_STEPS = 60

ELSEWHERE = "192.0.2.1"
ENVIRONMENT = {
    "CELERY_BROKER_URL": "redis://app:{{ redis_app_password }}@{{ fleet_redis_host }}:6379/0",
    "CELERY_RESULT_BACKEND": "redis://app:{{ redis_app_password }}@{{ fleet_redis_host }}:6379/1",
    "DB_HOST": "{{ fleet_postgres_host }}",
    "DB_PORT": 5432,
    "DB_NAME": "celery",
    "DB_USER": "celery_app",
    "DB_PASSWORD": "{{ postgres_app_password }}",
}
# A certificate and a key that does not fit, and a project that differs, where the fixture puts them.
WRONG_FILES = {name: f"{{{{ broken }}}}/{name}.pem" for name in ("authority", "certificate", "key")}
OTHER_PROJECT = "{{ broken }}/project"
OPERATOR = {"name": "operator", "preset": "operator", "password": "another-password-0123456789"}
GROUP = {
    "name": "general",
    "queues": ["default"],
    "pool": "prefork",
    "concurrency": 1,
    "workers": 1,
    "min_workers": 1,
}


class Break(NamedTuple):
    """A step that breaks, and what has to be said of it."""

    part: str
    reason: str
    variables: dict[str, object]
    # Nothing can be written there, where a path; a disk of 10 MB, where it ends with a plus.
    closed: str = ""
    # One of each part is played by the suite.
    in_suite: bool = False

    def __str__(self) -> str:
        return f"{self.part}: {self.closed or self.reason}"


READ_ONLY = "Read-only file system|read-only|not writable"
BREAKS = [
    Break("common", "Mars/Olympus", {"common_timezone": "Mars/Olympus"}),
    Break("common", "no-such-package", {"common_packages": ["acl", "no-such-package"]}, in_suite=True),
    Break("common", "common_ca_bundle.*no certificate", {"common_ca_bundle": "{{ broken }}/nonsense.pem"}),
    Break("redis", "redis_port: another service listens on .*:9100", {"redis_port": 9100}),
    Break("redis", "redis_backup_schedule: ", {"redis_backup_schedule": "sometime"}),
    Break("redis", "certificate", {"redis_tls": True, "redis_tls_files": WRONG_FILES}),
    Break("redis", "nosuch.so", {"redis_extra_settings": {"loadmodule": "/nosuch.so"}}, in_suite=True),
    Break("redis", "redis_maxmemory_percent", {"redis_maxmemory_percent": "much"}),
    Break("redis", "no user with the preset backup", {"redis_users": [OPERATOR]}),
    Break("redis", READ_ONLY, {"redis_timeout": 17}, "/etc/redis"),
    Break(
        "postgres",
        "198.18.45.0/99",
        {
            "postgres_clients": [
                {"databases": ["celery"], "users": ["celery_app"], "addresses": ["198.18.45.0/99"]}
            ]
        },
    ),
    Break("postgres", "work_mem", {"postgres_extra_settings": {"work_mem": "much"}}),
    Break("postgres", "no_such_setting", {"postgres_extra_settings": {"no_such_setting": 1}}),
    Break("postgres", "nosuchlib", {"postgres_shared_preload_libraries": ["nosuchlib"]}),
    Break("postgres", "postgres_port: another program listens on port 9100", {"postgres_port": 9100}),
    Break("postgres", "shared memory|memory", {"postgres_extra_settings": {"shared_buffers": "900GB"}}),
    Break("postgres", "certificate", {"postgres_tls": True, "postgres_tls_files": WRONG_FILES}),
    Break("postgres", re.escape(ELSEWHERE), {"postgres_listen_addresses": [ELSEWHERE]}, in_suite=True),
    Break("postgres", READ_ONLY, {"postgres_log_min_duration_statement": "7s"}, "/etc/postgresql"),
    Break("archive", "postgres_backup_full.*sometime|sometime", {"postgres_backup_full": "sometime"}),
    Break(
        "archive",
        "CryptoError|FormatError",
        {"postgres_repository_passphrase": "another-passphrase-0123456789"},
        in_suite=True,
    ),
    Break("archive", READ_ONLY, {"postgres_repository_host": "{{ ansible_host }}"}, "/etc/pgbackrest"),
    Break("celery_app", "DB_PORT", {"celery_app_environment": ENVIRONMENT | {"DB_PORT": "many"}}),
    Break("celery_app", "nosuch", {"celery_app_name": "nosuch"}),
    Break(
        "celery_app",
        "no migration today",
        {
            "celery_app_source": OTHER_PROJECT,
            "celery_app_migrate_command": ["python", "-c", "raise SystemExit('no migration today')"],
        },
    ),
    Break(
        "celery_app",
        "no check today",
        {"celery_app_check_command": ["python", "-c", "raise SystemExit('no check today')"]},
        in_suite=True,
    ),
    Break("celery_app", "maximun", {"celery_app_worker_groups": [GROUP | {"maximun": 4}]}),
    Break("celery_app", READ_ONLY, {"celery_app_environment": ENVIRONMENT | {"MORE": "1"}}, "/etc/celery"),
    Break("celery_app", "the disk has", {"celery_app_source": OTHER_PROJECT}, "/opt/celery/releases+"),
    Break(
        "celery_autoscaler",
        "min_workers",
        {"celery_app_worker_groups": [GROUP | {"min_workers": 9, "max_workers": 4}]},
    ),
    Break(
        "celery_autoscaler",
        "celery_autoscaler_http: is '198.18.45.13:port'",
        {"celery_autoscaler_http": "198.18.45.13:port"},
    ),
    Break(
        "celery_autoscaler",
        "celery_autoscaler_http: 192.0.2.1 is no address of this host",
        {"celery_autoscaler_http": f"{ELSEWHERE}:9541"},
    ),
    Break(
        "celery_autoscaler",
        "WRONGPASS|password",
        {"celery_autoscaler_broker_url": "redis://supervisor:wrong@{{ fleet_redis_host }}:6379/0"},
    ),
    Break(
        "celery_autoscaler", READ_ONLY, {"celery_autoscaler_cpu_threshold": 91}, "/etc/celery", in_suite=True
    ),
    Break("exporters", "monitoring_exporters_address", {"monitoring_exporters_address": ELSEWHERE}),
    Break(
        "exporters",
        READ_ONLY,
        {"postgres_monitor_password": "another-password-0123"},
        "/etc/default",
        in_suite=True,
    ),
    Break(
        "monitoring",
        "nosuch",
        {"monitoring_alertmanager": {"route": {"receiver": "nosuch"}, "receivers": []}},
        in_suite=True,
    ),
    Break("monitoring", "often", {"monitoring_scrape_interval": "often"}),
    Break("monitoring", "long", {"monitoring_retention": "long"}),
    Break("monitoring", READ_ONLY, {"monitoring_scrape_interval": "16s"}, "/etc/prometheus"),
]
PLAYED = [step for step in BREAKS if ALL or step.in_suite]

# What changes every file of a part, and needs every step.
EVERYTHING: dict[str, dict[str, object]] = {
    "common": {"common_timezone": "Europe/Paris", "common_ca_bundle": "{{ broken }}/authority.pem"},
    "redis": {"redis_timeout": 17, "redis_extra_settings": {"hz": 11}, "redis_tcp_backlog": 200},
    "postgres": {
        "postgres_log_min_duration_statement": "7s",
        "postgres_max_connections": 91,
        "postgres_users": [{"name": "another", "password": "another-password-0123456789"}],
        "postgres_databases": [{"name": "another", "owner": "another"}],
        "postgres_grants": [],
    },
    "archive": {"postgres_backup_keep_full": 3, "postgres_backup_full": "Sat 02:00"},
    "celery_app": {"celery_app_source": OTHER_PROJECT, "celery_app_environment": ENVIRONMENT | {"MORE": "1"}},
    "celery_autoscaler": {"celery_autoscaler_cpu_threshold": 91},
    "exporters": {},
    "monitoring": {"monitoring_scrape_interval": "16s", "monitoring_retention": "16d"},
}
# That the services run with it, where that can be seen.
APPLIED: dict[str, Callable[[], bool]] = {
    "common": lambda: "Europe/Paris" in host(SITE).check_output("readlink /etc/localtime"),
    "redis": lambda: (
        operator(SITE).config_get("timeout", "tcp-backlog") == {"timeout": "17", "tcp-backlog": "200"}
    ),
    "postgres": lambda: shown("log_min_duration_statement") == "7s" and shown("max_connections") == "91",
    "archive": lambda: (
        "Sat" in host("backup13").check_output("systemctl list-timers postgres-backup-full.timer")
    ),
    "celery_app": lambda: (
        "\0MORE=1\0" in host(SITE).check_output("cat /proc/%s/environ", process("celery-beat"))
    ),
    "celery_autoscaler": lambda: (
        "91" in host(SITE).check_output("cat /run/celery-autoscaler/autoscaler.toml")
    ),
    "exporters": lambda: True,
    "monitoring": lambda: (
        "=16d" in host("backup13").check_output("cat /proc/%s/cmdline", process("prometheus"))
    ),
}


def shown(setting: str) -> str:
    """What PostgreSQL runs."""
    return str(host(SITE).check_output(f"runuser -u postgres -- psql -Atc 'SHOW {setting}'"))


def process(unit: str) -> str:
    """The main process of a service."""
    on = host("backup13" if unit == "prometheus" else SITE)
    return str(on.check_output(f"systemctl show --property=MainPID --value {unit}"))


@pytest.fixture(scope="module", autouse=True)
def wanted() -> Iterator[dict[str, set[str]]]:
    """The services that run before anything is broken, and again after a restart and a reboot in the end."""
    found = {name: set(running(name)) for name in HOSTS}
    yield found
    for name in HOSTS:
        restart_all(name, found[name])
    assert_whole()


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that do not fit each other."""
    folder = tmp_path_factory.mktemp("broken")
    for name in ("authority", "certificate", "other"):
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-noenc",
                ),
                *("-subj", f"/CN={name}", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"),
            ],
            check=True,
            capture_output=True,
        )
    shutil.copy(folder / "other.key", folder / "key.pem")
    (folder / "nonsense.pem").write_text("nonsense\n")
    shutil.copytree(
        ROOT / "app/tasks", folder / "project", ignore=shutil.ignore_patterns("*.egg-info", "build")
    )
    with (folder / "project/src/tasks/celery.py").open("a") as module:
        module.write("# Another release.\n")
    return folder


@contextmanager
def closed(name: str, path: str) -> Iterator[None]:
    """Nothing can be written there, or on a disk of 10 MB in its place."""
    folder = path.removesuffix("+")
    if path.endswith("+"):
        host(name).check_output(f"mount -t tmpfs -o size=10m none {folder}")
    else:
        host(name).check_output(f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}")
    try:
        yield
    finally:
        host(name).check_output(f"umount --lazy {folder}")


@pytest.mark.parametrize("step", PLAYED, ids=str)
def test_a_step_that_breaks_changes_nothing(step: Break, broken: Path, wanted: dict[str, set[str]]) -> None:
    of_part = {"redis": [*REDIS_HOSTS], "monitoring": ["backup13"], "archive": [SITE, "backup13"]}
    on = of_part.get(step.part, [SITE])
    with ExitStack() as stack:
        if step.part == "celery_autoscaler":
            stack.enter_context(older_supervisor(SITE))
        for name in on if step.closed else []:
            stack.enter_context(closed(name, step.closed))
        printed = refusal(step.part, broken=str(broken), **step.variables)

    failed = re.findall(r"^(?:fatal|failed): .*$", printed, flags=re.MULTILINE)
    assert failed, printed
    assert any(re.search(step.reason, line) for line in failed), printed
    assert "Traceback" not in printed
    if ALL:
        for name in on:
            restart_all(name, wanted[name])
        assert_whole()


@pytest.mark.parametrize("part", PARTS)
def test_a_play_that_is_cut_off_leaves_services_that_restart(
    part: str, broken: Path, wanted: dict[str, set[str]]
) -> None:
    changed = EVERYTHING[part] | {"ansible_managed": "Managed by Ansible, changed"}
    on = "backup13" if part == "monitoring" else SITE
    steps: list[str] = []
    while len(steps) < TOO_MANY_STEPS:
        step = cut(part, broken=str(broken), **changed)
        if step is None:
            break
        steps.append(step)
        restart_all(on, wanted[on])
        assert_whole()
    assert steps
    assert len(steps) < TOO_MANY_STEPS, steps

    play_part(part, broken=str(broken), **changed)
    again = play_part(part, broken=str(broken), **changed)
    back = play_part(part, broken=str(broken))

    assert again.count("changed=0 ") == again.count("changed="), again
    assert "failed=0" in back


@pytest.mark.parametrize("part", PARTS)
def test_what_a_play_that_is_cut_off_leaves_undone_the_next_one_does(part: str, broken: Path) -> None:
    """A step that is cut off from its handler: nobody restarts the services meanwhile."""
    on = "backup13" if part == "monitoring" else SITE
    steps: list[str] = []
    for variables in (EVERYTHING[part], {}):
        while len(steps) < TOO_MANY_STEPS:
            step = cut(part, broken=str(broken), **variables)
            if step is None:
                break
            steps.append(step)
        play_part(part, broken=str(broken), **variables)
        units = host(on).check_output(f"systemctl show --property=Id,NeedDaemonReload {SERVICES}")
        assert "NeedDaemonReload=yes" not in units, (steps, units)
        if variables:
            assert APPLIED[part](), steps
            steps = []


def test_everything_comes_back_after_a_reboot(wanted: dict[str, set[str]]) -> None:
    for name in HOSTS:
        reboot(name, wanted[name])

    assert_whole()
