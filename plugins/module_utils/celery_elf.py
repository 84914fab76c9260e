"""What a program or library of Linux says of itself in its ELF headers."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"\x7fELF"
# As `uname --machine` calls them (elf.h, EM_...).
MACHINES = {
    3: "i686",
    21: "ppc64le",
    22: "s390x",
    40: "armv7l",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
}
LOAD, DYNAMIC, INTERPRETER = 1, 2, 3
STRINGS, NEEDED_VERSIONS, NEEDED_COUNT = 5, 0x6FFFFFFE, 0x6FFFFFFF
# A version that the program does without.
WEAK = 2
VERSION = re.compile(r"GLIBC_([0-9]{1,4})\.([0-9]{1,4})(\.|\Z)")


class NotElfError(Exception):
    """A file is no program or library of Linux, or is damaged."""


class Segment(NamedTuple):
    """A part of the file."""

    kind: int
    offset: int
    address: int
    size: int


class Elf(NamedTuple):
    """A program or a library."""

    machine: str
    loader: str
    """The program that starts it; nothing of a library or a static program."""
    glibc: tuple[int, int]
    """The oldest glibc that it runs with; 0.0 if it needs none."""


class Reader:
    """The bytes of a file, with its byte order and the width of its addresses."""

    def __init__(self, content: bytes) -> None:
        """Take the file; raises NotElfError if it is none."""
        if content[:4] != MAGIC or len(content) < 20 or content[4] not in (1, 2) or content[5] not in (1, 2):
            raise NotElfError("it is no program of Linux")
        self.content = content
        self.wide = content[4] == 2
        self.order = "<" if content[5] == 1 else ">"

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        """Return the numbers at a place of the file."""
        try:
            return struct.unpack_from(self.order + layout, self.content, offset)
        except struct.error as error:
            raise NotElfError("it is damaged") from error

    def text(self, offset: int) -> str:
        """Return the text at a place of the file."""
        end = self.content.find(b"\0", offset)
        if offset < 0 or end < 0:
            raise NotElfError("it is damaged")
        return self.content[offset:end].decode(errors="replace")

    def segments(self) -> Iterator[Segment]:
        """Yield the parts of the file."""
        (start,) = self.unpack("Q" if self.wide else "I", 32 if self.wide else 28)
        size, number = self.unpack("HH", 54 if self.wide else 42)
        for position in range(start, start + size * number, size or 1):
            if self.wide:
                kind, _flags, offset, address, _physical, length = self.unpack("IIQQQQ", position)
            else:
                kind, offset, address, _physical, length = self.unpack("IIIII", position)
            yield Segment(kind, offset, address, length)


def read_elf(content: bytes) -> Elf:
    """Return what a program or library says of itself.

    Raises:
        NotElfError: It is none.
    """
    reader = Reader(content)
    (machine,) = reader.unpack("H", 18)
    segments = list(reader.segments())
    loader = next((reader.text(s.offset) for s in segments if s.kind == INTERPRETER), "")
    versions = [version for s in segments if s.kind == DYNAMIC for version in _glibcs(reader, s, segments)]
    return Elf(MACHINES.get(machine, f"machine {machine}"), loader, max(versions, default=(0, 0)))


def _glibcs(reader: Reader, dynamic: Segment, segments: list[Segment]) -> Iterator[tuple[int, int]]:
    """Yield the versions of glibc that symbols of it are from."""
    layout, width = ("QQ", 16) if reader.wide else ("II", 8)
    entries: dict[int, int] = {}
    for position in range(dynamic.offset, dynamic.offset + dynamic.size, width):
        name, value = reader.unpack(layout, position)
        if not name:
            break
        entries[name] = value
    if STRINGS not in entries or NEEDED_VERSIONS not in entries:
        return
    strings = _place(entries[STRINGS], segments)
    library = _place(entries[NEEDED_VERSIONS], segments)
    for _ in range(min(entries.get(NEEDED_COUNT, 0), len(reader.content))):
        _version, count, _file, first, following = reader.unpack("HHIII", library)
        version = library + first
        for _ in range(count):
            _hash, flags, _other, name, onward = reader.unpack("IHHII", version)
            found = VERSION.match(reader.text(strings + name))
            if found and not flags & WEAK:
                yield int(found[1]), int(found[2])
            version += onward
        library += following


def _place(address: int, segments: list[Segment]) -> int:
    """Return where in the file something is that has an address in memory."""
    for segment in segments:
        if segment.kind == LOAD and segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    raise NotElfError("it is damaged")
