#!/usr/bin/python
"""Ansible module: see that the wanted version of PostgreSQL can be had, and from where."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_server import (
    PostgresError,
    answer,
    program,
)

DOCUMENTATION = """
module: postgres_source
short_description: See that the wanted version of PostgreSQL can be had, and from where
description:
  - With C(url), apt reads that archive in a scratch place, by the same proxies and certificates as always,
    before the host gets it as a source.
  - A version that neither it nor the host's own sources have is refused, with those that there are.
options:
  version: {description: The major version., type: str, required: true}
  url: {description: The archive; empty for the host's own sources., type: str, default: ""}
  suite: {description: What the archive calls what fits the host., type: str, default: ""}
  key: {description: The key that signs the archive., type: str, default: ""}
"""

SOURCE = Path("/etc/apt/sources.list.d/celery-fleet-postgresql.sources")
KEY = Path("/etc/apt/keyrings/celery-fleet-postgresql.asc")
WANTED = """\
# Managed by Ansible, role postgres.
Types: deb
URIs: {url}
Suites: {suite}
Components: main
Signed-By: {key}
"""


def versions(listed: str) -> list[str]:
    """Return the major versions of which apt knows the server, from the names of all its packages."""
    found = re.findall(r"^postgresql-(\d+)$", listed, re.MULTILINE)
    return sorted(set(found), key=int)


def complaint(output: str, url: str) -> str:
    """Return the one line in which apt says why an archive cannot be used."""
    lines = [line[2:].strip() for line in output.splitlines() if line.startswith(("E:", "W:"))]
    telling = [line for line in lines if url.rstrip("/") in line] or lines or ["apt does not say why"]
    return telling[0][:300]


class Apt:
    """The package manager of the host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module

    def names(self, *options: str) -> list[str]:
        """Return the major versions that can be installed."""
        return versions(self.module.run_command(["apt-cache", *options, "pkgnames", "postgresql-"])[1])

    def update(self, *options: str) -> None:
        """Have apt read its sources."""
        waiting = ("-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=15", "-o")
        command = ["apt-get", *waiting, "Acquire::https::Timeout=15", *options, "update"]
        code, output, error = self.module.run_command(command, environ_update={"LC_ALL": "C"})
        if code or re.search("^(W: Failed to fetch|Err:)", output + error, re.MULTILINE):
            raise PostgresError(complaint(error + output, self.module.params["url"]))

    def try_out(self, wanted: dict[Path, str]) -> list[str]:
        """Have apt read the archive in a scratch place, and return the versions that it has."""
        with tempfile.TemporaryDirectory(prefix="postgres-source-") as folder:
            place = Path(folder)
            place.chmod(0o755)  # apt drops its privileges
            (place / "lists/partial").mkdir(parents=True)
            for path, text in wanted.items():
                (place / path.name).write_text(text.replace(str(KEY), str(place / KEY.name)))
                (place / path.name).chmod(0o644)
            options = [
                *("-o", f"Dir::Etc::SourceList={place / SOURCE.name}", "-o", "Dir::Etc::SourceParts=-"),
                *("-o", f"Dir::State::Lists={place / 'lists'}", "-o", f"Dir::Cache={place}"),
                *("-o", "Dir::State::status=/dev/null"),
            ]
            try:
                self.update(*options)
            except PostgresError as error:
                raise PostgresError(
                    f"postgres_pgdg_url: the archive {self.module.params['url']} cannot be used: {error};"
                    " nothing was changed"
                ) from error
            return self.names(*options)


def write(path: Path, text: str) -> None:
    """Write a file that everybody may read."""
    path.parent.mkdir(mode=0o755, exist_ok=True)
    new = path.with_name(f".{path.name}")
    new.write_text(text, encoding="utf-8")
    new.chmod(0o644)
    os.chown(new, 0, 0)
    new.replace(path)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Look, refuse, and make the archive a source of the host."""
    params, apt = module.params, Apt(module)
    version, changed, found = params["version"], False, apt.names()
    if not found:  # no lists yet
        apt.update()
        found = apt.names()
    if params["url"]:
        wanted = {SOURCE: WANTED.format(**{**params, "key": KEY}), KEY: params["key"].rstrip("\n") + "\n"}
        changed = any(not path.exists() or path.read_text() != text for path, text in wanted.items())
        if changed:
            found = sorted({*found, *apt.try_out(wanted)}, key=int)
    installed = Path(program(version, "postgres")).exists()
    if version not in found and not installed:
        raise PostgresError(
            f"postgres_version: {version} is not in the sources of packages of this host, which have"
            f" {', '.join(found) or 'none'}"
            + ("" if params["url"] else "; the PostgreSQL project's own have more: postgres_source: pgdg")
        )
    if changed and not module.check_mode:
        for path, text in reversed(wanted.items()):
            write(path, text)
        apt.update()
    return {"changed": changed}


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "url": {"type": "str", "default": ""},
            "suite": {"type": "str", "default": ""},
            "key": {"type": "str", "default": "", "no_log": False},
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
