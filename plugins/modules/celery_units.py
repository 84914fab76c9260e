#!/usr/bin/python
"""Ansible module: have exactly these units running, on this release and with these settings."""

from __future__ import annotations

import json
import re
import time
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_environment import read_environment
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_releases import RELEASE_VARIABLE
from ansible_collections.celery_fleet.platform.plugins.module_utils.systemd_units import blocks

DOCUMENTATION = r"""
---
module: celery_units
short_description: Have exactly these units running, on this release and with these settings
description:
  - Starts and enables the units that are missing, stops and disables those that are not wanted, and restarts
    those whose process runs another release or has other settings than its files say.
  - Units with the same spare are restarted one after the other while the spare runs, so that there are never
    fewer of them.
  - Units that a supervisor starts and stops are left to it. It is asked to replace those that are outdated;
    without a supervisor, or on another broker than it, they are restarted. They do not start by themselves
    when the host boots.
  - What a unit runs is read from its main process, so that the next run makes good what a broken one left.
  - A stop is the unit's own, which lets running tasks finish.
  - A timer has no process; what it starts finds the release and the settings of that moment.
  - C(before) says which units ran when it began, also in a failure.
options:
  units:
    description: The wanted units, each with the files its environment comes from.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the unit.
        type: str
        required: true
      environment_files:
        description: The files, in the order in which systemd reads them.
        type: list
        elements: path
        required: true
      reloads:
        description: Files that the unit reads when it is reloaded, each with the copy that it keeps of what
          it read last. It is reloaded when they differ.
        type: dict
        default: {}
      spare:
        description: Name of a unit that runs while this one is restarted.
        type: str
        default: ""
  adopted:
    description: Units that another program starts and stops.
    type: list
    elements: dict
    default: []
    suboptions:
      pattern:
        description: Regular expression for the whole name.
        type: str
        required: true
      environment_files:
        description: As of the wanted units.
        type: list
        elements: path
        required: true
  replace:
    description: The command that has the supervisor replace workers, whose names are appended.
    type: list
    elements: str
    default: []
  supervisor:
    description: The unit of the supervisor, which replaces workers if it runs.
    type: str
    default: ""
  host:
    description: The host's name in the names of its workers. Workers that have another one are restarted,
      and the supervisor is stopped first, for it would take the new ones for another host's.
    type: str
    default: ""
  release:
    description: The release id that the units must run.
    type: str
  current:
    description: A link to that release instead.
    type: path
  owned:
    description: Shell patterns of the units that are looked after. Those that are neither wanted nor adopted
      are stopped.
    type: list
    elements: str
    required: true
"""

# What the command says of a worker that it does not know.
UNKNOWN = "no worker named"
# Exit status of the command that has it replace workers, where it is not there for that.
UNSUPERVISED = 3
# Looks until no worker is left that was there before.
PASSES = 5
PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,MainPID,NeedDaemonReload"


class Unit(NamedTuple):
    """A unit as systemd sees it."""

    state: str
    enabled: bool
    main_pid: int

    @property
    def active(self) -> bool:
        """Whether it runs or is about to."""
        return self.state in {"active", "activating", "reloading"}


def parse_units(show: str) -> dict[str, Unit]:
    """Return the loaded units of the output of ``systemctl show``, by name."""
    units = {}
    for properties in blocks(show):
        if properties.get("LoadState") == "loaded":
            units[properties["Id"]] = Unit(
                state=properties["ActiveState"],
                enabled=properties["UnitFileState"] == "enabled",
                main_pid=int(properties.get("MainPID", 0)),
            )
    return units


def running_environment(pid: int) -> dict[str, str]:
    """Return the environment that a process was started with; empty if there is no such process."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in raw.split("\0") if "=" in entry)


def running_name(pid: int) -> str:
    """Return the name that a worker's process was started with; nothing if it shows none."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return words[words.index("--hostname") + 1] if "--hostname" in words[:-1] else ""


def settings(paths: list[str], release: str) -> dict[str, str]:
    """Return the environment that a unit of a release should have according to its files."""
    wanted = {RELEASE_VARIABLE: release}
    for path in map(Path, paths):
        wanted |= read_environment(path) if path.exists() else {}
    return wanted


def is_outdated(running: dict[str, str], wanted: dict[str, str]) -> bool:
    """Tell whether a process runs with other settings than the wanted ones."""
    return any(running.get(name) != value for name, value in wanted.items())


def is_stale(reloads: dict[str, str]) -> bool:
    """Tell whether a file differs from the copy of what was read."""
    pairs = [(Path(file), Path(copy)) for file, copy in reloads.items()]
    return any(f.exists() and not (c.exists() and f.read_bytes() == c.read_bytes()) for f, c in pairs)


