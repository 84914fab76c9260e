"""Check .env and the environment before anything is started or replaced; print the settings in force.

All findings are printed, one a line. Needs Python alone: it runs before there is an image.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from stack_settings import BUILT_WITH, CHECKOUT, RULES, Settings, check_values, defaults, ports

# What Compose and Docker's client read for themselves.
FOREIGN = ("COMPOSE_", "DOCKER_", "BUILDKIT_")


def read_env_file(path: Path, findings: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the settings of an .env file and their places."""
    values: dict[str, str] = {}
    places: dict[str, str] = {}
    if not path.exists():
        return values, places
    for line_number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        place = f"{path.name}:{line_number}"
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = re.fullmatch(r"(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*)", text)
        if found is None:
            findings.append(f"{place}: '{text.split('=')[0][:40]}' is no setting: allowed is NAME=value")
            continue
        values[found[1]], places[found[1]] = unquoted(found[2]), place
    return values, places


def unquoted(value: str) -> str:
    """Return a value without its quotes, or without the comment behind it."""
    quoted = re.fullmatch(r"""(['"])(.*?)\1\s*(#.*)?""", value)
    return quoted[2] if quoted else re.sub(r"\s+#.*", "", value).strip()


def unknown_names(places: Mapping[str, str], known: Mapping[str, str], used: str) -> Iterator[str]:
    """Find names in .env that nothing reads."""
    for name, place in places.items():
        if name in known or name.startswith(FOREIGN) or re.search(rf"\$\{{?{name}\b", used):
            continue
        close = difflib.get_close_matches(name.upper(), known, 1, 0.7)
        hint = f"did you mean {close[0]}?" if close else ".env.example names them all"
        yield f"{place}: {name} is no setting of this stack: {hint}"


def compose_files(settings: Settings) -> str:
    """Return the text of the Compose files beside compose.yaml: they may use settings of their own."""
    names = [*settings["COMPOSE_FILE"].split(":"), *map(str, CHECKOUT.glob("*compose.override.y*ml"))]
    paths = [CHECKOUT / name for name in names if name]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())


def docker(*arguments: str) -> list[str]:
    """Return the lines that Docker's client prints."""
    done = subprocess.run(["docker", *arguments], check=False, capture_output=True, text=True)  # noqa: S607
    return done.stdout.splitlines()


def project_name(settings: Settings) -> str:
    """Return what Compose calls this stack."""
    name = settings["COMPOSE_PROJECT_NAME"] or CHECKOUT.name
    return re.sub(r"[^-_a-z0-9]", "", name.lower()) or "default"


def check_owner(settings: Settings) -> Iterator[str]:
    """Refuse the stack of another checkout that has the same name."""
    name, label = project_name(settings), "com.docker.compose.project"
    form = '{{ .Label "com.docker.compose.project.working_dir" }}'
    folders = set(docker("ps", "--all", "--filter", f"label={label}={name}", "--format", form)) - {
        str(CHECKOUT),
        "",
    }
    for folder in sorted(folders):
        # One that was moved or deleted left its data to this one.
        if (Path(folder) / "compose.yaml").exists():
            yield (
                f"the stack {name} belongs to {folder}: use it there, or remove it there with "
                "`make compose-down`, or give this one a COMPOSE_PROJECT_NAME and ports of its own in .env"
            )


def check_ports(settings: Settings) -> Iterator[str]:
    """Refuse ports that another process has."""
    if not os.environ.get("DOCKER_HOST", "unix:").startswith("unix:"):
        return
    form = '{{ .Names }} {{ .Label "com.docker.compose.project" }}'
    for name, port in ports(settings):
        if is_free(port):
            continue
        owners = [
            line.partition(" ") for line in docker("ps", "--filter", f"publish={port}", "--format", form)
        ]
        if any(project == project_name(settings) for _, _, project in owners):
            continue
        owner = f"the container {owners[0][0]}" if owners else "another program"
        yield settings.wrong(name, f"a free port: {owner} has {port}")


def is_free(port: int) -> bool:
    """Tell whether a port of the loopback address can be had."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except PermissionError:
            return True
        except OSError:
            return False
    return True


def line_of(finding: str) -> int:
    """Return the line of .env that a finding is about; those of no line come last."""
    found = re.match(r"\.env:(\d+): ", finding)
    return int(found[1]) if found else sys.maxsize


def check_machine() -> int:
    """Check what the environment and .env say; print the settings in force."""
    findings: list[str] = []
    known = defaults()
    values, places = read_env_file(CHECKOUT / ".env", findings)
    given = values | {name: os.environ[name] for name in {*known, *values, *RULES} & os.environ.keys()}
    places = {name: "the environment" if name in os.environ else place for name, place in places.items()}
    settings = Settings(given, places, known)
    findings += unknown_names(places, known | dict.fromkeys(RULES, ""), compose_files(settings))
    findings += check_values(settings)
    findings += check_owner(settings)
    if not findings:
        findings += check_ports(settings)
    for finding in sorted(findings, key=line_of):
        print(f"compose: {finding}", file=sys.stderr)  # noqa: T201
    if not findings:
        for name in (*BUILT_WITH, "COMPOSE_PROFILES"):
            print(f"{name}={settings[name]}")  # noqa: T201
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(check_machine())
