#!/usr/bin/python
"""Ansible module: install a bundle into a release directory, all of it or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_pythons import (
    DISTRIBUTION,
    PythonError,
    program_of,
    prune,
    use,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_shared_wheels import (
    packages_of,
    share,
)

DOCUMENTATION = r"""
---
module: celery_release
short_description: Install a bundle into a release directory, all of it or nothing
description:
  - Runs on the host, without any network. Checks the hash of each file, installs the wheels into a virtual
    environment of the release's own, which also finds the modules of a project that is not packaged. Only
    then the release counts as complete.
  - Wheels that another release of the host has for the same Python are not installed again. Their files are
    linked, once each was found to be as it was installed.
  - A release that was installed for another version of Python, as before an upgrade of the host, gets a
    second virtual environment. What still runs on the first one finds it in its place until the release is
    dropped.
  - A release with a Python of its own is installed with that, which the host gets once, whichever projects
    use it.
  - The bundle is removed afterwards. C(new) says whether there was no release of this id before.
options:
  bundle:
    description: The bundle's path on the host.
    type: path
    required: true
  path:
    description: Directory of the release; its name is the release id.
    type: path
    required: true
  interpreter:
    description: Id of the Python that the release runs on. Empty means the distribution's.
    type: str
    default: ""
  interpreter_archive:
    description: The files of that Python on the host, where it has not got it. It is removed afterwards.
    type: path
"""

# Written last: a release without it was interrupted and is made again.
COMPLETE = "manifest.json"
# What was proved on another Python.
PROOFS = ("proved.json", "checked.json", "supervised.json")


def check_hashes(release: Path, manifest: dict[str, Any]) -> str | None:
    """Return a line about the first file that is not what the controller packed, or nothing."""
    for name, wanted in manifest["sha256"].items():
        if hashlib.sha256((release / name).read_bytes()).hexdigest() != wanted:
            return f"{name} is damaged: its SHA-256 is not the one in the manifest"
    return None


def python_of(release: Path) -> str:
    """Return the version of Python that a release was last installed for; nothing if there is none."""
    environment = release / "venv"
    return packages_of(environment).parent.name.removeprefix("python") if environment.exists() else ""


def point(release: Path, environment: Path) -> None:
    """Make a virtual environment the one of the release; what runs on another one still finds that."""
    link = release / "venv"
    before = python_of(release)
    if before:
        former = release / f"venv-{before}"
        if not link.is_symlink():
            link.rename(former)
        if before != environment.name.removeprefix("venv-"):
            (environment / "lib" / f"python{before}").symlink_to(f"../../{former.name}/lib/python{before}")
    new = release / ".venv.new"
    new.unlink(missing_ok=True)
    new.symlink_to(environment.name)
    new.replace(link)


def leave_out(requirements: Path, wheels: set[str]) -> bool:
    """Leave out some wheels, each of which has a line of its own; tell whether any is left."""
    lines = requirements.read_text().splitlines()
    left = [line for line in lines if line.split(" ")[0].removeprefix("./") not in wheels]
    requirements.write_text("".join(f"{line}\n" for line in left))
    return any(left)


def install(module: AnsibleModule, release: Path) -> None:
    """Fill a release directory from the bundle."""
    release.mkdir(mode=0o755, exist_ok=True)
    unpacked = release / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(mode=0o755)

    def run(*command: str | Path) -> None:
        module.run_command([str(part) for part in command], check_rc=True, cwd=str(unpacked))

    run("tar", "--extract", "--no-same-owner", "--file", module.params["bundle"])
    manifest = json.loads((unpacked / COMPLETE).read_text())
    if problem := check_hashes(unpacked, manifest):
        module.fail_json(msg=problem)
    environment = release / f"venv-{manifest['python']}"
    shutil.rmtree(environment, ignore_errors=True)
    interpreter = module.params["interpreter"]
    if interpreter:
        use(interpreter, Path(module.params["interpreter_archive"]), release)
    run(program_of(interpreter), "-m", "venv", "--without-pip", environment)
    python = environment / "bin/python"
    (pip,) = (unpacked / "wheels").glob("pip-*.whl")
    requirements = unpacked / "requirements.txt"
    if leave_out(requirements, share(release, manifest, environment)):
        run(
            *(python, pip / "pip", "install", "--no-index", "--no-deps", "--require-hashes"),
            *("--no-cache-dir", "--disable-pip-version-check", "--root-user-action=ignore"),
            *("--requirement", requirements),
        )
    source = release / "source"
    if (unpacked / "source").is_dir():
        if not source.exists():
            (unpacked / "source").rename(source)
        # A bundle that an older version has made does not say it.
        paths = [source / path for path in manifest.get("paths", ["."])]
        (packages_of(environment) / "celery_app_source.pth").write_text("".join(f"{p}\n" for p in paths))
        # The app's user may not write there. That a template of code is no Python is no error. Isolated and
        # without site: a .pth file of a dependency would be executed, here by root.
        module.run_command([str(python), "-I", "-S", "-m", "compileall", "-q", str(source)])
    finish(release, unpacked, environment)


def finish(release: Path, unpacked: Path, environment: Path) -> None:
    """Make what was installed the release."""
    complete = release / COMPLETE
    # When it was installed first: the order of the releases stays.
    installed = complete.stat().st_mtime if complete.exists() else None
    for name in PROOFS:
        (release / name).unlink(missing_ok=True)
    for file in unpacked.glob("*.cdx.json"):
        file.replace(release / file.name)
    point(release, environment)
    if installed is not None:
        os.utime(unpacked / COMPLETE, (installed, installed))
    (unpacked / COMPLETE).replace(complete)
    shutil.rmtree(unpacked)


def outdated(release: Path, interpreter: str) -> str:
    """Return why an installed release does not run on its Python; nothing if it does."""
    if interpreter:
        return "" if (release / "venv/bin/python").exists() else f"its Python {interpreter} is missing"
    version, found = DISTRIBUTION.resolve().name.removeprefix("python"), python_of(release)
    if found == version:
        return ""
    return f"it was installed for Python {found}, and the host has Python {version} now"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "bundle": {"type": "path", "required": True},
            "path": {"type": "path", "required": True},
            "interpreter": {"type": "str", "default": ""},
            "interpreter_archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    bundle, release = Path(module.params["bundle"]), Path(module.params["path"])
    is_there = (release / COMPLETE).exists()
    why = outdated(release, module.params["interpreter"]) if is_there else ""
    if is_there and not why:
        module.exit_json(changed=False, new=False)
    if module.check_mode:
        module.exit_json(changed=True, new=not is_there)
    if is_there:
        module.warn(f"release {release.name} is rebuilt: {why}")
    else:
        shutil.rmtree(release, ignore_errors=True)
    # The app's user reads the release whatever umask root has on this host.
    os.umask(0o022)
    archive = module.params["interpreter_archive"]
    try:
        install(module, release)
    except (PythonError, OSError) as error:
        module.fail_json(msg=str(error))
    finally:
        shutil.rmtree(release / "unpacked", ignore_errors=True)
        if not (release / COMPLETE).exists():
            shutil.rmtree(release, ignore_errors=True)
            prune()
        bundle.unlink()
        if archive:
            Path(archive).unlink(missing_ok=True)
    module.exit_json(changed=True, new=not is_there)


if __name__ == "__main__":
    main()
