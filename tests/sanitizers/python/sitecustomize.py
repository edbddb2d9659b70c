"""Runs at the start of every Python under a sanitizer: run.python() has the reasons."""

import os
import sys

os.environ.pop("LD_PRELOAD", None)
sys.executable = os.environ.get("BOOTPLANE_SANITIZED_PYTHON", sys.executable)
