"""Failures of tasks, recorded as workers do it."""

from __future__ import annotations

import json
import time
from typing import Any

from celery import Celery
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.failures import Failure, Kind, Report

WORKER = "default-1@here:1"
PAY = Kind("shop.pay", "pay.PaymentError", "shop/pay.py", "charge")
SHIP = Kind("shop.ship", "KeyError", "shop/ship.py", "send")


def message(name: str, **properties: Any) -> bytes:
    """Return a message as a worker keeps it."""
    headers = {"id": name, "task": "shop.pay", "retries": 2, "expires": "2020-01-01", "redelivered": True}
    info = {"exchange": "", "routing_key": "celery", "queue": "celery", "redelivery_count": 2}
    return json.dumps(
        {
            "body": "W10=",
            "headers": headers,
            "content-type": "application/json",
            "properties": {"delivery_tag": "1.0", "delivery_info": info, **properties},
        }
    ).encode()


def fail(app: Celery, *names: str, kind: Kind = PAY, release: str = "r1", **more: Any) -> None:
    """Record failures of tasks as a worker does, each told alone."""
    broker = connect(app)
    broker.client.hset(broker.keys.worker(WORKER), "state", "running")
    for name in names:
        failure = Failure(
            **vars(kind), line=41, text="card declined", id=name, queue="celery", worker="default-1@here",
            release=release, at=time.time(), arguments="(1,)", traceback="Traceback:\n  boom\nPaymentError",
        )  # fmt: skip
        raw = more.get("raw", message(name))
        number = time.time_ns()
        Report(number, release, {kind.id: 1}, {kind.id: failure}, [(kind.id, failure, raw)]).send(
            broker.client, broker.keys, WORKER
        )
