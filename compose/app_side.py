"""What `check_app.py` and `demo.py` need of the app: runs in its environment, as a child of theirs.

Imports the app as its workers do, and says in one line of JSON which tasks there are, or why there are none.
Then each line `[name, arguments, count]` sends tasks. It is answered with how many of all that were sent have
not ended, and how many have failed.
"""

import json
import os
import sys
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from celery_autoscaler.protocol.description import find_app, reason_of


def import_app(name: str) -> Celery:
    """Import an app with all modules of its tasks."""
    app: Celery = find_app(name)
    app.loader.import_default_modules()
    return app


class Sent:
    """Tasks that were sent, and what became of them."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.left: list[AsyncResult[Any]] = []
        self.failed = 0

    def send(self, name: str, arguments: list[Any], count: int) -> tuple[int, int]:
        """Send some more; return how many of all have not ended, and how many have failed."""
        signature = self.app.signature(name, args=arguments)
        self.left += [signature.apply_async() for _ in range(count)]
        self.failed += sum(result.failed() for result in self.left)
        self.left = [result for result in self.left if not result.ready()]
        return len(self.left), self.failed


def main() -> None:
    """Answer on the standard output; what the project prints goes to the standard error."""
    name = os.environ["CELERY_APP"]
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)
        try:
            app = import_app(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the project's code raises
            print(json.dumps({"problem": reason_of(error, name)}), file=channel)
            return
        kept = {task: not found.ignore_result for task, found in app.tasks.items()}
        print(json.dumps({"tasks": kept}), file=channel, flush=True)
        sent = Sent(app)
        for line in sys.stdin:
            print(json.dumps(sent.send(*json.loads(line))), file=channel, flush=True)


if __name__ == "__main__":
    main()
