"""`manage.py orders TRACE`: list orders."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from orders.models import Order


class Command(BaseCommand):
    """List the task that placed each order, and its confirmation."""

    def add_arguments(self, parser: CommandParser) -> None:
        """Ask which."""
        parser.add_argument("trace")

    def handle(self, *_args: Any, **options: Any) -> None:
        """List them."""
        for order in Order.objects.filter(trace=options["trace"]).order_by("pk"):
            self.stdout.write(f"{order.task_id} {order.confirmation}".strip())
