"""What the page shows of tasks that failed, and another run of them."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery_autoscaler.protocol.failures import Kind
from playwright.sync_api import expect
from redis import Redis
from support.made_up_failures import PAY, SHIP, fail
from support.processes.services import wait_for
from support.processes.supervisor_page import Supervise

EVIL = "<img src=x onerror=document.title='evil'>"


def test_kinds_are_shown_looked_at_and_run_again(
    supervise: Supervise, redis: Redis, app: Celery, open_page: Any
) -> None:
    fail(app, "a", kind=SHIP)
    fail(app, "b", "c", release="r2")
    opened = open_page(supervise())
    kinds = opened.page.locator("#failure-kinds > li")

    expect(kinds).to_have_count(2)
    expect(opened.page.locator("#no-failures")).to_be_hidden()
    expect(kinds.first.locator("b")).to_have_text(f"{PAY.task}: {PAY.exception}")
    expect(kinds.first).to_contain_text("at shop/pay.py:41 in charge; since release r2: card declined")
    expect(kinds.first.locator("pre")).to_be_hidden()
    kinds.first.get_by_role("button", name="View").click()
    expect(kinds.first.locator("pre")).to_contain_text("PaymentError")
    kinds.first.get_by_role("button", name="Retry").click()
    opened.agree("Retry")

    expect(opened.page.locator("#said")).to_have_text("2 failed tasks sent again")
    assert redis.llen("celery") == 2
    wait_for(
        lambda: "2 failed tasks sent again by the page: shop.pay" in opened.decisions, "it is not listed"
    )
    kinds.first.get_by_role("button", name="Retry").click()
    opened.agree("Retry")
    expect(opened.page.locator("#said")).to_have_text("0 failed tasks sent again; 2 were sent again before")
    assert redis.llen("celery") == 2


def test_no_markup_comes_from_a_failure(supervise: Supervise, app: Celery, open_page: Any) -> None:
    fail(app, f"a{EVIL}", kind=Kind(EVIL, EVIL, EVIL, EVIL), release=EVIL)

    opened = open_page(supervise())
    opened.page.get_by_role("button", name="View").click()

    expect(opened.page.locator("#failure-kinds pre")).to_contain_text(f"a{EVIL}")
    assert opened.page.locator("main img").count() == 0
    assert "evil" not in opened.page.title()
