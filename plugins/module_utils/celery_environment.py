"""The environment files that the role writes: what they say, and what of it is secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

ASSIGNMENT = re.compile(r'^([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"$', re.MULTILINE)
SECRET = re.compile("PASS|SECRET|TOKEN|KEY|URL|BACKEND|DSN")
# A shorter value is no secret but part of a word.
SHORTEST = 4


def parse_environment(text: str) -> dict[str, str]:
    """Return the variables of an environment file written by this role: ``NAME="value"`` a line.

    Inside the quotes a backslash escapes what follows it (systemd.exec(5), ``EnvironmentFile=``).
    """
    return {name: re.sub(r"\\(.)", r"\1", value) for name, value in ASSIGNMENT.findall(text)}


def read_environment(path: Path) -> dict[str, str]:
    """Return the variables of an environment file, each byte as it is: a line may end in CR and LF."""
    return parse_environment(path.read_bytes().decode(errors="replace"))


def masked(words: str, environment: Mapping[str, str]) -> str:
    """Return words without the secrets among the settings."""
    for name, value in environment.items():
        if len(value) >= SHORTEST and SECRET.search(name.upper()):
            words = words.replace(value, f"({name})")
    return words
