"""Play histories one after the other; exit with 1 and a short script when a promise is broken."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import docker

from histories.checker import check
from histories.play import Played, play
from histories.report import Tally, excerpt
from histories.script import Script, Wishes, draw
from histories.servers import Servers
from histories.shrink import shrink


def main(arguments: list[str]) -> int:
    """Play until the time is over or a promise is broken."""
    given = parse(arguments)
    # Ending this ends the workers as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", flush=True)  # noqa: T201
    wishes = Wishes(
        given.seconds, given.tasks, given.faults, given.pool or Wishes.pools, frozenset(given.without)
    )
    tally = Tally()
    folder = Path(given.keep or tempfile.mkdtemp(prefix="histories-"))
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * given.minutes
    failed = 0
    with closing(docker.from_env()) as client, Servers(client) as servers:
        scripts = iter([Script.load(given.replay)] if given.replay else [])
        number = 0
        while True:
            script = next(scripts, None) if given.replay else draw(seed + number, wishes)
            if script is None or (number and time.monotonic() > deadline):
                break
            number += 1
            here = folder / str(script.seed)
            shutil.rmtree(here, ignore_errors=True)
            here.mkdir()
            played = play(servers, script, here)
            violations = check(played.history)
            tally.add(played, violations)
            print(tally.line(script, played, violations), flush=True)  # noqa: T201
            if violations:
                failed += 1
                report(servers, script, played, here, runs=given.shrink)
                if failed >= given.failures:
                    break
            else:
                shutil.rmtree(here)
    print(tally.table(), flush=True)  # noqa: T201
    return 1 if failed else 0


def report(servers: Servers, script: Script, played: Played, folder: Path, runs: int) -> None:
    """Keep what is needed to look into a failure, and shrink its script."""
    violations = check(played.history)
    script.save(folder / "script.jsonl")
    played.history.save(folder / "history.json")
    (folder / "violations.txt").write_text("".join(f"{one}\n" for one in violations))
    (folder / "excerpt.txt").write_text(excerpt(played.history, violations))
    for one in violations[:12]:
        print(f"    {one}", flush=True)  # noqa: T201
    print(f"    kept in {folder}", flush=True)  # noqa: T201
    if runs:
        broken = {one.broken for one in violations}
        attempts = folder / "shrinking"
        attempts.mkdir()

        def fails(smaller: Script) -> bool:
            shutil.rmtree(attempts)
            attempts.mkdir()
            again = check(play(servers, smaller, attempts).history)
            print(f"    {len(smaller.steps)} steps: {len(again)} broken", flush=True)  # noqa: T201
            return any(one.broken in broken for one in again)

        shrunken = shrink(script, fails, runs)
        shrunken.save(folder / "shrunken.jsonl")
        became = f"{len(script.steps)} steps became {len(shrunken.steps)}"
        print(f"    {became}: {folder}/shrunken.jsonl", flush=True)  # noqa: T201


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="histories", description=__doc__)
    parser.add_argument(
        "--seed", type=int, help="of the first history; by default a fresh one, which is printed"
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="how long new histories are begun")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long tasks are sent in one history")
    parser.add_argument("--tasks", type=float, default=150.0, help="tasks a second")
    parser.add_argument("--faults", type=float, default=1.0, help="faults a second")
    parser.add_argument("--pool", action="append", help="only with this pool; may be given several times")
    parser.add_argument(
        "--without", action="append", default=[], help="leave out a kind of tasks or of faults"
    )
    parser.add_argument("--replay", type=Path, help="play the script in this file")
    parser.add_argument(
        "--shrink", type=int, default=12, help="how often a failed script is played again, smaller"
    )
    parser.add_argument("--failures", type=int, default=1, help="end after this number of failed histories")
    parser.add_argument("--keep", help="folder for what failed; by default a new one")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
