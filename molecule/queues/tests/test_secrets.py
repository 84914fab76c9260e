"""What others can see on the hosts after all that."""

from support.hosts.scenario import Scenario
from support.hosts.secrets_scan import assert_no_secrets
from testinfra.host import Host

testinfra_hosts = ["ansible://worker1"]


def test_no_secret_can_be_seen(host: Host) -> None:
    assert_no_secrets(host, Scenario("queues").secrets.values())
