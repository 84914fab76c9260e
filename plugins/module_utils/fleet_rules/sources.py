"""What the role celery_app asks of the variables that say where a project and its requirements come from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from .model import Host, Inventory, NotKnownError
from .text import shown

Texts = Iterator[tuple[str, str]]

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?")
ALLOWED = {
    "celery_app_sdists_image": "an image such as debian:13",
    "celery_app_sdists_packages": "packages of Debian, such as libldap-dev",
}
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
SCHEMES = ("https", "http", "file")


def chosen(host: Host, _inventory: Inventory) -> Texts:
    """Requirements, extras and groups are named, without versions."""
    for variable in (
        "celery_app_extras",
        "celery_app_dependency_groups",
        "celery_app_overrides",
        "celery_app_sdists",
    ):
        try:
            given = host.texts(variable, [])
        except NotKnownError:
            continue
        for name in given:
            if not NAME.fullmatch(name):
                yield variable, f"{shown(name)} is no name; allowed: letters, digits, '.', '_' and '-'"


def indexes(host: Host, _inventory: Inventory) -> Texts:
    """Passwords of indexes have a place of their own, which is hidden."""
    for number, index in enumerate(host.records("celery_app_indexes", []), 1):
        try:
            url = urlsplit(index.text("url"))
        except NotKnownError:
            continue
        if "@" in url.netloc:
            yield (
                "celery_app_indexes",
                f"element {number}: url holds a user or a password; allowed: username and password beside it",
            )
        elif url.scheme not in SCHEMES:
            yield (
                "celery_app_indexes",
                f"element {number}: url is {shown(index.text('url'))}; allowed: the URL of a simple index",
            )


def own_python(host: Host, _inventory: Inventory) -> Texts:
    """The hash of an archive is one, and of an archive."""
    given = host.text("celery_app_python_sha256", "")
    if given and not SHA256.fullmatch(given):
        yield "celery_app_python_sha256", f"is {shown(given)}; allowed: 64 hexadecimal digits"
    elif given and not host.text("celery_app_python", ""):
        yield "celery_app_python_sha256", "there is no archive; allowed: with celery_app_python"


def build_image(host: Host, _inventory: Inventory) -> Texts:
    """The image for builds becomes part of a Dockerfile, and so do its packages."""
    for variable, allowed, given in (
        ("celery_app_sdists_image", IMAGE, [host.text("celery_app_sdists_image", "")]),
        ("celery_app_sdists_packages", PACKAGE, host.texts("celery_app_sdists_packages", [])),
    ):
        for name in filter(None, given):
            if not allowed.fullmatch(name):
                yield variable, f"{shown(name)} is no name; allowed: {ALLOWED[variable]}"


RULES = (chosen, indexes, own_python, build_image)
