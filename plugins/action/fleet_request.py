"""Ansible action: refuse what was typed wrong, before any host is asked anything."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from ansible import context
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

# Names that an error lists.
LISTED = 20
# From which on two names of variables are alike: host and hots are.
ALIKE = 0.75


def choices(names: Collection[str]) -> str:
    """Return names for an error, not too many of them."""
    shown = sorted(names)
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    return (", ".join(shown[:LISTED]) or "none") + more


def hint(name: str, names: Collection[str]) -> str:
    """Return the name that was meant perhaps, as a question."""
    close = get_close_matches(name, names, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def parts(name: str) -> set[str]:
    """Return the words of the name of a variable."""
    return set(name.split("_"))


def misspelt(name: str, rules: Mapping[str, Mapping[str, Any]], missing: Collection[str] = ()) -> str:
    """Return what is wrong with the name of a variable; nothing if it may belong to another role.

    Args:
        name: What was typed.
        rules: What the playbook reads.
        missing: What of it was not typed: worker_group is meant as group if there is no group.
    """
    for known, rule in rules.items():
        if name == rule.get("formerly"):
            return f"{name}: the name of this variable is {known} now"
    close = get_close_matches(name, rules, n=1, cutoff=ALIKE) or [
        known for known in missing if parts(known) <= parts(name) or parts(name) <= parts(known)
    ]
    meant = " or ".join(close)
    return f"{name}: this playbook reads no such variable (did you mean {meant}?)" if close else ""


def wrong_value(name: str, value: str, rule: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the value of a variable."""
    among = rule.get("among")
    if among is not None and value not in among:
        kind = rule["kind"]
        yield f"{name}: no {kind} is named '{value}'{hint(value, among)}; there are: {choices(among)}"
    if "pattern" in rule and not re.fullmatch(rule["pattern"], value):
        yield f"{name}: '{value}' is wrong; allowed is {rule['allowed']}"


def problems(
    values: Mapping[str, str],
    rules: Mapping[str, Mapping[str, Any]],
    *,
    typed: Collection[str] = (),
    any_of: Collection[str] = (),
) -> Iterator[str]:
    """Yield what is wrong with what was typed, a line each.

    Args:
        values: The values of the variables, by name; an empty one counts as none.
        rules: What the playbook reads.
        typed: Names of all extra variables.
        any_of: Variables of which one must be given.
    """
    missing = [name for name in rules if not values.get(name)]
    wrong = [words for name in typed if name not in rules and (words := misspelt(name, rules, missing))]
    yield from wrong
    for name, rule in rules.items():
        value = values.get(name, "")
        if value:
            yield from wrong_value(name, value, rule)
        elif rule.get("required"):
            ask = rule.get("ask", f"name the {rule.get('kind', name)}")
            value = f"one of {choices(rule['among'])}" if "among" in rule else "…"
            yield f"{ask}: -e {name}=<{value}>"
    if any_of and not wrong and not any(values.get(name) for name in any_of):
        yield f"give at least one of {', '.join(f'-e {name}=…' for name in any_of)}"


def left_out(
    limit: str,
    in_play: Collection[str],
    hosts: Mapping[str, Collection[str]],
    within: Collection[str] = (),
) -> Iterator[str]:
    """Yield which hosts are not there at all, or are left out by ``--limit``."""
    if out := set(within) - set(in_play):
        yield f"--limit {limit} leaves out {choices(out)}"
    for kind, names in hosts.items():
        if not names:
            yield f"the inventory has no {kind}"
        elif not set(names) & set(in_play):
            yield f"--limit {limit} leaves no {kind}; there are: {choices(names)}"


class ActionModule(ActionBase):  # type: ignore[misc]
    """Runs on the controller, once for all hosts."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Judge what was typed."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        known = task_vars or {}
        arguments = self._task.args
        rules = arguments.get("variables") or {}
        values = {name: str(self._templar.template(known[name])) for name in rules if name in known}
        found = [
            *problems(
                values,
                rules,
                typed=load_extra_vars(self._loader),
                any_of=arguments.get("any_of") or [],
            ),
            *left_out(
                str(context.CLIARGS.get("subset") or "all"),
                known.get("ansible_play_hosts_all", []),
                arguments.get("hosts") or {},
                [name for name in arguments.get("within") or [] if name in known.get("groups", {})["all"]],
            ),
        ]
        return result | {
            "failed": bool(found),
            "msg": "; ".join(found) or "nothing is wrong with what was typed",
        }
