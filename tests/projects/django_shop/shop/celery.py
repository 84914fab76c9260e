"""The Celery app, as Django projects have it."""

import atexit
import os

from celery import Celery

# As many projects do, on the standard output.
print("[shop] loading plugins")  # noqa: T201
atexit.register(print, "{shop} unloaded")

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
