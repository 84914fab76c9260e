"""What is found out about a host and its server before a file is written."""

import os
import pwd
import socket
from pathlib import Path

import pytest
import yaml
from support.made_up_redis import REWRITTEN, WANTED
from support.role_files import (
    ROLES,
    load_module,
    load_shared,
)

module = load_module("redis_live_config")
server = load_shared("redis_server")
takeover = load_module("redis_takeover")
config_check = load_module("redis_config_check")
scratch = load_shared("redis_scratch")


def test_a_process_is_asked_only_where_it_listens_itself(tmp_path: Path) -> None:
    with socket.socket() as own, socket.socket(socket.AF_UNIX) as local, socket.socket() as silent:
        own.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        local.bind(str(tmp_path / "socket"))
        own.listen()
        local.listen()

        found = server.listening(os.getpid())

        assert ("-s", str(tmp_path / "socket")) in found
        assert ("-h", "127.0.0.1", "-p", str(own.getsockname()[1])) in found
        assert ("-h", "127.0.0.1", "-p", str(silent.getsockname()[1])) not in found


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "127.0.0.1"),
        ("0" * 32, "::1"),
        ("B80D0120000000000000000011000000", "2001:db8::11"),
    ],
)
def test_an_address_is_read_as_the_kernel_writes_it(text: str, address: str) -> None:
    assert server._address(text) == address


def test_the_last_line_of_a_setting_counts(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    path.write_text('# requirepass no\nrequirepass one\nREQUIREPASS "two words"\n\nunfinished "\n')

    assert server.file_settings(path) == {"requirepass": "two words"}
    assert server.file_settings(tmp_path / "none") == {}


def test_only_modules_that_come_from_a_file_are_in_the_way() -> None:
    assert takeover.loaded_from({"name": "vectorset", "path": ""}) == ""
    assert takeover.loaded_from(["name", "bf", "ver", 1, "path", "/usr/lib/bf.so"]) == "/usr/lib/bf.so"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***\nReading the configuration file, at line 5\n"
            ">>> 'masterauth \"a secret\" twice'\nBad directive or wrong number of arguments\n",
            "masterauth: Bad directive or wrong number of arguments",
        ),
        (
            "12:C 27 Nov 2026 10:00:00.000 # WARNING Memory overcommit: a background save may fail\n"
            "12:M 27 Nov 2026 10:00:00.000 # Error loading ACLs: /tmp/x/users.acl:2: Unknown command\n",
            "Error loading ACLs: /tmp/x/users.acl:2: Unknown command",
        ),
        (
            "7:M 27 Nov 2026 10:00:00.000 # Unresolved Configuration(s) Detected:\n"
            "7:M 27 Nov 2026 10:00:00.000 # >>> 'hz-typo 1'\n"
            "7:M 27 Nov 2026 10:00:00.000 # Module Configuration detected without loadmodule directive\n",
            "this Redis knows no setting hz-typo",
        ),
        ("", "it ended without any output"),
    ],
)
def test_the_line_that_says_why_redis_does_not_start_is_found(output: str, reason: str) -> None:
    assert scratch.refusal(output) == reason


def test_addresses_of_other_hosts_are_found_out() -> None:
    assert config_check.unusable(["127.0.0.1", "-192.0.2.1", "*", "192.0.2.1", "no-such-host.invalid"]) == [
        "192.0.2.1",
        "no-such-host.invalid",
    ]


@pytest.mark.parametrize(
    ("appendonly", "kept", "refused"), [("no", False, True), ("no", True, True), ("yes", True, False)]
)
def test_data_that_a_stopped_server_would_not_read_is_refused(
    tmp_path: Path, appendonly: str, kept: bool, refused: bool
) -> None:
    config = tmp_path / "redis.conf"
    config.write_text(f"dir {tmp_path}\nappendonly {appendonly}\n")
    (tmp_path / "dump.rdb").write_bytes(b"what cannot be read may have keys")
    if kept:
        (tmp_path / "appendonlydir").mkdir()

    errors = takeover.stopped_errors(config, "redis-server.service", {"dir": str(tmp_path)})

    assert bool(errors) is refused, errors


