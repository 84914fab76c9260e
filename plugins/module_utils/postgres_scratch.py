"""A scratch server that reads settings and rules of access before they are written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_server import (
    OWN_FILE,
    PostgresError,
    Server,
    program,
)

READY_WITHIN_SECONDS = 60.0
# The sign of the lines at the end of postgresql.conf that let the role's file count.
MARK = "# Celery Fleet: what is set above and below in conf.d gives way to this file."
INCLUDE = f"include '{OWN_FILE}'"
# It is not there yet, or not any more; what it says itself is FATAL.
WAITING = r"^(?!.*FATAL).*(No such file|Connection refused|closed the connection|reset by peer)|starting up"
NOISE = re.compile("^(starting PostgreSQL|listening on|database system|redirecting log)")
# Folders that the unit of the server hides.
HIDDEN = ("/home", "/root", "/run/user")


def with_include(text: str) -> str:
    """Return postgresql.conf with the role's file as the last that is read."""
    kept = [line for line in text.splitlines() if line not in (MARK, INCLUDE)]
    while kept and not kept[-1].strip():
        kept.pop()
    return "\n".join([*kept, "", MARK, INCLUDE, ""])


def refusal(output: str, scratch: str, place: str) -> str:
    """Return in one line why a server does not start.

    Args:
        output: What it printed, with an empty log_line_prefix.
        scratch: The folder of its configuration, which is nobody's business.
        place: The folder that the configuration is for.
    """
    reasons: list[str] = []
    fatal = ""
    for line in output.splitlines():
        kind, _, words = line.partition(":")
        words = words.strip()
        if kind in ("FATAL", "PANIC"):
            fatal = fatal or words
        elif kind in ("LOG", "ERROR", "WARNING") and not NOISE.match(words):
            reasons.append(words)
        elif kind == "CONTEXT" and reasons and (found := re.match(r'line (\d+) of .*"(.+)"', words)):
            text = line_of(Path(found[2]), int(found[1]))
            reasons[-1] = f"{Path(found[2]).name}: {text}: {reasons[-1]}"
    general = re.search("contains errors|could not load", fatal)
    told = "; ".join(reasons) if reasons and (general or not fatal) else fatal
    return (told or "it ended without any output").replace(scratch, place)[:500]


def line_of(path: Path, number: int) -> str:
    """Return a line of a file, or its number."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[number - 1].strip()
    except (OSError, IndexError):
        return f"line {number}"


def unfit(certificate: str, key: str) -> list[str]:
    """Why the server would go on with the former certificate, which only its log names."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        return [f"{certificate} cannot be used with {key}: {error}"]
    return []


def unusable(addresses: list[str], port: int, *, taken: bool) -> list[str]:
    """Return why the server could not listen there, in words.

    Args:
        addresses: As listen_addresses has them.
        port: The port.
        taken: Whether it is the server's own already.
    """
    found = []
    kinds: list[tuple[int, Any]]
    for address in addresses:
        if address in ("*", ""):
            name, kinds = None, [(socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104 -- what the user wrote
        else:
            name, kinds = address, []
            try:
                places = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
                kinds = [(kind, place) for kind, *_, place in places]
            except OSError:
                found.append(f"postgres_listen_addresses: {address} is no address and no name that resolves")
                continue
        errors = [error for kind, place in kinds if (error := unbound(kind, place, own=taken))]
        if len(errors) < len(kinds):
            continue
        if "in use" in errors[0]:
            found.append(f"postgres_port: another program listens on port {port} of {address}")
        else:
            found.append(f"postgres_listen_addresses: {address} is no address of this host")
    return sorted(set(found))


def unbound(kind: int, place: Any, *, own: bool) -> str:
    """Return why nobody can listen there; a port that is the server's own is not tried."""
    host, port, *rest = place
    try:
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, 0 if own else port, *rest))
    except OSError as error:
        return str(error.strerror).lower()
    return ""


