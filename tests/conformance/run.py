"""Run the integration tests of Celery's source distribution against our worker and against Celery's own.

The tests of the pinned version come from PyPI into ``.cache/conformance`` and are stored nowhere else. Each
pool runs twice, on a Redis of its own: with a plain worker and with ours, both in processes of their own. A
test whose outcome differs runs again on both sides before it counts as a difference. The exit status is 1
if a test passes with a plain worker and does not with ours.

Usage: ``python tests/conformance/run.py [--pools prefork,threads] [ARGUMENT OF PYTEST...]``
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import venv
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import docker
from support.processes.services import RedisServer, remove_orphans

TOP = Path(__file__).resolve().parents[2]
HERE = TOP / "tests/conformance"
CACHE = TOP / ".cache/conformance"
MODULES = {"plain": "celery", "ours": "celery_autoscaler.launch"}
# How many times more a test runs that differs.
RERUNS = 2
# Files of tests that run beside all others.
LONGEST = ("test_canvas", "test_tasks")


class Servers(dict[tuple[str, int], RedisServer]):
    """The servers by kind of worker and part of the tests, each started when it is asked for."""

    def __init__(self, client: docker.DockerClient, stack: ExitStack) -> None:
        super().__init__()
        self._client = client
        self.stack = stack

    def __missing__(self, key: tuple[str, int]) -> RedisServer:
        self[key] = RedisServer(self._client)
        self.stack.callback(self[key].kill)
        return self[key]


@dataclass(frozen=True)
class Leg:
    """The suite against one kind of worker with one pool."""

    kind: str
    pool: str

    def run(
        self, suite: Path, redis: RedisServer, name: str, arguments: list[str]
    ) -> subprocess.Popen[bytes]:
        """Start pytest on Celery's tests; what it prints goes to a file."""
        files = {
            "CONFORMANCE_LOG": self.file(name, "worker.log"),
            "CONFORMANCE_OUTCOMES": self.file(name, "json"),
        }
        for file in files.values():
            file.unlink(missing_ok=True)
        redis.flush()
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("CELERY_", "PYTHON"))},
            **{key: str(file) for key, file in files.items()},
            "CONFORMANCE_MODULE": MODULES[self.kind],
            "CONFORMANCE_POOL": self.pool,
            "PATH": f"{CACHE}/venv/bin{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (HERE, suite, TOP / "app/autoscaler/src"))),
            "REDIS_HOST": redis.host,
            "REDIS_PORT": str(redis.port),
            "TEST_BACKEND": redis.url,
            "TEST_BROKER": redis.url,
        }
        command = [
            f"{CACHE}/venv/bin/python",
            "-m",
            "pytest",
            "-p",
            "celery.contrib.pytest",
            "-p",
            "external_worker",
            "-p",
            "no:cacheprovider",
        ]
        command += ["--color=no", "-ra", "--tb=short", *arguments]
        with self.file(name, "pytest.log").open("wb") as log:
            return subprocess.Popen(command, cwd=suite, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def outcomes(self, name: str) -> dict[str, str]:
        """Return what became of each test.

        Raises:
            SystemExit: pytest ended before it wrote that down.
        """
        try:
            found: dict[str, str] = json.loads(self.file(name, "json").read_text())
        except FileNotFoundError:
            log = self.file(name, "pytest.log")
            sys.exit(f"{self} did not come to its end:\n{log.read_text(errors='replace')[-2000:]}")
        return found

    def file(self, name: str, suffix: str) -> Path:
        """Return the file of one run."""
        return CACHE / f"{self.pool}-{self.kind}-{name}.{suffix}"

    def __str__(self) -> str:
        """Say which it is."""
        return f"{self.pool}, {self.kind}"


@dataclass
class Comparison:
    """One pool, with both kinds of workers."""

    pool: str
    outcomes: dict[str, dict[str, str]] = field(default_factory=dict)
    flaky: list[str] = field(default_factory=list)
    """Tests that differed once and did not when they ran again."""

    def tests(self) -> list[str]:
        """Return the names of all tests."""
        return sorted({test for found in self.outcomes.values() for test in found})

    def outcome(self, kind: str, test: str) -> str:
        """Return what became of a test."""
        return self.outcomes[kind].get(test, "did not run")

    def differences(self) -> list[str]:
        """Return the tests that ended otherwise."""
        return [test for test in self.tests() if self.outcome("plain", test) != self.outcome("ours", test)]

    def faults(self) -> list[str]:
        """Return the tests that only a plain worker passes."""
        return [test for test in self.differences() if self.outcome("plain", test) == "passed"]


def say(line: str) -> None:
    """Print a line at once: a run takes a while."""
    print(line, flush=True)  # noqa: T201


def pinned_celery() -> str:
    """Return Celery's version and hashes, as pip reads them, from the pinned requirements."""
    found = re.search(
        r"^celery==.*\\\n(?: +--hash=\S+(?: \\)?\n)+", (TOP / "requirements.txt").read_text(), re.M
    )
    assert found, "requirements.txt pins no celery"
    return found[0]


def fetch_suite() -> Path:
    """Download Celery's source distribution of the pinned hash; return the folder of its tests."""
    pinned = pinned_celery()
    version = pinned.split("==")[1].split()[0]
    suite = CACHE / f"celery-{version}"
    if (suite / "t/integration").is_dir():
        return suite
    CACHE.mkdir(parents=True, exist_ok=True)
    requirement = CACHE / "celery.txt"
    requirement.write_text(pinned)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pip += [
        "--no-deps",
        "--no-binary",
        "celery",
        "--require-hashes",
        "-r",
        str(requirement),
        "-d",
        str(CACHE),
    ]
    subprocess.run(pip, check=True)
    with tarfile.open(CACHE / f"celery-{version}.tar.gz") as archive:
        # Its tests alone: the package itself is the installed one.
        wanted = (f"celery-{version}/t/", f"celery-{version}/pyproject.toml")
        members = [member for member in archive.getmembers() if member.name.startswith(wanted)]
        archive.extractall(CACHE, members=members, filter="data")
    return suite


def parts_of(suite: Path) -> list[list[str]]:
    """Return the files of the tests in parts that take about as long."""
    files = sorted(f"t/integration/{file.name}" for file in (suite / "t/integration").glob("test_*.py"))
    longest = [[file] for file in files if Path(file).stem in LONGEST]
    return [*longest, [file for file in files if [file] not in longest]]


def make_environment() -> None:
    """Create or refresh the environment of Celery's tests from the pinned requirements."""
    requirements = HERE / "requirements.txt"
    stamp, wanted = CACHE / "venv/made-from", hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    venv.create(CACHE / "venv", clear=True, with_pip=True)
    pip = [f"{CACHE}/venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    subprocess.run([*pip, "-r", str(requirements)], check=True)
    stamp.write_text(wanted)


def run_both(
    comparison: Comparison, suite: Path, servers: Servers, name: str, parts: Sequence[list[str]]
) -> None:
    """Run parts of the tests with both kinds of workers, all side by side, and note what became of them."""
    began = time.monotonic()
    running = []
    for number, arguments in enumerate(parts):
        for kind in MODULES:
            leg, part = Leg(kind, comparison.pool), f"{name}-{number}"
            process = leg.run(suite, servers[kind, number], part, arguments)
            servers.stack.callback(process.terminate)
            running.append((leg, part, process))
    for leg, part, process in running:
        # 0: all passed, 1: some did not. Else pytest itself failed, and what it says is no comparison.
        if process.wait() not in (0, 1):
            log = leg.file(part, "pytest.log").read_text(errors="replace")
            sys.exit(f"{leg}: pytest ended with {process.returncode}:\n{log[-2000:]}")
        comparison.outcomes.setdefault(leg.kind, {}).update(leg.outcomes(part))
    for kind in MODULES:
        ended = [leg.outcomes(part) for leg, part, _ in running if leg.kind == kind]
        found = [outcome for outcomes in ended for outcome in outcomes.values()]
        said = ", ".join(f"{number} {outcome}" for outcome, number in Counter(found).most_common())
        say(f"{comparison.pool}, {kind} ({name}): {len(found)}: {said}; {time.monotonic() - began:.0f} s")


def compare(pool: str, suite: Path, servers: Servers, parts: Sequence[list[str]]) -> Comparison:
    """Run the suite with one pool; run again what differs."""
    comparison = Comparison(pool)
    run_both(comparison, suite, servers, "first", parts)
    for number in range(1, RERUNS + 1):
        differing = [test for test in comparison.differences() if "::" in test]
        if not differing:
            break
        say(f"{pool}: {len(differing)} tests differ; they run again ({number} of {RERUNS})")
        run_both(comparison, suite, servers, f"again-{number}", [differing])
        comparison.flaky += sorted(set(differing) - set(comparison.differences()))
    return comparison


def report(comparisons: list[Comparison]) -> None:
    """Print the outcome of each kind of test, and each difference."""
    for comparison in comparisons:
        say(f"\n{comparison.pool}\n{'plain':>12} {'ours':>12} {'tests':>6}")
        pairs = Counter(
            (comparison.outcome("plain", test), comparison.outcome("ours", test))
            for test in comparison.tests()
        )
        for (plain, ours), number in pairs.most_common():
            say(f"{plain:>12} {ours:>12} {number:>6}")
        for test in comparison.differences():
            plain, ours = comparison.outcome("plain", test), comparison.outcome("ours", test)
            say(f"differs: {test}: plain {plain}, ours {ours}")
        for test in comparison.flaky:
            say(f"differed once, not again: {test}")
        for test in comparison.tests():
            if comparison.outcome("plain", test) == comparison.outcome("ours", test) == "failed":
                say(f"fails with both: {test}")


def main() -> int:
    """Compare as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pools", default="prefork,threads", help="pools to compare (default: %(default)s)")
    options, arguments = parser.parse_known_args()
    suite = fetch_suite()
    make_environment()
    client = docker.from_env()
    remove_orphans(client)
    with ExitStack() as stack:
        servers = Servers(client, stack)
        parts = [arguments] if arguments else parts_of(suite)
        comparisons = [compare(pool, suite, servers, parts) for pool in options.pools.split(",")]
    report(comparisons)
    faults = [f"{comparison.pool}: {test}" for comparison in comparisons for test in comparison.faults()]
    say(f"\n{len(faults)} tests pass with a plain worker and do not with ours")
    say(f"What each run printed is in {CACHE.relative_to(TOP)}/")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
