#!/usr/bin/python
"""Ansible module: build a Celery project into a bundle that installs without any network."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_lock import (
    Locked,
    environment_of,
    lock_for_target,
    lock_options,
    refuse_unmet,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_source import (
    BundleError,
    Source,
    find_source,
)
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

DOCUMENTATION = r"""
---
module: celery_bundle
short_description: Build a Celery project into a bundle that installs without any network
description:
  - Runs on the controller. A bundle holds the wheels of the project, of its locked requirements and of pip,
    made for one version of Python and one machine type, with the hash of each file. A project that is not
    packaged goes into it as it is.
  - Of the companion's lock only those requirements are taken that the project's own lock does not have.
    A version that the project pins and the companion cannot work with is refused.
  - The release id is the hash of the sources and of both locks. What is in the cache is not built again,
    and what a lock names is downloaded once.
options:
  source:
    description: Directory of the project, its wheel, its sdist, or the URL of its git repository.
    type: path
    required: true
  revision:
    description: Branch, tag or commit of the git repository.
    type: str
    default: ""
  run:
    description: Whatever names this run of Ansible. Within one, a branch is looked up once.
    type: str
    default: ""
  requirements:
    description: Lock file with the exact version and the hashes of every requirement, as C(uv pip compile
      --generate-hashes) and C(pip-compile --generate-hashes) write it. A relative path is one in the source.
    type: str
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
  build:
    description: Lock file of the build back ends.
    type: path
    required: true
  build_requirements:
    description: The project's own lock file of what it is built with, as its lock file is named.
    type: str
    default: ""
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
    description: Directory on the controller that keeps the bundles, and the wheels that they are made of.
    type: path
    required: true
"""


class Content(NamedTuple):
    """What goes into a bundle beside the projects themselves."""

    pins: dict[str, Locked]
    added: set[str]
    """Names of those that are there for the companion only."""
    options: tuple[str, ...] = ()
    """Where the project's lock file has pip look."""


