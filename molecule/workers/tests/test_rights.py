"""What workers that lose nothing still may not do."""

from typing import Any

import pytest
from redis.exceptions import NoPermissionError
from support.hosts.deployed_app import redis

testinfra_hosts = ["ansible://worker1"]


@pytest.mark.parametrize("command", ["CONFIG GET *", "FLUSHALL", "FLUSHDB", "KEYS *", "SCRIPT FLUSH"])
def test_the_app_may_not_administer_redis(command: str) -> None:
    client: Any = redis()

    with pytest.raises(NoPermissionError):
        client.execute_command(*command.split())
