"""What workers print before they die is masked in the log, and not told at all beyond the host."""

from __future__ import annotations

import pytest
from celery_autoscaler.protocol.masking import exception_type, mask

ENVIRONMENT = {
    "DB_PASSWORD": "hunter22",
    "CELERY_BROKER_URL": "redis://:pw@r/0",
    "API_KEY": "abc",
    "HOME": "/root",
}


@pytest.mark.parametrize(
    ("words", "masked"),
    [
        ("cannot log in with hunter22 in /root", "cannot log in with (DB_PASSWORD) in /root"),
        ("Error: redis://:pw@r/0 is away", "Error: (CELERY_BROKER_URL) is away"),
        ("postgresql://app:s3cret@db/x", "postgresql://***@db/x"),
        ("password=s3cret host=db", "password=*** host=db"),
        ("{'db_password': 's3 cret', 'a': 1}", "{'db_password': ***, 'a': 1}"),
        ('token: "x y", next', "token: ***, next"),
        ("the alphabet begins with abc", "the alphabet begins with abc"),
    ],
)
def test_secrets_are_masked(words: str, masked: str) -> None:
    assert mask(words, ENVIRONMENT) == masked


TRACEBACK = ["Traceback (most recent call last):", '  File "/app/x.py", line 3, in <module>', "    login(p)"]


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([*TRACEBACK, "psycopg.OperationalError: password hunter22 is wrong"], "psycopg.OperationalError"),
        ([*TRACEBACK, "ValueError"], "ValueError"),
        ([*TRACEBACK, "KeyError: 'x'", "a word more"], "KeyError"),
        ([*TRACEBACK, "no type: hunter22"], ""),
        (["hunter22"], ""),
        (["  indented", "hunter22"], ""),
        ([], ""),
    ],
)
def test_only_the_type_of_an_exception_is_told(lines: list[str], kind: str) -> None:
    assert exception_type(lines) == kind
