"""What goes on beside a block of a test: samples that are taken, tasks that are sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def beside(run: Callable[[threading.Event], object]) -> Iterator[None]:
    """Run a function in a thread; the event is set when the block ends. What it raises, the block raises."""
    ended = threading.Event()
    with ThreadPoolExecutor(max_workers=1) as executor:
        running = executor.submit(run, ended)
        try:
            yield
        finally:
            ended.set()
        running.result()


@contextmanager
def sampling(look: Callable[[], object], pause: float = 0.1) -> Iterator[None]:
    """Look again and again until the block ends, with a pause of a number of seconds before each."""

    def run(ended: threading.Event) -> None:
        while not ended.wait(pause):
            look()

    with beside(run):
        yield


@contextmanager
def repeating(act: Callable[[], object], rate: float) -> Iterator[None]:
    """Do something a number of times a second until the block ends; what is late is made up for."""

    def run(ended: threading.Event) -> None:
        begin, times = time.monotonic(), 0
        while not ended.wait(max(0.0, begin + times / rate - time.monotonic())):
            act()
            times += 1

    with beside(run):
        yield
