#!/usr/bin/python
"""Ansible module: make a running Redis server run the wanted settings and users, and say what differed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_scratch import APART, scratch_server
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    MASK,
    SIGNATURE,
    RedisError,
    Server,
    answer,
    connect,
    default_passwords,
    login_arguments,
    normal_word,
    same,
    switch_on_append_only,
)

DOCUMENTATION = """
module: redis_live_config
short_description: Compare a running Redis server or sentinel with what is wanted, and apply it live
description:
  - Asks the server what it runs (CONFIG GET, ACL LIST), returns the difference as a diff and applies it by
    CONFIG SET and ACL SETUSER. A sentinel is asked by SENTINEL MASTER and told by SENTINEL SET.
  - When a setting differs that Redis reads at start only, it is named in C(restart), and a restart, for which
    the files must be written already, applies all settings. The users are still applied at once, because
    another server that restarts first may log in with a new password; but not on a server that was never
    configured.
  - An append-only file that is switched on is always switched on live, because a restart alone would start
    with an empty append-only file and leave the data behind.
  - Runs redis-cli on the host, through the Unix socket; no secret appears in an argv.
options:
  socket:
    description: Unix socket of the server. Where it does not exist, the addresses are tried on which the main
      process of the service listens.
    type: path
    required: true
  present_password:
    description: Password of the user C(default) of a server that the role has not configured yet; what its
      file says (C(requirepass)) is tried as well. For the check mode, in which it was not taken over.
    type: str
  config: {description: Its configuration file., type: path}
  text:
    description: The wanted text of that file. What a server would run that starts with it is wanted too, so
      that what somebody has set beside the file (CONFIG SET) is undone. Needs the program of the server.
    type: str
  settings:
    description: Wanted settings; values are strings, numbers, booleans or lists of words.
    type: dict
    default: {}
  secret_settings:
    description: Wanted settings whose values are never shown.
    type: dict
    default: {}
  sentinel_master:
    description: Name of the primary whose settings (C(quorum), C(auth-pass), …) are meant, on a sentinel.
    type: str
  sentinel_file:
    description: The sentinel's file, which it writes whenever it is told something, secrets included.
    type: path
    default: /etc/redis/sentinel.conf
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
extends_documentation_fragment: [celery_fleet.platform.redis_login]
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
role: {description: Whether a server is a C(master) or a C(slave)., type: str, returned: always}
"""

PROBE = "role-probe:"
# For the moment in which a scratch server is asked.
ANYBODY = "user default on nopass ~* &* +@all\n"
# A failover, the users and `secret_settings` decide which server follows which, and how it logs in.
DECIDED_ELSEWHERE = {"masterauth", "masteruser", "replicaof", "requirepass", "slaveof", "tls-key-file-pass"}
PORTS = ("port", "tls-port")


# --- Comparing: pure functions ----------------------------------------------------------------------------


def words(value: object) -> str:
    """The value as it is written after a setting's name: yes and no for booleans, lists in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(words(item) for item in value)
    return str(value)


def differing(wanted: dict[str, str], running: dict[str, str]) -> list[str]:
    """Names of the settings that differ, sorted. A setting that the server does not know is an error."""
    unknown = sorted(set(wanted) - set(running))
    if unknown:
        raise RedisError(
            f"this Redis knows no setting {', '.join(unknown)}: correct the name or leave it out"
        )
    return sorted(name for name, value in wanted.items() if not same(name, value, running[name]))


def beside(running: dict[str, str], started: dict[str, str], wanted: Iterable[str]) -> dict[str, str]:
    """What somebody has set beside the wanted settings, each with the value that a restart would give it."""
    known = {*wanted, *APART, *DECIDED_ELSEWHERE}
    return {
        name: value
        for name, value in started.items()
        if name not in known and name in running and running[name] != value
    }


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


def sentinel_logins(lines: list[str], master: str) -> dict[str, str]:
    """What a sentinel logs in with, to the servers and to other sentinels, from the lines of its file."""
    found = {"auth-user": "", "auth-pass": "", "sentinel-user": "", "sentinel-pass": ""}
    for line in lines:
        match line.split():
            case ["sentinel", ("auth-user" | "auth-pass") as name, of, value] if of == master:
                found[name] = value
            case ["sentinel", ("sentinel-user" | "sentinel-pass") as name, value]:
                found[name] = value
    return found


def setters(settings: dict[str, str], master: str | None) -> list[tuple[str, ...]]:
    """The commands that set the settings; a server takes all or none of them."""
    if not settings:
        return []
    if master is None:
        # In their order: a number that goes from TLS to plain, or back, must be free before it is taken.
        items = sorted(settings.items(), key=lambda item: item[0] not in PORTS or item[1] != "0")
        return [("CONFIG", "SET", *[word for item in items for word in item])]
    return [
        ("SENTINEL", "CONFIG", "SET", *item)
        if item[0].startswith("sentinel-")
        else ("SENTINEL", "SET", master, *item)
        for item in settings.items()
    ]


