"""What the role monitoring asks of its variables."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from .model import Host, Inventory
from .supervisor import NEAR
from .text import shown

Texts = Iterator[tuple[str, str]]

TIME = re.compile(r"(?=.)(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?", re.ASCII)


def alertmanager(host: Host, _inventory: Inventory) -> Texts:
    """Alertmanager knows where alerts go."""
    given = host.table("monitoring_alertmanager")
    for key in ("route", "receivers"):
        if key not in given:
            yield "monitoring_alertmanager", f"has no {key}; allowed: with route and receivers"


def supervisors(host: Host, inventory: Inventory) -> Texts:
    """Prometheus reaches the supervisors."""
    for worker in inventory.of("workers"):
        http = worker.text("celery_autoscaler_http")
        if worker.flag("celery_app_supervised") and worker.name != host.name and NEAR.match(http):
            yield (
                "celery_autoscaler_http",
                f"is {shown(http)} on {worker.name}: Prometheus on {host.name} cannot reach it; "
                "allowed: an address that it can, with a token",
            )


def times(host: Host, _inventory: Inventory) -> Texts:
    """Prometheus reads the times."""
    for name in ("monitoring_retention", "monitoring_scrape_interval", "monitoring_alert_after"):
        given = host.text(name)
        if not TIME.fullmatch(given) and (given or name != "monitoring_alert_after"):
            yield name, f"is {shown(given)}; allowed: a time such as 15d, 1h30m, 15s, 500ms"


def addresses(host: Host, _inventory: Inventory) -> Texts:
    """Who may ask the exporters has addresses."""
    for given in host.texts("monitoring_addresses"):
        try:
            ipaddress.ip_network(given, strict=False)
        except ValueError:
            yield (
                "monitoring_addresses",
                f"{shown(given)} is no address; allowed: 192.0.2.1, 192.0.2.0/24, 2001:db8::1, 2001:db8::/64",
            )


def exporters(host: Host, inventory: Inventory) -> Texts:
    """Exporters log in as users of their own."""
    if not inventory.groups.get("monitoring"):
        return
    if "redis" in host.groups and not any(
        user.values.get("preset") == "monitor" for user in host.records("redis_users")
    ):
        yield (
            "redis_users",
            "has no user with the preset monitor, which the exporter needs; allowed: with one",
        )
    if "postgres" in host.groups and not host.has("postgres_monitor_password"):
        yield "postgres_monitor_password", "is not set; the exporter needs it"


MAIN_RULES = (alertmanager, times, supervisors)
EXPORTER_RULES = (exporters, addresses)
