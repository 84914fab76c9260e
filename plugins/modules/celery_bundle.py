#!/usr/bin/python
"""Ansible module: build a Celery project into a bundle that installs without any network."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_container import Container
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_content import (
    Content,
    collect_wheels,
    release_ids,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_host import Target
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_interpreter import (
    Interpreter,
    find_interpreter,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_lock import refuse_unmet
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_lock_formats import (
    Tools,
    Wanted,
    read_lock,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_source import (
    Source,
    find_source,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_wheels import (
    Index,
    Supplies,
    find_given,
)
from packaging.utils import canonicalize_name, parse_wheel_filename

DOCUMENTATION = r"""
---
module: celery_bundle
short_description: Build a Celery project into a bundle that installs without any network
description:
  - Runs on the controller. A bundle holds the wheels of the project, of its locked requirements and of pip,
    made for one version of Python and one machine type, with the hash of each file. A project that is not
    packaged goes into it as it is.
  - Only the project's lock says what is installed. Whatever a requirement, the project or the worker package
    asks for, extras included, is there in a version that they allow, or the bundle is refused.
  - The release id is the hash of the sources and of the lock; C(project) is that of the user's part alone.
    What is in the cache is not built again, and what a lock names is downloaded once.
options:
  source:
    description: Directory of the project, its wheel, its sdist, the URL of its git repository, or its name
      and version in an index, which the lock file must have too.
    type: path
    required: true
  revision:
    description: Branch, tag or commit of the git repository.
    type: str
    default: ""
  subdirectory:
    description: Folder of the git repository that the project is in.
    type: str
    default: ""
  run:
    description: Whatever names this run of Ansible. Within one, a branch is looked up once.
    type: str
    default: ""
  requirements:
    description: Lock file with the exact version and the hashes of every requirement. C(uv.lock),
      C(poetry.lock), C(pylock.toml) and C(Pipfile.lock) are known by their names; others are read as
      C(uv pip compile --generate-hashes) and C(pip-compile --generate-hashes) write them. A relative path is
      one in the source.
    type: str
    required: true
  extras:
    description: Extras of the project.
    type: list
    elements: str
    default: []
  dependency_groups:
    description: Groups of the lock file; of a C(Pipfile.lock), categories.
    type: list
    elements: str
    default: []
  overrides:
    description: Names of requirements whose version counts, whatever others ask for.
    type: list
    elements: str
    default: []
  sdists:
    description: Names of requirements that are built from their source.
    type: list
    elements: str
    default: []
  sdists_image:
    description: Image of the host's distribution in which they are built. Without one, the controller
      builds them.
    type: str
    default: ""
  sdists_packages:
    description: Packages of the distribution that the image gets for it.
    type: list
    elements: str
    default: []
  wheels:
    description: Folder with wheels that are taken where they are what the lock file pins.
    type: path
  indexes:
    description: Indexes beside those that pip and the lock file name.
    type: list
    elements: dict
    default: []
    suboptions:
      url:
        description: The URL of the simple index.
        type: str
        required: true
      username:
        description: Who logs in there.
        type: str
      password:
        description: The password. It is in no argument, no log and no bundle.
        type: str
  interpreter:
    description: Archive of another Python than the host's, which the app runs on. C(python) is what is
      returned of the one that it runs on, and C(interpreter) its id, its archive for hosts and its size.
    type: path
  interpreter_sha256:
    description: SHA-256 of that archive.
    type: str
    default: ""
  worker_package:
    description: Directory of a project that is installed beside it and brings no requirements.
    type: path
  supervisor_package:
    description: Directory of a project that gets a bundle of its own, with its C(requirements.txt);
      C(supervisor) is what is returned of it.
    type: path
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
  tools:
    description: Folder with the lock files of the tools that read lock files.
    type: path
    required: true
  glibc:
    description: Version of glibc on the host, such as C(2.36).
    type: str
    required: true
  cache:
    description: Directory on the controller that keeps the bundles, and the wheels that they are made of.
    type: path
    required: true
