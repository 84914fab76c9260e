"""Workers of Celery Fleet: how they are launched and proved."""

import sys
from pathlib import Path

# Started by the path of one of our files, Python looks for everybody's modules among ours first: for the
# standard library's `http`, for an app's `settings`.
_HERE = Path(__file__).absolute().parent
sys.path[:] = [entry for entry in sys.path if not Path(entry).absolute().is_relative_to(_HERE)]
