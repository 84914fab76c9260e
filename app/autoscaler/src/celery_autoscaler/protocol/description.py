"""What a supervisor must know of an app, as the app's own environment describes it.

This file is also the program that does so: a supervisor has the app's Python read it (``python - NAME FD``),
with the app's user, settings and sandbox. It therefore needs nothing but Celery and the standard library, and
describes an app whatever release of ours, or none, is installed beside it. The answer goes to a channel of
its own, FD, never among what the app prints.
"""

import enum
import importlib
import importlib.util
import json
import os
import re
import ssl
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

VERSION = 1
# Bytes beyond which no answer is read.
MOST_BYTES = 2**20
# Names of environment variables whose values are secret.
SECRET = re.compile("PASS|SECRET|TOKEN|KEY|URL|BACKEND|DSN|CREDENTIAL")
# A shorter value is no secret but part of a word.
SHORTEST_SECRET = 4


class DescriptionError(ValueError):
    """There is no description: one line that says why."""


@dataclass(frozen=True)
class Description:
    """An app: how to reach its broker, and the settings that decide about its workers."""

    name: str
    """How ``-A`` names it."""
    main: str = ""
    """The app's own name."""
    python: str = ""
    """The interpreter of the app's environment."""
    queues: tuple[str, ...] = ()
    routed: tuple[str, ...] = ()
    """Queues that its routes name, which may be those of another app."""
    broker_urls: tuple[str, ...] = ()
    transport_options: Mapping[Any, Any] = field(default_factory=dict)
    use_ssl: bool | Mapping[Any, Any] = False
    concurrency: int = 1
    pool: str = "prefork"
    prefetch_multiplier: float = 4.0
    acks_late: bool = False
    reject_on_worker_lost: bool = False
    time_limit: float = 0.0
    """Seconds; 0 is none."""
    soft_shutdown: float = 0.0
    """Seconds; 0 is Celery's own."""
    left_out: tuple[str, ...] = ()
    """Settings of the broker that are objects of the app's code, which cannot be described."""

    def connection_for_write(self) -> Any:
        """Return a connection to the broker that is not opened yet, as the app's method of this name."""
        connection: Any = importlib.import_module("kombu").Connection
        ssl_options = dict(self.use_ssl) if isinstance(self.use_ssl, Mapping) else self.use_ssl
        return connection(
            list(self.broker_urls) or None, ssl=ssl_options, transport_options=dict(self.transport_options)
        )

    def same_broker(self, other: "Description") -> bool:
        """Tell whether another description leads to the same broker."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("broker_urls", "transport_options", "use_ssl")
        )

    def dump(self) -> str:
        """Return it as text, for :meth:`load`."""
        found = asdict(self) | {
            "transport_options": to_json(self.transport_options),
            "use_ssl": to_json(self.use_ssl),
        }
        return json.dumps({"version": VERSION, **found})

    @classmethod
    def load(cls, text: str | bytes) -> "Description":
        """Return a description from its text, whatever that is.

        Raises:
            DescriptionError: It is none, or says itself what is wrong with the app.
        """
        try:
            found = json.loads(text) if len(text) <= MOST_BYTES else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise DescriptionError("the app's environment gave no description")
        if isinstance(problem := found.get("problem"), str):
            raise DescriptionError(" ".join(problem.split()) or "the app cannot be described")
        version = found.get("version")
        if version != VERSION or isinstance(version, bool):
            raise DescriptionError(f"the description has another version than {VERSION}")
        names = [item.name for item in fields(cls) if item.name in found or item.name == "name"]
        return cls(**{name: _read(name, found) for name in names})


def _read(name: str, found: Mapping[str, Any]) -> Any:
    """Return a field from JSON; its value, which may be secret, is in no error."""
    value = found.get(name)
    try:
        return _READERS[name](value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DescriptionError(f"the description's {name} cannot be read") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_text, value))


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _number(value: Any) -> float:
    # NaN is within no bounds.
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1e12:
        raise TypeError
    return float(value)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
        raise TypeError
    return value


def _mapping(value: Any) -> Mapping[Any, Any]:
    found = from_json(value)
    if not isinstance(found, dict):
        raise TypeError
    return found


def _ssl(value: Any) -> bool | Mapping[Any, Any]:
    return value if isinstance(value, bool) else _mapping(value)


_READERS = {
    "name": _text,
    "main": _text,
    "python": _text,
    "queues": _texts,
    "routed": _texts,
    "broker_urls": _texts,
    "transport_options": _mapping,
    "use_ssl": _ssl,
    "concurrency": _whole,
    "pool": _text,
    "prefetch_multiplier": _number,
    "acks_late": _flag,
    "reject_on_worker_lost": _flag,
    "time_limit": _number,
    "soft_shutdown": _number,
    "left_out": _texts,
}


def to_json(value: Any) -> Any:
    """Return what JSON can hold of a value: keys may be numbers, and values those of :mod:`ssl`.

    Raises:
        TypeError: It is an object of code.
    """
    if isinstance(value, Mapping):
        return {"pairs": [[to_json(key), to_json(each)] for key, each in value.items()]}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(each) for each in value]
    if isinstance(value, enum.Enum) and type(value).__module__ == "ssl":
        return {"ssl": [type(value).__name__, value.value]}
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(type(value).__name__)


def from_json(value: Any) -> Any:
    """Return the value that :func:`to_json` turned into JSON.

    Raises:
        ValueError: It did not.
        TypeError: It did not.
    """
    if isinstance(value, list):
        return [from_json(each) for each in value]
    if not isinstance(value, dict):
        return value
    [(kind, content)] = value.items()
    if kind == "pairs":
        return {from_json(key): from_json(each) for key, each in content}
    if kind == "ssl":
        name, number = content
        found = getattr(ssl, name, None)
        if not (isinstance(found, type) and issubclass(found, enum.Enum)):
            raise ValueError(kind)
        return found(number)
    if kind == "bytes":
        return str(content).encode("latin-1")
    raise ValueError(kind)


# --- In the app's environment ------------------------------------------------------------------------------


def find_app(name: str) -> Any:
    """Find it as ``celery -A`` does, which does not say what is wrong in the module where it looks last."""
    utils = importlib.import_module("celery.app.utils")
    try:
        return utils.find_app(name)
    except AttributeError:
        if hasattr(sys.modules.get(name), "__path__") and importlib.util.find_spec(f"{name}.celery"):
            importlib.import_module(f"{name}.celery")
        raise


def describe(app: Any, name: str) -> Description:
    """Describe an app that was found under a name.

    Raises:
        DescriptionError: It is no app.
    """
    if not isinstance(app, importlib.import_module("celery").Celery):
        raise DescriptionError(f"there is no Celery app in {name}")
    conf = app.conf
    left_out: list[str] = []
    urls = conf.broker_write_url
    options = _describable(dict(conf.broker_transport_options or {}), "broker_transport_options", left_out)
    use_ssl = conf.broker_use_ssl or False
    use_ssl = (
        _describable(use_ssl, "broker_use_ssl", left_out) if isinstance(use_ssl, Mapping) else bool(use_ssl)
    )
    return Description(
        name=name,
        main=app.main or "",
        python=sys.executable,
        queues=tuple(sorted(app.amqp.queues)),
        routed=tuple(sorted(_routed(app.amqp.routes))),
        broker_urls=tuple(map(str, [urls] if isinstance(urls, str) else urls or ())),
        transport_options=options,
        use_ssl=use_ssl,
        concurrency=conf.worker_concurrency or 1,
        pool=str(conf.worker_pool),
        prefetch_multiplier=float(conf.worker_prefetch_multiplier),
        acks_late=bool(conf.task_acks_late),
        reject_on_worker_lost=bool(conf.task_reject_on_worker_lost),
        time_limit=float(conf.task_time_limit or 0),
        # Celery has it since 5.5.
        soft_shutdown=float(conf.get("worker_soft_shutdown_timeout") or 0),
        left_out=tuple(left_out),
    )


def _routed(routes: Any) -> set[str]:
    """Return the queues that routes name; what a function decides, it does not say before."""
    found: set[str] = set()
    for route in routes or ():
        for to in (*getattr(route, "map", {}).values(), *getattr(route, "patterns", {}).values()):
            queue = to.get("queue") if isinstance(to, Mapping) else to
            name = getattr(queue, "name", queue)
            if isinstance(name, str):
                found.add(name)
    return found


def _describable(options: Mapping[Any, Any], where: str, left_out: list[str], deeper: bool = True) -> Any:
    """Return options, and the options in them, without those that hold objects of code, which it notes."""
    found: dict[Any, Any] = {}
    for option, value in options.items():
        name = f"{where}.{option}"
        try:
            found[option] = from_json(to_json(value))
        except (TypeError, RecursionError):
            if deeper and isinstance(value, Mapping):
                found[option] = _describable(value, name, left_out, deeper=False)
            else:
                left_out.append(name)
    return found


def reason_of(error: BaseException, name: str) -> str:
    """Return in one line, without the secrets of the environment, why an app cannot be imported."""
    frames = traceback.extract_tb(error.__traceback__)
    utils = sys.modules.get("celery.app.utils")
    if isinstance(error, AttributeError) and utils is not None and frames[-1].filename == utils.__file__:
        return f"there is no Celery app in {name}"
    where = [
        f"{frame.filename}:{frame.lineno}"
        for frame in frames[2:]
        if frame.filename.startswith("/") and not frame.filename.startswith((sys.base_prefix, sys.prefix))
    ]
    words = (str(error).splitlines() or [""])[0]
    text = f"{type(error).__name__}: {words}{f' ({where[-1]})' if where else ''}"
    return masked(words if isinstance(error, DescriptionError) else text)


def masked(words: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return words without the secrets of an environment."""
    secrets = [(name, value) for name, value in environment.items() if SECRET.search(name.upper())]
    # The longest first: one may be a part of another.
    for name, value in sorted(secrets, key=lambda item: -len(item[1])):
        if len(value) >= SHORTEST_SECRET:
            words = words.replace(value, f"({name})")
    return words


def main() -> None:
    """Describe the app that the command line names, on the channel that it names."""
    name, channel = sys.argv[1], int(sys.argv[2])
    # What the app starts shall not keep it open.
    os.set_inheritable(channel, False)
    try:
        answer = describe(find_app(name), name).dump()
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a project may raise
        answer = json.dumps({"version": VERSION, "problem": reason_of(error, name)})
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(channel, "w", encoding="utf-8") as opened:
        opened.write(answer)
    # Threads that the app has started, and what it does at the end, are for its own processes.
    os._exit(0)


if __name__ == "__main__":
    main()
