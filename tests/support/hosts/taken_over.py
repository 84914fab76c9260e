"""The hosts of the scenario take_over: what they hold, what they run, and how they are restarted."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import redis
import testinfra

from support.hosts.scenario import Scenario, address
from support.processes.services import wait_for

SCENARIO = Scenario("take_over")
HOSTS = ("broker12", "broker13", "backup13")
REDIS_HOSTS = ("broker12", "broker13")
# It has PostgreSQL, the app and the supervisor as well.
SITE = "broker13"
MESSAGES = [f"message-{number}" for number in range(1, 501)]
ROWS = 1000
# The parts of the site: on which hosts they are, and what they play.
PARTS: dict[str, tuple[str, list[dict[str, str]]]] = {
    "common": ("broker13", [{"name": "common"}]),
    "redis": ("redis", [{"name": "common"}, {"name": "redis"}]),
    "postgres": ("broker13", [{"name": "postgres"}]),
    "archive": ("broker13:backup13", [{"name": "postgres", "from": "archive"}]),
    "celery_app": ("broker13", [{"name": "celery_app"}]),
    "celery_autoscaler": ("broker13", [{"name": "celery_app"}, {"name": "celery_autoscaler"}]),
    "exporters": ("broker13", [{"name": "monitoring", "from": "exporters"}]),
    "monitoring": ("backup13", [{"name": "monitoring"}]),
}
# Where the roles write, without what changes by itself and what a refused command has said.
# Of the releases, their names.
CHECKSUM = r"""
find /etc /usr/local /opt/celery /opt/celery-fleet -xdev \( -path '/opt/*/releases/*' -printf '%y  %p\n' \
    -o -path /opt/celery/failed.log -o -name ld.so.cache -o -name '*.pyc' \
    \) -prune -o -type f -exec sha256sum {} + -o -type l -printf '%l  %p\n' | sort -k 2