class Wanted(NamedTuple):
    """What a unit should be."""

    environment_files: list[str]
    reloads: dict[str, str]
    spare: str = ""


class Plan(NamedTuple):
    """What has to happen to which units."""

    stop: list[str]
    restart: list[str]
    replace: list[str]
    reload: list[str]
    start: list[str]
    disable: list[str]


def plan(
    seen: dict[str, Unit], wanted: dict[str, Wanted], adopted: dict[str, list[str]], release: str
) -> Plan:
    """Compare the units that systemd knows with the wanted ones and the files of their environment."""
    others = {
        name: files
        for name in seen
        for pattern, files in adopted.items()
        if name not in wanted and re.fullmatch(pattern, name)
    }
    restart: list[str] = []
    replace: list[str] = []
    reload: list[str] = []
    for name, files in {**others, **{name: unit.environment_files for name, unit in wanted.items()}}.items():
        if name not in seen or not seen[name].active or name.endswith(".timer"):
            continue
        running = running_environment(seen[name].main_pid)
        if name in others and seen[name].state == "activating" and RELEASE_VARIABLE not in running:
            continue  # its process has not begun, and will begin with what is there now
        if is_outdated(running, settings(files, release)):
            (replace if name in others else restart).append(name)
        elif name in wanted and is_stale(wanted[name].reloads):
            reload.append(name)
    return Plan(
        stop=sorted(
            name
            for name, unit in seen.items()
            if name not in wanted and name not in others and (unit.active or unit.enabled)
        ),
        restart=sorted(restart),
        replace=sorted(replace),
        reload=sorted(reload),
        start=sorted(
            name for name in wanted if not (name in seen and seen[name].active and seen[name].enabled)
        ),
        disable=sorted(name for name in others if seen[name].enabled),
    )


def rounds(names: list[str], wanted: dict[str, Wanted]) -> tuple[list[str], list[list[str]]]:
    """Return the spares that must run while units are restarted, and the units to be restarted at a time."""
    by_spare: dict[str, list[str]] = {}
    for name in names:
        by_spare.setdefault(wanted[name].spare if name in wanted else "", []).append(name)
    alone = by_spare.pop("", [])
    one_by_one = [[name for name in turn if name is not None] for turn in zip_longest(*by_spare.values())]
    return sorted(by_spare), [*([alone] if alone else []), *one_by_one]


def worker_name(unit: str, host: str) -> str:
    """Return Celery's name of the worker of a unit."""
    return f"{unit.partition('@')[2].removesuffix('.service')}@{host}"


def lines(states: dict[str, str]) -> str:
    """Return one line a unit, in order, for a diff."""
    return "".join(f"{name} {state}\n" for name, state in sorted(states.items()))


class SystemctlError(Exception):
    """One line that says what systemctl could not do, and the last words of the units."""

    def __init__(self, line: str, journal: list[str]) -> None:
        super().__init__(line)
        self.journal = journal


def reason(error: str) -> str:
    """Return the line of systemctl's that says what has failed, among those that say where to look."""
    lines = [line.strip() for line in error.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in lines if "failed" in line.lower()), lines[-1])


def systemctl(module: AnsibleModule, verb: str, *arguments: str) -> str:
    """Run systemctl; fail with the units' last words."""
    begin = time.time()
    code, output, error = module.run_command(["systemctl", verb, *arguments])
    if code:
        names = [argument for argument in arguments if argument.endswith(".service")]
        journal = ["journalctl", "--no-pager", "--lines=20", "--output=cat"]
        units = [f"--unit={name}" for name in names]
        last_words = module.run_command([*journal, *units])[1].splitlines()
        # What the units themselves have said meanwhile, without what systemd says of them.
        own = [f"_SYSTEMD_UNIT={name}" for name in names]
        said = module.run_command([*journal, f"--since=@{begin:.3f}", *own])[1].splitlines()
        why = f" ({said[-1].strip()})" if names and said else ""
        raise SystemctlError(f"systemctl {verb} failed: {reason(error)}{why}", last_words)
    return str(output)


def look(module: AnsibleModule, wanted: dict[str, Wanted]) -> tuple[str, dict[str, Unit], Plan]:
    """Return what systemd says of the units, what it means, and what has to happen."""
    adopted = {unit["pattern"]: unit["environment_files"] for unit in module.params["adopted"]}
    listed = json.loads(systemctl(module, "list-units", "--all", "--output=json", *module.params["owned"]))
    names = sorted({unit["unit"] for unit in listed} | set(wanted))
    shown = systemctl(module, "show", f"--property={PROPERTIES}", *names) if names else ""
    seen = parse_units(shown)
    release = module.params["release"]
    if release is None:
        link = Path(module.params["current"])
        release = link.readlink().name if link.is_symlink() else ""
    return shown, seen, plan(seen, wanted, adopted, release)


