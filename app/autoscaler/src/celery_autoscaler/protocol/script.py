"""Lua that runs in Redis: a file for each script, in ``protocol/lua``, and in ``consuming/lua`` for workers.

The comment at the head of a file names keys, arguments, reply, and what always holds. An empty line ends it.
"""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def script(package: str, name: str) -> str:
    """Return a script without its head, which would travel with each call; read once, by who imports it.

    Args:
        package: The package that it belongs to: ``protocol`` or ``consuming``.
        name: Its file, without the suffix.
    """
    text = (PACKAGE / package / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    return text.partition("\n\n")[2]
