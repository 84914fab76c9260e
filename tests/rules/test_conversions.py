"""Booleans and numbers that an inventory gives as texts (INI, `-e`) are converted wherever they are used."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.specs import options
from jinja2 import nodes
from support.role_files import CHECKOUT, evaluate


def names_of(*types: str) -> set[str]:
    """Variables, and keys of dictionaries in them, of these types."""
    every = options().values()
    keys = {
        key for option in every for key, inner in option.get("options", {}).items() if inner["type"] in types
    }
    return keys | {name for name, option in options().items() if option["type"] in types}


FLAGS = names_of("bool")
NUMBERS = names_of("int", "float")
YAML_FILES = sorted(
    [*CHECKOUT.glob("roles/*/[dhtv]*/*.yml"), *CHECKOUT.glob("playbooks/*.yml")],
    key=lambda path: str(path.relative_to(CHECKOUT)),
)
TEMPLATES = sorted(CHECKOUT.glob("roles/*/templates/**/*.j2"))
# Keywords whose text is an expression without braces.
EXPRESSIONS = {"when", "that", "until", "failed_when", "changed_when"}
ENVIRONMENT = jinja2.Environment()  # noqa: S701 -- parses only


def texts(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a file, each with the key that it stands under."""
    if isinstance(content, str):
        yield key, content
    elif isinstance(content, dict):
        for name, value in content.items():
            yield from texts(value, str(name))
    elif isinstance(content, list):
        for value in content:
            yield from texts(value, key)


def read_by(node: nodes.Node | None, known: set[str]) -> str:
    """The variable that a node reads: by its name, or out of the variables of a host."""
    if isinstance(node, nodes.Name):
        return node.name if node.name in known & options().keys() else ""
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        # A group of hosts may be called as a key is.
        of_groups = isinstance(node.node, nodes.Name) and node.node.name == "groups"
        return str(node.arg.value) if node.arg.value in known and not of_groups else ""
    return ""


def unconverted(node: nodes.Node, converted: bool = False) -> Iterator[str]:
    """The booleans below a node that are used as they are written."""
    if isinstance(node, nodes.Filter) and node.name in ("selectattr", "rejectattr", "sum"):
        # Text is truth to these.
        words = [argument.value for argument in node.args if isinstance(argument, nodes.Const)]
        yield from set(words) & FLAGS if len(node.args) == 1 else ()
    if flag := read_by(node, FLAGS):
        if not converted:
            yield flag
        return
    if isinstance(node, nodes.Filter):
        within = node.name == "bool" or (converted and node.name == "default")
        if node.node is not None:
            yield from unconverted(node.node, within)
        for argument in node.args:
            yield from unconverted(argument)
        return
    if isinstance(node, nodes.Test) and node.name in ("defined", "undefined"):
        return
    for child in node.iter_child_nodes():
        yield from unconverted(child)


def parsed(text: str) -> nodes.Template:
    """The syntax tree of a template."""
    return ENVIRONMENT.parse(text)


def whole(text: str) -> bool:
    """Whether a text is one variable: a parameter or a keyword, which Ansible converts."""
    return text.strip().removeprefix("{{").removesuffix("}}").strip() in FLAGS


def reckoned(tree: nodes.Template) -> Iterator[str]:
    """The numbers that are reckoned with or compared as they are written."""
    operands: list[nodes.Node] = []
    for pair in tree.find_all((nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv)):
        operands += [pair.left, pair.right]
    for comparison in tree.find_all(nodes.Compare):
        operands += [comparison.expr, *(operand.expr for operand in comparison.ops)]
    for operand in operands:
        bare = operand.node if isinstance(operand, nodes.Filter) and operand.name == "default" else operand
        if number := read_by(bare, NUMBERS):
            yield number


def of_file(path: Path) -> list[str]:
    """The booleans and numbers that a file uses as they are written."""
    if path.suffix == ".j2":
        tree = parsed(path.read_text())
        return [*unconverted(tree), *reckoned(tree)]
    found: list[str] = []
    for key, text in texts(yaml.safe_load(path.read_text())):
        if key in EXPRESSIONS and "{{" not in text:
            tree = parsed("{{ " + text + " }}")
        elif "{" in text and not (whole(text) and "vars" not in path.parts[-2]):
            tree = parsed(text)
        else:
            continue
        found += [*unconverted(tree), *reckoned(tree)]
    return found


@pytest.mark.parametrize("path", [*YAML_FILES, *TEMPLATES], ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_booleans_and_numbers_are_converted_where_they_are_used(path: Path) -> None:
    assert of_file(path) == []


def test_a_text_that_means_false_is_false() -> None:
    """A beat that INI switches off is not started, and a former password that `-e` ends is not accepted."""
    users = [{"name": "app", "password": "present", "previous_password": "former", "preset": "app"}]
    app = {"celery_app_supervised": "no", "celery_app_worker_groups": [{"name": "web", "workers": "2"}]}

    assert evaluate("celery_app", "__celery_app_beat_units", [{"celery_app_beat": "false"}]) == [[]]
    (units,) = evaluate("celery_app", "__celery_app_worker_units | map(attribute='name')", [app])
    assert units == ["celery-worker@web-1.service", "celery-worker@web-2.service"]
    redis = {"redis_users": users, "redis_previous_passwords": "false"}
    assert evaluate("redis", "__redis_acl[1]['passwords'] | length", [redis]) == [1]