extends_documentation_fragment: [celery_fleet.platform.target_python]
"""

ARGUMENTS: dict[str, dict[str, Any]] = {
    "source": {"type": "path", "required": True},
    "revision": {"type": "str", "default": ""},
    "run": {"type": "str", "default": ""},
    "requirements": {"type": "str", "required": True},
    "subdirectory": {"type": "str", "default": ""},
    "extras": {"type": "list", "elements": "str", "default": []},
    "dependency_groups": {"type": "list", "elements": "str", "default": []},
    "overrides": {"type": "list", "elements": "str", "default": []},
    "sdists": {"type": "list", "elements": "str", "default": []},
    "sdists_image": {"type": "str", "default": ""},
    "sdists_packages": {"type": "list", "elements": "str", "default": []},
    "wheels": {"type": "path"},
    "indexes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "url": {"type": "str", "required": True},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
        },
    },
    "interpreter": {"type": "path"},
    "interpreter_sha256": {"type": "str", "default": ""},
    "worker_package": {"type": "path"},
    "supervisor_package": {"type": "path"},
    "installer": {"type": "path", "required": True},
    "build": {"type": "path", "required": True},
    "build_requirements": {"type": "str", "default": ""},
    "tools": {"type": "path", "required": True},
    "python": {"type": "str", "required": True},
    "machine": {"type": "str", "required": True},
    "glibc": {"type": "str", "required": True},
    "cache": {"type": "path", "required": True},
}
# What the bundle of the supervisor has as the app's has it.
SHARED = ("installer", "build", "tools", "python", "machine", "glibc", "cache")


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


def write_bundle(archive: Path, release: str, content: Content) -> None:
    """Write the bundle: wheels, modules, lists of both, a manifest. Same input, same bytes."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        root = Path(scratch)
        wheels = root / "wheels"
        wheels.mkdir()
        collect_wheels(wheels, content)
        files = {f"wheels/{wheel.name}": wheel for wheel in sorted(wheels.iterdir())}
        hashes = {w.name: hashlib.sha256(w.read_bytes()).hexdigest() for w in files.values()}
        install = [f"./wheels/{n} --hash=sha256:{h}" for n, h in hashes.items() if not n.startswith("pip-")]
        (root / "requirements.txt").write_text("\n".join(install) + "\n")
        (root / "sbom.cdx.json").write_text(json.dumps(parts_list(release, hashes), indent=2) + "\n")
        paths = []
        for source in content.sources:
            paths += source.import_paths()
            if not source.builds:
                files |= {f"source/{source.name_of(path)}": path for path in source.files()}
        manifest = {
            "release": release,
            "project": content.project,
            "python": content.target.python,
            "interpreter": content.supplies.interpreter.id if content.supplies.interpreter else "",
            "machine": content.target.machine,
            "paths": paths,
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


@contextmanager
def one_builder(cache: Path) -> Iterator[None]:
    """Hold the cache's lock: hosts of one play share the controller, and the first one builds."""
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_interpreter(params: Mapping[str, Any]) -> Interpreter | None:
    """Return the Python that the app runs on, unless it is the host's.

    Raises:
        BundleError: it cannot run there.
    """
    if not params["interpreter"]:
        return None
    host = Target(params["python"], params["machine"], params["glibc"])
    archive, cache = Path(params["interpreter"]), Path(params["cache"])
    return find_interpreter(archive, params["interpreter_sha256"], host, cache)


def read_project(params: Mapping[str, Any], python: str) -> tuple[Source, Wanted]:
    """Return the project, and what of its lock file is wanted for a version of Python.

    Raises:
        BundleError: there is no such project.
    """
    cache = Path(params["cache"])
    project = find_source(params["source"], params["revision"], cache, params["run"], params["subdirectory"])
    if params["build_requirements"]:
        project = project._replace(back_ends=project.find_lock(params["build_requirements"]))
    wanted = Wanted(
        Target(python, params["machine"], params["glibc"]),
        tuple(params["extras"]),
        tuple(params["dependency_groups"]),
        frozenset(canonicalize_name(name) for name in params["sdists"]),
    )
    return project, wanted


def read_content(
    params: Mapping[str, Any], project: Source, wanted: Wanted, lock: Path, interpreter: Interpreter | None
) -> Content:
    """Return what goes into the bundle.

    Raises:
        BundleError: a lock file cannot be had, or the worker package cannot work with what it pins.
    """
    build = Path(params["build"])
    own = read_lock(lock, project.path, wanted, Tools(Path(params["tools"]), Path(params["cache"])))
    own = own._replace(overridden=own.overridden | {canonicalize_name(n) for n in params["overrides"]})
    supplies = Supplies(
        Path(params["cache"]),
        project.back_ends or build,
        Path(params["wheels"]) if params["wheels"] else None,
        wanted.sdists,
        tuple(
            Index(index["url"], index["username"] or "", index["password"] or "")
            for index in params["indexes"]
        ),
        Container(params["sdists_image"], tuple(params["sdists_packages"]))
        if params["sdists_image"]
        else None,
        interpreter,
    )
    sources = (project, *(Source(path) for path in own.directories))
    content = Content(
        wanted.target, sources, own, Path(params["installer"]).read_text(), supplies, wanted.extras
    )
    if params["worker_package"]:
        name, beside = find_worker_package(Path(params["worker_package"]).resolve(), content)
        content = content._replace(sources=(*sources, beside._replace(back_ends=build)), added=name)
    ids = release_ids(content.sources, lock, further_of(wanted, content))
    return content._replace(project=ids[len(sources) - 1], release=ids[-1])


def find_worker_package(path: Path, content: Content) -> tuple[str, Source]:
    """Return the name of the package that goes beside the user's project, and its source.

    Raises:
        BundleError: it cannot work with what the lock pins.
    """
    pyproject = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))
    metadata = pyproject["project"]
    refuse_unmet(metadata["name"], metadata["dependencies"], content.lock.pins, content.target.environment())
    included = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    source = Source(path, parts=tuple((path / part).resolve() for part in included))
    return canonicalize_name(metadata["name"]), source


