#!/usr/bin/python3
"""Ansible module: make a running Redis server run the wanted settings and users, and say what differed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: redis_live_config
short_description: Compare a running Redis server with what is wanted, and apply it live
description:
  - Asks the server what it runs (CONFIG GET, ACL LIST), returns the difference as a diff and applies it by
    CONFIG SET and ACL SETUSER.
  - When a setting differs that Redis reads at start only, nothing is applied; the setting is named in
    C(restart) and a restart, for which the files must be written already, applies everything.
  - An append-only file that is switched on is always switched on live, because a restart alone would start
    with an empty append-only file and leave the data behind.
  - Runs redis-cli on the host, through the Unix socket; no secret appears in an argv.
options:
  socket:
    description: Unix socket of the server. Where it does not exist, port 6379 of 127.0.0.1 is tried, which is
      what a server that was never configured listens on.
    type: path
    required: true
  username:
    description: User to log in as; needs CONFIG and ACL.
    type: str
    required: true
  passwords:
    description: Passwords to try, the present one first.
    type: list
    elements: str
    required: true
  settings:
    description: Wanted settings; values are strings, numbers, booleans or lists of words.
    type: dict
    default: {}
  secret_settings:
    description: Wanted settings whose values are never shown.
    type: dict
    default: {}
  users:
    description: All users that shall exist. Any other is deleted. An empty list leaves the users alone.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name., type: str, required: true}
      state: {description: Whether the user may log in., type: str, choices: ["on", "off"], default: "on"}
      passwords: {description: "Hashes: C(#), 64 hexadecimal digits.", type: list, elements: str, default: []}
      rules: {description: Rules as in ACL SETUSER., type: list, elements: str, default: []}
"""

EXAMPLES = """
- name: Apply the settings
  redis_live_config:
    socket: /run/redis/redis-server.sock
    username: operator
    passwords: ["{{ operator_password }}"]
    settings: {maxmemory: 512mb, appendonly: true}
  register: live
"""

RETURN = """
applied: {description: Settings and users that were applied live., type: list, returned: always}
restart: {description: Differing settings that need a restart., type: list, returned: always}
"""

