"""Import the Celery app that `-A` names, with all its tasks, as a worker does.

Says in one line why it cannot. The exit status is 3 where that does not depend on the machine, else 4.

On a host it goes on: options and queues of the worker groups are checked as `celery worker` does, the
supervisor's settings are read as the supervisor does, and what `celery-autoscaler check` finds in all of
them is the answer.
The arguments are the app, a JSON file that says what there is (`groups`, `plain`, `settings`), and the word
that the answer begins with.
"""

import difflib
import importlib
import importlib.util
import json
import os
import re
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
from celery import Celery
from celery.app import utils

CERTAIN = (ModuleNotFoundError, SyntaxError, NameError, AttributeError, KeyError)
SECRET = re.compile("PASS|SECRET|TOKEN|KEY|URL|BACKEND|DSN")
PREFIX = "CELERY_WORKER"


def fail(words: str, status: int) -> NoReturn:
    """End with one line that shows no secret."""
    for name, value in os.environ.items():
        if value and SECRET.search(name.upper()):
            words = words.replace(value, f"({name})")
    if len(sys.argv) > 3:
        # What the app prints when it ends may come after the line below.
        print(f"\n{sys.argv[3]}{json.dumps({'problem': words})}", flush=True)  # noqa: T201
    sys.exit(print(words, file=sys.stderr) or status)  # noqa: T201


def find_app(name: str) -> object:
    """Find it as `celery -A` does, which keeps to itself what is wrong in the module where it looks last."""
    try:
        return utils.find_app(name)
    except AttributeError:
        if hasattr(sys.modules.get(name), "__path__") and importlib.util.find_spec(f"{name}.celery"):
            importlib.import_module(f"{name}.celery")
        raise


def import_app(name: str) -> Celery:
    """Import the app and its tasks, or end with the reason."""
    try:
        app = find_app(name)
        if isinstance(app, Celery):
            app.loader.import_default_modules()
            app.finalize()
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever a project may raise
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
    if not isinstance(app, Celery):
        fail(f"there is no Celery app behind `celery -A {name}`", 3)
    return app


def wrong_options(app: Celery, group: Mapping[str, Any]) -> Iterator[str]:
    """Yield what `celery worker` would refuse among the options of a group."""
    from celery.bin.base import CLIContext  # noqa: PLC0415 -- only on hosts
    from celery.bin.worker import worker  # noqa: PLC0415

    known = {parameter.name: parameter for parameter in worker.params}
    if group["pool"] in {"gevent", "eventlet"} and importlib.util.find_spec(group["pool"]) is None:
        yield f"pool: {group['pool']} is not among the locked requirements"
    context = click.Context(
        worker, obj=CLIContext(app=app, no_color=True, workdir=None), auto_envvar_prefix=PREFIX
    )
    for name, value in group.get("options", {}).items():
        parameter = known.get(name.lower())
        if parameter is None:
            close = difflib.get_close_matches(name.lower().replace("-", "_"), known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"options: '{name}' is no option of celery worker{hint}"
            continue
        os.environ[f"{PREFIX}_{name.upper()}"] = str(value)
        try:
            parameter.type_cast_value(context, parameter.value_from_envvar(context))
        except click.UsageError as error:
            yield f"options: {name}={value!r} is wrong: {error.format_message().rpartition(': ')[2]}"


def wrong_queues(app: Celery, group: Mapping[str, Any]) -> Iterator[str]:
    """Yield the queues that the app lacks, where a worker would not make them and not start."""
    known = app.amqp.queues
    for queue in () if app.conf.task_create_missing_queues else group.get("queues", []):
        if queue not in known:
            close = difflib.get_close_matches(queue, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            names = ", ".join(sorted(known))
            yield f"queues: the app has no queue '{queue}' (task_queues){hint}; it has {names}"


def wrong_address(address: str) -> str:
    """Return why the supervisor cannot listen where its page is wanted; nothing if it can."""
    if address.startswith("unix:"):
        return ""
    host = address.rpartition(":")[0].strip("[]")
    try:
        # Any port: the wanted one may be that of the supervisor that runs.
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return f"celery_autoscaler_http: {host} is no address of this host ({error.strerror})"
    return ""


def find_problems(app: Celery, path: Path | None) -> list[dict[str, str]]:
    """Return what `celery-autoscaler check` finds, or end with what the supervisor refuses."""
    check = importlib.import_module("celery_autoscaler.supervisor.settings_check")
    settings = importlib.import_module("celery_autoscaler.settings")
    try:
        read = settings.load(app, str(path)) if path else None
    except settings.SettingsError as error:
        fail(error.message, 4)
    if read and (problem := wrong_address(read.http)):
        fail(problem, 4)
    found = check.check_settings(app, read)
    return [finding.as_dict() for finding in found]


def main() -> None:
    """Import the app; on a host also check what goes with it."""
    app = import_app(sys.argv[1])
    if len(sys.argv) > 2:
        described = Path(sys.argv[2])
        proof = json.loads(described.read_text(encoding="utf-8"))
        wrong = [
            f"celery_app_worker_groups: {group['name']}: {problem}"
            for group in proof.get("groups", [])
            for problem in (*wrong_queues(app, group), *wrong_options(app, group))
        ]
        if wrong:
            fail("; ".join(wrong), 4)
        path = described.parent / proof["settings"] if "settings" in proof else None
        answer = [] if proof.get("plain") else find_problems(app, path)
        print(f"\n{sys.argv[3]}{json.dumps(answer)}")  # noqa: T201


main()
