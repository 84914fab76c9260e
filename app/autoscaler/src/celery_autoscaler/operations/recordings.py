"""Records of groups where a command finds them: in Redis, or in a file."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from celery_autoscaler.operations.actions import Refused
from celery_autoscaler.operations.known import known
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.description import Description
from celery_autoscaler.protocol.reading import UnreadableError, read_mapping, read_text, read_whole
from celery_autoscaler.protocol.recording import BLOCKS, MOST_BYTES
from celery_autoscaler.protocol.text import missing
from celery_autoscaler.supervisor.record_store import read

VERSION = 1
# Bytes of a line: the blocks of a group, and what JSON adds to them.
MOST_LINE = 4 * BLOCKS * MOST_BYTES
Blocks = Mapping[str, Iterable[bytes]]
"""Blocks by group."""


def of_broker(broker: Broker, app: Description, group: str | None) -> tuple[Blocks, int]:
    """Return the blocks of a group, or of all, and how many of them cannot be any.

    Raises:
        Refused: There is no such group.
    """
    groups = known(broker, app).groups
    found, refused = {}, 0
    for name in sorted(groups) if group is None else [group]:
        blocks, useless = read(broker, name)
        if not blocks and name not in groups:
            raise Refused(missing("group", name, groups))
        found[name] = list(blocks.values())
        refused += useless
    return found, refused


def of_file(path: Path, group: str | None) -> tuple[Blocks, int]:
    """Return what :func:`dump` has written.

    Raises:
        Refused: The file cannot be read, or holds no records of that group.
    """
    found: dict[str, list[bytes]] = {}
    try:
        with path.open("rb") as file:
            while line := file.readline(MOST_LINE):
                name, blocks = load(line)
                found.setdefault(name, []).extend(blocks)
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from error
    except UnreadableError as error:
        raise Refused(f"{path} holds no records: {error}") from error
    if group is not None and group not in found:
        raise Refused(missing("group", group, found))
    return {name: found[name] for name in found if group in (None, name)}, 0


def dump(group: str, blocks: Iterable[bytes]) -> str:
    """Return the blocks of a group as a line of text."""
    texts = [base64.b64encode(block).decode() for block in blocks]
    return json.dumps({"version": VERSION, "group": group, "blocks": texts})


def load(line: bytes) -> tuple[str, list[bytes]]:
    """Read such a line.

    Raises:
        UnreadableError: It is none.
    """
    found = read_mapping(line, MOST_LINE)
    read_whole(found.get("version"), VERSION, VERSION)
    texts = found.get("blocks")
    if not isinstance(texts, list):
        raise UnreadableError("there are no blocks")
    coded = [read_text(text, 2 * MOST_BYTES) for text in texts]
    try:
        blocks = [base64.b64decode(text, validate=True) for text in coded]
    except ValueError as error:
        raise UnreadableError("a block is not written as base64") from error
    return read_text(found.get("group")), blocks
