"""What the modules say alike of the Python and the machine of a host."""

from __future__ import annotations


class ModuleDocFragment:
    """What ``extends_documentation_fragment`` takes."""

    DOCUMENTATION = r"""
options:
  python:
    description: Version of Python on the host, such as C(3.13).
    type: str
    required: true
  machine:
    description: Machine type of the host, such as C(x86_64).
    type: str
    required: true
"""
