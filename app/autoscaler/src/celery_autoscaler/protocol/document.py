"""Objects of JSON that another process wrote: dataclasses whose fields spoil nothing but themselves.

The annotations of a :class:`Document` say how it is read. Unknown fields are ignored. A field that is missing
or null, or has a value of another type, has its default; the last one is named. What is wrong in a list or a
table is left out. So any release reads what any other one wrote, as far as both know its fields.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from celery_autoscaler.protocol.reading import is_number

# Characters of a text that are kept.
MOST_CHARACTERS = 10_000
# Wrong values of a document that are named; beyond that it is garbage as a whole.
MOST_NAMED = 5
# Returned by a reader for what is to be left out.
WRONG: Any = object()


@dataclass
class Trouble:
    """Collects the names of values that are of another type."""

    named: list[str] = field(default_factory=list)

    def add(self, path: tuple[str, ...]) -> None:
        """Take one in, unless there are many already."""
        name = ".".join(path)
        if len(self.named) < MOST_NAMED and name not in self.named:
            self.named.append(name)


Reader = Callable[[Any, Trouble, tuple[str, ...]], Any]
"""Returns a value of one type from whatever stands under a name; `WRONG` for another type."""


def at_least(low: float, default: Any) -> Any:
    """Return a field of a document whose number is not smaller than a bound."""
    return field(default=default, metadata={"low": low})


@dataclass(frozen=True)
class Document:
    """An object of JSON with certain fields."""

    _readers: ClassVar[Mapping[str, Reader] | None] = None

    def as_dict(self) -> dict[str, Any]:
        """Return it, and what it holds, as plain objects of JSON."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def dump(self) -> str:
        """Return it, and what it holds, as JSON."""
        return ENCODER.encode(self)

    @classmethod
    def current(cls, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what an older release wrote, with this release's names."""
        return found

    @classmethod
    def read(cls, found: Mapping[str, Any], trouble: Trouble, path: tuple[str, ...] = ()) -> Self:
        """Return a document from an object of JSON; `trouble` takes the names of what is wrong."""
        if "_readers" not in cls.__dict__:
            cls._readers = _readers_of(cls)
        readers = cls._readers or {}
        values = {}
        for name, value in cls.current(found).items():
            if value is None or (reader := readers.get(name)) is None:
                continue
            known = reader(value, trouble, (*path, name))
            if known is not WRONG:
                values[name] = known
        return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, Document):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


ENCODER = json.JSONEncoder(default=vars)


# --- How a field is read -------------------------------------------------------------------------------


def _readers_of(cls: type[Document]) -> dict[str, Reader]:
    hints = get_type_hints(cls)
    return {
        each.name: _reader(hints[each.name], each.metadata.get("low", 0.0))
        for each in fields(cls)
        if each.init
    }


def _reader(hint: Any, low: float = 0.0) -> Reader:
    """Return the reader of a type."""
    if isinstance(hint, UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    origin = get_origin(hint)
    if origin is not None and issubclass(origin, Mapping):
        return _table(_reader(get_args(hint)[1]))
    if origin is not None and issubclass(origin, Sequence):
        return _list(_reader(get_args(hint)[0]))
    if issubclass(hint, Document):
        return _document(hint)
    return {bool: _flag, str: _text, int: _number(int, low), float: _number(float, low)}[hint]


def _number(kind: type[int] | type[float], low: float) -> Reader:
    def read(value: Any, trouble: Trouble, path: tuple[str, ...]) -> Any:
        if is_number(value):
            return kind(max(low, value))
        trouble.add(path)
        return WRONG

    return read


def _text(value: Any, trouble: Trouble, path: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return value[:MOST_CHARACTERS]
    trouble.add(path)
    return WRONG


def _flag(value: Any, trouble: Trouble, path: tuple[str, ...]) -> Any:
    if isinstance(value, bool):
        return value
    trouble.add(path)
    return WRONG


def _document(cls: type[Document]) -> Reader:
    def read(value: Any, trouble: Trouble, path: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return cls.read(value, trouble, path)
        trouble.add(path)
        return WRONG

    return read


def _list(each: Reader) -> Reader:
    def read(value: Any, trouble: Trouble, path: tuple[str, ...]) -> Any:
        if not isinstance(value, list):
            trouble.add(path)
            return WRONG
        found = (each(item, trouble, path) for item in value if item is not None)
        return tuple(item for item in found if item is not WRONG)

    return read


def _table(each: Reader) -> Reader:
    def read(value: Any, trouble: Trouble, path: tuple[str, ...]) -> Any:
        if not isinstance(value, dict):
            trouble.add(path)
            return WRONG
        found = {name: each(item, trouble, (*path, name)) for name, item in value.items() if item is not None}
        return {name: item for name, item in found.items() if item is not WRONG}

    return read
