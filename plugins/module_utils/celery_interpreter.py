"""Another Python than the distribution's: an archive on the controller, for hosts and their releases."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_elf import (
    Elf,
    NotElfError,
    read_elf,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_host import Target

# Where the files begin: at the top, in one folder, or as the whole builds of python-build-standalone have it.
TOPS = ("", "*/", "*/install/")
STANDARD_LIBRARY = "lib/python3.*/os.py"
PYTHON = "bin/python3"
VERSION = re.compile(r"3\.[0-9]+")
UNREADABLE = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
COMPRESSIONS = "gzip, bzip2, xz" + (", zstd" if sys.version_info >= (3, 14) else "")


class Interpreter(NamedTuple):
    """A Python, unpacked on the controller."""

    id: str
    """12 hexadecimal digits of the hash of its archive."""
    tree: Path
    """Its files, with ``bin/python3``."""
    archive: Path
    """The same files as hosts get them."""
    python: str
    """Its version, such as ``3.12``."""

    @property
    def program(self) -> Path:
        """The program, on the controller."""
        return self.tree / PYTHON

    def facts(self) -> dict[str, str | int]:
        """Return what the role needs to know of it."""
        # On a host its byte code is made, too.
        size = 2 * sum(path.lstat().st_size for path in self.tree.rglob("*"))
        return {
            "id": self.id,
            "path": str(self.archive),
            "python": str(self.program),
            "megabytes": round(size / 1e6),
        }


def find_interpreter(archive: Path, sha256: str, target: Target, cache: Path) -> Interpreter:
    """Return the Python of an archive, which is unpacked once.

    Args:
        archive: A tar archive, as ``install_only`` of python-build-standalone.
        sha256: Its hash, if it is known.
        target: The host.
        cache: Where what is unpacked is kept.

    Raises:
        BundleError: It is not what it should be, or not for the host.
    """
    if not archive.is_file():
        raise BundleError(f"celery_app_python: {archive} does not exist")
    with archive.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if sha256 and digest != sha256.lower():
        raise BundleError(f"celery_app_python: the SHA-256 of {archive.name} is {digest}, not {sha256}")
    folder = cache / "pythons" / digest[:12]
    try:
        if not folder.exists():
            unpack(archive, folder)
        tree = folder / "tree"
        found = Interpreter(digest[:12], tree, folder / "python.tar.gz", version_of(tree))
        refuse_other_machine(found, target)
    except BundleError as error:
        raise BundleError(f"celery_app_python: {archive.name} {error}") from error
    return found


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive, and pack its files as hosts get them.

    Raises:
        BundleError: It cannot be read, or holds no Python.
    """
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpacked, new = Path(scratch) / "unpacked", Path(scratch) / "new"
        new.mkdir()
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
        except UNREADABLE as error:
            reason = str(error).splitlines()[0] if str(error) else "it ends too early"
            raise BundleError(
                f"is no tar archive that can be read ({COMPRESSIONS}): {reason.replace(f'{scratch}/', '')}"
            ) from error
        pythons = (path for top in TOPS for path in sorted(unpacked.glob(top + PYTHON)) if path.is_file())
        python = next(pythons, None)
        if python is None:
            raise BundleError(f"holds no {PYTHON}, neither at its top nor in a folder")
        tree = python.parents[1]
        # Refused before it is packed, which takes a while.
        version_of(tree)
        pack(tree, new / "python.tar.gz")
        tree.rename(new / "tree")
        new.rename(folder)


def pack(tree: Path, archive: Path) -> None:
    """Pack the files of a Python for the hosts, as root's."""
    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        for path in sorted(tree.rglob("*")):
            member = tar.gettarinfo(path, path.relative_to(tree).as_posix())
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mode = 0o755 if member.mode & 0o100 or member.isdir() else 0o644
            if member.isreg():
                with path.open("rb") as opened:
                    tar.addfile(member, opened)
            else:
                tar.addfile(member)


def version_of(tree: Path) -> str:
    """Return the version of the Python in a tree, which need not run here.

    Raises:
        BundleError: It is none, or one that no wheels are chosen for.
    """
    found = [path.parent.name.removeprefix("python") for path in tree.glob(STANDARD_LIBRARY)]
    if len(found) != 1:
        raise BundleError(f"holds {len(found)} standard libraries ({STANDARD_LIBRARY}); allowed: one")
    if not VERSION.fullmatch(found[0]):
        raise BundleError(f"holds Python {found[0]}; allowed: an ordinary build, without free threads")
    return found[0]


def refuse_other_machine(found: Interpreter, target: Target) -> None:
    """Raise BundleError unless a Python can run on the host."""
    try:
        program = read_elf(found.program.read_bytes())
        libraries = [*elf_files(found)]
    except NotElfError as error:
        raise BundleError(f"has a {PYTHON} that cannot run on the host: {error}") from error
    if program.machine != target.machine:
        raise BundleError(f"is for {program.machine}, and the host is {target.machine}")
    if "musl" in program.loader:
        raise BundleError("is for musl, and the host has glibc")
    needed = max(one.glibc for one in (program, *libraries))
    if needed > tuple(int(part) for part in target.glibc.split(".")[:2]):
        raise BundleError(
            f"needs glibc {needed[0]}.{needed[1]}, and the host has {target.glibc}: take a build for an "
            "older distribution"
        )


def elf_files(found: Interpreter) -> Iterator[Elf]:
    """Yield the libraries of a Python and the modules of its standard library."""
    for pattern in ("lib/libpython*.so*", f"lib/python{found.python}/lib-dynload/*.so"):
        for path in sorted(found.tree.glob(pattern)):
            yield read_elf(path.read_bytes())
