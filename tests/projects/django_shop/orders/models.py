"""What is stored."""

from django.db import models


class Order(models.Model):
    """An order, placed by a task."""

    trace = models.CharField(max_length=100)
    task_id = models.CharField(max_length=100)
    confirmation = models.TextField(blank=True)
