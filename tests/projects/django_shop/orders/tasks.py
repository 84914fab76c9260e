"""What workers do."""

import time

from celery import Task, shared_task
from django.template.loader import render_to_string

from .models import Order

# There is no such table before the first migrations.
PLACED_BEFORE = Order.objects.count()


@shared_task(bind=True, ignore_result=True)
def place(self: Task, trace: str, seconds: float = 0.0) -> None:
    """Take some time, then store an order and have it confirmed."""
    time.sleep(seconds)
    order = Order.objects.create(trace=trace, task_id=self.request.id)
    confirm.delay(order.pk)


@shared_task(ignore_result=True)
def confirm(order_id: int) -> None:
    """Write to the customer."""
    order = Order.objects.get(pk=order_id)
    order.confirmation = render_to_string("confirmation.txt", {"order": order})
    order.save()
