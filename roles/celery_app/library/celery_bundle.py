#!/usr/bin/python
"""Ansible module: build a Celery project into a bundle that installs without any network."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

DOCUMENTATION = r"""
---
module: celery_bundle
short_description: Build a Celery project into a bundle that installs without any network
description:
  - Runs on the controller. A bundle holds the wheels of the project, of its locked requirements and of pip,
    made for one version of Python and one machine type, with the hash of each file.
  - Of the companion's lock only those requirements are taken that the project's own lock does not have.
    A version that the project pins and the companion cannot work with is refused.
  - The release id is the hash of the sources and of both locks. What is in the cache is not built again.
options:
  source:
    description: Directory of the project.
    type: path
    required: true
  requirements:
    description: Lock file with the exact version and the hashes of every requirement, as C(uv pip compile
      --generate-hashes) and C(pip-compile --generate-hashes) write it.
    type: path
    required: true
  companion:
    description: Directory of a project that is installed beside it.
    type: path
    required: true
  companion_requirements:
    description: The companion's own lock file, as the project's.
    type: path
    required: true
  installer:
    description: Requirements file that pins pip itself.
    type: path
    required: true
  python:
    description: Version of Python on the host, such as C(3.13).
    type: str
    required: true
  machine:
    description: Machine type of the host, such as C(x86_64).
    type: str
    required: true
  glibc:
    description: Version of glibc on the host, such as C(2.36).
    type: str
    required: true
  cache:
    description: Directory on the controller that keeps the bundles.
    type: path
    required: true
"""

IGNORED = {".git", ".venv", "__pycache__", "build", "dist", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


class BundleError(Exception):
    """One line that tells the user what is wrong with the project or its lock file."""


class Locked(NamedTuple):
    """A pinned requirement."""

    version: str
    line: str
    """What pip reads: name, version and hashes."""


class Content(NamedTuple):
    """What goes into a bundle beside the projects themselves."""

    pins: dict[str, Locked]
    added: set[str]
    """Names of those that are there for the companion only."""


def source_files(source: Path) -> Iterator[Path]:
    """Yield the files of a project directory in a fixed order, without caches and build products."""
    for directory, folders, names in os.walk(source):
        folders[:] = sorted(f for f in folders if f not in IGNORED and not f.endswith(".egg-info"))
        for name in sorted(names):
            if not name.endswith(".pyc"):
                yield Path(directory) / name


def release_id(sources: list[Path], locks: list[Path]) -> str:
    """Return the release id: 12 hexadecimal digits of the hash over all sources and lock files."""
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks))
    for source in sources:
        for path in source_files(source):
            digest.update(f"{source.name}/{path.relative_to(source)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def environment_of(python: str, machine: str) -> dict[str, str]:
    """Return what environment markers ask for, on a host with this Python.

    pip evaluates markers for the Python it runs on, not for the one it downloads for, so it is done here.
    """
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


def lock_for_target(lock: str, name: str, python: str, machine: str) -> dict[str, Locked]:
    """Return what a lock file pins for the host, by name.

    Raises:
        BundleError: a line is no requirement, is not pinned with ``==``, or has no hash.
    """
    environment = environment_of(python, machine)
    pins = {}
    for line in lock.replace("\\\n", " ").splitlines():
        text = line.split(" #")[0].strip()
        if not text or text.startswith(("#", "--")):
            continue
        specification, *options = text.split(" --")
        try:
            requirement = Requirement(specification)
        except InvalidRequirement as error:
            raise BundleError(f"{name}: '{specification}' is no requirement: {error}") from error
        versions = [s.version for s in requirement.specifier if s.operator == "=="]
        if len(versions) != 1 or len(requirement.specifier) != 1:
            raise BundleError(f"{name}: '{specification}' is not pinned: a lock file has name==version")
        hashes = [f"--{option.strip()}" for option in options if option.startswith("hash=")]
        if not hashes:
            raise BundleError(f"{name}: '{specification}' has no hash: lock with --generate-hashes")
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pin = " ".join([f"{requirement.name}=={versions[0]}", *hashes])
            pins[canonicalize_name(requirement.name)] = Locked(versions[0], pin)
    return pins


def refuse_unmet(
    owner: str, requirements: Iterable[str], pins: dict[str, Locked], environment: dict[str, str]
) -> None:
    """Raise BundleError unless the pinned versions are what a distribution asks for in its metadata."""
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate(environment | {"extra": ""}):
            continue
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None:
            raise BundleError(f"{owner} needs {requirement}, which is in no lock file")
        if not requirement.specifier.contains(pin.version, prereleases=True):
            raise BundleError(
                f"the lock file pins {requirement.name}=={pin.version}, but {owner} needs "
                f"{requirement.name}{requirement.specifier}: allow such a version and lock again"
            )


def wheel_requirements(wheel: Path) -> list[str]:
    """Return what a wheel asks for in its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (
            n for n in archive.namelist() if n.endswith(".dist-info/METADATA") and n.count("/") == 1
        )
        return list(HeaderParser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or [])


def refuse_conflicts(folder: Path, content: Content, environment: dict[str, str]) -> None:
    """Raise BundleError if a wheel that is there for the companion cannot work with a pinned version."""
    for wheel in sorted(folder.glob("*.whl")):
        name, version, _build, _tags = parse_wheel_filename(wheel.name)
        if name in content.added:
            refuse_unmet(f"{name} {version}", wheel_requirements(wheel), content.pins, environment)


