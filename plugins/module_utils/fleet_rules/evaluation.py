"""From the variables as they are written to an inventory that the rules read: each evaluated on demand, once.

What evaluates a template is given: the plugin that knows Ansible's engine, or a test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import specs
from .model import UNKNOWN, Host, Inventory
from .text import called, resembling

WORD = re.compile(r"[A-Za-z_]\w*")
UNDEFINED = re.compile(r"'(\w+)' is undefined")
NO_ATTRIBUTE = re.compile(r"has no attribute '(\w+)'")
# How Ansible connects: set in inventories, and no facts.
CONNECTION = frozenset({"ansible_host", "ansible_port", "ansible_user", "ansible_connection"})
# What only a task of a role has.
OF_TASKS = frozenset({"role_path", "role_name", "role_names", "play_hosts", "item"})

# Evaluates a value as it is written.
Evaluate = Callable[[Any], Any]


class SecretError(Exception):
    """A value is encrypted, and the key is not here."""


def words(value: Any) -> frozenset[str]:
    """All words in the templates of a value."""
    return frozenset(word for text in _texts(value) if "{" in text for word in WORD.findall(text))


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value, each container once."""
    seen: set[int] = set()
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            left += list(item.values()) if isinstance(item, Mapping) else list(item)


class Values(Mapping[str, Any]):
    """The values of a host by name, each evaluated when it is asked for the first time.

    What cannot be evaluated is `UNKNOWN`; why stands in `failures`, unless only the host can tell.
    """

    def __init__(self, written: Mapping[str, Any], names: frozenset[str], evaluate: Evaluate) -> None:
        self._written = written
        self._names = names
        self._evaluate = evaluate
        self._found: dict[str, Any] = {}
        self.failures: dict[str, list[str]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._found:
            self._found[name] = self._value(name, self._written[name], "")
        return self._found[name]

    def _value(self, name: str, written: Any, where: str) -> Any:
        """Return what a value is; of a dictionary or list, what of it can be evaluated."""
        try:
            return self._evaluate(written)
        except Exception as error:  # noqa: BLE001 -- a template may fail in any way
            if isinstance(written, Mapping):
                return {str(key): self._value(name, item, f"{where}{key}: ") for key, item in written.items()}
            if isinstance(written, list | tuple):
                return [
                    self._value(name, item, f"{where}{called(item, position)}: ")
                    for position, item in enumerate(written, 1)
                ]
            if not isinstance(error, SecretError) and not self._needs_host(written):
                reasons = self.failures.setdefault(name, [])
                reasons.append(where + self._reason(error, written))
            return UNKNOWN

    def _made_of(self, written: Any) -> Iterator[Any]:
        """A value, and the values of the variables it is made of, directly or by others."""
        seen: set[str] = set()
        left = [written]
        while left:
            value = left.pop()
            yield value
            found = words(value) & self._written.keys() - seen - {"ansible_facts"}
            seen |= found
            left += [self._written[word] for word in found]

    def _needs_host(self, written: Any) -> bool:
        """Whether a value is made of facts, or of what only a task has, directly or by other variables."""
        return any(
            word in OF_TASKS or (word.startswith("ansible_") and word not in CONNECTION)
            for value in self._made_of(written)
            for word in words(value)
            if word not in self._written or word == "ansible_facts"
        )

    def _needs_group(self, name: str, written: Any) -> bool:
        """Whether a value is made of the hosts of a group of that name."""
        group = re.compile(rf"\bgroups(\.{name}\b|\[['\"]{name}['\"]\])")
        return any(group.search(text) for value in self._made_of(written) for text in _texts(value))

    def _reason(self, error: Exception, written: Any) -> str:
        message = " ".join(str(error).split())
        if (missing := NO_ATTRIBUTE.search(message)) and self._needs_group(missing[1], written):
            return f"needs a host in the group {missing[1]}; there is no such group"
        if not (undefined := UNDEFINED.search(message)):
            return f"cannot be evaluated: {message[:200]}"
        # What is made of it is not what was meant.
        others = [name for name, value in self._written.items() if undefined[1] not in words(value)]
        close = resembling(undefined[1], others)
        return f"uses {undefined[1]}, which is undefined" + (f"; did you mean {close}?" if close else "")


class Hosts(Mapping[str, Host]):
    """The hosts by name, each made when it is asked for the first time."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Host]) -> None:
        self._names = dict.fromkeys(names)
        self._make = make
        self._made: dict[str, Host] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Host:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]


def host(
    name: str, written: Mapping[str, Any], groups: Mapping[str, Sequence[str]], evaluate: Evaluate
) -> Host:
    """Return a host.

    Args:
        name: Its name.
        written: Its variables as they are written.
        groups: The hosts of each group.
        evaluate: Evaluates a value with its variables.
    """
    known = specs.options()
    # What is as the role has it, nobody has set.
    mine = frozenset(
        variable
        for variable in written
        if variable.startswith("ansible_")
        or (variable in known and not _is_default(written[variable], known[variable]))
    )
    defaults = specs.defaults(written)
    values = Values({**defaults, **written}, mine, evaluate)
    return Host(
        values,
        defaults,
        name=name,
        groups=frozenset(group for group, hosts in groups.items() if name in hosts),
        names=frozenset(variable for variable in written if not variable.startswith("ansible_")),
        failures=values.failures,
    )


def _is_default(value: Any, option: Mapping[str, Any]) -> bool:
    """Whether a value is the default of a role, and of its type."""
    return "default" in option and type(value) is type(option["default"]) and bool(value == option["default"])


def inventory(
    written: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
    evaluator: Callable[[Mapping[str, Any]], Evaluate],
    files: Mapping[str, str] | None = None,
) -> Inventory:
    """Return the inventory.

    Args:
        written: The variables of each host as they are written.
        groups: The hosts of each group.
        evaluator: Returns what evaluates a value with the variables of a host.
        files: Files of variables, by the name of the group or host that they are for.
    """
    used: set[str] = set()
    for variables in written.values():
        used |= words([value for name, value in variables.items() if not name.startswith("ansible_")])
    hosts = {name: host(name, variables, groups, evaluator(variables)) for name, variables in written.items()}
    return Inventory(hosts, groups, frozenset(used), files or {})
