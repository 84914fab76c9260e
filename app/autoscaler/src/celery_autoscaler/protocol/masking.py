"""What programs print may hold secrets: they are masked before they go anywhere."""

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from celery_autoscaler.protocol.description import masked

# A password within a URL, and what follows a word that announces one.
IN_URL = re.compile(r"(?<=://)[^\s/@:]*:[^\s@]+(?=@)")
ANNOUNCED = re.compile(
    r"""(?ix) ( \b [\w-]* (?: passw(?:or)?d | passwd | passphrase | secret | token | api[_-]?key ) [\w-]*
    ["']? \s* [=:] \s* ) ( "[^"]*" | '[^']*' | [^\s,;&)]+ )"""
)
# The last line of a traceback: the exception's type, then what it says.
FRAME = '  File "'
EXCEPTION = re.compile(r"([A-Za-z_][\w.]{0,100}?)(?::\s.*)?")


def mask(words: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return words without secrets: values of the environment, passwords in URLs, what follows "password=".

    It cannot know every secret: what leaves the host is less, see :func:`exception_type`.
    """
    return ANNOUNCED.sub(r"\1***", IN_URL.sub("***", masked(words, environment)))


def exception_type(lines: Sequence[str]) -> str:
    """Return the type of the exception that ended a program, from its last lines; nothing if none is seen.

    Nothing else of what the program printed is returned.
    """
    frames = False
    found = ""
    for before, line in pairwise(lines):
        frames = frames or before.startswith(FRAME)
        # The line after the last frame and its source, which are indented.
        if frames and before[:1].isspace() and (match := EXCEPTION.fullmatch(line.rstrip())):
            found = match[1]
    return found
