"""The versions of Celery, kombu and redis-py that a worker may have."""

from importlib import import_module

Version = tuple[int, int]

# By package: the oldest that workers run with, and the newest that the tests run with.
SUPPORTED: dict[str, tuple[Version, Version]] = {
    "celery": ((5, 4), (5, 7)),
    "kombu": ((5, 3), (5, 7)),
    "redis": ((5, 0), (8, 1)),
}


def installed(package: str) -> Version:
    """Return the version of a package that is imported, as far as it matters here.

    The package itself names it. To read its metadata would take a twentieth of a worker's start.
    """
    major, minor = import_module(package).__version__.split(".")[:2]
    return int(major), int("".join(character for character in minor if character.isdigit()) or 0)


def too_old() -> str | None:
    """Return a line about what is too old for a worker that loses no task, if anything is."""
    for name, (oldest, _) in SUPPORTED.items():
        if (found := installed(name)) < oldest:
            return (
                f"{name} {dotted(found)} is too old for this worker: allowed is {dotted(oldest)} or later "
                "(celery_app_plain_workers: true runs plain workers of Celery 5.2 or later)"
            )
    return None


def untested() -> list[str]:
    """Return a line about each version that is newer than what this release was tested with."""
    return [
        f"{name} {dotted(found)} is newer than the versions that this worker was tested with "
        f"({dotted(oldest)} to {dotted(newest)})"
        for name, (oldest, newest) in SUPPORTED.items()
        if (found := installed(name)) > newest
    ]


def dotted(version: Version) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))
