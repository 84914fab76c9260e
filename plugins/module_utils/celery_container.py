"""A container of the host's distribution, in which requirements are built that need its libraries."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_tools import (
    network_environment,
    run,
)

ENGINES = ("docker", "podman")
# Settings of pip that mean the same in the container; the others name files of the controller.
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
# Where the container finds the controller's scratch directory, and the authority's certificate in it.
WORK = "/build"
# And where it finds another Python than the distribution's.
PYTHON = "/python"
AUTHORITY = f"{WORK}/authority.pem"
BUILD = f"""set -eu
export HOME=/tmp/home
if [ -x {PYTHON}/bin/python3 ]; then python={PYTHON}/bin/python3; else python=python3; fi
$python -m venv /tmp/build
pip=/tmp/build/bin/pip
$pip install --quiet --no-deps --require-hashes --only-binary=:all: --requirement {WORK}/build.txt
$pip wheel --no-deps --require-hashes --no-binary=:all: --use-pep517 --no-build-isolation \
    --check-build-dependencies --requirement {WORK}/sdist.txt --wheel-dir {WORK}/wheels
"""


class Container(NamedTuple):
    """An image of the host's distribution, and what is installed in it."""

    image: str
    packages: tuple[str, ...] = ()
    python: Path | None = None
    """The files of the Python that is built for, if it is not the distribution's."""

    def dockerfile(self) -> str:
        """Return how the image for builds is made of it."""
        packages = shlex.join(["python3-venv", *sorted(self.packages)])
        # Who builds without a network brings an image that has them.
        return (
            f"FROM {self.image}\n"
            f"RUN dpkg --status {packages} >/dev/null 2>&1 || {{ apt-get update -q "
            f"&& DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends {packages}; }}\n"
        )


def find_engine() -> str:
    """Return the program that runs containers.

    Raises:
        BundleError: There is none.
    """
    found = next(filter(None, map(shutil.which, ENGINES)), None)
    if found is None:
        raise BundleError("celery_app_sdists_image: neither docker nor podman is installed on the controller")
    return found


def make_image(container: Container, log: Path) -> str:
    """Return the name of the image for builds, which is made once.

    Raises:
        ToolError: It cannot be made.
    """
    engine, text = find_engine(), container.dockerfile()
    name = f"celery-fleet-build:{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    inspected = subprocess.run([engine, "image", "inspect", name], capture_output=True, check=False)
    if inspected.returncode == 0:
        return name
    proxies = [n for n in network_environment() if n.lower().endswith("_proxy")]
    with tempfile.TemporaryDirectory() as empty:
        (Path(empty) / "Dockerfile").write_text(text, encoding="utf-8")
        arguments = [f"--build-arg={proxy}" for proxy in proxies]
        run([engine, "build", "--quiet", *arguments, "--tag", name, empty], None, log)
    return name


def build_in_container(
    container: Container, wanted: str, back_ends: Path, into: Path, *, log: Path, secrets: Iterable[str]
) -> None:
    """Build wheels in a container, as the controller's user, and leave nothing else behind.

    Args:
        container: Where.
        wanted: The requirements file of what is built. It may hold passwords, and is no argument therefore.
        back_ends: The lock file of what it is built with.
        into: The directory for the wheels.
        log: Where the whole output goes if it fails.
        secrets: What is never shown.

    Raises:
        ToolError: They cannot be built.
    """
    engine, image = find_engine(), make_image(container, log)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        (work / "sdist.txt").write_text(wanted, encoding="utf-8")
        (work / "build.txt").write_bytes(back_ends.read_bytes())
        (work / "wheels").mkdir()
        settings = pip_settings(work)
        command = [engine, "run", "--rm", "--network=host", f"--volume={scratch}:{WORK}"]
        command += [f"--volume={container.python}:{PYTHON}:ro"] if container.python is not None else []
        # Rootless Podman's root is the controller's user already.
        command += [] if engine.endswith("podman") else [f"--user={os.getuid()}:{os.getgid()}"]
        command += [f"--env={name}" for name in settings]
        run([*command, image, "sh", "-c", BUILD], {**os.environ, **settings}, log, secrets)
        for wheel in (work / "wheels").iterdir():
            shutil.copy(wheel, into)


def pip_settings(work: Path) -> Mapping[str, str]:
    """Return the controller's settings of pip as variables of the container's environment.

    The values are in the environment of the engine's command only: its arguments name the variables.
    """
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    found: dict[str, str] = {}
    authority = ""
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        setting = name.rpartition(".")[2]
        text = value.strip("'\"")
        if setting in PIP_SETTINGS:
            found[f"PIP_{setting.upper().replace('-', '_')}"] = text
        elif setting == "cert":
            authority = text
    found |= {n: v for n, v in network_environment().items() if n.lower().endswith("_proxy")}
    authority = authority or os.environ.get("SSL_CERT_FILE", "")
    if authority and Path(authority).is_file():
        shutil.copyfile(authority, work / Path(AUTHORITY).name)
        found["PIP_CERT"] = AUTHORITY
    return found | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_CACHE_DIR": "1", "PIP_NO_INPUT": "1"}
