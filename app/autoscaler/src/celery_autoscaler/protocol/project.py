"""The project that this process belongs to, of several on a host or a broker.

Its name is in the names of keys and units. The process of a project on its own knows none.
"""

import os

VARIABLE = "CELERY_APP_PROJECT"
# The name of a project that has no other one.
DEFAULT_PROJECT = "celery"


def project_name() -> str:
    """Return the name of the project; nothing for one without a name."""
    return os.environ.get(VARIABLE, "")


def unit_prefix() -> str:
    """Return what the names of the project's units begin with."""
    return "-".join(filter(None, ("celery", project_name())))
