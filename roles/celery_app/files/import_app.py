"""Import the Celery app that `-A` names, with all its tasks, as a worker does.

Says in one line why it cannot. The exit status is 3 where that does not depend on the machine, else 4.
"""

import importlib
import importlib.util
import os
import re
import sys
import traceback

from celery import Celery
from celery.app import utils

CERTAIN = (ModuleNotFoundError, SyntaxError, NameError, AttributeError, KeyError)
SECRET = re.compile("PASS|SECRET|TOKEN|KEY|URL|BACKEND|DSN")


def fail(words: str, status: int) -> None:
    """End with one line that shows no secret."""
    for name, value in os.environ.items():
        if value and SECRET.search(name.upper()):
            words = words.replace(value, f"({name})")
    sys.exit(print(words, file=sys.stderr) or status)  # noqa: T201


def find_app(name: str) -> object:
    """Find it as `celery -A` does, which keeps to itself what is wrong in the module where it looks last."""
    try:
        return utils.find_app(name)
    except AttributeError:
        if hasattr(sys.modules.get(name), "__path__") and importlib.util.find_spec(f"{name}.celery"):
            importlib.import_module(f"{name}.celery")
        raise


name = sys.argv[1]
try:
    app = find_app(name)
    if not isinstance(app, Celery):
        fail(f"there is no Celery app behind `celery -A {name}`", 3)
    app.loader.import_default_modules()
    app.finalize()
except Exception as error:  # noqa: BLE001 -- whatever a project may raise
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, AttributeError) and frames[-1].filename == utils.__file__:
        fail(f"there is no Celery app behind `celery -A {name}`", 3)
    where = [
        f"{frame.filename}:{frame.lineno}"
        for frame in frames[2:]
        if frame.filename.startswith("/") and not frame.filename.startswith((sys.base_prefix, sys.prefix))
    ]
    reason = (str(error).splitlines() or [""])[0]
    fail(
        f"{type(error).__name__}: {reason}{f' ({where[-1]})' if where else ''}",
        3 if isinstance(error, CERTAIN) else 4,
    )
