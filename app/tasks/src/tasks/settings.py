"""Settings, read from the environment once a process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote, urlsplit

import click
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

REDIS_URL = (
    "redis://[[user]:password@]host[:port][/database], "
    "rediss://[[user]:password@]host[:port][/database]?ssl_cert_reqs=required or, for each sentinel, "
    "sentinel://[[user]:password@]host[:port][/database], joined by ';'"
)
SENTINEL_PORT = 26379
SECRETS = frozenset({"db_password"})

SomeSettings = TypeVar("SomeSettings", bound=BaseSettings)


class SettingsError(click.ClickException):
    """A setting is missing or wrong.

    Click, on which the `celery` command is built, prints such an error as one line and ends with status 1.
    Elsewhere, in a web application that only sends tasks, it is an exception like any other.
    """


def _check_redis_url(url: str) -> str:
    several = _each_sentinel(url)
    for one in several or [url]:
        _check_one_url(one, {"sentinel"} if several else {"redis", "rediss"})
    return url


def _check_one_url(url: str, schemes: set[str]) -> None:
    parts = urlsplit(url)
    if parts.scheme not in schemes:
        raise ValueError("unknown scheme")
    if not parts.hostname or parts.port == 0:  # reading the port checks it
        raise ValueError("no host or no valid port")
    if not re.fullmatch(r"/?|/\d+", parts.path):
        raise ValueError("the database is not a number")
    if parts.scheme == "rediss" and "ssl_cert_reqs=" not in parts.query:
        raise ValueError("TLS without ssl_cert_reqs")  # Celery's result backend insists on it


def _each_sentinel(url: str) -> list[str]:
    return re.split(r";(?=\w+://)", url) if url.startswith("sentinel://") else []


def _check_file(path: str) -> str:
    if path and not Path(path).is_file():
        raise ValueError("no such file")
    return path


RedisUrl = Annotated[str, AfterValidator(_check_redis_url)]


class DatabaseSettings(BaseSettings):
    """How to reach PostgreSQL. A field's description says what its variable may hold."""

    model_config = SettingsConfigDict(frozen=True)

    db_host: str = Field(pattern=r"^\S+$", description="a host name, an address or a socket directory")
    db_port: int = Field(default=5432, ge=1, le=65535, description="a port, 1 to 65535")
    db_name: str = Field(min_length=1, description="the name of a database")
    db_user: str = Field(min_length=1, description="the name of a database user")
    db_password: SecretStr = Field(min_length=1, description="the password of DB_USER, not empty")

    def connection_parameters(self) -> dict[str, Any]:
        """Return what psycopg needs to connect. libpq's own variables (PGSSLMODE, …) work beside it."""
        return {
            "host": self.db_host,
            "port": self.db_port,
            "dbname": self.db_name,
            "user": self.db_user,
            "password": self.db_password.get_secret_value(),
            "connect_timeout": 5,
            # A silently dead server holds a task for seconds, not for a quarter of an hour.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 25_000,
            "client_encoding": "utf8",  # else psycopg returns bytes where a database was made with SQL_ASCII
            "application_name": "tasks",
        }


class Settings(DatabaseSettings):
    """All settings of the application."""

    celery_broker_url: RedisUrl = Field(description=REDIS_URL)
    celery_result_backend: RedisUrl = Field(description=REDIS_URL)
    celery_sentinel_master: str = Field(
        default="celery", pattern=r"^\S+$", description="the name under which the sentinels know the primary"
    )
    celery_sentinel_authority: Annotated[str, AfterValidator(_check_file)] = Field(
        default="",
        description="the file of the authority's certificate, if sentinels and servers speak TLS, or empty",
    )


@dataclass(frozen=True)
class Sentinels:
    """What a sentinel:// URL says: the sentinels, and the log-in for them and for the server."""

    addresses: list[tuple[str, int]]
    login: dict[str, str]
    database: int


def sentinels(url: str) -> Sentinels | None:
    """Return what a valid sentinel:// URL says, or nothing for the URL of a server."""
    parts = [urlsplit(one) for one in _each_sentinel(url)]
    if not parts:
        return None
    login = {"username": parts[0].username, "password": parts[0].password}
    return Sentinels(
        addresses=[(str(part.hostname), part.port or SENTINEL_PORT) for part in parts],
        login={name: unquote(value) for name, value in login.items() if value},
        database=int(parts[0].path.strip("/") or 0),
    )


@cache
def settings() -> Settings:
    """Return the settings of this process.

    Raises:
        SettingsError: if a setting is missing or wrong.
    """
    return read(Settings)


def read(kind: type[SomeSettings]) -> SomeSettings:
    """Read settings of one kind from the environment.

    Raises:
        SettingsError: one line that names each wrong setting, its value (never a secret) and what is allowed.
    """
    try:
        return kind()
    except ValidationError as errors:
        wrong = [_explain(kind, error) for error in errors.errors(include_url=False)]
    raise SettingsError("; ".join(wrong))


def masked_url(url: str) -> str:
    """Return the URL with *** in place of its password, even if it is no valid URL."""
    if len(several := _each_sentinel(url)) > 1:
        return ";".join(map(masked_url, several))
    url = re.sub(r"(?i)(password=)[^&]*", r"\1***", url)
    credentials, at, rest = url.rpartition("@")
    if at:
        scheme, separator, user = credentials.rpartition("://")
        user = user.partition(":")[0] if separator and ":" in user else ""
        return f"{scheme}{separator}{user}:***@{rest}"
    # Without an @, what looks like a port may be a password whose host was forgotten.
    return re.sub(r"(//[^:/?]*:)(?!\d+(?:[/?]|$))[^/?]+", r"\1***", url)


def _explain(kind: type[BaseSettings], error: ErrorDetails) -> str:
    field = str(error["loc"][0])
    allowed = f"allowed is {kind.model_fields[field].description}"
    if error["type"] == "missing":
        return f"{field.upper()} is not set: {allowed}"
    return f"{field.upper()}={_shown(field, error['input'])!r} is wrong: {allowed}"


def _shown(field: str, value: Any) -> str:
    return "***" if field in SECRETS else masked_url(str(value))
