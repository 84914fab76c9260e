"""Search a host for secrets where none may be seen: argvs, units, the journal, readable files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

# Run by the host's own Python, the secrets through the standard input: the search must not find itself.
SCAN = r"""
import glob, os, stat, subprocess, sys
secrets = [line.encode() for line in sys.stdin.read().split("\n") if line]
found = []

def look(where, content):
    found.extend(f"{where} (secret number {n + 1})" for n, secret in enumerate(secrets) if secret in content)

def command(*argv):
    return subprocess.run(argv, capture_output=True).stdout

for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError:
        continue
    look("argv of " + path.split("/")[2] + ": " + content.split(b"\0")[0].decode(errors="replace"), content)

units = command("systemctl", "list-units", "--all", "--plain", "--no-legend", "--type=service").decode()
names = [line.split()[0] for line in units.split("\n") if line.split()]
look("systemctl show", command("systemctl", "show", "--property=Environment,ExecStart", *names))
look("systemctl cat", command("systemctl", "cat", *names))
look("journal", command("journalctl", "--no-pager", "--output=cat"))

for top in ("/etc", "/opt", "/srv", "/usr/local", "/var", "/home", "/root", "/tmp", "/run"):
    for folder, folders, files in os.walk(top):
        # What others may not enter they may not read.
        folders[:] = [name for name in folders if os.lstat(f"{folder}/{name}").st_mode & stat.S_IXOTH]
        for name in files:
            path = os.path.join(folder, name)
            try:
                state = os.lstat(path)
                if stat.S_ISREG(state.st_mode) and state.st_mode & stat.S_IROTH and state.st_size < 2**25:
                    with open(path, "rb") as file:
                        look("world-readable " + path, file.read())
            except OSError:
                continue
    # Logs and units are nobody's business either, whatever their mode.
for pattern in ("/var/log/**", "/etc/systemd/**"):
    for path in glob.glob(pattern, recursive=True):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                look(path, file.read())
print("\n".join(sorted(set(found))))
"""


class Host(Protocol):
    """What is needed of testinfra's host."""

    def run(self, command: str, *args: str) -> object:
        """Run a command on the host."""


def read_secrets(folder: Path) -> dict[str, str]:
    """The secrets that an inventory generated, by the name of their file."""
    return {
        path.name: path.read_text(encoding="utf-8").split(" salt=")[0].strip()
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.endswith(".lock")
    }


def find_secrets(host: Host, secrets: Iterable[str]) -> list[str]:
    """Where on the host a secret can be seen."""
    wanted = [secret for secret in secrets if secret]
    if not wanted:
        raise ValueError("no secret to search for")
    # The secrets travel as octal digits, for the shell's own argv is searched as well.
    octal = "".join(f"\\\\{byte:03o}" for byte in "\n".join(wanted).encode())
    done = host.run(f"printf {octal} | python3 -c %s", SCAN)
    if done.rc != 0:  # type: ignore[attr-defined]
        raise RuntimeError(f"the search failed: {done.stderr}")  # type: ignore[attr-defined]
    return [line for line in str(done.stdout).splitlines() if line]  # type: ignore[attr-defined]


def assert_no_secrets(host: Host, secrets: Iterable[str]) -> None:
    """Fail, naming the places, when a secret can be seen on the host."""
    found = find_secrets(host, secrets)
    if found:
        raise AssertionError("secrets can be seen:\n" + "\n".join(found))
