"""Projects that pip can build without a network, and bundles of them."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.role_files import (
    CHECKOUT,
    load_shared,
)

content = load_shared("celery_content")
host = load_shared("celery_host")
lock = load_shared("celery_lock")
source = load_shared("celery_source")
wheels = load_shared("celery_wheels")
AWKWARD = {
    "PLAIN": "redis://app:secret@data1:6379/0",
    "SHELL": "$HOME `id` \\ \"quoted\" 'single' #; &",
    "EMPTY": "",
    "TWO_LINES": "first\nsecond",
    "CARRIAGE_RETURN": "first\r\nsecond\rthird\r\n",
    "SPACES": "  before and after\t ",
    "PERCENT": "%n %% %h",
    "LINE_ENDS_WITH_BACKSLASH": "first\\\nsecond\\",
    "LOOKS_LIKE_ONE": 'x"\nINJECTED="yes',
    "LETTERS": "größer \u00a0 \u2028 \U0001f600",
    "CONTROL": "\x01\x1b[0m\x7f",
}
INPUTS = {
    "__celery_app_target": {"python": "3.13", "glibc": "2.41", "group": "celery"},
    "__celery_app_bundle": {"python": "3.13"},
    "celery_app_name": "proj",
    "celery_app_source": "/nowhere",
    "celery_app_environment": AWKWARD,
}
PYPROJECT = """
[project]
name = "proj"
version = "1"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


# The least that pip can build with; it needs no network.
BACKEND = """
import zipfile, tarfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{directory}/proj-1-py3-none-any.whl", "w") as wheel:
        wheel.write("proj.py")
        for name, text in {
            "METADATA": "Metadata-Version: 2.1\\nName: proj\\nVersion: 1\\n",
            "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
            "RECORD": "",
        }.items():
            wheel.writestr(f"proj-1.dist-info/{name}", text)
    return "proj-1-py3-none-any.whl"
"""


BUILD = CHECKOUT / "roles/celery_app/files/build.txt"
TARGET = host.Target("3.13", "x86_64", "2.41")


def write(path: Path, text: str) -> Path:
    """Write a file; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def git(*arguments: str) -> str:
    """Run git as nobody in particular."""
    names = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    done = subprocess.run(["git", *names, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def find(named: Path | str, cache: Path, revision: str = "", run: str = "run") -> Any:
    """The project that a user names."""
    return source.find_source(str(named), revision, cache, run)


def pip_that_downloads_nothing(asked: list[str]) -> Any:
    """A pip that builds, and writes down what it was asked for."""
    build = wheels.pip

    def pip(kind: str, *rest: str, **how: Any) -> None:
        asked.append(kind)
        if kind == "wheel":
            build(kind, *rest, **how)

    return pip


def content_of(found: Any, cache: Path, **parts: Any) -> Any:
    """What goes into a bundle of a project, and nothing else than the parts that are named."""
    supplies = wheels.Supplies(cache, BUILD, **parts.pop("supplies", {}))
    return content.Content(TARGET, (found,), parts.pop("lock", lock.Lock({})), "", supplies, **parts)


def collect(found: Any, scratch: Path, cache: Path) -> set[str]:
    """The wheels of a bundle of the project, without any requirements."""
    folder = scratch / "wheels"
    folder.mkdir(parents=True)
    cache.mkdir(exist_ok=True)
    content.collect_wheels(folder, content_of(found, cache))
    return {wheel.name for wheel in folder.iterdir()}


def contents(found: Any, scratch: Path) -> set[str]:
    """What is in a bundle of the project, without any requirements."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheels, "pip", pip_that_downloads_nothing([]))
        built = collect(found, scratch, scratch / "cache")
    return built | {found.name_of(f) for f in found.files()}
