"""What operators do on the page of a supervisor."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.operations import dead_letters
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.supervisor import fleet_status
from playwright.sync_api import (
    expect,
)
from redis import Redis
from support.processes.services import wait_for
from support.processes.supervisor_page import (
    Supervise,
    decision,
    letter,
    neighbour,
)


def test_a_pause_is_asked_for_done_and_written_down(
    supervise: Supervise, app: Celery, redis: Redis, open_page: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    opened = open_page(supervise())
    opened.verdict("Keeping up")
    opened.page.get_by_label("Your name").fill("anna")

    opened.page.get_by_role("button", name="Pause all").click()
    opened.agree("Cancel")
    assert redis.hlen("fleet:overrides") == 0
    opened.page.get_by_role("button", name="Pause all").click()
    opened.agree("Pause all")

    opened.verdict("Paused")
    expect(opened.page.locator("#why")).to_contain_text("paused by anna on the page")
    override = json.loads(str(redis.hget("fleet:overrides", "*")))
    assert (override["paused"], override["by"]) == (True, "anna on the page")
    assert "By anna on the page: all groups: paused" in caplog.text
    wait_for(lambda: "all groups: paused by anna on the page" in opened.decisions, "it is not listed")
    [record] = [one for one in fleet_status.decisions(connect(app), 20, "slow") if one.by]
    assert (record.group, record.reason) == ("*", "paused by anna on the page")
    opened.page.get_by_role("button", name="Resume all").click()
    opened.verdict("Keeping up")


def test_one_group_is_paused_and_its_bounds_are_changed(
    supervise: Supervise, redis: Redis, open_page: Any
) -> None:
    opened = open_page(supervise())
    opened.verdict("Keeping up")
    group = opened.page.locator("article", has=opened.page.get_by_role("heading", name="slow"))

    group.get_by_role("button", name="Pause slow").click()
    expect(group.get_by_role("button", name="Resume slow")).to_be_visible()
    group.get_by_text("Change bounds").click()
    expect(group.get_by_label("Maximum of slow")).to_have_value("3")
    group.get_by_label("Maximum of slow").fill("9")
    group.get_by_role("button", name="Set", exact=True).click()
    expect(opened.page.locator("#said")).to_have_text("slow: min_workers 0, max_workers 9")

    expect(group.locator(".reason")).to_contain_text("min_workers 0, max_workers 9 set by the page")
    override = Override.load("slow", str(redis.hget("fleet:overrides", "slow")))
    assert isinstance(override, Override)
    assert (override.paused, override.min_workers, override.max_workers) == (True, 0, 9)
    assert {override.by, override.pause.by, override.scale.by} == {"the page"}
    expect(group.locator(".legend .max_workers + b, .legend span", has_text="max_workers 9")).to_be_visible()
    group.get_by_label("Minimum of slow").fill("12")
    group.get_by_role("button", name="Set", exact=True).click()
    expect(opened.page.locator("#said")).to_have_text("min_workers 12 is more than max_workers 9")
    group.get_by_role("button", name="Reset to settings").click()
    expect(opened.page.locator("#said")).to_have_text("slow: bounds reset to the settings")
    # Chromium reports a refusal as an error of the network.
    assert len(opened.complaints) == 1
    assert "400" in opened.complaints.pop()


def test_a_worker_is_drained_and_called_back(supervise: Supervise, redis: Redis, open_page: Any) -> None:
    redis.zadd("fleet:workers", {"default-1@there:x": (time.time() + 60) * 1000})
    neighbour(redis, {})
    opened = open_page(supervise())

    opened.page.get_by_role("button", name="Drain default-1@there").click()
    opened.agree("Drain")
    wait_for(lambda: redis.smembers("fleet:drain") == {"default-1@there"}, "it is not told to drain")
    neighbour(redis, {"state": "draining", "why": "drained by an operator"})
    opened.page.get_by_role("button", name="Cancel the drain of default-1@there").click()

    wait_for(lambda: not redis.exists("fleet:drain"), "it is not called back")
    wait_for(lambda: "drain cancelled, wanted by the page" in opened.decisions, "it is not listed")


def test_dead_letters_are_sent_again_or_deleted_after_two_questions(
    supervise: Supervise, redis: Redis, app: Celery, open_page: Any
) -> None:
    redis.lpush("dead_letter:mails", *[letter(f"t{number}") for number in range(3)])
    redis.lpush("dead_letter:reports", letter("r", queue="reports"))
    opened = open_page(supervise())
    mails = opened.page.locator("#dead-letters > li", has_text="mails: 3 messages")

    mails.get_by_role("button", name="Delete").click()
    opened.agree("Delete", "Cancel")
    assert redis.llen("dead_letter:mails") == 3
    mails.get_by_role("button", name="Delete").click()
    opened.agree("Delete", "Delete for good")
    expect(mails).to_have_count(0)
    assert dead_letters.queues(connect(app)) == ["reports"]
    opened.page.get_by_role("button", name="Retry", exact=True).click()
    opened.agree("Retry")

    expect(opened.page.locator("#no-dead-letters")).to_be_visible()
    assert redis.llen("reports") == 1
    wait_for(lambda: "mails: 3 messages deleted by the page" in opened.decisions, "it is not listed")


def test_it_can_be_used_without_a_mouse(supervise: Supervise, redis: Redis, open_page: Any) -> None:
    for number in (1, 2):
        decision(redis, time.time() - 600 * number, here=1, want=1, reason=f"why {number}")
    opened = open_page(supervise())
    keyboard = opened.page.keyboard
    told = opened.page.locator("article", has_text="default").locator(".told")
    expect(told).to_contain_text("why 1")

    opened.page.get_by_role("button", name="Pause all").focus()
    keyboard.press("Enter")
    expect(opened.page.locator("#no")).to_be_focused()
    keyboard.press("Escape")
    for _ in range(20):
        keyboard.press("Tab")
        if opened.page.evaluate("document.activeElement.closest('.marks') !== null"):
            break
    keyboard.press("ArrowLeft")

    expect(told).to_contain_text("default 0 → 1, here starts 1: why 2")
    assert redis.hlen("fleet:overrides") == 0
