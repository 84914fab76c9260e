"""An inventory as the rules see it: hosts with their values, groups, and what was found wrong.

The rules ask for a value by its kind (`flag`, `whole`, `text`, …). One that is not known here (it needs
facts, or cannot be decrypted) or is of another kind (which the argument specs report) raises `NotKnownError`:
the rule that needs it says nothing. So each rule reads well-typed values only, and none can crash.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

# What `bool` of Ansible takes.
TRUE = frozenset({"y", "yes", "on", "1", "true", "t"})
FALSE = frozenset({"n", "no", "off", "0", "false", "f"})

# The value of a variable that only the host itself can tell.
UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda _self: "UNKNOWN"})()


class NotKnownError(Exception):
    """A rule cannot say anything: a value that it needs is not known here, or of another kind."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a variable of a host, or with the inventory where no host is named."""

    variable: str
    text: str
    host: str = ""
    fatal: bool = True


def as_flag(value: Any) -> bool | None:
    """Return a value as a boolean as Ansible reads it; nothing where it is none."""
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    word = value.strip().lower() if isinstance(value, str) else ""
    return True if word in TRUE else False if word in FALSE else None


def as_whole(value: Any) -> int | None:
    """Return a value as a whole number; nothing where it is none."""
    found = as_number(value)
    if found is None or found != int(found):
        return None
    try:
        return int(value)
    except ValueError:
        return int(found)


def as_number(value: Any) -> float | None:
    """Return a value as a finite number; nothing where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and (not isinstance(value, str) or "_" not in value) else None


def as_text(value: Any) -> str | None:
    """Return a text, or a number as one; nothing for another value."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:
            return None
    return None


MISSING: Any = object()


@dataclass(frozen=True)
class Record:
    """Values by name: the variables of a host, or a dictionary in one of them."""

    values: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def raw(self, name: str, default: Any = MISSING) -> Any:
        """Return a value as it is, or its default.

        Raises:
            NotKnownError: There is neither, or only the host knows.
        """
        value = self.values[name] if name in self.values else self.defaults.get(name, default)
        if value is MISSING or value is UNKNOWN:
            raise NotKnownError(name)
        return value

    def has(self, name: str) -> bool:
        """Whether the user has set it."""
        return name in self.values

    def flag(self, name: str, default: Any = MISSING) -> bool:
        """Return a boolean."""
        return known(name, as_flag(self.raw(name, default)))

    def whole(self, name: str, default: Any = MISSING) -> int:
        """Return a whole number."""
        return known(name, as_whole(self.raw(name, default)))

    def number(self, name: str, default: Any = MISSING) -> float:
        """Return a number."""
        return known(name, as_number(self.raw(name, default)))

    def text(self, name: str, default: Any = MISSING) -> str:
        """Return a text."""
        return known(name, as_text(self.raw(name, default)))

    def texts(self, name: str, default: Any = MISSING) -> list[str]:
        """Return a list of texts."""
        return [known(name, as_text(item)) for item in self._items(name, default)]

    def table(self, name: str, default: Any = MISSING) -> dict[str, Any]:
        """Return a dictionary."""
        value = self.raw(name, default)
        if not isinstance(value, Mapping):
            raise NotKnownError(name)
        return {str(key): item for key, item in value.items()}

    def records(self, name: str, default: Any = MISSING) -> list[Record]:
        """Return a list of dictionaries."""
        found = self._items(name, default)
        if not all(isinstance(item, Mapping) for item in found):
            raise NotKnownError(name)
        return [Record(item) for item in found]

    def _items(self, name: str, default: Any) -> Sequence[Any]:
        value = self.raw(name, default)
        if not isinstance(value, list | tuple):
            raise NotKnownError(name)
        return value


def known(name: str, value: T | None) -> T:
    """Return a value that is there.

    Raises:
        NotKnownError: It is not.
    """
    if value is None:
        raise NotKnownError(name)
    return value


@dataclass(frozen=True)
class Host(Record):
    """A host of the inventory."""

    name: str = ""
    groups: frozenset[str] = frozenset()
    # The names of all its variables, templated or not.
    names: frozenset[str] = frozenset()
    # Why what could not be evaluated, by variable.
    failures: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where Ansible reaches it."""
        return self.text("ansible_host", self.name)


@dataclass(frozen=True)
class Inventory:
    """All hosts and groups."""

    hosts: Mapping[str, Host]
    groups: Mapping[str, Sequence[str]]
    # Names that other variables use: somebody's own.
    used: frozenset[str] = frozenset()
    # Files of variables whose name is that of a group or a host, by name.
    files: Mapping[str, str] = field(default_factory=dict)
    # The hosts of the play, where a role asks.
    play: Sequence[str] = ()

    def of(self, group: str) -> Iterator[Host]:
        """The hosts of a group."""
        for name in self.groups.get(group, ()):
            if name in self.hosts:
                yield self.hosts[name]

    def reached_by(self, name: str) -> Host | None:
        """The host that a name or an address means."""
        if name in self.hosts:
            return self.hosts[name]
        for host in self.hosts.values():
            if host.values.get("ansible_host") == name:
                return host
        return None
