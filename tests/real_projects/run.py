"""Deploy well-known Celery projects by their inventories in docs/examples, and count their tasks.

For each, a host is created, the project is deployed and verified, its schedule fires, a second run changes
nothing, a burst is scaled, a rolling deploy happens under load, and project and host are removed. Each task
is counted by its id, by what the workers log. The exit status is 1 if a task is lost or runs twice, or a step
fails.

The tasks are the projects' own. In the burst a short one runs several times in one message
(``celery.starmap``), so that there is something to scale.

Usage: ``python tests/real_projects/run.py [--keep] [PROJECT...]``
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

import yaml
from rich.console import Console
from rich.table import Table
from support.background import sampling
from support.processes.services import ServiceError, wait_for

TOP = Path(__file__).resolve().parents[2]
EXAMPLES = TOP / "docs/examples"
CACHE = TOP / ".cache/real_projects"
BUNDLES = Path("~/.cache/celery-fleet/bundles").expanduser()
# Tasks of a burst, and how often the project's task runs in each.
BURST = 150
RUNS = 20
# Tasks a second of the load during a deployment.
RATE = 3.0
# Seconds in which no task ends, after which what is missing is lost.
NO_PROGRESS = 240.0
# One machine runs workers, servers and whatever else there is: else its CPUs decide how many workers start.
VARIABLES = {"celery_autoscaler_cpu_threshold": 100}
# Seconds within which the schedule fires, and workers that are not needed stop.
WITHIN = 400.0

# Sends a number of tasks, or, where the number is 0, tasks at a rate until its input ends. Prints their ids.
SEND = """
import select, sys, time
from celery.app.utils import find_app

app, (task, runs, number, rate) = find_app(sys.argv[1]), sys.argv[2:]
sent = {"task": app.signature(task), "it": [[]] * int(runs)}
begin, count = time.monotonic(), 0
with app.producer_pool.acquire() as producer:
    while count < int(number) or number == "0":
        wait = begin + count / float(rate) - time.monotonic() if number == "0" else 0
        if number == "0" and select.select([sys.stdin], [], [], max(0, wait))[0]:
            break
        answer = app.send_task("celery.starmap", kwargs=sent, producer=producer, ignore_result=True)
        print("sent", answer.id, flush=True)
        count += 1
