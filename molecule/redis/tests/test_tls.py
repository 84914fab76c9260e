"""TLS switched on at servers that hold data, and off again. These tests follow one another."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import redis
from support.hosts.redis_provider import UNITS
from support.hosts.scenario import Scenario, address

SCENARIO = Scenario("redis")
PORT = 6379
NAMES = ["broker12", "broker13", "valkey13"]
# Its certificate is brought along; the others' are of the fleet's own authority.
OTHER = "broker13"

units = UNITS


def connect(name: str, authority: Path | None = None) -> redis.Redis:
    return redis.Redis(
        host=address(SCENARIO.hosts()[name]),
        port=PORT,
        username="operator",
        password=SCENARIO.secrets["redis_operator"],
        ssl=authority is not None,
        ssl_ca_certs=str(authority) if authority else None,
        decode_responses=True,
        socket_timeout=5,
    )


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of a certificate that is its own authority."""
    host, folder = SCENARIO.hosts()[OTHER], tmp_path_factory.mktemp("given")
    host.check_output(
        "umask 077; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 90"
        " -subj /CN=%s -addext subjectAltName=IP:%s -keyout /root/key -out /root/certificate",
        OTHER,
        address(host),
    )
    for name in ("certificate", "key"):
        (folder / name).write_text(host.check_output(f"cat /root/{name}; rm /root/{name}") + "\n")
    return {
        "certificate": str(folder / "certificate"),
        "key": str(folder / "key"),
        "authority": str(folder / "certificate"),
    }


@pytest.fixture(scope="module")
def variables(given: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "redis_tls": True,
        "common_authority": str(tmp_path_factory.mktemp("authority")),
        "given": given,
        "redis_tls_files": f"{{{{ given if inventory_hostname == '{OTHER}' else {{}} }}}}",
    }


@pytest.fixture(scope="module")
def authorities(variables: dict[str, Any]) -> dict[str, Path]:
    """What the clients of each host trust."""
    own = Path(variables["common_authority"]) / "authority.pem"
    return {name: Path(variables["given"]["authority"]) if name == OTHER else own for name in NAMES}


def test_tls_is_switched_on_and_the_data_stay(
    variables: dict[str, Any], authorities: dict[str, Path]
) -> None:
    for name in NAMES:
        connect(name).set("test:before-tls", name)

    SCENARIO.play(**variables)

    for name in NAMES:
        assert connect(name, authorities[name]).get("test:before-tls") == name
        with pytest.raises(redis.ConnectionError):
            connect(name).ping()


def test_the_certificate_that_was_given_is_shown(given: dict[str, str]) -> None:
    shown = ssl.get_server_certificate((address(SCENARIO.hosts()[OTHER]), PORT))

    assert shown == Path(given["certificate"]).read_text()


def test_with_tls_too_a_second_run_changes_nothing(variables: dict[str, Any]) -> None:
    assert re.findall(r"changed=(\d+)", SCENARIO.play(**variables)) == ["0"] * len(NAMES)


def test_tls_is_switched_off_and_the_data_stay() -> None:
    SCENARIO.play()

    for name in NAMES:
        with connect(name) as client:
            assert client.get("test:before-tls") == name
            client.delete("test:before-tls")
