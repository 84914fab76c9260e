"""bash completes `fleet`: the words that the command gives, also behind an @, and nothing of its errors."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.role_files import render

TEMPLATE = "usr/local/share/bash-completion/completions/fleet.j2"
# Says what it was asked, and answers with names.
FLEET = """#!/bin/sh
echo "$_FLEET_COMPLETE|$COMP_WORDS|$COMP_CWORD" >asked
echo "an error" >&2
printf 'plain,web-1@worker1\\nplain,web-1@worker2\\ndir,\\n'
"""


@pytest.fixture(scope="module")
def script() -> str:
    """Return the script as the role writes it."""
    return render("celery_app", [TEMPLATE], {})[TEMPLATE]


@pytest.mark.parametrize(
    ("line", "number", "replies"),
    [
        ("fleet drain ", 2, ["web-1@worker1", "web-1@worker2"]),
        ("fleet drain web-1@w", 2, ["worker1", "worker2"]),
        ("fleet -p shop drain w", 4, ["web-1@worker1", "web-1@worker2"]),
    ],
)
def test_words_are_those_of_the_command(
    tmp_path: Path, script: str, line: str, number: int, replies: list[str]
) -> None:
    (tmp_path / "fleet").write_text(FLEET)
    (tmp_path / "fleet").chmod(0o755)
    (tmp_path / "completion").write_text(script)

    done = subprocess.run(
        ["bash", "--norc", "-euc", '. ./completion; _fleet; printf "%s\\n" "${COMPREPLY[@]}"'],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin", "COMP_LINE": line + " and more",
            "COMP_POINT": str(len(line)),
        },
    )  # fmt: skip

    assert done.stdout.splitlines() == replies
    assert done.stderr == ""
    assert (tmp_path / "asked").read_text() == f"bash_complete|{line}|{number}\n"
