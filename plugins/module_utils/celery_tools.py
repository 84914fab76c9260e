"""Programs that a bundle is made with on the controller, each with what is locked for it alone."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from ansible_collections.celery_fleet.platform.plugins.module_utils.bundle_error import BundleError

# What pip needs to reach an index; a build sees no other variable of the user's.
NETWORK = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
COMPLETE = "complete"
COLOR = re.compile("\x1b\\[[0-9;]*m")


class ToolError(BundleError):
    """A program has failed: the line that says why, and the file with everything it has said."""

    def __init__(self, line: str, output: str, log: Path) -> None:
        """Keep the output for those who look for more in it."""
        super().__init__(f"{line} (the whole output is in {log})")
        self.line = line
        self.output = output


def find_python(version: str, preferred: str = "") -> str | None:
    """Return a Python of this version that runs: the preferred one, or one of this machine's own."""
    for candidate in filter(None, (preferred, sys.executable, shutil.which(f"python{version}"))):
        command = [candidate, "-I", "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    return None


def bare_environment(home: str) -> dict[str, str]:
    """Return the environment of a program that runs a project's code: nothing of the user's."""
    return {"PATH": os.environ["PATH"], "HOME": home, "LANG": "C.UTF-8"}


def network_environment() -> dict[str, str]:
    """Return where pip's settings are, for a build that fetches what it builds."""
    config, netrc = Path("~/.config").expanduser(), Path("~/.netrc").expanduser()
    found = {"XDG_CONFIG_HOME": os.environ.get("XDG_CONFIG_HOME", str(config))}
    if netrc.exists():
        found["NETRC"] = str(netrc)
    wanted = {*NETWORK, *(name.lower() for name in NETWORK), "NETRC"}
    return found | {n: v for n, v in os.environ.items() if n in wanted or n.startswith("PIP_")}


def run(
    command: list[str], environment: Mapping[str, str] | None, log: Path, secrets: Iterable[str] = ()
) -> str:
    """Return what a program prints.

    Args:
        command: The program with its arguments.
        environment: Its environment; without one the user's own.
        log: Where its whole output goes if it fails.
        secrets: What is never shown.

    Raises:
        ToolError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 0:
        return done.stdout
    output = f"{done.stdout}{done.stderr}"
    for secret in secrets:
        output = output.replace(secret, "****")
    log.unlink(missing_ok=True)
    log.touch(mode=0o600)
    log.write_text(f"{' '.join(command)}\n{output}", encoding="utf-8")
    raise ToolError(line_that_matters(output), output, log)


def line_that_matters(output: str) -> str:
    """Return the line of a program's output that says why it has failed."""
    lines = [line.strip() for line in COLOR.sub("", output).splitlines() if line.strip()]
    # What a build has printed stands in pip's output, before this line.
    if "[end of output]" in lines[1:]:
        return lines[lines.index("[end of output]") - 1]
    # pip ends with what it could not do, and apt; uv begins with it, and says more of it afterwards.
    for mark, position in (("E: ", -1), ("ERROR: ", -1), ("error: ", 0), ("Error: ", 0), ("× ", 0)):
        if found := [line for line in lines if line.startswith(mark)]:
            return found[position].removeprefix(mark)
    return lines[-1] if lines else "it failed and said nothing"


def environment_of_tools(lock: Path, cache: Path, python: str = "") -> Path:
    """Return the Python of a virtual environment with all that a lock file names, built once.

    Args:
        lock: What is in it, pinned with hashes.
        cache: Where such environments are kept.
        python: The Python to make it of; without one that of this program.
    """
    python = python or sys.executable
    key = hashlib.sha256(f"{python}\n{sys.version}\n".encode() + lock.read_bytes()).hexdigest()[:12]
    folder = cache / "tools" / f"{lock.stem}-{key}"
    if not (folder / COMPLETE).exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        log = cache / "failed.log"
        run([python, "-m", "venv", "--without-pip", str(folder)], None, log)
        options = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile", "--quiet")
        pip("install", *options, "--requirement", str(lock), log=log, python=folder / "bin/python")
        (folder / COMPLETE).touch()
    return folder / "bin/python"


def pip(
    *arguments: str,
    log: Path,
    python: Path | None = None,
    code: str = "",
    secrets: Iterable[str] = (),
) -> None:
    """Run the controller's pip.

    Args:
        arguments: Its command and arguments.
        log: Where its whole output goes if it fails.
        python: The Python of another environment that it works in.
        code: ``local`` if it runs code of a project, which gets nothing of the user's environment, and
            ``remote`` if that code is fetched from an index first.
        secrets: What is never shown.

    Raises:
        ToolError: pip failed; its own last error is the message.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command += [f"--python={python}"] if python is not None else []
    with tempfile.TemporaryDirectory() as home:
        environment: dict[str, str] | None = None
        if code:
            environment = bare_environment(home)
            environment |= network_environment() if code == "remote" else {"PIP_CONFIG_FILE": os.devnull}
        run([*command, *arguments], environment, log, secrets)


def one_off(arguments: list[str], log: Path, settings: Mapping[str, str]) -> str:
    """Return what a program prints that needs neither the network nor anything of the user's."""
    with tempfile.TemporaryDirectory() as home:
        return run(arguments, {**bare_environment(home), **settings}, log)
