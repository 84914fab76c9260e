"""A release takes over the files of wheels that another release of the host has."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.made_up_projects import write
from support.role_files import load_module, load_shared

release = load_module("celery_release")
shared = load_shared("celery_shared_wheels")

PIP = next(Path(sys.base_prefix).glob("lib/python3*/ensurepip/_bundled/pip-*.whl"))
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def wheel(folder: Path, project: str, value: str) -> Path:
    """Make a wheel with a module, a program and a file that is data; the same value, the same bytes."""
    path = folder / f"{project}-1.0-py3-none-any.whl"
    info = f"{project}-1.0.dist-info"
    files = {
        f"{project}/__init__.py": f"def main():\n    print({value!r}, __file__)\n",
        f"{project}-1.0.data/data/share/{project}.txt": value,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{project}-run = {project}:main\n",
    }
    rows = [f"{name},{shared._digest(content.encode())},{len(content)}" for name, content in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,\n"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


def bundle(folder: Path, **values: str) -> Path:
    """Make a bundle whose wheels hold these values."""
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    made = [wheel(wheels, project, value) for project, value in values.items()]
    (wheels / PIP.name).write_bytes(PIP.read_bytes())
    hashes = {
        f"wheels/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels.iterdir()
    }
    lines = [f"./wheels/{path.name} --hash=sha256:{hashes[f'wheels/{path.name}']}" for path in made]
    write(folder / "requirements.txt", "\n".join(lines) + "\n")
    manifest = {"python": VERSION, "interpreter": "", "machine": "any", "sha256": hashes}
    write(folder / "manifest.json", json.dumps(manifest))
    with tarfile.open(folder / "bundle.tar", "w") as archive:
        for name in ("manifest.json", "requirements.txt", "wheels"):
            archive.add(folder / name, name)
    return folder / "bundle.tar"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return what installs a release of wheels with these values, and notes what pip installs."""
    monkeypatch.setattr(release, "program_of", lambda _: Path(sys.executable))
    (tmp_path / "releases").mkdir()

    class Module:
        def __init__(self, archive: Path) -> None:
            self.params = {"bundle": str(archive), "interpreter": ""}

        def run_command(self, command: list[str], **options: Any) -> None:
            if "install" in command:
                with (tmp_path / "pip.log").open("a") as log:
                    log.write(Path(command[-1]).read_text())
            subprocess.run(command, cwd=options["cwd"], check=True, stdout=subprocess.PIPE)

    def made(name: str, **values: str) -> Path:
        (tmp_path / "pip.log").write_text("")
        path = tmp_path / "releases" / name
        release.install(Module(bundle(tmp_path / f"bundle-{name}", **values)), path)
        return path

    return made


def installed_by_pip(folder: Path) -> list[str]:
    """Return the wheels that pip installed last."""
    return [line.split("/")[2].split("-")[0] for line in (folder / "pip.log").read_text().splitlines()]


def test_a_release_installs_what_changed_and_links_the_rest(
    install: Callable[..., Path], tmp_path: Path
) -> None:
    first = install("first", library="1", project="old")
    assert installed_by_pip(tmp_path) == ["library", "project"]

    second = install("second", library="1", project="new")

    assert installed_by_pip(tmp_path) == ["project"]
    for path, value in ((first, "old"), (second, "new")):
        for program, said in (("library-run", "1"), ("project-run", value)):
            told = subprocess.check_output([path / "venv/bin" / program], text=True)
            assert told.startswith(f"{said} {path}/"), told
        assert (path / "venv/share/library.txt").read_text() == "1"
    module = f"venv/lib/python{VERSION}/site-packages/library/__init__.py"
    assert (first / module).samefile(second / module)


def test_a_third_release_links_what_the_second_has_linked(
    install: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("first", "second", "third"):
        last = install(name, library="1", project="same")

    assert installed_by_pip(tmp_path) == []
    assert subprocess.check_output([last / "venv/bin/library-run"], text=True).startswith(f"1 {last}/")
    told = subprocess.run([last / "venv/bin/python", "-m", "compileall", "-q", last], check=False)
    assert told.returncode == 0


@pytest.mark.parametrize(
    "file", [f"lib/python{VERSION}/site-packages/library/__init__.py", "bin/library-run"]
)
def test_nothing_is_taken_from_a_release_that_was_changed(
    install: Callable[..., Path], tmp_path: Path, file: str
) -> None:
    first = install("first", library="1", project="old")
    with (first / "venv" / file).open("a") as opened:
        opened.write("\nDEBUG = True\n")

    second = install("second", library="1", project="old")

    assert installed_by_pip(tmp_path) == ["library", "project"]
    assert "DEBUG" not in (second / "venv" / file).read_text()


@pytest.mark.parametrize("broken", ["", "[]", '{"sha256": []}', '{"sha256": {"wheels/library.whl": 1}}'])
def test_a_release_that_says_nothing_of_itself_is_passed_over(
    install: Callable[..., Path], tmp_path: Path, broken: str
) -> None:
    first = install("first", library="1")
    (first / "manifest.json").write_text(broken)

    install("second", library="1")

    assert installed_by_pip(tmp_path) == ["library"]


def test_a_record_that_leads_elsewhere_is_not_followed(install: Callable[..., Path], tmp_path: Path) -> None:
    first = install("first", library="1")
    record = first / f"venv/lib/python{VERSION}/site-packages/library-1.0.dist-info/RECORD"
    with record.open("a") as opened:
        opened.write("../../../../../../secret,,\n")
    write(tmp_path / "secret", "x")

    install("second", library="1")

    assert installed_by_pip(tmp_path) == ["library"]
