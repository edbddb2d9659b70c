"""Chunks that were shown to nobody because their digest differed: what is told of them, and when a source is wrong.

Invariants: each chunk of each source is told once until it was right or its source was found wrong; the fault of a
source that has no alternative may have been on the way, so it is asked once more before it is taken for wrong.

Left to others: comparing (core.lru), what follows for the source (sources).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

REMEMBERED = 256


class Refusal(NamedTuple):
    """A chunk that was shown to nobody."""

    blob: str
    chunk: int
    source: str
    expected: str
    got: str
    at: float  # Unix time

    def sentence(self) -> str:
        return (
            f"refused chunk {self.chunk} of blob {self.blob} from {self.source}: "
            f"expected {self.expected}, got {self.got}"
        )


class Refusals:
    """Not thread-safe: the filler calls it under its lock. *recent* are the last ones, newest at the end."""

    def __init__(self) -> None:
        self.recent: deque[Refusal] = deque(maxlen=REMEMBERED)
        self._suspects: set[tuple[str, int, str]] = set()  # (sha256, chunk, source) that was wrong once

    def met(self, refusal: Refusal, *, others: bool) -> tuple[bool, bool]:
        """(is it news, is its source wrong?). *others*: another source may have the blob right."""
        suspect = refusal.blob, refusal.chunk, refusal.source
        is_news = suspect not in self._suspects
        if is_news:
            if len(self._suspects) >= REMEMBERED:
                self._suspects.clear()
            self._suspects.add(suspect)
            self.recent.append(refusal)
        is_wrong = others or not is_news
        if is_wrong:
            self._suspects.discard(suspect)
        return is_news, is_wrong
