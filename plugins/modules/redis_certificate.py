#!/usr/bin/python
"""Ansible module: have a server show the certificate that lies on the host."""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    RedisError,
    answer,
    connect,
    login_arguments,
)

DOCUMENTATION = """
module: redis_certificate
short_description: Have a Redis server show the certificate that lies on the host
description:
  - Connects and compares what is shown with the file. A server reads its files again without a restart. A
    sentinel cannot; for it this only tells whether it has to be restarted.
options:
  address:
    description: Address at which the server or the sentinel listens.
    type: str
    required: true
  port:
    description: Its TLS port.
    type: int
    required: true
  certificate:
    description: File of the certificate.
    type: path
    required: true
  key:
    description: File of its key.
    type: path
    required: true
  authority:
    description: File of the authority's certificate.
    type: path
    required: true
  socket:
    description: Unix socket of the server; none for a sentinel.
    type: path
extends_documentation_fragment: [celery_fleet.platform.redis_login]
"""

EXAMPLES = """
- name: Show the certificate
  redis_certificate:
    address: 127.0.0.1
    port: 6379
    certificate: /etc/redis/tls/certificate.pem
    key: /etc/redis/tls/key.pem
    authority: /etc/redis/tls/authority.pem
    socket: /run/redis/redis-server.sock
    username: operator
    passwords: ["{{ operator_password }}"]
"""

RETURN = """
"""

BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def fingerprint(text: str) -> str:
    """The SHA-256 fingerprint of the first certificate of a file."""
    found = BLOCK.search(text)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0])).hexdigest() if found else "none"


def shown(address: str, port: int) -> str:
    """The fingerprint of the certificate that is shown."""
    try:
        return fingerprint(ssl.get_server_certificate((address, port), timeout=10))
    except OSError:
        return "none"


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare, have it read again, report."""
    params = module.params
    file = Path(params["certificate"])
    if module.check_mode and not file.exists():  # the first run would have written it
        return {"changed": True}
    wanted = fingerprint(file.read_text(encoding="utf-8"))
    before = shown(params["address"], params["port"])
    if before == wanted:
        return {"changed": False}
    if params["socket"] and not module.check_mode:
        server = connect(params["socket"], params["username"], params["passwords"])
        names = {"tls-cert-file": "certificate", "tls-key-file": "key", "tls-ca-cert-file": "authority"}
        server.do(("CONFIG", "SET", *[word for name, of in names.items() for word in (name, params[of])]))
        if shown(params["address"], params["port"]) != wanted:
            raise RedisError(f"port {params['port']} does not show {params['certificate']}")
    return {
        "changed": True,
        "diff": {
            "before_header": "certificate, shown",
            "after_header": "certificate, wanted",
            "before": f"SHA-256 {before}\n",
            "after": f"SHA-256 {wanted}\n",
        },
    }


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "certificate": {"type": "path", "required": True},
            "key": {"type": "path", "required": True},
            "authority": {"type": "path", "required": True},
            **login_arguments(socket_required=False),
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