"""
# The environment of the supervisor as an older version of the toolkit has installed it.
OLDER_SUPERVISOR = """
set -eu
cd /opt/celery-fleet/supervisor/releases
release=$(basename "$(readlink ../current)")
cp -a "$release" older
find older/venv/bin/ -type f -exec sed -i "s,/releases/$release/,/releases/older/,g" {} +
sed -i "s/$release/older/g" older/manifest.json
mv "$release" /opt/newer
ln -sfn "$PWD/older" ../current
systemctl restart celery-autoscaler.service
echo "$release"
"""
NEWER_SUPERVISOR = """
set -eu
cd /opt/celery-fleet/supervisor/releases
rm -rf {release}
mv /opt/newer {release}
ln -sfn "$PWD/{release}" ../current
rm -rf older
systemctl restart celery-autoscaler.service
"""
SERVICES = (
    "redis-server.service redis-backup.timer postgresql@17-main.service pgbackrest.service"
    " celery-autoscaler.service celery-beat.service prometheus.service prometheus-alertmanager.service"
    " prometheus-node-exporter.service prometheus-redis-exporter.service prometheus-postgres-exporter.service"
    " celery-fleet-certificates.timer postgres-backup-full.timer postgres-backup-check.timer"
)


@cache
def host(name: str) -> Any:
    """A host, for those who look: the plays come over SSH."""
    return testinfra.get_host(f"docker://celery-fleet-take-over-{name}")


def operator(name: str) -> redis.Redis:
    """A client of the Redis of a host that may do anything, and waits for it."""
    return redis.Redis(
        host=address(host(name)),
        username="operator",
        password=SCENARIO.secrets["redis_operator"],
        decode_responses=True,
        retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.2), 50),
    )


def messages(name: str) -> list[str]:
    """The messages that are there, the oldest first."""
    found: Any = operator(name).lrange("celery", 0, -1)
    return list(reversed(found))


def _has_messages(name: str) -> bool:
    return messages(name) == MESSAGES


def rows() -> int:
    """How many rows the table has that was there before, for its owner over the network."""
    return int(
        host(SITE).check_output(
            "runuser -u postgres -- psql --dbname=shop -Atc 'SELECT count(*) FROM orders'"
        )
    )


def written(name: str) -> dict[str, str]:
    """The files of the folders of the configuration, each with its checksum."""
    lines = host(name).check_output(CHECKSUM).splitlines()
    return {path: checksum for checksum, _, path in (line.partition("  ") for line in lines)}


def running(name: str) -> dict[str, str]:
    """The services that run, each with its main process."""
    shown = host(name).check_output(f"systemctl show --property=Id,LoadState,ActiveState,MainPID {SERVICES}")
    found = [dict(re.findall(r"^(\w+)=(.*)$", block, flags=re.MULTILINE)) for block in shown.split("\n\n")]
    return {unit["Id"]: unit.get("MainPID", "") for unit in found if unit["ActiveState"] == "active"}


def restart_all(name: str, wanted: set[str]) -> None:
    """Restart every service of the platform, as a boot would start it; all that are wanted have to stay."""
    host(name).check_output("systemctl daemon-reload")
    host(name).run(f"systemctl restart {' '.join(sorted(wanted))} 'celery-worker@*.service'")
    stay(name, wanted)


def reboot(name: str, wanted: set[str]) -> None:
    """Restart a host; all services that are wanted have to come back and stay."""
    subprocess.run(["docker", "restart", f"celery-fleet-take-over-{name}"], check=True, capture_output=True)
    wait_for(
        lambda: host(name).run("systemctl is-system-running").stdout.strip() in {"running", "degraded"},
        f"{name} does not boot",
        120,
    )
    stay(name, wanted)


def stay(name: str, wanted: set[str]) -> None:
    """Wait until the services run, and do not only start again and again."""
    seen: list[dict[str, str]] = [{}]

    def settled() -> bool:
        seen.append(running(name))
        return wanted <= seen[-1].keys() and all(seen[-1][unit] == seen[-2].get(unit) for unit in wanted)

    # systemd starts again what has ended after a pause of 0.1 s, units of the roles after some seconds.
    for _look in range(2):
        wait_for(settled, lambda: f"{name} lacks {', '.join(sorted(wanted - seen[-1].keys()))}", 240)


def executed() -> dict[str, Any]:
    """Send tasks to every queue; what became of them."""
    queues = " ".join(f"--queue={queue}" for queue in ("cpu_intensive", "default", "io_intensive"))
    smoke_test = "celery-app python -m celery_autoscaler.smoke_test -A tasks --timeout 120"
    report = json.loads(host(SITE).check_output(f"{smoke_test} --workers 3 --at-least {queues}"))
    queues_of_report: dict[str, Any] = report["queues"]
    return queues_of_report


def assert_whole() -> None:
    """Every message and every row is there, and tasks are executed."""
    for name in REDIS_HOSTS:
        wait_for(partial(_has_messages, name), f"messages are missing on {name}", 60)
    assert rows() == ROWS
    assert all(queue["sent"] == queue["executed"] > 0 for queue in executed().values())


def refusal(part: str, *options: str, **variables: object) -> str:
    """What a run of a part that must fail says; it may change no file and restart no service of its hosts."""
    hosts = options[1:] if options[:1] == ("--limit",) else HOSTS
    before = {name: (written(name), running(name)) for name in hosts}
    done = SCENARIO.run(
        *options,
        playbook="part.yml",
        variables=_variables(part) | variables,
        # What users see: that of the tests prints the stack of a module that fails.
        environment={"ANSIBLE_STRATEGY": "linear"},
    )
    printed = f"{done.stdout}\n{done.stderr}"
    assert done.returncode != 0, f"it was not refused:\n{printed}"
    for name in hosts:
        files = changes(before[name][0], written(name))
        services = changes(before[name][1], running(name))
        assert files + services == [], f"{name}: {files} {services}\n{printed}"
    return printed


@contextmanager
def older_supervisor(name: str) -> Iterator[None]:
    """Have the environment of an older supervisor on a host, which the next play would replace."""
    wanted = set(running(name))
    release = host(name).check_output(OLDER_SUPERVISOR)
    try:
        stay(name, wanted)
        yield
    finally:
        host(name).check_output(NEWER_SUPERVISOR.format(release=release))
        stay(name, wanted)


def changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The files, or the services, that differ."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def cut(part: str, **variables: object) -> str | None:
    """Play a part until the first step that changes a host, and kill the play; the name of the step."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "step"
        done = SCENARIO.run(
            playbook="part.yml",
            variables=_variables(part) | variables,
            environment={
                "ANSIBLE_STRATEGY": "cut",
                "ANSIBLE_STRATEGY_PLUGINS": str(Path(__file__).resolve().parents[2] / "strategy"),
                "CUT_LOG": str(log),
            },
        )
        if log.exists():
            return log.read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return None


def play_part(part: str, **variables: object) -> str:
    """Play a part of the site."""
    return SCENARIO.play(playbook="part.yml", **_variables(part), **variables)


def _variables(part: str) -> dict[str, object]:
    hosts, roles = PARTS[part]
    return {"part_hosts": hosts, "part_roles": roles}