def test_the_users_are_written_before_the_settings_that_name_their_file() -> None:
    names = [task["name"] for task in yaml.safe_load((ROLES / "redis/tasks/configure.yml").read_text())]

    users, settings = map(
        names.index, ["configure | Write the access control list", "configure | Write the settings"]
    )
    assert users < settings


def test_nothing_is_written_before_it_was_tried() -> None:
    for tasks, writers in (
        ("configure", ["Write the access control list", "Write the settings"]),
        ("sentinel", ["Write the access control list", "Write the settings"]),
    ):
        names = [task["name"] for task in yaml.safe_load((ROLES / f"redis/tasks/{tasks}.yml").read_text())]
        tried = next(at for at, name in enumerate(names) if "on a scratch" in name)
        assert all(tried < names.index(f"{tasks} | {writer}") for writer in writers)
        assert all(
            names.index(f"{tasks} | Write the additions to the unit") < names.index(f"{tasks} | {writer}")
            for writer in writers
        )


def test_a_scratch_sentinel_watches_nobody_and_shares_nothing(tmp_path: Path) -> None:
    settings = "port 26379\nreplicaof 192.0.2.1 6379\nsentinel monitor celery 192.0.2.1 6379 2\n"

    scratch.prepare(tmp_path, settings, "user default off\n", pwd.getpwuid(os.getuid()).pw_name)

    lines = (tmp_path / "redis.conf").read_text().splitlines()
    assert "sentinel monitor celery 127.0.0.1 1 2" in lines
    assert not any("192.0.2.1" in line for line in lines)
    assert lines.index("port 26379") < lines.index("port 0")
    assert f"aclfile {tmp_path}/users.acl" in lines


def test_what_a_sentinel_has_rewritten_needs_no_scratch_sentinel(tmp_path: Path) -> None:
    path = tmp_path / "sentinel.conf"
    watches = r"sentinel monitor celery ([0-9.]+|[0-9a-f:.]*:[0-9a-f:.]*) "
    wanted = "port 26379\nsentinel monitor celery 192.0.2.1 6379 2\n"
    path.write_text(
        "port 26379\nsentinel monitor celery 192.0.2.2 6379 2\nsentinel known-replica celery 192.0.2.1\n"
    )

    assert config_check.is_written(path, wanted, "sentinel", watches)
    assert not config_check.is_written(path, wanted.replace("26379", "26380"), "sentinel", watches)


def test_a_setting_that_somebody_has_set_beside_the_wanted_ones_is_found() -> None:
    started = {
        "hz": "10",
        "maxmemory-clients": "0",
        "port": "0",
        "timeout": "0",
        "masterauth": "",
        "new": "1",
    }
    running = {"hz": "10", "maxmemory-clients": "100", "port": "6379", "timeout": "7", "masterauth": "x"}

    assert module.beside(running, started, ["timeout"]) == {"maxmemory-clients": "0"}


def test_a_port_that_another_service_has_is_found_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = f"bind 127.0.0.1\nport {port}\ntls-port 0\n"
        addresses = ["127.0.0.1", "-::1", "*"]

        assert config_check.taken(addresses, settings, os.getuid() + 1) == [f"127.0.0.1:{port}", f"*:{port}"]
        # The server's own is no obstacle.
        assert config_check.taken(addresses, settings, os.getuid()) == []
    assert config_check.taken(addresses, settings, os.getuid() + 1) == []


def test_what_the_server_added_below_its_mark_makes_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    path.write_text("port 6379\n\n# Generated by CONFIG REWRITE\nreplicaof 192.0.2.11 6379\n")

    assert config_check.is_written(path, "port 6379\n")
    assert not config_check.is_written(path, "port 6380\n")
    assert not config_check.is_written(tmp_path / "none", "port 6379\n")


def test_what_a_failover_has_rewritten_needs_no_scratch_server(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    path.write_text(REWRITTEN)

    assert config_check.is_written(path, WANTED)
