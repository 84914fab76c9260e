"""Workers of Celery Fleet: how they are launched and proved."""

import os
import sys

# Started by the path of one of our files, Python looks for everybody's modules among ours first: for the
# standard library's `http`, for an app's `settings`. pathlib would double a launcher's start.
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH100, PTH120
sys.path[:] = [entry for entry in sys.path if not f"{os.path.abspath(entry)}{os.sep}".startswith(_HERE)]  # noqa: PTH100
