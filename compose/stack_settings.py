"""What the settings of the compose stack may be.

`check_machine.py` asks it of .env before anything is started or replaced, `check_app.py` in the container.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

CHECKOUT = Path(__file__).resolve().parents[1]
PROFILES = ("flower", "prometheus")
# The ports of services that only a profile starts.
OPTIONAL_PORTS = {"FLOWER_PORT": "flower", "PROMETHEUS_PORT": "prometheus"}
PORTS = ("REDIS_PORT", "POSTGRES_PORT", "PAGE_PORTS", *OPTIONAL_PORTS)
SMALLEST_MEMORY = 256 * 2**20
UNITS = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30}


class Rule(NamedTuple):
    """What a setting may be."""

    fits: Callable[[str], bool]
    allowed: str


def number(low: float, high: float, kind: Callable[[str], Any] = int) -> Rule:
    """Allow a number within bounds."""

    def fits(value: str) -> bool:
        with suppress(ValueError):
            return bool(low <= kind(value) <= high)
        return False

    return Rule(fits, f"a {'whole ' if kind is int else ''}number from {low:g} to {high:g}")


def pattern(expression: str, allowed: str) -> Rule:
    """Allow what matches."""
    return Rule(lambda value: re.fullmatch(expression, value) is not None, allowed)


def is_port_range(value: str) -> bool:
    """Tell whether this is a port, or the first and the last of several."""
    first, _, last = value.partition("-")
    port = number(0, 65535)
    return port.fits(first) and (not last or (port.fits(last) and int(first) <= int(last)))


def is_memory(value: str) -> bool:
    """Tell whether this is enough memory, as Docker writes it."""
    found = re.fullmatch(r"(\d+)([bkmg]?)b?", value.lower())
    return found is not None and int(found[1]) * UNITS.get(found[2], 1) >= SMALLEST_MEMORY


def is_project(value: str) -> bool:
    """Tell whether this is a folder that can be built into the image."""
    inside = re.match(r"(\./)?app/.", value) is not None and ".." not in Path(value).parts
    return inside and (CHECKOUT / value).is_dir()


def is_locked(project: str, lock: str) -> bool:
    """Tell whether a project has its lock file, which the role celery_app reads in the same way."""
    path = CHECKOUT / project / lock
    return path.is_file() and (
        path.suffix in {".lock", ".toml"} or "--hash=" in path.read_text(encoding="utf-8")
    )


PORT = number(0, 65535)
PERCENT = number(1, 100, float)
NAME = pattern(r"[A-Za-z_][A-Za-z0-9_$-]*", "a name of letters, digits, '_' and '-', a letter first")
NAMES = pattern(r"[\w.-]*(,[\w.-]+)*", "names, separated by commas")
HOST = pattern(r"[A-Za-z0-9_.:-]+", "the name or the address of a host")
ANYTHING = pattern(r"[^\n]*", "one line")
RULES = {
    "PROJECT": Rule(is_project, "a folder below app/ of this checkout"),
    "REQUIREMENTS": pattern(r"[\w.-]+(/[\w.-]+)*", "the path of a lock file in the folder of the project"),
    "REQUIREMENTS_EXTRAS": NAMES,
    "REQUIREMENTS_GROUPS": NAMES,
    "REQUIREMENTS_SDISTS": NAMES,
    "CELERY_APP": pattern(r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)*", "an app as in `celery -A`, such as tasks"),
    "MIGRATE_COMMAND": ANYTHING,
    "PACKAGES": pattern(r"[a-z0-9][a-z0-9.+:=~-]*( [a-z0-9][a-z0-9.+:=~-]*)*", "names of Debian packages"),
    "LOG_FORMAT": pattern("plain|json", "plain or json"),
    "MIN_WORKERS": number(0, 10_000),
    "MAX_WORKERS": number(1, 10_000),
    "CPU_THRESHOLD": PERCENT,
    "MEMORY_THRESHOLD": PERCENT,
    "QUEUE_THRESHOLD": number(1, 1_000_000_000),
    "WORKER_MEMORY": Rule(is_memory, "at least 256m, written as 1536m or 2g"),
    "CELERY_BROKER_URL": ANYTHING,
    "CELERY_RESULT_BACKEND": ANYTHING,
    "DB_HOST": HOST,
    "DB_PORT": number(1, 65535),
    "DB_NAME": NAME,
    "DB_USER": NAME,
    "DB_OWNER": NAME,
    "DB_PASSWORD": ANYTHING,
    "REDIS_PORT": PORT,
    "POSTGRES_PORT": PORT,
    "PAGE_PORTS": Rule(is_port_range, "a port from 0 to 65535, or a range such as 9541-9542"),
    "FLOWER_PORT": PORT,
    "PROMETHEUS_PORT": PORT,
    "BASE": ANYTHING,
    "COMPOSE_PROJECT_NAME": pattern(r"[a-z0-9][a-z0-9_-]*", "lower case letters, digits, '_' and '-'"),
    "COMPOSE_PROFILES": Rule(
        lambda value: set(filter(None, value.split(","))) <= set(PROFILES),
        ",".join(PROFILES) + ", or one of them",
    ),
}
# What the image of the app is made of.
BUILT_WITH = ("PROJECT", "REQUIREMENTS", "REQUIREMENTS_EXTRAS", "REQUIREMENTS_GROUPS", "REQUIREMENTS_SDISTS")
# Never shown.
SECRET = ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "DB_PASSWORD")


class Settings:
    """The settings in force, and where each was written."""

    def __init__(
        self, given: Mapping[str, str], places: Mapping[str, str], defaults: Mapping[str, str]
    ) -> None:
        self.given = {name: value for name, value in given.items() if value}
        self.places = places
        self.defaults = defaults

    def __getitem__(self, name: str) -> str:
        return self.given.get(name) or self.defaults.get(name, "")

    def wrong(self, name: str, allowed: str) -> str:
        """Say that a setting is wrong: where it was written, its value, and what is allowed."""
        value = "" if name in SECRET else f"={self[name]}"
        return self.at(name, f"{name}{value} is wrong: allowed is {allowed}")

    def at(self, name: str, finding: str) -> str:
        """Return a finding with the place where its setting was written."""
        return f"{self.places[name]}: {finding}" if name in self.places else finding


def defaults() -> dict[str, str]:
    """Return the settings that compose.yaml has, with their defaults."""
    return dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (CHECKOUT / "compose.yaml").read_text(encoding="utf-8")))


def check_values(settings: Settings) -> Iterator[str]:
    """Look at each setting, and at what belongs together."""
    wrong = set()
    for name, rule in RULES.items():
        if settings.given.get(name) and not rule.fits(settings[name]):
            wrong.add(name)
            yield settings.wrong(name, rule.allowed)
    lock = settings["REQUIREMENTS"]
    if (
        settings["PROJECT"]
        and not wrong & {"PROJECT", "REQUIREMENTS"}
        and not is_locked(settings["PROJECT"], lock)
    ):
        yield settings.wrong(
            "PROJECT", f"a folder below app/ of this checkout, with a {lock} that has hashes"
        )
    bounds = {"MIN_WORKERS", "MAX_WORKERS"}
    if not wrong & bounds and int(settings["MIN_WORKERS"] or 0) > int(settings["MAX_WORKERS"] or 10_000):
        yield settings.wrong("MIN_WORKERS", f"at most MAX_WORKERS={settings['MAX_WORKERS']}")
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        problem = url_problem(settings[name], any_scheme=name == "CELERY_RESULT_BACKEND")
        if problem:
            yield settings.wrong(name, problem)
    own = settings["DB_HOST"] != (settings.defaults.get("DB_HOST") or "postgres")
    if own and settings["DB_HOST"] and not settings["DB_PASSWORD"]:
        yield settings.at("DB_HOST", f"DB_HOST={settings['DB_HOST']} needs its DB_PASSWORD, which is not set")
    if settings["DB_HOST"] in LOCAL:
        yield settings.wrong("DB_HOST", REACHABLE)
    yield from same_ports(settings, wrong)


REDIS = ("redis", "rediss", "sentinel")
LOCAL = ("localhost", "127.0.0.1", "::1")
REACHABLE = "a host that containers reach: localhost is the container itself"
ENCODE = "write / : @ # ? % in its password as %2F %3A %40 %23 %3F %25"
SHAPE = "redis://user:password@host:port/0"


def url_problem(url: str, *, any_scheme: bool) -> str:
    """Return what is allowed in the place of a URL; nothing where it is right."""
    scheme = url.partition("://")[0]
    if not url or (any_scheme and scheme not in REDIS):
        return ""
    if scheme not in REDIS:
        return f"{SHAPE}, rediss://… or sentinel://…: the workers need Redis"
    try:
        # Of several Sentinels each is a URL of its own.
        parts = [urlsplit(part) for part in url.split(";")]
        hosts = [(part.hostname, part.port) for part in parts]
    except ValueError:
        return f"{SHAPE} with a number as the port; {ENCODE}"
    # Of a path behind the host Redis takes the number of a database, Sentinel nothing.
    ends_well = scheme == "sentinel" or re.fullmatch(r"/?\d*", parts[0].path)
    if not (all(host for host, _ in hosts) and ends_well) or "@" in "".join(
        p.path + p.fragment for p in parts
    ):
        return f"{SHAPE}, the number of a database behind the last '/'; {ENCODE}"
    return REACHABLE if any(host in LOCAL for host, _ in hosts) else ""


def ports(settings: Settings) -> Iterator[tuple[str, int]]:
    """Yield each port of this machine that the stack publishes, with its setting."""
    profiles = settings["COMPOSE_PROFILES"].split(",")
    for name in PORTS:
        if name in OPTIONAL_PORTS and OPTIONAL_PORTS[name] not in profiles:
            continue
        first, _, last = settings[name].partition("-")
        for port in range(int(first), int(last or first) + 1):
            if port:
                yield name, port


def same_ports(settings: Settings, wrong: set[str]) -> Iterator[str]:
    """Find a port that two services would publish."""
    if wrong & {*PORTS, "COMPOSE_PROFILES"} or not settings["REDIS_PORT"]:
        return
    owner: dict[int, str] = {}
    for name, port in ports(settings):
        if owner.setdefault(port, name) != name:
            yield settings.wrong(name, f"a port that {owner[port]} does not have")
