"""What runs inside a worker. It needs nothing but Celery."""