def diff_text(settings: dict[str, str], users: dict[str, str], hidden: set[str]) -> str:
    """One side of the diff."""
    empty = '""'
    lines = [f"{name} {MASK if name in hidden else settings[name] or empty}" for name in sorted(settings)]
    lines += [f"user {name} {acl_shown(users[name])}" for name in sorted(users)]
    return "".join(f"{line}\n" for line in lines)


# --- Talking to the server --------------------------------------------------------------------------------


def wanted_settings(params: dict[str, Any]) -> dict[str, str]:
    """The wanted settings, secret ones among them, as the server writes them."""
    both = {**params["settings"], **params["secret_settings"]}
    return {name: words(value) for name, value in both.items()}


def running_settings(server: Server, names: list[str], params: dict[str, Any]) -> dict[str, str]:
    """What the server runs, of the named settings."""
    if not names:
        return {}
    master = params["sentinel_master"]
    if master is None:
        running: dict[str, str] = server.do(("CONFIG", "GET", *names))[0]
        return running
    told: dict[str, str] = server.do(("SENTINEL", "MASTER", master))[0]
    lines = Path(params["sentinel_file"]).read_text(encoding="utf-8").splitlines()
    return told | sentinel_logins(lines, master)


def started_settings(text: str, config: Path) -> dict[str, str]:
    """What a server runs that has started with the text of the file."""
    with scratch_server(text, ANYBODY, config.owner()) as scratch:
        started: dict[str, str] = scratch.do(("CONFIG", "GET", "*"))[0]
        return started


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


def apply_live(
    server: Server, commands: list[tuple[str, ...]], users: list[dict[str, Any]], strangers: list[str]
) -> None:
    """Send the commands that set the differing settings, then set the users that differ, delete strangers."""
    commands = [
        *commands,
        *[
            ("ACL", "SETUSER", user["name"], "reset", user["state"], *user["passwords"], *user["rules"])
            for user in users
        ],
        *([("ACL", "DELUSER", *strangers)] if strangers else []),
    ]
    if commands:
        server.do(*commands)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare, apply what can be applied, and report."""
    params = module.params
    wanted = wanted_settings(params)
    hidden = set(params["secret_settings"])
    config = Path(params["config"] or "")
    default = default_passwords(params["present_password"], config) if params["config"] else []
    server = connect(params["socket"], params["username"], params["passwords"], default)

    running = running_settings(server, sorted(wanted), params)
    foreign: dict[str, str] = {}
    if params["text"] and config.exists():
        everything = server.do(("CONFIG", "GET", "*"))[0]
        foreign = beside(everything, started_settings(params["text"], config), wanted)
        wanted |= foreign
        running |= {name: everything[name] for name in foreign}
    names = differing(wanted, running)
    master = params["sentinel_master"]
    restart = immutable(server, names, running) if master is None else []

    users_now, users_wanted = normal_users(server, params["users"]) if params["users"] else ({}, {})
    changed_users = [
        user for user in params["users"] if users_now.get(user["name"]) != users_wanted[user["name"]]
    ]
    strangers = sorted(set(users_now) - set(users_wanted))
    changed_names = [user["name"] for user in changed_users]

    live_names = [] if restart else names
    users_are_live = not restart or params["username"] in users_now
    if not module.check_mode:
        if restart and "appendonly" in names and normal_word(wanted["appendonly"]) == "yes":
            switch_on_append_only(server)
        commands = setters({name: wanted[name] for name in live_names}, master)
        # A server that rewrites its file, as after a failover, has written them there, too.
        if set(foreign) & set(live_names) and SIGNATURE in config.read_text(encoding="utf-8"):
            commands.append(("CONFIG", "REWRITE"))
        apply_live(server, commands, *((changed_users, strangers) if users_are_live else ([], [])))

    before_users = {name: users_now[name] for name in [*changed_names, *strangers] if name in users_now}
    return {
        "changed": bool(names or changed_names or strangers),
        "restart": restart,
        "role": server.info("replication").get("role", "sentinel"),
        "applied": [
            *live_names,
            *[f"user {name}" for name in [*changed_names, *strangers] if users_are_live],
        ],
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
            **login_arguments(),
            "present_password": {"type": "str", "no_log": True},
            "config": {"type": "path"},
            "text": {"type": "str", "no_log": True},
            "settings": {"type": "dict", "default": {}},
            "secret_settings": {"type": "dict", "default": {}, "no_log": True},
            "sentinel_master": {"type": "str"},
            "sentinel_file": {"type": "path", "default": "/etc/redis/sentinel.conf"},
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
    answer(module, run)


if __name__ == "__main__":
    main()
