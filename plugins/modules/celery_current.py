#!/usr/bin/python
"""Ansible module: make a release the current one, remember the one before it, drop old ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_pythons import DISTRIBUTION, prune
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_releases import (
    has_python,
    manifest_of,
    running,
)

DOCUMENTATION = r"""
---
module: celery_current
short_description: Make a release the current one, remember the one before it, drop old ones
description:
  - The symbolic link C(current) is the truth; it is changed in one step. C(previous) then points to what was
    current before.
  - The newest releases are kept; the current one, the previous one and those that a process runs always.
  - A release that was installed for another version of Python than the host's does not become the current
    one, unless it brought its own. A Python that no release uses any more is removed with the old releases.
  - A release does not come back once the migrations of a newer one were marked as not reversible.
options:
  root:
    description: Directory that holds C(releases), C(current) and C(previous).
    type: path
    required: true
  release:
    description: The release id.
    type: str
    required: true
  previous:
    description: What C(previous) shall point to instead; nothing removes it. For a release that has failed.
    type: str
  keep:
    description: How many releases to keep.
    type: int
    required: true
  reversible:
    description: Whether the release before this one can run on what the migrations of this one have made.
    type: bool
    default: true
  user:
    description: The app's user; only its processes can keep a release.
    type: str
    required: true
"""

# In a release whose migrations cannot be taken back.
IRREVERSIBLE = "irreversible"


def target(link: Path) -> str:
    """Return the release that a link points to; nothing if there is no link."""
    return link.readlink().name if link.is_symlink() else ""


def point(link: Path, release: str) -> None:
    """Have a link point to a release, at no moment to nothing."""
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(link.parent / "releases" / release)
    new.replace(link)


def superfluous(releases: Path, keep: int, needed: set[str]) -> list[Path]:
    """Return the releases to be dropped, the oldest first."""
    found = by_age(releases)
    droppable = [path for path in found if path.name not in needed]
    return droppable[: max(0, len(found) - keep)]


def by_age(releases: Path) -> list[Path]:
    """Return the releases, the oldest first, by when they were installed."""
    found = [path for path in releases.iterdir() if path.is_dir()] if releases.is_dir() else []
    return sorted(found, key=installed)


def installed(release: Path) -> float:
    """Return when a release was installed; what is written into its folder later does not count."""
    manifest = release / "manifest.json"
    return (manifest if manifest.exists() else release).stat().st_mtime


def barrier(releases: Path, release: str) -> str:
    """Return the newest release after this one whose migrations cannot be taken back, if there is any."""
    found = by_age(releases)
    names = [path.name for path in found]
    newer = found[names.index(release) + 1 :] if release in names else []
    return next((path.name for path in reversed(newer) if (path / IRREVERSIBLE).exists()), "")


def other_python(release: Path, interpreter: Path) -> str:
    """Return why a release does not run on the Python of this host, or nothing."""
    version = interpreter.resolve().name
    libraries = release / "venv/lib"
    if not libraries.is_dir() or has_python(release, version.removeprefix("python")):
        return ""
    if own := manifest_of(release).get("interpreter"):
        return f"the Python {own} of release {release.name} is missing: deploy it again, which rebuilds it"
    found = ", ".join(sorted(path.name.removeprefix("python") for path in libraries.iterdir()))
    return (
        f"release {release.name} was installed for Python {found}, and the host has "
        f"{version.removeprefix('python')} now: deploy it again, which rebuilds it"
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "previous": {"type": "str"},
            "keep": {"type": "int", "required": True},
            "reversible": {"type": "bool", "default": True},
            "user": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    root, release = Path(module.params["root"]), module.params["release"]
    current, previous = root / "current", root / "previous"
    before, previous_before = target(current), target(previous)
    wanted_previous = before if before and before != release else previous_before
    if module.params["previous"] is not None:
        wanted_previous = module.params["previous"]
    if newer := barrier(root / "releases", release):
        module.fail_json(
            msg=f"release {release} cannot come back: the migrations of {newer}, which is newer, were marked "
            "as not reversible (celery_app_reversible)"
        )
    if problem := other_python(root / "releases" / release, DISTRIBUTION):
        module.fail_json(msg=problem)
    needed = {release, wanted_previous, *running(module.params["user"])}
    dropped = superfluous(root / "releases", module.params["keep"], needed)
    if not module.check_mode:
        os.umask(0o022)
        if not module.params["reversible"]:
            (root / "releases" / release / IRREVERSIBLE).touch()
        if wanted_previous:
            point(previous, wanted_previous)
        else:
            previous.unlink(missing_ok=True)
        if before != release:
            point(current, release)
        for path in dropped:
            shutil.rmtree(path)
            path.with_suffix(".tar").unlink(missing_ok=True)
        if dropped:
            prune()
    module.exit_json(
        changed=before != release or bool(dropped),
        before=before,
        previous=wanted_previous,
        previous_before=previous_before,
        dropped=[path.name for path in dropped],
        diff={
            "before": f"current {before}\n" + "".join(f"kept {path.name}\n" for path in dropped),
            "after": f"current {release}\n",
        },
    )


if __name__ == "__main__":
    main()
