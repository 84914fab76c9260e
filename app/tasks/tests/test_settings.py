"""A wrong setting stops the start with one line that names it; nothing else does."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.processes.process import clean_environment
from tasks.settings import DatabaseSettings, Sentinels, Settings, SettingsError, masked_url, read, sentinels

VALID = {
    "CELERY_BROKER_URL": "redis://:secret@127.0.0.1:6379/0",
    "CELERY_RESULT_BACKEND": "rediss://user:secret@redis.example:6380/1?ssl_cert_reqs=required",
    "DB_HOST": "db.example",
    "DB_NAME": "app",
    "DB_USER": "app",
    "DB_PASSWORD": "secret",
}


@pytest.fixture(autouse=True)
def valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DB_PORT", raising=False)
    for name, value in VALID.items():
        monkeypatch.setenv(name, value)


def test_valid_settings_are_taken_as_they_are() -> None:
    settings = read(Settings)
    assert settings.celery_broker_url == VALID["CELERY_BROKER_URL"]
    assert settings.db_port == 5432
    assert settings.db_password.get_secret_value() == "secret"


def test_a_sentinel_url_says_whom_to_ask_and_what_to_log_in_with() -> None:
    found = sentinels("sentinel://app:p%40ss%3B@a:26379/2;sentinel://app:p%40ss%3B@b")
    assert found == Sentinels(
        addresses=[("a", 26379), ("b", 26379)], login={"username": "app", "password": "p@ss;"}, database=2
    )
    assert sentinels("redis://:secret@127.0.0.1:6379/0") is None


def test_no_secret_shows_when_settings_are_printed() -> None:
    assert "secret" not in repr(read(DatabaseSettings))


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("CELERY_BROKER_URL", "http://:secret@host", "CELERY_BROKER_URL='http://:***@host' is wrong"),
        ("CELERY_BROKER_URL", "", "CELERY_BROKER_URL='' is wrong"),
        ("CELERY_BROKER_URL", "redis://host:99999", "CELERY_BROKER_URL='redis://host:99999' is wrong"),
        ("CELERY_BROKER_URL", "redis://host/zero", "CELERY_BROKER_URL='redis://host/zero' is wrong"),
        ("CELERY_BROKER_URL", "redis://:secret", "CELERY_BROKER_URL='redis://:***' is wrong"),
        ("CELERY_RESULT_BACKEND", "rediss://host/0", "CELERY_RESULT_BACKEND='rediss://host/0' is wrong"),
        (
            "CELERY_BROKER_URL",
            "sentinel://:secret@a;redis://:secret@b",
            "CELERY_BROKER_URL='sentinel://:***@a;redis://:***@b' is wrong",
        ),
        (
            "CELERY_BROKER_URL",
            "sentinel://:secret@a/0;sentinel://:secret@b/zero",
            "CELERY_BROKER_URL='sentinel://:***@a/0;sentinel://:***@b/zero' is wrong",
        ),
        ("CELERY_SENTINEL_MASTER", "", "CELERY_SENTINEL_MASTER='' is wrong"),
        ("CELERY_SENTINEL_AUTHORITY", "/no/such", "CELERY_SENTINEL_AUTHORITY='/no/such' is wrong"),
        ("DB_PORT", "0", "DB_PORT='0' is wrong: allowed is a port, 1 to 65535"),
        ("DB_PORT", "many", "DB_PORT='many' is wrong: allowed is a port, 1 to 65535"),
        ("DB_HOST", "two words", "DB_HOST='two words' is wrong"),
        ("DB_NAME", "", "DB_NAME='' is wrong"),
        ("DB_PASSWORD", "", "DB_PASSWORD='***' is wrong"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, shown: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        read(Settings)
    message = caught.value.message
    assert shown in message
    assert ": allowed is " in message
    assert "\n" not in message
    assert "secret" not in message


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DB_HOST")
    monkeypatch.setenv("DB_PORT", "x")
    with pytest.raises(SettingsError, match=r"^DB_HOST is not set: allowed .*; DB_PORT='x' is wrong"):
        read(Settings)


def test_migrations_need_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELERY_BROKER_URL")
    assert read(DatabaseSettings).db_name == "app"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://host:6379?x=1", "redis://host:6379?x=1"),
        ("redis://user:pass@host", "redis://user:***@host"),
        ("redis://user:p@ss:w/rd@host/0", "redis://user:***@host/0"),
        ("sentinel://u:pass@a;sentinel://u:pass@b/0", "sentinel://u:***@a;sentinel://u:***@b/0"),
        ("redis:user:pass@host", ":***@host"),
        ("redis://host?password=pass&db=1", "redis://host?password=***&db=1"),
    ],
)
def test_passwords_in_urls_are_masked_even_in_broken_ones(url: str, masked: str) -> None:
    assert masked_url(url) == masked


@pytest.mark.parametrize("command", ["worker", "beat", "inspect ping"])
def test_celery_prints_one_line_and_fails(command: str) -> None:
    wrong = VALID | {"CELERY_BROKER_URL": "amqp://:secret@host"}
    ended = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", *command.split()],
        env=clean_environment() | wrong,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "CELERY_BROKER_URL='amqp://:***@host' is wrong: allowed is redis://" in ended.stderr


def test_the_package_imports_without_environment_and_fails_each_time_it_is_used() -> None:
    script = """
import tasks, tasks.default
for attempt in range(2):
    try:
        tasks.default.echo.delay(1)
    except Exception as error:
        print(type(error).__name__)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ended.stdout.split() == ["SettingsError", "SettingsError"]