"""
TRACES = r"""
systemctl list-unit-files --no-legend 'celery-*'
find /opt/celery /etc/celery /var/lib/celery /etc/systemd/system/celery-* -maxdepth 0 2>/dev/null
getent passwd celery
true
"""
ENDED = re.compile(r"Task celery\.starmap\[(\S+)\] (succeeded|raised)")


class RunError(Exception):
    """Something is not as it is to be."""


@dataclass(frozen=True)
class Project:
    """An example, and what of it is run."""

    name: str
    task: str
    """A task of the project that needs no arguments."""
    schedule: str
    """The unit that sends what is due."""
    fired: str
    """What that unit logs when it does."""

    @property
    def inventory(self) -> Path:
        """Its inventory."""
        return EXAMPLES / self.name / "hosts.yml"

    @property
    def app(self) -> str:
        """The app, as the inventory names it."""
        return str(yaml.safe_load(self.inventory.read_text())["all"]["vars"]["celery_app_name"])

    @property
    def container(self) -> str:
        """The container that is its host."""
        (host,) = yaml.safe_load(self.inventory.read_text())["all"]["hosts"].values()
        return str(host["ansible_host"])


PROJECTS = {
    project.name: project
    for project in (
        Project("weblate", "weblate.utils.tasks.ping", "celery-beat", "Sending due task"),
        Project("pretix", "pretix.base.services.datasync.sync_all", "celery-timer@periodic", "Finished"),
        Project("superset", "reports.prune_log", "celery-beat", "Sending due task"),
    )
}


@dataclass(frozen=True)
class Outcome:
    """What became of some tasks."""

    sent: int
    lost: int
    again: int
    failed: int

    @property
    def exactly_once(self) -> bool:
        """Whether each came to its end once."""
        return not (self.lost or self.again or self.failed)

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.sent} sent, {self.lost} lost, {self.again} run again, {self.failed} failed"


@dataclass
class Host:
    """The host of a project."""

    project: Project

    def run(self, *command: str) -> str:
        """Run a command; return what it prints."""
        done = subprocess.run(
            ["docker", "exec", self.project.container, *command], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RunError(f"{' '.join(command[:3])}: {(done.stderr or done.stdout)[-500:]}")
        return done.stdout

    def send(self, number: int) -> list[str]:
        """Send a number of tasks; return their ids."""
        with self._sending(number) as sent:
            pass
        return sent

    @contextmanager
    def load(self) -> Iterator[list[str]]:
        """Send tasks at a steady rate until the block ends; their ids are there after it."""
        with self._sending(0) as sent:
            yield sent

    @contextmanager
    def _sending(self, number: int) -> Iterator[list[str]]:
        project = self.project
        command = ["docker", "exec", "--interactive", project.container, "celery-app", "python", "-c", SEND]
        command += [project.app, project.task, str(RUNS if number else 1), str(number), str(RATE)]
        sent: list[str] = []
        # A pipe would be full in the middle of a long load.
        with (
            TemporaryFile("w+") as printed,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=printed, text=True) as process,
        ):
            try:
                yield sent
            finally:
                process.communicate()
            if process.returncode != 0:
                raise RunError(f"what sends tasks ended with {process.returncode}")
            printed.seek(0)
            # A project may print other lines.
            sent += re.findall(r"^sent (\S+)$", printed.read(), re.MULTILINE)

    def journal(self, units: str, words: str, since: float) -> str:
        """Return the lines of some units that hold some words."""
        show = f"journalctl --no-pager --output=cat --since=@{since:.6f} --unit='{units}' --grep='{words}'"
        return self.run("sh", "-c", f"{show} || true")

    def outcome(self, sent: list[str], since: float) -> Outcome:
        """Wait until all tasks have ended, or none has for a while; count them."""
        ended: Counter[str] = Counter()
        failed: set[str] = set()

        def look() -> bool:
            before = ended.total()
            found = ENDED.findall(self.journal("celery-worker@*", "celery.starmap", since))
            ended.clear()
            ended.update(name for name, _ in found)
            failed.update(name for name, state in found if state == "raised")
            return ended.total() > before

        def missing() -> int:
            return sum(not ended[name] for name in sent)

        while look() or missing():
            if missing():
                try:
                    wait_for(look, "no task ends", NO_PROGRESS)
                except ServiceError:
                    break
        return Outcome(len(sent), missing(), sum(ended[name] > 1 for name in sent), len(failed & set(sent)))

    def workers(self) -> list[str]:
        """Return the units of the workers that consume."""
        listed = self.run("systemctl", "list-units", "--output=json", "celery-worker@main-*.service")
        return [unit["unit"] for unit in json.loads(listed) if unit["active"] == "active"]

    def memory(self, unit: str) -> int:
        """Return the MB of a unit's main process and its children, what they share counted once."""
        add = (
            f"main=$(systemctl show --property=MainPID --value {unit}); for p in $main $(pgrep -P $main); "
            "do cat /proc/$p/smaps_rollup; done | awk '/^Pss:/ {kb += $2} END {print int(kb / 1024)}'"
        )
        return int(self.run("sh", "-c", add))

    def release(self) -> str:
        """Return the id of the current release."""
        return Path(self.run("readlink", "/opt/celery/current").strip()).name


@dataclass
class Report:
    """What was found, line by line."""

    project: Project
    lines: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, what: str, found: object, fits: bool = True) -> None:
        """Note something, and whether it is as it is to be."""
        self.lines.append((what, str(found)))
        say(f"{what}: {found}")
        if not fits:
            self.faults.append(f"{what}: {found}")

    def play(self, step: str, *playbooks: str, **variables: object) -> int:
        """Run playbooks and note how long they took; return how many tasks changed something.

        Raises:
            RunError: one of them failed.
        """
        log = CACHE / f"{self.project.name}-{step.replace(' ', '-')}.log"
        command = [str(Path(sys.executable).with_name("ansible-playbook"))]
        command += ["-i", str(self.project.inventory), "-e", json.dumps(VARIABLES | variables)]
        begin = time.monotonic()
        with log.open("w") as opened:
            ended = subprocess.run(
                [*command, *(str(TOP / "playbooks" / f"{name}.yml") for name in playbooks)],
                cwd=TOP,
                env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
                stdout=opened,
                stderr=subprocess.STDOUT,
                check=False,
            )
        printed = log.read_text(errors="replace")
        if ended.returncode != 0:
            raise RunError(f"{step} failed:\n{printed[-3000:]}")
        changed = sum(map(int, re.findall(r"^\S+ +: ok=\d+ +changed=(\d+)", printed, re.MULTILINE)))
        self.add(step, f"{time.monotonic() - begin:.0f} s, {changed} changes")
        return changed


def say(line: str) -> None:
    """Print a line at once: a run takes a while."""
    print(line, flush=True)  # noqa: T201


