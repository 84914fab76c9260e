"""A host is upgraded from Debian 12 to 13: the release is rebuilt for the other Python, in the same place."""

import ensurepip
import hashlib
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import ansible
import pytest
from support.role_files import CHECKOUT

# What Ansible does with the module, in a container that has the folder of the releases.
DRIVER = """
import os, subprocess, sys
from pathlib import Path

class Module:
    params = {"bundle": sys.argv[1], "interpreter": ""}
    def run_command(self, command, check_rc=False, cwd=None):
        done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
        if check_rc and done.returncode:
            sys.exit(done.stderr)
        return done.returncode, done.stdout, done.stderr
    def fail_json(self, msg):
        sys.exit(msg)

from ansible_collections.celery_fleet.platform.plugins.modules import celery_release as release
os.umask(0o022)
release.install(Module(), Path("/opt/celery/releases/r1"))
"""
SHOW = "import proj, sys; print('%d.%d' % sys.version_info[:2], proj.__file__)"


def wheel_of_pip() -> Path:
    """The pip that this Python, or Debian, brings along."""
    folders = [Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels")]
    return next(path for folder in folders for path in folder.glob("pip-*.whl"))


def wheel_of_project(folder: Path) -> Path:
    """A project of one module."""
    path = folder / "proj-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("proj.py", "")
        wheel.writestr("proj-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: proj\nVersion: 1\n")
        wheel.writestr(
            "proj-1.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr("proj-1.dist-info/RECORD", "")
    return path


def bundle(folder: Path, python: str) -> Path:
    """A bundle of the project for a version of Python."""
    wheels = [wheel_of_pip(), wheel_of_project(folder)]
    hashes = {f"wheels/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels}
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps({"release": "r1", "python": python, "sha256": hashes}))
    wanted = folder / "requirements.txt"
    wanted.write_text(f"./wheels/{wheels[1].name} --hash=sha256:{hashes[f'wheels/{wheels[1].name}']}\n")
    archive = folder / f"{python}.tar"
    with tarfile.open(archive, "w") as tar:
        for path in wheels:
            tar.add(path, f"wheels/{path.name}")
        tar.add(manifest, manifest.name)
        tar.add(wanted, wanted.name)
    return archive


class Host:
    """The disk of a host; each command runs on the Debian that is installed there at the time."""

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self.debian = "bookworm"

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command; return what it printed."""
        mounts = {
            str(self.disk): "/opt/celery",
            str(CHECKOUT / "plugins"): "/python/ansible_collections/celery_fleet/platform/plugins:ro",
            str(Path(ansible.__file__).parent): "/python/ansible:ro",
        }
        done = subprocess.run(
            [
                *("docker", "run", "--rm", "--interactive", "--label=celery-fleet=test"),
                *(f"--volume={source}:{target}" for source, target in mounts.items()),
                *("--env=PYTHONPATH=/python", f"celery-fleet/host:{self.debian}", *command),
            ],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def install(self, archive: Path) -> None:
        """Install the release."""
        self.run("python3", "-", f"/opt/celery/{archive.name}", stdin=DRIVER)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host on Debian 12 with a release."""
    (tmp_path / "releases").mkdir()
    found = Host(tmp_path)
    found.install(bundle(tmp_path, "3.11"))
    return found


def test_a_release_runs_on_the_python_of_the_host_before_and_after_its_upgrade(host: Host) -> None:
    release = "/opt/celery/releases/r1"
    there = f"{release}/venv/lib/python"
    assert host.run(f"{release}/venv/bin/python", "-c", SHOW) == f"3.11 {there}3.11/site-packages/proj.py"

    host.debian = "trixie"
    host.install(bundle(host.disk, "3.13"))

    assert host.run(f"{release}/venv/bin/python", "-c", SHOW) == f"3.13 {there}3.13/site-packages/proj.py"
    # What has not been replaced yet loads its modules from where it began.
    assert host.run("cat", f"{there}3.11/site-packages/proj.py") == ""
    assert json.loads(host.run("cat", f"{there}3.13/../../../manifest.json"))["python"] == "3.13"
    assert host.run("find", "/opt/celery/releases", "-name", "unpacked*") == ""
