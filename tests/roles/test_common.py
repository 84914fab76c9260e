"""The fleet's own authority, without a host."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from support.processes.services import wait_for
from support.role_files import Place, evaluate, load_module

module = load_module("certificate")
check = load_module("certificate_check")


def issue(folder: Path, *, check_mode: bool = False, **more: Any) -> dict[str, Any]:
    parameters = {
        "authority": str(folder),
        "host": "data1",
        "service": "redis",
        "names": ["data1", "192.0.2.11", "::1"],
        "days": 365,
        "renew_days": 30,
    }
    found: dict[str, Any] = module.run(parameters | more, check_mode=check_mode)
    return found


def certificate(result: dict[str, Any]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(result["certificate"]).read_bytes())


def test_clients_that_trust_the_authority_take_the_certificate(tmp_path: Path) -> None:
    result = issue(tmp_path)

    assert result["changed"]
    # By another implementation, for each name.
    for option, name in (("-verify_hostname", "data1"), ("-verify_ip", "192.0.2.11"), ("-verify_ip", "::1")):
        for purpose in ("sslserver", "sslclient"):
            command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, option, name]
            subprocess.run([*command, "-CAfile", result["authority"], result["certificate"]], check=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=result["authority"])
    context.load_cert_chain(result["certificate"], result["key"])


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    result = issue(tmp_path / "authority")

    for path in (result["key"], tmp_path / "authority/authority.key"):
        assert Path(path).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "authority").stat().st_mode & 0o777 == 0o700


def test_what_fits_stays(tmp_path: Path) -> None:
    first = issue(tmp_path)
    before = certificate(first)

    second = issue(tmp_path)

    assert not second["changed"]
    assert certificate(second) == before


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"renew_days": 366}, "364 days are left"),
        ({"names": ["data1", "192.0.2.12"]}, "its names differ"),
    ],
)
def test_what_does_not_fit_is_replaced_and_the_authority_stays(
    tmp_path: Path, more: dict[str, Any], reason: str
) -> None:
    first = issue(tmp_path)
    before, authority = certificate(first), Path(first["authority"]).read_bytes()

    second = issue(tmp_path, **more)

    assert second["changed"]
    assert reason in second["diff"]["after_header"]
    assert certificate(second) != before
    assert Path(second["authority"]).read_bytes() == authority


def test_a_certificate_of_another_authority_is_replaced(tmp_path: Path) -> None:
    first = issue(tmp_path)
    Path(first["authority"]).unlink()

    assert "another authority issued it" in issue(tmp_path)["diff"]["after_header"]


def test_check_mode_says_what_would_be_issued_and_writes_nothing(tmp_path: Path) -> None:
    result = issue(tmp_path, check_mode=True)

    assert result["changed"]
    assert "names 192.0.2.11 ::1 data1" in result["diff"]["after"]
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_certificate_names_the_host_as_its_clients_know_it() -> None:
    hosts = {"data1": {"ansible_host": "192.0.2.11"}}
    (names,) = evaluate(
        "common",
        "__common_certificate_names",
        [{"common_certificate_names": ["broker"]}],
        Place("data1", hosts),
    )
    assert names == ["127.0.0.1", "192.0.2.11", "broker", "data1", "host1", "localhost"]


def test_a_certificate_that_clients_take_is_no_problem(tmp_path: Path) -> None:
    issued = issue(tmp_path)

    assert check.problem(issued["authority"], issued["certificate"], issued["key"]) == ""


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"key": "other/data1/redis.key"}, "is no key of"),
        ({"authority": "other/authority.pem"}, "refuses"),
        ({"authority": "nonsense"}, "is no certificate of an authority"),
        ({"certificate": "nonsense"}, "is no key of"),
        ({"key": "missing"}, "cannot be read"),
    ],
)
def test_a_certificate_that_no_client_takes_is_a_problem(
    tmp_path: Path, changed: dict[str, str], problem: str
) -> None:
    issued = issue(tmp_path)
    issue(tmp_path / "other")
    (tmp_path / "nonsense").write_text("nonsense\n")

    found = {name: issued[name] for name in ("authority", "certificate", "key")}
    found |= {name: str(tmp_path / path) for name, path in changed.items()}

    assert problem in check.problem(**found)


def test_a_certificate_that_is_over_is_a_problem(tmp_path: Path) -> None:
    issued = issue(tmp_path, days=0)
    files = issued["authority"], issued["certificate"], issued["key"]

    wait_for(lambda: "expired" in check.problem(*files), "it is not over", 10)
