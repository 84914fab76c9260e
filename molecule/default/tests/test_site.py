"""The whole site on one host, after a reboot."""

import json

from support.hosts.scenario import Scenario
from support.hosts.secrets_scan import assert_no_secrets
from support.hosts.unit_exposure import exposed
from testinfra.host import Host

QUEUES = ["cpu_intensive", "default", "io_intensive", "priority", "scheduled"]


def test_every_service_is_active_after_a_reboot(host: Host) -> None:
    units = host.check_output(
        "systemctl list-units --output=json redis-server.service 'postgresql@*.service'"
        " celery-autoscaler.service celery-beat.service"
    )
    states = {unit["unit"].split("@")[0]: unit["active"] for unit in json.loads(units)}

    assert states == dict.fromkeys(
        ["redis-server.service", "postgresql", "celery-autoscaler.service", "celery-beat.service"], "active"
    )


def test_every_worker_executes_tasks_of_its_queues(host: Host) -> None:
    queues = " ".join(f"--queue={queue}" for queue in QUEUES)
    smoke_test = "celery-app python -m celery_autoscaler.smoke_test -A tasks"

    report = json.loads(host.check_output(f"{smoke_test} --workers 3 --at-least {queues}"))

    assert list(report["queues"]) == QUEUES
    assert all(queue["sent"] == queue["executed"] > 0 for queue in report["queues"].values())
    groups = {name.partition("@")[0].rpartition("-")[0] for name in report["workers"]}
    assert groups == {"cpu", "general", "io"}


def test_an_operator_types_fleet(host: Host) -> None:
    shown = host.check_output("SUDO_USER=anna fleet pause general && fleet why general -n 1 | cat")
    assert "paused by anna" in shown
    assert host.check_output("fleet resume general") == "general: resumed"
    assert json.loads(host.check_output("fleet status --json"))["supervisors"]
    refused = host.run("setpriv --reuid=65534 --clear-groups fleet status")
    assert (refused.rc, refused.stderr.count("\n")) == (1, 1)
    assert "only root may read the settings of this host: sudo fleet status" in refused.stderr


def test_bash_completes_fleet_from_the_living_status(host: Host) -> None:
    completion = ". /usr/local/share/bash-completion/completions/fleet; _fleet; echo ${COMPREPLY[*]}"

    def replies(line: str) -> str:
        words = f"COMP_LINE={line!r} COMP_POINT={len(line)} bash -c %s"
        return str(host.check_output(words, completion))

    assert replies("fleet pause g") == "general"
    assert replies("fleet dr") == "drain"


def test_the_app_may_not_change_the_schema(host: Host) -> None:
    create = "import tasks.db as d\nwith d.get_db_connection() as c: c.execute('create table intruder ()')"

    refused = host.run("celery-app python -c %s", create)

    assert refused.rc != 0
    assert "permission denied" in refused.stderr


def test_the_services_may_do_only_what_they_must(host: Host) -> None:
    assert exposed(host) == {}


def test_no_secret_can_be_seen(host: Host) -> None:
    assert_no_secrets(host, Scenario("default").secrets.values())