def further_of(wanted: Wanted, content: Content) -> str:
    """Return what makes another release of the same sources and lock files; nothing if nothing does."""
    given = find_given(content.lock.pins, content.supplies.folder, wanted.target)
    hashes = [hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in given.values()]
    chosen: list[Any] = [sorted(wanted.extras), sorted(wanted.groups), sorted(wanted.sdists), hashes]
    if wanted.sdists and content.supplies.container is not None:
        chosen.append(content.supplies.container.dockerfile())
    if content.supplies.interpreter is not None:
        chosen.append(content.supplies.interpreter.id)
    return json.dumps(chosen) if any(chosen) else ""


def make(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Build the bundle if it is not in the cache; return what the user learns.

    Raises:
        BundleError: it cannot be built, or would not work.
    """
    interpreter = read_interpreter(params)
    project, wanted = read_project(params, interpreter.python if interpreter else params["python"])
    lock = project.find_lock(params["requirements"])
    content = read_content(params, project, wanted, lock, interpreter)
    name = f"{content.release}-cp{wanted.target.python.replace('.', '')}-{wanted.target.machine}.tar"
    archive = Path(params["cache"]) / name
    changed = False
    if not archive.exists() and not check_mode:
        write_bundle(archive, content.release, content)
        changed = True
    tried = archive.with_suffix(".tried")
    return {
        "changed": changed,
        "release": content.release,
        "project": content.project,
        "path": str(archive),
        "megabytes": round(archive.stat().st_size / 1e6) if archive.exists() else 0,
        "python": wanted.target.python,
        "interpreter": interpreter.facts() if interpreter else {},
        "commit": project.commit,
        # As celery_proof leaves it.
        "tried": tried.read_text() if tried.exists() else "",
    }


def make_supervisor(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """Build the bundle of the supervisor, which shares nothing but the target with the app's.

    Raises:
        BundleError: it cannot be built.
    """
    own = {name: option.get("default") for name, option in ARGUMENTS.items()}
    own |= {name: params[name] for name in SHARED}
    own |= {"source": params["supervisor_package"], "requirements": "requirements.txt"}
    try:
        return make(own, check_mode)
    except BundleError as error:
        message = f"the environment of the supervisor: {error}"
        raise BundleError(message) from error


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
    )
    cache = Path(module.params["cache"])
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with one_builder(cache):
            result = make(module.params, module.check_mode)
            if module.params["supervisor_package"]:
                beside = make_supervisor(module.params, module.check_mode)
                result |= {"supervisor": beside, "changed": result["changed"] or beside["changed"]}
    except BundleError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