def release_id(sources: list[Source], locks: list[Path]) -> str:
    """Return the release id: 12 hexadecimal digits of the hash over all sources and lock files."""
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks))
    for number, source in enumerate(sources):
        for path in source.files():
            digest.update(f"{number}/{source.name_of(path)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


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
    """Run the controller's pip. A build, which runs a project's code, gets none of the user's environment.

    Raises:
        BundleError: pip failed; its own last error is the message.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    with tempfile.TemporaryDirectory() as home:
        bare = {"PATH": os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8", "PIP_CONFIG_FILE": os.devnull}
        environment = bare if arguments[0] == "wheel" else None
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise BundleError(errors[-1].removeprefix("ERROR: ") if errors else done.stderr.strip()[-2000:])


def refuse_foreign(wheel: Path, params: Mapping[str, str]) -> None:
    """Raise BundleError unless a wheel runs on the host."""
    major, minor = (int(part) for part in params["python"].split("."))
    runs_on = [f"linux_{params['machine']}", *platforms(params["machine"], params["glibc"])]
    good = {*cpython_tags((major, minor), platforms=runs_on)}
    good |= {*compatible_tags((major, minor), f"cp{major}{minor}", runs_on)}
    try:
        _name, _version, _build, tags = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        raise BundleError(f"{wheel.name} is no name of a wheel: {error}") from error
    if not tags & good:
        raise BundleError(
            f"{wheel.name} does not run on the host's Python {params['python']} on {params['machine']}"
        )


def bring_wheels(kept: Path, *arguments: str) -> list[Path]:
    """Return the wheels that pip brings into a folder with these arguments, unless they are there.

    Raises:
        BundleError: pip failed.
    """
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            brought = Path(scratch) / "wheels"
            brought.mkdir()
            pip(*arguments, str(brought))
            brought.rename(kept)
    return sorted(kept.iterdir())


def build_wheels(source: Source, cache: Path, back_ends: Path) -> list[Path]:
    """Return the wheel of a project; nothing, if it goes into the bundle as it is.

    Args:
        source: The project.
        cache: Where wheels are kept.
        back_ends: The lock file of what it is built with.
    """
    if source.path.suffix == ".whl":
        return [source.path]
    if not source.builds:
        return []
    found = back_end_wheels(source, cache, back_ends)
    return bring_wheels(
        cache / "wheels" / release_id([source], [back_ends]),
        *("wheel", "--no-deps", "--no-index", *(f"--find-links={folder}" for folder in found)),
        *(str(source.path), "--wheel-dir"),
    )


def back_end_wheels(source: Source, cache: Path, lock: Path) -> list[Path]:
    """Return the folder with the locked wheels that a project is built with; none if it needs none.

    What it is built with is code that runs on the controller, before anything of it could be checked.

    Raises:
        BundleError: The lock file does not have what the project's build system asks for.
    """
    required = source.build_requirements()
    if not required:
        return []
    python = "{}.{}".format(*sys.version_info)
    environment = environment_of(python, platform.machine())
    if not lock.is_file():
        raise BundleError(f"celery_app_build_requirements: the lock file {lock} is missing")
    pins = lock_for_target(lock.read_text(encoding="utf-8"), lock.name, python, platform.machine())
    try:
        refuse_unmet("its build system", required, pins, environment)
    except BundleError as error:
        raise BundleError(
            f"{source.path.name} cannot be built: {error}; pin it with its hashes in a lock file of its own "
            "(celery_app_build_requirements)"
        ) from error
    lines = "\n".join([*lock_options(lock), *(pin.line for pin in pins.values())])
    folder = cache / "wheels" / hashlib.sha256(f"{python}\n{lines}".encode()).hexdigest()[:12]
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "build.txt"
        wanted.write_text(lines)
        bring_wheels(
            folder,
            *("download", "--no-deps", "--require-hashes", "--only-binary=:all:"),
            *("--requirement", str(wanted), "--dest"),
        )
    return [folder]


def download_wheels(scratch: Path, params: Mapping[str, str], content: Content) -> list[Path]:
    """Return the locked wheels, and pip's, for the host."""
    lock = scratch / "lock.txt"
    lines = [pin.line for pin in content.pins.values()]
    lock.write_text("\n".join([*content.options, *lines, Path(params["installer"]).read_text()]))
    tag = params["python"].replace(".", "")
    target = [f"--platform={p}" for p in platforms(params["machine"], params["glibc"])]
    target += ["--implementation=cp", f"--python-version={params['python']}"]
    target += [f"--abi=cp{tag}", "--abi=abi3", "--abi=none"]
    key = hashlib.sha256("\n".join([*target, lock.read_text()]).encode()).hexdigest()[:12]
    found = bring_wheels(
        Path(params["cache"]) / "wheels" / key,
        *("download", "--no-deps", "--require-hashes", "--only-binary=:all:", *target),
        *("--requirement", str(lock), "--dest"),
    )
    lock.unlink()
    return found


def collect_wheels(folder: Path, params: Mapping[str, str], sources: list[Source], content: Content) -> None:
    """Put the wheels of the sources and the locked ones for the host into a folder."""
    for source in sources:
        for wheel in build_wheels(source, Path(params["cache"]), source.back_ends or Path(params["build"])):
            refuse_foreign(wheel, params)
            shutil.copy(wheel, folder)
    for wheel in download_wheels(folder.parent, params, content):
        shutil.copy(wheel, folder)
    refuse_conflicts(folder, content, environment_of(params["python"], params["machine"]))


def parts_list(release: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return the list of the wheels in a bundle as CycloneDX has it, without a date."""
    components = []
    for file, sha256 in hashes.items():
        name, version, _build, _tags = parse_wheel_filename(file)
        purl = f"pkg:pypi/{name}@{version}"
        components.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": str(version),
                # pip installs the others and stays behind.
                "scope": "excluded" if name == "pip" else "required",
                "hashes": [{"alg": "SHA-256", "content": sha256}],
                "purl": purl,
            }
        )
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "celery-release", "version": release}},
        "components": components,
    }


def write_bundle(
    archive: Path, release: str, params: Mapping[str, str], sources: list[Source], content: Content
) -> None:
    """Write the bundle: wheels, modules, lists of both, a manifest. Same input, same bytes."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        root = Path(scratch)
        wheels = root / "wheels"
        wheels.mkdir()
        collect_wheels(wheels, params, sources, content)
        files = {f"wheels/{wheel.name}": wheel for wheel in sorted(wheels.iterdir())}
        hashes = {w.name: hashlib.sha256(w.read_bytes()).hexdigest() for w in files.values()}
        install = [f"./wheels/{n} --hash=sha256:{h}" for n, h in hashes.items() if not n.startswith("pip-")]
        (root / "requirements.txt").write_text("\n".join(install) + "\n")
        (root / "sbom.cdx.json").write_text(json.dumps(parts_list(release, hashes), indent=2) + "\n")
        for source in sources:
            if not source.builds:
                files |= {f"source/{source.name_of(path)}": path for path in source.files()}
        manifest = {
            "release": release,
            "python": params["python"],
            "machine": params["machine"],
            "sha256": {n: hashlib.sha256(path.read_bytes()).hexdigest() for n, path in files.items()},
        }
        (root / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        files |= {path.name: path for path in sorted([*root.glob("*.txt"), *root.glob("*.json")])}
        partial = root / archive.name
        with tarfile.open(partial, "w") as tar:
            for name, path in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = path.stat().st_size, 0o644
                with path.open("rb") as opened:
                    tar.addfile(member, opened)
        shutil.move(partial, archive)


def read_locks(project: Path, companion: Path, python: str, machine: str) -> Content:
    """Return what the locks pin for the host: of the companion's what the project's own does not have."""
    for lock in (project, companion):
        if not lock.is_file():
            raise BundleError(
                f"the lock file {lock} is missing: make it with uv pip compile --generate-hashes"
            )
    own, further = (
        lock_for_target(lock.read_text(encoding="utf-8"), lock.name, python, machine)
        for lock in (project, companion)
    )
    return Content(further | own, set(further) - set(own), tuple(lock_options(project)))


@contextmanager
def one_builder(cache: Path) -> Iterator[None]:
    """Hold the cache's lock: hosts of one play share the controller, and the first one builds."""
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(params: Mapping[str, str], check_mode: bool) -> dict[str, Any]:
    """Build the bundle if it is not in the cache; return what the user learns.

    Raises:
        BundleError: it cannot be built, or would not work.
    """
    python, machine, cache = params["python"], params["machine"], Path(params["cache"])
    project = find_source(params["source"], params["revision"], cache, params["run"])
    companion = Source(Path(params["companion"]).resolve())
    if params["build_requirements"]:
        project = project._replace(back_ends=project.find_lock(params["build_requirements"]))
    sources = [project, companion]
    own, further = project.find_lock(params["requirements"]), Path(params["companion_requirements"])
    locks = [own, further]
    content = read_locks(own, further, python, machine)
    metadata = tomllib.loads((companion.path / "pyproject.toml").read_text())["project"]
    refuse_unmet(metadata["name"], metadata["dependencies"], content.pins, environment_of(python, machine))
    release = release_id(sources, locks)
    archive = cache / f"{release}-cp{python.replace('.', '')}-{machine}.tar"
    changed = False
    if not archive.exists() and not check_mode:
        write_bundle(archive, release, params, sources, content)
        changed = True
    tried = archive.with_suffix(".tried")
    return {
        "changed": changed,
        "release": release,
        "path": str(archive),
        "megabytes": round(archive.stat().st_size / 1e6) if archive.exists() else 0,
        "commit": project.commit,
        # As celery_proof leaves it.
        "tried": tried.read_text() if tried.exists() else "",
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "revision": {"type": "str", "default": ""},
            "run": {"type": "str", "default": ""},
            "requirements": {"type": "str", "required": True},
            "companion": {"type": "path", "required": True},
            "companion_requirements": {"type": "path", "required": True},
            "installer": {"type": "path", "required": True},
            "build": {"type": "path", "required": True},
            "build_requirements": {"type": "str", "default": ""},
            "python": {"type": "str", "required": True},
            "machine": {"type": "str", "required": True},
            "glibc": {"type": "str", "required": True},
            "cache": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    cache = Path(module.params["cache"])
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with one_builder(cache):
            result = make(module.params, module.check_mode)
    except BundleError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