UNITS = {"b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}
ALL_KEYSPACE_EVENTS = "g$lshztxed"
MASK = "(secret)"
PROBE = "role-probe:"


class RedisError(Exception):
    """Something that the user has to know, in one line."""


# --- Comparing: pure functions ----------------------------------------------------------------------------


def words(value: object) -> str:
    """The value as it is written after a setting's name: yes and no for booleans, lists in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(words(item) for item in value)
    return str(value)


def normal(name: str, value: str) -> object:
    """A form of the value in which two ways to write the same are equal."""
    if name == "notify-keyspace-events":
        return frozenset(value.replace("A", ALL_KEYSPACE_EVENTS))
    tokens = [normal_word(word) for word in value.split()]
    if name == "client-output-buffer-limit":
        tokens = ["slave" if word == "replica" else word for word in tokens]
        return {tokens[i]: tuple(tokens[i + 1 : i + 4]) for i in range(0, len(tokens), 4)}
    return tokens


def normal_word(word: str) -> str:
    """Memory sizes in bytes; anything else as it is, but yes and no in lower case."""
    size = re.fullmatch(r"(\d+)([kmg]b?|b)", word, re.IGNORECASE)
    if size:
        return str(int(size[1]) * UNITS[size[2].lower()])
    return word.lower() if word.lower() in {"yes", "no"} else word


def same(name: str, wanted: str, running: str) -> bool:
    """Whether the server already runs what is wanted. Of the buffer limits only the named classes count."""
    left, right = normal(name, wanted), normal(name, running)
    if isinstance(left, dict) and isinstance(right, dict):
        return all(right.get(key) == limits for key, limits in left.items())
    return left == right


def differing(wanted: dict[str, str], running: dict[str, str]) -> list[str]:
    """Names of the settings that differ, sorted. A setting that the server does not know is an error."""
    unknown = sorted(set(wanted) - set(running))
    if unknown:
        raise RedisError(
            f"this Redis knows no setting {', '.join(unknown)}: correct the name or leave it out"
        )
    return sorted(name for name, value in wanted.items() if not same(name, value, running[name]))


def quoted(argument: str) -> str:
    """An argument as redis-cli reads it from its standard input."""
    escaped = "".join(
        char
        if " " <= char <= "~" and char not in '"\\'
        else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in argument
    )
    return f'"{escaped}"'


def acl_entries(lines: list[str]) -> dict[str, str]:
    """The rules of each user of an ACL LIST, under the user's name.

    Redis 7.0 lists `sanitize-payload`, the default, or leaves it out, depending on where the user was made.
    """
    entries = {}
    for line in lines:
        _user, name, rules = line.split(" ", 2)
        entries[name] = " ".join(rule for rule in rules.split() if rule != "sanitize-payload")
    return entries


def acl_shown(rules: str) -> str:
    """The rules with the hashes of the passwords replaced by their first digits."""
    return re.sub(r"#([0-9a-f]{4})[0-9a-f]{60}", r"#\1…", rules)


def diff_text(settings: dict[str, str], users: dict[str, str], hidden: set[str]) -> str:
    """One side of the diff."""
    empty = '""'
    lines = [f"{name} {MASK if name in hidden else settings[name] or empty}" for name in sorted(settings)]
    lines += [f"user {name} {acl_shown(users[name])}" for name in sorted(users)]
    return "".join(f"{line}\n" for line in lines)


# --- Talking to the server --------------------------------------------------------------------------------


class Server(NamedTuple):
    """A way to the server that works."""

    address: tuple[str, ...]
    username: str | None
    password: str

    def raw(self, lines: list[str], *options: str) -> str:
        """Send the commands through the standard input, for an argv is seen by everybody."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REDISCLI")}
        command = ["redis-cli", *options, *self.address]
        if self.username is not None:
            command += ["--user", self.username]
            environment["REDISCLI_AUTH"] = self.password
        done = subprocess.run(
            command,
            input="\n".join(lines) + "\n",
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        # redis-cli goes on after a refused login, as whoever needs none.
        if done.returncode != 0 or "AUTH failed" in done.stderr:
            raise RedisError(f"redis-cli: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def ask(self, *commands: tuple[str, ...]) -> list[Any]:
        """The replies to the commands; a RedisError stands in the place of each reply that is an error."""
        output = self.raw([" ".join(map(quoted, command)) for command in commands], "--json")
        replies: list[Any] = []
        for line in output.splitlines():
            if line.startswith("error:"):
                replies.append(RedisError(json.loads(line.removeprefix("error:"))))
            elif line:
                replies.append(json.loads(line))
        if len(replies) != len(commands):
            raise RedisError(f"redis-cli gave {len(replies)} replies to {len(commands)} commands")
        return replies

    def do(self, *commands: tuple[str, ...]) -> list[Any]:
        """The replies to the commands, none of which may fail."""
        replies = self.ask(*commands)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies


def connect(socket: str, username: str, passwords: list[str]) -> Server:
    """The first way to the server that is let in."""
    configured = Path(socket).exists()
    address = ("-s", socket) if configured else ("-h", "127.0.0.1", "-p", "6379")
    ways = [Server(address, username, password) for password in passwords]
    if not configured:
        ways.append(Server(address, None, ""))
    refusal = ""
    for way in ways:
        try:
            way.do(("CONFIG", "GET", "port"))
        except RedisError as error:
            refusal = refusal or str(error)
        else:
            return way
    raise RedisError(
        f"cannot ask Redis as the user {username} ({refusal}); after a change of its password "
        "give the old one as previous_password for one run"
    )


def immutable(server: Server, names: list[str], running: dict[str, str]) -> list[str]:
    """Which of the settings need a restart. The server tells when it is asked to set what it runs already."""
    replies = server.ask(*[("CONFIG", "SET", name, running[name]) for name in names]) if names else []
    return [
        name
        for name, reply in zip(names, replies, strict=True)
        if isinstance(reply, RedisError) and re.search("immutable|protected", str(reply))
    ]


def normal_users(server: Server, users: list[dict[str, Any]]) -> tuple[dict[str, str], dict[str, str]]:
    """The running users, and the wanted ones in the server's own words.

    Each version of Redis words the same rules differently, so the server is asked: for a moment each wanted
    user exists under another name, switched off, and is listed.
    """
    probes = [
        ("ACL", "SETUSER", PROBE + user["name"], "reset", *user["passwords"], *user["rules"])
        for user in users
    ]
    replies = server.ask(*probes, ("ACL", "LIST"), ("ACL", "DELUSER", *[probe[2] for probe in probes]))
    for user, reply in zip(users, replies, strict=False):
        if isinstance(reply, RedisError):
            raise RedisError(f"the rules of the user {user['name']}: {reply}")
    if isinstance(replies[-2], RedisError):
        raise replies[-2]
    listed = acl_entries(replies[-2])
    running = {name: rules for name, rules in listed.items() if not name.startswith(PROBE)}
    wanted = {}
    for user in users:
        rules = listed[PROBE + user["name"]]
        wanted[user["name"]] = re.sub(r"^off\b", user["state"], rules)
    return running, wanted


def switch_on_append_only(server: Server) -> None:
    """Write the data to a new append-only file and wait for the end of it."""
    server.do(("CONFIG", "SET", "appendonly", "yes"))
    deadline = time.monotonic() + 3600
    while time.monotonic() < deadline:
        state = dict(
            line.split(":", 1) for line in server.raw(["INFO persistence"]).splitlines() if ":" in line
        )
        if state.get("aof_rewrite_in_progress") == "0" and state.get("aof_rewrite_scheduled") == "0":
            if state.get("aof_last_bgrewrite_status") != "ok":
                raise RedisError("the append-only file could not be written; see the journal of redis-server")
            return
        time.sleep(0.2)
    raise RedisError("the append-only file was not written within an hour")


def apply_live(
    server: Server, settings: dict[str, str], users: list[dict[str, Any]], strangers: list[str]
) -> None:
    """Set the differing settings, all or none, then the differing users; delete those that are not wanted."""
    commands: list[tuple[str, ...]] = []
    if settings:
        commands.append(("CONFIG", "SET", *[word for item in settings.items() for word in item]))
    for user in users:
        commands.append(
            ("ACL", "SETUSER", user["name"], "reset", user["state"], *user["passwords"], *user["rules"])
        )
    if strangers:
        commands.append(("ACL", "DELUSER", *strangers))
    if commands:
        server.do(*commands)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare, apply what can be applied, and report."""
    params = module.params
    wanted = {
        name: words(value) for name, value in {**params["settings"], **params["secret_settings"]}.items()
    }
    hidden = set(params["secret_settings"])
    server = connect(params["socket"], params["username"], params["passwords"])

    running = server.do(("CONFIG", "GET", *sorted(wanted)))[0] if wanted else {}
    names = differing(wanted, running)
    restart = immutable(server, names, running)

    users_now, users_wanted = normal_users(server, params["users"]) if params["users"] else ({}, {})
    changed_users = [
        user for user in params["users"] if users_now.get(user["name"]) != users_wanted[user["name"]]
    ]
    strangers = sorted(set(users_now) - set(users_wanted))
    changed_names = [user["name"] for user in changed_users]

    if not module.check_mode:
        if restart:
            if "appendonly" in names and normal_word(wanted["appendonly"]) == "yes":
                switch_on_append_only(server)
        else:
            apply_live(server, {name: wanted[name] for name in names}, changed_users, strangers)

    before_users = {name: users_now[name] for name in [*changed_names, *strangers] if name in users_now}
    return {
        "changed": bool(names or changed_names or strangers),
        "restart": restart,
        "applied": [] if restart else [*names, *[f"user {name}" for name in [*changed_names, *strangers]]],
        "diff": {
            "before_header": "Redis, running",
            "after_header": "Redis, wanted"
            + (f" (restart needed by {', '.join(restart)})" if restart else ""),
            "before": diff_text({name: running[name] for name in names}, before_users, hidden),
            "after": diff_text(
                {name: wanted[name] for name in names},
                {name: users_wanted[name] for name in changed_names},
                hidden,
            ),
        },
    }


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "socket": {"type": "path", "required": True},
            "username": {"type": "str", "required": True},
            "passwords": {"type": "list", "elements": "str", "required": True, "no_log": True},
            "settings": {"type": "dict", "default": {}},
            "secret_settings": {"type": "dict", "default": {}, "no_log": True},
            "users": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "state": {"type": "str", "choices": ["on", "off"], "default": "on"},
                    "passwords": {"type": "list", "elements": "str", "default": [], "no_log": True},
                    "rules": {"type": "list", "elements": "str", "default": []},
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (RedisError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=str(error))
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
