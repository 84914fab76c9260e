"""What the modules say alike of the way to a Redis server."""

from __future__ import annotations


class ModuleDocFragment:
    """What ``extends_documentation_fragment`` takes."""

    DOCUMENTATION = r"""
options:
  socket:
    description: Unix socket of the server.
    type: path
    required: true
  username:
    description: User to log in as.
    type: str
    required: true
  passwords:
    description: Passwords to try, the present one first.
    type: list
    elements: str
    required: true
"""

    # Of modules that ask the sentinels too.
    SENTINELS = r"""
options:
  sentinel_port:
    description: Port of the sentinels.
    type: int
    default: 26379
  authority:
    description: File of the authority's certificate, where the sentinels speak TLS.
    type: path
    default: ""
  sentinel_master:
    description: Name under which they know the primary.
    type: str
    required: true
"""
