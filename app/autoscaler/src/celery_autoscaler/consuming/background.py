"""Threads of ours beside the main thread of a worker."""

import signal

from kombu.utils.compat import detect_environment


def leave_signals() -> None:
    """Leave all signals to the main thread; to be called first in a thread.

    Python's handlers run there, and it wakes up for them from a task or a wait only if the system gives it
    the signal. The system gives one to any thread, most often if another one has just come.
    """
    # A greenlet is the main thread.
    if detect_environment() == "default":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
