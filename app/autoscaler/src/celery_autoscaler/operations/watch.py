"""Watch mode: when the project's files change, this host's workers are replaced one after the other.

For a desk, where the sources are mounted into the container of the supervisor. The files are looked at by
name, time and size, for bind mounts of other systems than Linux tell of no change by themselves.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from celery_autoscaler.operations import rollout
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.identity import worker_name
from celery_autoscaler.protocol.lease import leased_workers

if TYPE_CHECKING:
    from celery_autoscaler.supervisor.loop import Supervisor

logger = logging.getLogger(__name__)

# Seconds between two looks; a change counts once nothing has moved from one to the next.
LOOK_SECONDS = 1.0
IGNORED = frozenset({"__pycache__", "node_modules"})

Snapshot = dict[str, tuple[int, int]]


def files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the files below a folder, without hidden ones and what Python writes itself."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in IGNORED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from files(Path(entry.path))
        elif not entry.name.endswith((".pyc", "~")):
            yield entry


def snapshot(folders: Iterable[Path]) -> Snapshot:
    """Return the time of change, in ns, and the size of each file."""
    found = {}
    for folder in folders:
        for entry in files(folder):
            try:
                status = entry.stat()
            except OSError:
                continue
            found[entry.path] = (status.st_mtime_ns, status.st_size)
    return found


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the paths that came, went or changed."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


class Watch(threading.Thread):
    """Replaces the workers of one host whenever files below some folders have changed."""

    def __init__(
        self, supervisor: "Supervisor", folders: Iterable[Path], read_again: Callable[[], bool]
    ) -> None:
        """Watch for a supervisor.

        Args:
            supervisor: Who has the workers.
            folders: Where the files are.
            read_again: Has the supervisor read app and settings again; returns whether they can be used.
        """
        super().__init__(name="watch", daemon=True)
        self.supervisor = supervisor
        self.folders = tuple(folders)
        self.read_again = read_again
        self.stopped = threading.Event()

    def run(self) -> None:
        """Watch until stopped."""
        used = last = snapshot(self.folders)
        while not self.stopped.wait(LOOK_SECONDS):
            now = snapshot(self.folders)
            paths = changed(used, now)
            if paths and now == last:
                logger.info("%s changed: replacing the workers", named(paths))
                used = now
                self._replace()
            last = now

    def _replace(self) -> None:
        if not self.read_again():
            logger.error("The workers keep the previous sources")
            return
        try:
            broker = connect(self.supervisor.app)
            names = {worker_name(worker_id) for worker_id in leased_workers(broker.client, broker.keys)}
            ours = {name for name in names if name.endswith(f"@{self.supervisor.host}")}
            rollout.replace_workers(broker, ours, logger.info)
        except (RedisError, rollout.RolloutError) as error:
            logger.error("The workers keep the previous sources: %s", error)  # noqa: TRY400
        except Exception:
            # The next change is another try.
            logger.exception("The workers keep the previous sources")


def named(paths: list[str]) -> str:
    """Return the first of some paths, and how many more there are."""
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
