"""The example project as its first user meets it."""

import os
import subprocess
import sys

LOOK = """
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.supervisor.settings_check import check_app
from tasks.celery import app
for finding in check_app(describe(app, "app")):
    print(finding)
"""
SERVERS = {"CELERY_BROKER_URL": "redis://localhost/0", "CELERY_RESULT_BACKEND": "redis://localhost/1"}


def test_the_example_has_no_setting_to_look_at() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | SERVERS | {"DB_HOST": "h", "DB_NAME": "n", "DB_USER": "u", "DB_PASSWORD": "p"},
    )

    assert done.stdout == ""
