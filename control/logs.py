"""Logging of the control processes: one line an event to standard error, UTC, with the part that speaks.

Libraries speak at WARNING and above. Left to others: what is worth a line; secrets never are.
"""

from __future__ import annotations

import logging
import time

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def install(level: int = logging.INFO) -> None:
    formatter = logging.Formatter(FORMAT, "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("bootplane").setLevel(level)
