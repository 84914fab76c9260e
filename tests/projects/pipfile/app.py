"""An app whose requirements are in categories, and whose task calls a console script."""

import importlib.util
import subprocess

import stamps


def answer() -> str:
    """Return what the requirements are, as a task would."""
    printed = subprocess.run(["print-letter"], capture_output=True, text=True, check=True).stdout.strip()
    color = importlib.util.find_spec("ink") is not None
    return f"{stamps.ON} {printed} {color}"
