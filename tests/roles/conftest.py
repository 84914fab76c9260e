"""Projects, for the tests of what is made of them."""

from pathlib import Path

import pytest
from support.made_up_projects import BACKEND, PYPROJECT, git, write


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The directory of a project that pip can build."""
    write(tmp_path / "proj/pyproject.toml", PYPROJECT)
    write(tmp_path / "proj/backend.py", BACKEND)
    write(tmp_path / "proj/proj.py", "x = 1")
    return tmp_path / "proj"


@pytest.fixture
def repository(project: Path) -> Path:
    """The same as a git repository with a tag."""
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "one"], ["tag", "v1"]):
        git("-C", str(project), *command)
    return project
