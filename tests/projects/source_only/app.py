"""An app with a requirement that has no wheel."""

import envelopes


def answer() -> str:
    """Return what the requirements are, as a task would."""
    return envelopes.SIZE
