"""Power cuts: clones of a disk's image, taken in one instant while it is written."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fakes.filesystems import Disk


class Cuts:
    """Takes clones of a disk; each with what is known of the moment."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.taken: list[tuple[Path, str]] = []
        self._lock = threading.Lock()

    def cut(self, moment: str) -> None:
        with self._lock:
            copy = self.disk.image.with_name(f"cut-{len(self.taken)}")
            self.taken.append((copy, moment))
        self.disk.snapshot(copy)

    @contextlib.contextmanager
    def while_it(self, moment: str, most: int, chance: random.Random) -> Iterator[None]:
        """Up to *most* clones while the body runs."""
        stop = threading.Event()

        def run() -> None:
            for _ in range(most):
                if stop.wait(chance.uniform(0, 0.02)):
                    return
                self.cut(moment)

        with ThreadPoolExecutor(1) as pool:
            cutting = pool.submit(run)
            try:
                yield
            finally:
                stop.set()
            cutting.result()
