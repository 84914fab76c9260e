"""How the rules read the URL of a broker or a result backend."""

import pytest
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.urls import (
    UrlError,
    parse,
    problems,
)


@pytest.mark.parametrize(
    "url",
    [
        "redis://data1",
        "redis://data1:6379/0",
        "rediss://app:a%40b%2Fc@[2001:db8::1]:6379/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/x@y",
        "redis://app:a:b@data1/0",
        "redis+socket:///run/redis/redis.sock",
        "db+postgresql://u:p%25@host/name",
        "sentinel://app:p@s1:26379/0;sentinel://app:p@s2:26379/0",
        "redis://:only-a-password@data1:6379/0",
    ],
)
def test_an_encoded_url_is_right(url: str) -> None:
    assert list(problems(url)) == []


@pytest.mark.parametrize("char", list("@/?#% []"))
def test_each_character_that_must_be_encoded_is_found(char: str) -> None:
    password = f"before{char}after"

    assert list(problems(f"redis://app:{password}@data1:6379/0")), password


def test_the_parts_of_a_url_are_decoded() -> None:
    url = parse("rediss://a%2Fb:c%40d@[2001:db8::1]:6380/0")

    assert (url.scheme, url.user, url.password, url.host, url.port) == (
        "rediss",
        "a/b",
        "c@d",
        "2001:db8::1",
        6380,
    )


@pytest.mark.parametrize("url", ["data1:6379", "redis://data1:99999/0", "redis://a]b/0", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UrlError):
        parse(url)