class Scratch:
    """A server with a data directory of its own that reads what is wanted."""

    def __init__(self, version: str, folder: Path) -> None:
        self.version = version
        self.folder = folder
        self.config = folder / "config"
        self.data = folder / "data"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program as the user that a server runs as."""
        return subprocess.run(
            command,
            user="postgres",
            group="postgres",
            extra_groups=self.groups(),
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.folder)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    @staticmethod
    def groups() -> list[int]:
        """Return the groups of the user, one of which may read the key of a certificate."""
        import pwd  # noqa: PLC0415 -- with its only use

        user = pwd.getpwnam("postgres")
        return os.getgrouplist("postgres", user.pw_gid)

    def prepare(self, present: Path, auto: Path, files: dict[str, str]) -> None:
        """Lay out what a server reads: the present configuration, and the wanted files in it.

        Args:
            present: The folder of the present configuration, if there is one.
            auto: What ALTER SYSTEM has written.
            files: Wanted texts, by the path below the folder.
        """
        self.folder.chmod(0o700)
        shutil.chown(self.folder, "postgres", "postgres")
        made = self.run(
            *(program(self.version, "initdb"), f"--pgdata={self.data}", "--no-sync", "--auth=peer"),
            *("--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"),
        )
        if made.returncode:
            raise PostgresError(f"a scratch server cannot be made: {(made.stderr or made.stdout).strip()}")
        if (present / "postgresql.conf").exists():
            shutil.copytree(present, self.config)
        else:
            self.config.mkdir()
            text = (self.data / "postgresql.conf").read_text(encoding="utf-8")
            (self.config / "postgresql.conf").write_text(
                f"{text}\ninclude_dir = 'conf.d'\n", encoding="utf-8"
            )
        if auto.exists():
            shutil.copy(auto, self.data / auto.name)
        (self.config / "conf.d").mkdir(exist_ok=True)
        (self.config / "pg_ident.conf").touch()
        for name, text in files.items():
            (self.config / name).write_text(text, encoding="utf-8")
        for path in (self.config, *self.config.rglob("*"), *self.data.glob("postgresql.auto.conf")):
            shutil.chown(path, "postgres", "postgres")

    def command(self, **options: str) -> list[str]:
        """Return the command that starts it, apart from the server that there is."""
        apart = {
            "config_file": f"{self.config}/postgresql.conf",
            "data_directory": str(self.data),
            "hba_file": f"{self.config}/pg_hba.conf",
            "ident_file": f"{self.config}/pg_ident.conf",
            "external_pid_file": "",
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "port": "5432",
            "log_line_prefix": "",
            "log_destination": "stderr",
            "logging_collector": "off",
            "lc_messages": "C",
            "archive_command": "",
            "archive_library": "",
            **options,
        }
        given = [word for name, value in apart.items() for word in ("-c", f"{name}={value}")]
        return [program(self.version, "postgres"), "-D", str(self.data), *given]

    def value(self, name: str) -> str:
        """Return a setting as a server would run it."""
        done = self.run(*self.command(), "-C", name)
        if done.returncode:
            raise PostgresError(done.stderr)
        return done.stdout.strip()

    def need(self) -> None:
        """Refuse what the memory of the host cannot hold."""
        memory = dict(
            line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        )
        wanted, there = int(self.value("shared_memory_size")), int(memory["MemTotal"].split()[0]) // 1024
        if wanted > there:
            raise PostgresError(
                f"FATAL: shared_buffers and the other settings ask for {wanted} MB of shared memory,"
                f" and the host has {there} MB"
            )
        if self.value("huge_pages") == "on":
            pages, has = int(self.value("shared_memory_size_in_huge_pages")), int(memory["HugePages_Total"])
            if pages > has:
                raise PostgresError(f"FATAL: huge_pages: {pages} are needed, and the host has {has}")

    @contextmanager
    def started(self) -> Iterator[Server]:
        """Start it and wait until it answers; raise what it prints where it does not."""
        log = self.folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                self.command(shared_buffers="1MB", huge_pages="off"),
                user="postgres",
                group="postgres",
                extra_groups=self.groups(),
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.folder)},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(5432, str(self.folder))
        try:
            deadline = time.monotonic() + READY_WITHIN_SECONDS
            while True:
                if process.poll() is not None:
                    raise PostgresError(log.read_text(encoding="utf-8", errors="replace"))
                try:
                    server.ask("SELECT 1")
                except PostgresError as error:
                    # One that refuses its rules ends while it is asked already.
                    waiting = re.search(WAITING, str(error).splitlines()[0])
                    if not waiting or time.monotonic() > deadline:
                        raise PostgresError(f"FATAL: {error}") from error
                    time.sleep(0.05)
                else:
                    break
            yield server
        finally:
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def try_out(version: str, present: Path, auto: Path, files: dict[str, str]) -> str:
    """Have a scratch server read what is wanted, and return what postgresql.conf has to say for it to count.

    Args:
        version: The major version.
        present: The folder of the present configuration.
        auto: What ALTER SYSTEM has written.
        files: Wanted texts, by the path below the folder.

    Returns:
        The text of postgresql.conf, or nothing where it may stay as it is.

    Raises:
        PostgresError: What the server would refuse, or what would win over the role's file.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-check-") as folder:
        scratch = Scratch(version, Path(folder))
        scratch.prepare(present, auto, files)
        try:
            scratch.need()
            with scratch.started() as server:
                return counted(scratch, server)
        except PostgresError as error:
            why = refusal(str(error), str(scratch.config), str(present))
            about = "rules (postgres_clients)" if "pg_hba.conf: " in why else "settings"
            raise PostgresError(f"PostgreSQL refuses these {about}: {why}") from error


def counted(scratch: Scratch, server: Server) -> str:
    """Let the role's file count, and return the text of postgresql.conf that this takes."""
    if errors := server.errors():
        raise PostgresError("".join(f"LOG: {error}\n" for error in errors))
    main = scratch.config / "postgresql.conf"
    text = ""
    read = {path for (path,) in server.ask("SELECT DISTINCT sourcefile FROM pg_file_settings")}
    if f"{scratch.config}/{OWN_FILE}" not in read or server.overriding(OWN_FILE):
        text = with_include(main.read_text(encoding="utf-8"))
        main.write_text(text, encoding="utf-8")
    if lines := server.overriding(OWN_FILE):
        raise PostgresError("FATAL: " + overridden(lines))
    return text


def overridden(lines: list[tuple[str, str, str]]) -> str:
    """Return in one line what wins over the role's file, and what to do."""
    told = ", ".join(f"{name} ({place}) {values}" for name, place, values in lines)
    names = "; ".join(f"ALTER SYSTEM RESET {name}" for name, place, _values in lines if "auto.conf" in place)
    advice = f"run {names}" if names else "take the lines out"
    return (
        f"what the role does not set wins over what it sets: {told}; {advice}, or set it so in the inventory"
    )
