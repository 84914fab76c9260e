"""The project: settings and the Celery app."""

from .celery import app

__all__ = ["app"]
