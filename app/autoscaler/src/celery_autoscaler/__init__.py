"""Workers of Celery Fleet: how they are launched and proved."""
