"""The step that takes messages from their lists into a worker's record."""

import hashlib

from celery_autoscaler.protocol.script import script

FETCH = script("consuming", "fetch")
FETCH_SHA = hashlib.sha1(FETCH.encode(), usedforsecurity=False).hexdigest()