def measure(host: Host, report: Report) -> None:
    """Note the sizes of bundle and release, and the memory of a worker and of the supervisor."""
    release = host.release()
    (bundle,) = BUNDLES.glob(f"{release}-*.tar")
    kilobytes = int(host.run("du", "-sk", f"/opt/celery/releases/{release}").split()[0])
    report.add("bundle", f"{bundle.stat().st_size / 1e6:.0f} MB")
    report.add("release on the host", f"{kilobytes * 1024 / 1e6:.0f} MB")
    report.add("memory of a worker", f"{host.memory(host.workers()[0])} MB")
    report.add("memory of the supervisor", f"{host.memory('celery-autoscaler.service')} MB")


def see_schedule(host: Host, report: Report, since: float) -> None:
    """Wait until what is scheduled was sent."""
    project = host.project

    def fired() -> str | None:
        return host.journal(project.schedule, project.fired, since).strip() or None

    lines = wait_for(fired, f"{project.schedule} sends nothing", WITHIN).splitlines()
    report.add("schedule fired", lines[0][-100:])


def see_burst(host: Host, report: Report) -> None:
    """Send many tasks at once; see workers start, and stop when they are done."""
    numbers: list[int] = []
    since = float(host.run("date", "+%s.%N"))
    begin = time.monotonic()
    with sampling(lambda: numbers.append(len(host.workers())), pause=1):
        outcome = host.outcome(host.send(BURST), since)
        took = time.monotonic() - begin
        wait_for(lambda: len(host.workers()) == 1, "workers that nobody needs do not stop", WITHIN)
    report.add("burst", f"{outcome}; {took:.0f} s", outcome.exactly_once)
    report.add("workers in the burst", f"{numbers[0]}, then {max(numbers)}, then 1", max(numbers) > 1)


def see_rollout(host: Host, report: Report) -> None:
    """Deploy another release under load."""
    project = host.project
    # The same parts under another id: what counts is how workers are replaced.
    lock = CACHE / project.name / "requirements.txt"
    lock.parent.mkdir(exist_ok=True)
    shutil.copy(project.inventory.with_name("requirements.txt"), lock)
    with lock.open("a") as opened:
        opened.write(f"# {time.time():.0f}\n")
    before = host.release()
    since = float(host.run("date", "+%s.%N"))
    with host.load() as sent:
        report.play("rolling deploy under load", "deploy", celery_app_requirements=str(lock))
    outcome = host.outcome(sent, since)
    report.add("tasks of that load", outcome, outcome.exactly_once and host.release() != before)


def see_removal(host: Host, report: Report) -> None:
    """Remove the project from its host; nothing of it may be left."""
    name = yaml.safe_load((TOP / "roles/celery_app/defaults/main.yml").read_text())["celery_app_project"]
    report.play("remove the project", "remove_project", fleet_project=name, confirm=name)
    left = host.run("sh", "-c", TRACES).split("\n")
    report.add("left of the project", " ".join(left).strip() or "nothing", not any(left))


def run(project: Project, report: Report) -> None:
    """Do all of it but the removal of the host."""
    host = Host(project)
    report.add("lines of the inventory", len(project.inventory.read_text().splitlines()))
    report.play("create the host", "containers/create")
    since = float(host.run("date", "+%s.%N"))
    report.play("first run of site.yml", "site")
    report.play("verify.yml", "verify")
    see_schedule(host, report, since)
    changed = report.play("second run of site.yml", "site")
    report.add("changes of the second run", changed, changed == 0)
    measure(host, report)
    see_burst(host, report)
    see_rollout(host, report)
    see_removal(host, report)


def report_on(project: Project, keep: bool) -> Report:
    """Do all of it, and print what was found."""
    report = Report(project)
    try:
        run(project, report)
        if not keep:
            report.play("remove the host", "containers/destroy")
    except (RunError, ServiceError) as error:
        report.faults.append(str(error))
    table = Table("", project.name)
    for line in report.lines:
        table.add_row(*line)
    Console(width=110).print(table)
    for fault in report.faults:
        say(f"{project.name}: not as it is to be: {fault}")
    return report


def main() -> int:
    """Run what the command line names; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("projects", nargs="*", help=f"of {', '.join(PROJECTS)} (default: all)")
    parser.add_argument("--keep", action="store_true", help="keep the hosts, also for the next run")
    options = parser.parse_args()
    if unknown := set(options.projects) - set(PROJECTS):
        parser.error(f"no such project: {', '.join(sorted(unknown))}; there are {', '.join(PROJECTS)}")
    CACHE.mkdir(parents=True, exist_ok=True)
    reports = [report_on(PROJECTS[name], options.keep) for name in options.projects or PROJECTS]
    say(f"What the playbooks printed is in {CACHE.relative_to(TOP)}/")
    return int(any(report.faults for report in reports))


if __name__ == "__main__":
    sys.exit(main())
