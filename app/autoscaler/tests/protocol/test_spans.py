"""Spans of time as people write them, and as they read them."""

from __future__ import annotations

import pytest
from celery_autoscaler.protocol.spans import MOST_SECONDS, read_span, span_words
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("3d", 259_200)]
)
def test_a_span_is_read(text: str, seconds: int) -> None:
    assert read_span(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "0m", "-5m", "1.5h", "30 m", "367d", "9" * 400 + "s", "\u0663m", "soon"]
)
def test_what_is_no_span_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no span of time: allowed is 30m, 2h, 1h30m or 3d"):
        read_span(text)


@given(st.text(max_size=20) | st.from_regex(r"([0-9]{1,4}[smhd]){1,4}", fullmatch=True))
def test_any_text_is_a_span_within_bounds_or_refused(text: str) -> None:
    try:
        seconds = read_span(text)
    except ValueError:
        return
    assert 0 < seconds <= MOST_SECONDS
    number, unit = span_words(seconds).split()
    assert int(number) > 0
    assert unit.rstrip("s") in {"second", "minute", "hour", "day"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 more second"), (45, "45 more seconds"), (90, "90 more seconds"), (719.5, "12 more minutes"),
        (1800, "30 more minutes"), (3600, "1 more hour"), (7199.5, "120 more minutes"),
        (100_000, "28 more hours"), (86400, "1 more day"), (500_000, "6 more days"),
    ],
)  # fmt: skip
def test_what_is_left_is_shown_and_never_less(seconds: float, words: str) -> None:
    assert span_words(seconds, "more") == words
