"""The example Celery project of Celery Fleet; run it with `celery -A tasks worker`."""

from tasks.celery import app

__all__ = ["app"]
