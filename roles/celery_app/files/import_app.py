"""Import the Celery app that `-A` names, with all its tasks, as a worker does.

Says in one line why it cannot. The exit status is 3 where that does not depend on the machine, 5 where the
database does not have what the app reads (yet), else 4.

On a host it goes on: options and queues of the worker groups are checked as `celery worker` does.
The arguments are the app, a JSON file that says what there is (`groups`, `plain`, and in `beats` the hosts
that run beat), and the word that the answer begins with.
"""

import difflib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click
from celery import Celery
from celery_autoscaler.protocol.description import find_app, masked, reason_of

CERTAIN = (ModuleNotFoundError, SyntaxError, NameError, AttributeError, KeyError)
# As every driver names them (PEP 249), and what Django and SQLAlchemy raise where a row is missing.
DATABASE = {"DatabaseError", "ObjectDoesNotExist", "NoResultFound"}
PREFIX = "CELERY_WORKER"
SUPPORTED = "celery_autoscaler.consuming.supported"


def fail(words: str, status: int, kind: str = "problem") -> NoReturn:
    """End with one line that shows no secret: a problem of the import, or what is `refused` of a variable."""
    words = masked(words)
    if len(sys.argv) > 3:
        # What the app prints when it ends may come after the line below.
        print(f"\n{sys.argv[3]}{json.dumps({kind: words})}", flush=True)  # noqa: T201
    sys.exit(print(words, file=sys.stderr) or status)  # noqa: T201


def comes_from_the_database(error: BaseException | None) -> bool:
    """Tell whether an error, or what it was raised for, is one of a database."""
    while error is not None:
        if DATABASE & {kind.__name__ for kind in type(error).__mro__}:
            return True
        error = error.__cause__ or error.__context__
    return False


def status_of(error: BaseException) -> int:
    """Return the exit status that says what an error depends on."""
    if comes_from_the_database(error):
        return 5
    return 3 if isinstance(error, CERTAIN) else 4


def import_app(name: str) -> Celery:
    """Import the app and its tasks, or end with the reason."""
    try:
        app = find_app(name)
        if isinstance(app, Celery):
            app.loader.import_default_modules()
            app.finalize()
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever a project may raise
        fail(reason_of(error, name), status_of(error))
    if not isinstance(app, Celery):
        fail(f"there is no Celery app in {name}", 3)
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


# Those of which two, on two hosts, send each task twice; RedBeat's is derived from one, and locks.
LOCKLESS = ("celery.beat", "django_celery_beat.", "sqlalchemy_celery_beat.")
LOCKING = "redbeat."


def two_schedulers(app: Celery, hosts: list[str]) -> tuple[str, str]:
    """Return the level and the text of what the app's scheduler does on several hosts, if anything."""
    from celery.beat import Service  # noqa: PLC0415 -- only on hosts
    from celery.utils.imports import load_extension_class_names, symbol_by_name  # noqa: PLC0415

    if len(hosts) < 2:
        return "", ""
    name: Any = app.conf.beat_scheduler or Service.scheduler_cls
    aliases: Any = load_extension_class_names("celery.beat_schedulers")
    found = symbol_by_name(name, dict(aliases))
    if any(f"{kind.__module__}.".startswith(LOCKING) for kind in found.__mro__):
        return "", ""
    which = f"celery_app_beat: {', '.join(hosts)}: {found.__module__}.{found.__qualname__}"
    allowed = "allowed: one host, or redbeat.RedBeatScheduler as beat_scheduler"
    if f"{found.__module__}.".startswith(LOCKLESS):
        return "error", f"{which} takes no lock, so each host would send every task; {allowed}"
    return "warning", f"{which} has to take a lock, or each host sends every task; {allowed}"


# What is said of workers that are none of ours.
PLAIN = {
    "level": "warning",
    "text": "celery_app_plain_workers: the workers are plain Celery's; no guarantee about workers and "
    "scaling holds for them (docs/explanation/guarantees.md, 1 to 23)",
}


def main() -> None:
    """Import the app; on a host also check what goes with it."""
    app = import_app(sys.argv[1])
    if len(sys.argv) > 2:
        proof = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
        wrong = [
            f"celery_app_worker_groups: {group['name']}: {problem}"
            for group in proof.get("groups", [])
            for problem in (*wrong_queues(app, group), *wrong_options(app, group))
        ]
        if wrong:
            fail("; ".join(wrong), 4, "refused")
        if not proof.get("plain") and (old := importlib.import_module(SUPPORTED).too_old()):
            fail(old, 3)
        answer = [PLAIN] if proof.get("plain") else []
        level, text = two_schedulers(app, proof.get("beats", []))
        if level == "error":
            fail(text, 4, "refused")
        if level:
            answer.append({"level": level, "text": text})
        print(f"\n{sys.argv[3]}{json.dumps(answer)}")  # noqa: T201


main()
