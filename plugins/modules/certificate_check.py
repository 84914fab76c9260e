#!/usr/bin/python
"""Ansible module: refuse a certificate that no client would take, before it is copied to a host."""

from __future__ import annotations

import ssl
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: certificate_check
short_description: Refuse a certificate that no client would take, before it is copied to a host
description:
  - Lets a server that shows the certificate and a client that trusts the authority greet each other in
    memory. So the key has to fit, the authority must have issued the certificate, and it must be valid today.
  - Runs where the files are, which is the controller. Changes nothing.
options:
  variable: {description: Name of the variable that names the files., type: str, required: true}
  authority: {description: Certificate of the authority., type: path, required: true}
  certificate: {description: The certificate., type: path, required: true}
  key: {description: Its key., type: path, required: true}
"""

EXAMPLES = """
- name: Check the certificate
  certificate_check:
    variable: redis_tls_files
    authority: files/authority.pem
    certificate: files/data1.pem
    key: files/data1.key
  delegate_to: localhost
"""


def problem(authority: str, certificate: str, key: str) -> str:
    """Return why no client would take the certificate, in one line; nothing if one does."""
    for path in (authority, certificate, key):
        try:
            Path(path).read_bytes()
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key with a passphrase would be asked for it at each start.
        server.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError, OSError) as error:
        return f"{key} is no key of {certificate} ({reason(error)})"
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Under which names the clients know the server is theirs to know.
    client.check_hostname = False
    try:
        client.load_verify_locations(authority)
    except (ssl.SSLError, ValueError, OSError) as error:
        return f"{authority} is no certificate of an authority ({reason(error)})"
    try:
        greet(client, server)
    except ssl.SSLError as error:
        return f"a client that trusts {authority} refuses {certificate} ({reason(error)})"
    return ""


def greet(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Let both sides greet each other; raises what one of them refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while sides:
        for side in list(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)


def reason(error: Exception) -> str:
    """Return what OpenSSL says, without where in its sources."""
    return getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "variable": {"type": "str", "required": True},
            "authority": {"type": "path", "required": True},
            "certificate": {"type": "path", "required": True},
            "key": {"type": "path", "required": True, "no_log": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    if found := problem(params["authority"], params["certificate"], params["key"]):
        module.fail_json(msg=f"{params['variable']}: {found}")
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
