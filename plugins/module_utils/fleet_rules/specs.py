"""What the argument specs of the roles say of a value: its type, its choices, its keys, its bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..celery_project import DEFAULT, defaults_of
from .bounds import BOUNDS, FORMER_NAMES
from .model import UNKNOWN, as_flag, as_number, as_text, as_whole
from .text import called, did_you_mean, number, secret, shown

ROLES = Path(__file__).resolve().parents[3] / "roles"
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Option = Mapping[str, Any]
# What a value of the type is called, and what reads it.
SCALARS: dict[str, tuple[str, Any]] = {
    "bool": ("true or false", as_flag),
    "int": ("a whole number", as_whole),
    "float": ("a number", as_number),
    "str": ("a text", as_text),
    "path": ("a path", as_text),
}


@dataclass(frozen=True)
class Role:
    """The variables of all entry points of a role by name, and those that `main` requires."""

    name: str
    options: Mapping[str, Option]
    required: frozenset[str]


@cache
def roles(folder: Path = ROLES) -> dict[str, Role]:
    """The roles by name."""
    found = {}
    for path in sorted(folder.glob("*/meta/argument_specs.yml")):
        name = path.parents[1].name
        specs = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)["argument_specs"]  # noqa: S506 -- a safe one
        options: dict[str, Option] = {}
        for spec in specs.values():
            options |= spec.get("options") or {}
        required = {
            variable
            for variable, option in (specs["main"].get("options") or {}).items()
            if option.get("required")
        }
        found[name] = Role(name, options, frozenset(required))
    return found


@cache
def options() -> dict[str, Option]:
    """The variables of all roles by name."""
    return {name: option for role in roles().values() for name, option in role.options.items()}


def defaults(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults by variable, but for those that are computed from others than the project's name."""
    project = variables.get("celery_app_project")
    return _fixed_defaults() | defaults_of(project if isinstance(project, str) else DEFAULT)


@cache
def _fixed_defaults() -> dict[str, Any]:
    return {
        name: option["default"]
        for name, option in options().items()
        if "default" in option and "{{" not in str(option["default"])
    }


def check(name: str, value: Any, option: Option) -> Iterator[str]:
    """Say what is wrong with the value of a variable, one line each."""
    yield from _check(value, option, "", name)


def _check(value: Any, option: Option, where: str, path: str) -> Iterator[str]:
    """Say what is wrong with a value at a place within a variable."""
    if value is UNKNOWN:
        return
    kind = option.get("type", "str")
    said = "a secret" if option.get("no_log") or secret(path) else shown(value)
    if value is None:
        yield f"{where}is empty (null); allowed: {_allowed(option, path)}"
    elif kind == "raw":
        # What it may be, a rule knows.
        return
    elif kind == "list":
        yield from _check_list(value, option, where, path, said)
    elif kind == "dict":
        yield from _check_table(value, option, where, path, said)
    else:
        yield from _check_scalar(value, option, where, path, said)


def _check_scalar(value: Any, option: Option, where: str, path: str, said: str) -> Iterator[str]:
    _words, read = SCALARS[option.get("type", "str")]
    found = read(value)
    low, high = BOUNDS.get(path, (None, None))
    if (
        found is None
        or ("choices" in option and found not in option["choices"])
        or (low is not None and not low <= found <= high)
    ):
        hint = " (put it in quotes)" if isinstance(value, bool) else ""
        yield f"{where}is {said}; allowed: {_allowed(option, path)}{hint}"


def _check_list(value: Any, option: Option, where: str, path: str, said: str) -> Iterator[str]:
    if not isinstance(value, list | tuple):
        yield f"{where}is {said}; allowed: a list"
        return
    element = {**option, "type": option.get("elements", "raw")}
    element.pop("elements", None)
    if element["type"] == "raw":
        return
    for number_, item in enumerate(value, 1):
        yield from _check(item, element, f"{where}{called(item, number_)}: ", path)


def _check_table(value: Any, option: Option, where: str, path: str, said: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where}is {said}; allowed: a dictionary"
        return
    known: Mapping[str, Option] = option.get("options") or {}
    if not known:
        return
    for key in sorted(value, key=str):
        if key not in known:
            now = FORMER_NAMES.get(key)
            why = f"named {now} now" if now in known else f"unknown; {did_you_mean(str(key), known)}"
            yield f"{where}{key} is {why}"
    for key, inner in known.items():
        if key in value:
            yield from _check(value[key], inner, f"{where}{key} ", f"{path}.{key}")
        elif inner.get("required"):
            yield f"{where}{key} is missing; allowed: {_allowed(inner, f'{path}.{key}')}"


def _allowed(option: Option, path: str) -> str:
    """What a value may be."""
    if "choices" in option:
        return ", ".join(str(choice) for choice in option["choices"])
    kind = option.get("type", "str")
    words = (
        SCALARS[kind][0]
        if kind in SCALARS
        else {"list": "a list", "dict": "a dictionary"}.get(kind, "a value")
    )
    if path in BOUNDS:
        low, high = BOUNDS[path]
        return f"{words} from {number(low)} to {number(high)}"
    return words


@cache
def settings(role: str, *variables: str) -> frozenset[str]:
    """The names in internal variables of a role: settings of a server that belong to it."""
    path = ROLES / role / "vars/main.yml"
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)  # noqa: S506 -- a safe one
    return frozenset(name for variable in variables for name in content.get(variable) or ())