def restart(module: AnsibleModule, units: list[str], wanted: dict[str, Wanted]) -> None:
    """Restart units, in turns where they have a spare."""
    spares, turns = rounds(units, wanted)
    if spares:
        systemctl(module, "start", *spares)
    for turn in turns:
        systemctl(module, "restart", *turn)
    if spares:
        systemctl(module, "stop", *spares)


def renamed(host: str, units: list[str], seen: dict[str, Unit]) -> bool:
    """Tell whether a worker runs under another name of the host."""
    names = {unit: running_name(seen[unit].main_pid) for unit in units if unit in seen}
    return any(name and name != worker_name(unit, host) for unit, name in names.items())


def replace(
    module: AnsibleModule, units: list[str], wanted: dict[str, Wanted], seen: dict[str, Unit]
) -> None:
    """Have the supervisor replace workers until none is left that was there before."""
    host = module.params["host"]
    supervisor = module.params["supervisor"]
    is_supervised = module.run_command(["systemctl", "is-active", "--quiet", supervisor])[0] == 0
    if is_supervised and renamed(host, units, seen):
        # It would wait for workers of the old name until it gives up, and stop those of the new one.
        systemctl(module, "stop", supervisor)
        is_supervised = False
    for _ in range(PASSES if is_supervised and module.params["replace"] else 0):
        names = [worker_name(unit, host) for unit in units]
        code, _output, error = module.run_command([*module.params["replace"], *names])
        if code == UNSUPERVISED:
            break
        # Those that have ended, or are on another broker, have no lease there.
        if code and UNKNOWN not in error:
            reason = error.strip().splitlines()[-1:] or ["no reason given"]
            module.fail_json(msg=reason[0].removeprefix("Error: "))
        # Those that were starting had no lease yet.
        units = look(module, wanted)[2].replace
        if not units:
            return
        time.sleep(1)
    # The workers, or the supervisor, are on another broker than the settings say.
    systemctl(module, "restart", *units)


def apply(
    module: AnsibleModule, todo: Plan, wanted: dict[str, Wanted], seen: dict[str, Unit], *, reread: bool
) -> None:
    """Do what has to happen."""
    if reread:
        systemctl(module, "daemon-reload")
    if todo.stop:
        systemctl(module, "disable", "--now", *todo.stop)
        # One that failed at its end would stay listed.
        module.run_command(["systemctl", "reset-failed", *todo.stop])
    if todo.disable:
        systemctl(module, "disable", *todo.disable)
    if todo.restart:
        restart(module, todo.restart, wanted)
    if todo.replace:
        replace(module, todo.replace, wanted, seen)
    if todo.reload:
        systemctl(module, "reload", *todo.reload)
    if todo.start:
        systemctl(module, "enable", "--now", *todo.start)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "units": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "environment_files": {"type": "list", "elements": "path", "required": True},
                    "reloads": {"type": "dict", "default": {}},
                    "spare": {"type": "str", "default": ""},
                },
            },
            "adopted": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "pattern": {"type": "str", "required": True},
                    "environment_files": {"type": "list", "elements": "path", "required": True},
                },
            },
            "replace": {"type": "list", "elements": "str", "default": []},
            "supervisor": {"type": "str", "default": ""},
            "host": {"type": "str", "default": ""},
            "release": {"type": "str"},
            "current": {"type": "path"},
            "owned": {"type": "list", "elements": "str", "required": True},
        },
        required_one_of=[("release", "current")],
        supports_check_mode=True,
    )

    wanted = {
        unit["name"]: Wanted(unit["environment_files"], unit["reloads"], unit["spare"])
        for unit in module.params["units"]
    }
    try:
        shown, seen, todo = look(module, wanted)
    except SystemctlError as failed:
        module.fail_json(msg=str(failed), journal=failed.journal)
    active = [name for name, unit in seen.items() if unit.active]
    if not module.check_mode:
        try:
            apply(module, todo, wanted, seen, reread="NeedDaemonReload=yes" in shown)
        except SystemctlError as failed:
            module.fail_json(msg=str(failed), journal=failed.journal, before=active)
    outdated = {*todo.restart, *todo.replace, *todo.reload}
    states = {name: "outdated" if name in outdated else "running" for name in active}
    after = {name for name in active if name not in todo.stop} | set(wanted)
    module.exit_json(
        changed=any(todo),
        before=active,
        **todo._asdict(),
        diff={"before": lines(states), "after": lines(dict.fromkeys(after, "running"))},
    )


if __name__ == "__main__":
    main()