def platforms(machine: str, glibc: str) -> list[str]:
    """Return the wheel platforms that a host with this glibc runs, the newest first (PEP 600)."""
    major, minor = (int(part) for part in glibc.split(".")[:2])
    tags = [f"manylinux_{major}_{m}_{machine}" for m in range(minor, 4, -1)]
    return [*tags, f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}"]


def pip(*arguments: str) -> None:
    """Run the controller's pip.

    Raises:
        BundleError: pip failed; its own last error is the message.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise BundleError(errors[-1].removeprefix("ERROR: ") if errors else done.stderr.strip()[-2000:])


def collect_wheels(folder: Path, params: dict[str, str], sources: list[Path], content: Content) -> None:
    """Build the sources and download the locked wheels for the host into a folder."""
    for source in sources:
        pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    tag = params["python"].replace(".", "")
    for wheel in folder.glob("*.whl"):
        if not wheel.stem.endswith(("-any", f"cp{tag}-linux_{params['machine']}")):
            raise BundleError(f"{wheel.name} does not run on the host's Python {params['python']}")
    requirements = folder.parent / "lock.txt"
    lines = [pin.line for pin in content.pins.values()]
    requirements.write_text("\n".join([*lines, Path(params["installer"]).read_text()]))
    target = [f"--platform={p}" for p in platforms(params["machine"], params["glibc"])]
    target += ["--implementation=cp", f"--python-version={params['python']}"]
    target += [f"--abi=cp{tag}", "--abi=abi3", "--abi=none"]
    pip(
        *("download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--dest", str(folder)),
        *target,
        *("--requirement", str(requirements)),
    )
    requirements.unlink()
    refuse_conflicts(folder, content, environment_of(params["python"], params["machine"]))


def write_bundle(
    archive: Path, release: str, params: dict[str, str], sources: list[Path], content: Content
) -> None:
    """Write the bundle: wheels, an install list with hashes, a manifest. Same input, same bytes."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        root = Path(scratch)
        wheels = root / "wheels"
        wheels.mkdir()
        collect_wheels(wheels, params, sources, content)
        hashes = {w.name: hashlib.sha256(w.read_bytes()).hexdigest() for w in sorted(wheels.iterdir())}
        install = [f"./wheels/{n} --hash=sha256:{h}" for n, h in hashes.items() if not n.startswith("pip-")]
        (root / "requirements.txt").write_text("\n".join(install) + "\n")
        target = {"python": params["python"], "machine": params["machine"]}
        manifest = {"release": release, **target, "sha256": hashes}
        (root / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        partial = root / archive.name
        with tarfile.open(partial, "w") as tar:
            for path in sorted([*root.glob("*.txt"), *root.glob("*.json"), *wheels.iterdir()]):
                member = tarfile.TarInfo(str(path.relative_to(root)))
                member.size, member.mode = path.stat().st_size, 0o644
                with path.open("rb") as opened:
                    tar.addfile(member, opened)
        shutil.move(partial, archive)


def check_inputs(sources: list[Path], locks: list[Path]) -> None:
    """Raise BundleError unless the sources are Python projects and there are lock files."""
    for source in sources:
        if not any((source / name).is_file() for name in ("pyproject.toml", "setup.py")):
            raise BundleError(f"{source} is no Python project: it has no pyproject.toml and no setup.py")
    for lock in locks:
        if not lock.is_file():
            raise BundleError(
                f"the lock file {lock} is missing: make it with uv pip compile --generate-hashes"
            )


def read_locks(project: Path, companion: Path, python: str, machine: str) -> Content:
    """Return what the locks pin for the host: of the companion's what the project's own does not have."""
    own, further = (
        lock_for_target(lock.read_text(), lock.name, python, machine) for lock in (project, companion)
    )
    return Content(further | own, set(further) - set(own))


@contextmanager
def one_builder(cache: Path) -> Iterator[None]:
    """Hold the cache's lock: hosts of one play share the controller, and the first one builds."""
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "requirements": {"type": "path", "required": True},
            "companion": {"type": "path", "required": True},
            "companion_requirements": {"type": "path", "required": True},
            "installer": {"type": "path", "required": True},
            "python": {"type": "str", "required": True},
            "machine": {"type": "str", "required": True},
            "glibc": {"type": "str", "required": True},
            "cache": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    python, machine, cache = params["python"], params["machine"], Path(params["cache"])
    sources = _, companion = [Path(params[name]).resolve() for name in ("source", "companion")]
    locks = [Path(params["requirements"]), Path(params["companion_requirements"])]
    try:
        check_inputs(sources, locks)
        content = read_locks(*locks, python, machine)
        metadata = tomllib.loads((companion / "pyproject.toml").read_text())["project"]
        refuse_unmet(
            metadata["name"], metadata["dependencies"], content.pins, environment_of(python, machine)
        )
        release = release_id(sources, locks)
        archive = cache / f"{release}-cp{python.replace('.', '')}-{machine}.tar"
        changed = False
        if not module.check_mode:
            cache.mkdir(parents=True, exist_ok=True)
            with one_builder(cache):
                if not archive.exists():
                    write_bundle(archive, release, params, sources, content)
                    changed = True
    except BundleError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, release=release, path=str(archive))


if __name__ == "__main__":
    main()
