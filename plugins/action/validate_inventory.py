"""Ansible action: say what the roles cannot do with an inventory, before any host is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.parsing.vault import AnsibleVaultError
from ansible.plugins.action import ActionBase
from ansible.template import Templar
from ansible.vars.hostvars import HostVarsVars
from ansible_collections.celery_fleet.platform.plugins.module_utils import fleet_rules as rules
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import (
    evaluation,
    names,
    specs,
)

ENDINGS = {".yml", ".yaml", ".json", ""}


def vaulted(error: BaseException | None) -> bool:
    """Whether a value could not be decrypted."""
    # Ansible's errors may be each other's reason.
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        # Within a template it is one of templates, which says so in words alone.
        if isinstance(error, AnsibleVaultError) or "undecryptable variable" in str(error):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def unreadable(error: BaseException) -> str:
    """Return in one line which file cannot be read, where and why; nothing if that is not known."""
    text, place = str(error), ""
    # The reader of group_vars repeats the words of the parser, and not the place.
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        origin = getattr(following, "obj", None)
        if getattr(origin, "path", None):
            place = str(origin)
        seen.append(following)
        following = following.__cause__ or following.__context__
    return rules.line(f"{place}: {text}") if place else ""


def files_of_variables(sources: Iterable[str]) -> dict[str, str]:
    """Files and folders beside the inventory, by the name of the group or host that they are for."""
    found = {}
    for source in sources:
        place = Path(source)
        folder = place if place.is_dir() else place.parent
        for path in [*folder.glob("group_vars/*"), *folder.glob("host_vars/*")]:
            if path.is_dir() or path.suffix in ENDINGS:
                name = path.name if path.is_dir() or path.suffix == "" else path.stem
                found[name] = str(path.relative_to(folder))
    return found


def plain(value: Any) -> Any:
    """Return a value with its texts decrypted."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def evaluator(loader: Any, variables: Mapping[str, Any]) -> Callable[[Any], Any]:
    """What evaluates with the variables of a host."""
    # The defaults of a role are there where its variables are evaluated.
    templar = Templar(loader=loader, variables={**specs.defaults(variables), **variables})

    def evaluate(written: Any) -> Any:
        try:
            return plain(templar.template(written))
        except (AnsibleError, ValueError, TypeError) as error:
            if vaulted(error):
                raise evaluation.SecretError from error
            raise

    return evaluate


def read(hostvars: Any, groups: Mapping[str, Iterable[str]], sources: Iterable[str], loader: Any) -> Any:
    """Return the inventory as the rules see it: all hosts, each value evaluated on demand and once."""
    written = {str(name): hostvars.raw_get(name) for name in hostvars}
    # What templates ask of other hosts is looked up once as well.
    shared = {name: HostVarsVars(own, loader, name) for name, own in written.items()}
    return evaluation.inventory(
        written,
        {str(name): [str(host) for host in hosts] for name, hosts in groups.items()},
        lambda own: evaluator(loader, {**own, "hostvars": shared}),
        files_of_variables(sources),
    )


def neighbours(variables: Mapping[str, Any], loader: Any) -> tuple[Any, Any]:
    """Return the host of a task, with the variables of its role, and the inventory around it."""
    hostvars, name = variables["hostvars"], variables["inventory_hostname"]
    groups = variables["groups"]

    def make(other: str) -> Any:
        written = variables if other == name else hostvars.raw_get(other)
        own = {**written, "hostvars": hostvars}
        return evaluation.host(other, written, groups, evaluator(loader, own))

    hosts = evaluation.Hosts([str(other) for other in hostvars], make)
    return hosts[name], rules.Inventory(hosts, groups, play=variables["ansible_play_hosts_all"])


class ActionModule(ActionBase):  # type: ignore[misc]
    """Validates the inventory on the controller."""

    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Print the findings; fail if there are any."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _result, arguments = self.validate_argument_spec(
            argument_spec={
                "role": {"type": "str", "choices": sorted(rules.RULES)},
                "found": {"type": "list", "elements": "str", "default": []},
            }
        )
        variables = task_vars or {}
        result["changed"] = False
        self._further: dict[str, str] = {}
        lines = self._of_role(variables, **arguments) if arguments["role"] else self._of_all(variables)
        result["further_names"] = self._further
        if lines:
            result["failed"] = True
            result["msg"] = "; ".join(lines)
        return result

    def _of_role(self, variables: Mapping[str, Any], role: str, found: list[str]) -> list[str]:
        """What is wrong with the variables of this host for a role."""
        host, inventory = neighbours(variables, self._loader)
        return found + [
            rules.line(f"{finding.variable}: {finding.text}")
            for finding in rules.of_role(role, host, inventory)
        ]

    def _of_all(self, variables: Mapping[str, Any]) -> list[str]:
        """Print what is wrong with the inventory; return how much that is."""
        sources = variables.get("ansible_inventory_sources") or ()
        try:
            inventory = read(variables["hostvars"], variables["groups"], sources, self._loader)
        except AnsibleError as error:
            if not (line := unreadable(error)):
                raise
            return self._refused([line])
        limited = set(variables["ansible_play_hosts_all"]) if variables.get("ansible_limit") else None
        self._further = names.further_names(inventory, variables["ansible_play_hosts_all"])
        refused: list[Any] = []
        warned: list[Any] = []
        for finding in rules.validate(inventory):
            outside = limited is not None and finding.host and finding.host not in limited
            (refused if finding.fatal and not outside else warned).append(finding)
        for line in rules.lines(warned, inventory):
            self._display.warning(line)
        return self._refused(rules.lines(refused, inventory))

    def _refused(self, lines: list[str]) -> list[str]:
        """Print what is wrong; return how much that is."""
        for line in lines:
            self._display.display(line, color=constants.COLOR_ERROR, stderr=True)
        return [f"wrong in the inventory: {len(lines)}, listed above; no host was touched"] if lines else []
