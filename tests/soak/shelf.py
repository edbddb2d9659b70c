"""What readers may ask for: the files of the newest catalogue, and those that had their names a short while ago."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from tests.soak.content import File

FOLLOWS_S = 90.0  # a rack whose region was gone may serve an older catalogue for so long


class Shelf:
    def __init__(self, files: list[File]) -> None:
        self._lock = threading.Lock()
        self._files = files
        self._replaced: list[tuple[float, File]] = []  # (when, the file that had the name before)

    def files(self) -> list[File]:
        return self._files

    def valid(self, file: File) -> list[File]:
        """*file* and those that had its name until a short while ago: the rack may not have heard of it yet."""
        since = time.monotonic() - FOLLOWS_S
        with self._lock:
            others = [old for until, old in self._replaced if old.name == file.name and until > since]
            now = [new for new in self._files if new.name == file.name]  # it may have been replaced meanwhile
        return list(dict.fromkeys([file, *now, *others]))

    def everything(self) -> list[File]:
        with self._lock:
            return self._files + [old for _, old in self._replaced]

    def replace(self, new: Mapping[int, File]) -> None:
        """The files of these numbers."""
        with self._lock:
            self._replaced += [(time.monotonic(), self._files[n]) for n in new]
            self._files = [new.get(n, file) for n, file in enumerate(self._files)]
