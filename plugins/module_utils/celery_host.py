"""What a host runs: its markers, and the wheels that are for it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename


class Target(NamedTuple):
    """The machine that a bundle is for."""

    python: str
    """Its version of Python, such as ``3.13``."""
    machine: str
    glibc: str

    def environment(self) -> dict[str, str]:
        """Return what environment markers ask for.

        pip evaluates markers for the Python it runs on, not for the one it downloads for, so it is done here.
        """
        return {
            "extra": "",
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }

    def platforms(self) -> list[str]:
        """Return the wheel platforms that a host with this glibc runs, the newest first (PEP 600)."""
        major, minor = (int(part) for part in self.glibc.split(".")[:2])
        tags = [f"manylinux_{major}_{m}_{self.machine}" for m in range(minor, 4, -1)]
        return [
            *tags,
            *(f"{name}_{self.machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1")),
        ]

    def tags(self, further: Iterable[str] = ()) -> list[Tag]:
        """Return the tags of the wheels that it runs, the best first; also of further platforms."""
        major, minor = (int(part) for part in self.python.split("."))
        platforms = [*further, *self.platforms()]
        return [
            *cpython_tags((major, minor), platforms=platforms),
            *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
        ]

    def words(self) -> str:
        """Return what is said of it to a user."""
        return f"Python {self.python} on {self.machine}"


def this_machine() -> Target:
    """Return the machine and the Python that this runs on."""
    python = "{}.{}".format(*sys.version_info)
    return Target(python, platform.machine(), platform.libc_ver()[1] or "2.17")


def refuse_foreign(wheel: Path, target: Target) -> None:
    """Raise BundleError unless a wheel runs on the host."""
    try:
        _name, _version, _build, tags = parse_wheel_filename(wheel.name)
    except InvalidWheelFilename as error:
        raise BundleError(f"{wheel.name} is no name of a wheel: {error}") from error
    if not tags & {*target.tags([f"linux_{target.machine}"])}:
        raise BundleError(f"{wheel.name} does not run on the host's {target.words()}")


def refuse_other_python(name: str, specifiers: str, target: Target) -> None:
    """Raise BundleError unless a project runs on some patch release of the host's Python."""
    try:
        allowed = SpecifierSet(specifiers)
    except InvalidSpecifier as error:
        raise BundleError(f"{name}: requires-python: {error}") from error
    if not any(allowed.contains(f"{target.python}.{patch}", prereleases=True) for patch in range(100)):
        raise BundleError(
            f"{name} needs Python {specifiers}, and the host runs it with {target.python} "
            "(celery_app_python brings another one)"
        )
