"""What the tests of the eviction order share: a rack's cache under names and given times, and an LRU to compare with.

Every segment here is one block of the disk: a small file, or the second segment of a file of 4 MiB and a little.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections import OrderedDict
from collections.abc import Iterable

from bootplane.core.blob import Blob, Pin
from bootplane.core.lru import Cache
from tests.core.caches import MIB, SEGMENT

BLOCK = 4096
S = 10**9  # in ns
DAY = 86400 * S
REUSE = 60 * S
NAMES: dict[str, str] = {}  # sha256 -> name


def digest_of(name: str) -> str:
    sha256 = hashlib.sha256(name.encode()).hexdigest()
    NAMES[sha256] = name
    return sha256


class Rack:
    """A cache of *blocks*. Names that begin with "s" are small files; the others are parts of large ones."""

    def __init__(self, directory: pathlib.Path, blocks: int, **options: float) -> None:
        self.cache = Cache(str(directory), blocks * BLOCK, **options)  # type: ignore[arg-type]
        self.now = 10**15
        self.fetched: list[str] = []
        self.blobs: dict[str, Blob] = {}

    def blob(self, name: str, *, protected: bool = False) -> Blob:
        sha256, own = digest_of(name), hashlib.sha256(name.encode()).digest()
        before = 0 if name.startswith("s") else SEGMENT
        chunks = bytes(32 * (before // MIB)) + own
        self.blobs[name] = self.cache.blob(sha256, before + len(name), chunks, protected=protected)
        return self.blobs[name]

    def use(self, *names: str, at: int = 0) -> None:
        """One machine reads them, 1 ms for each; fetched when they are not here. *at*: time that goes by before."""
        self.now += at
        for name in names:
            self.now += S // 1000
            blob = self.blobs.get(name) or self.blob(name)
            chunk = 0 if name.startswith("s") else 4
            if not blob.span(chunk * MIB, self.now):
                assert self.cache.begin(blob, chunk, self.now)
                self.cache.store(blob, chunk, name.encode())
                self.fetched.append(name)

    def pin(self, name: str) -> Pin:
        return self.blobs[name].pin(0 if name.startswith("s") else SEGMENT, self.now)

    @property
    def held(self) -> list[str]:
        """In three groups, as last placed, each with the oldest first: new, reused, protected."""
        return [NAMES[sha256] for sha256, *_ in self.cache.segments()]

    def leave(self, new: Iterable[str]) -> list[str]:
        """Who left while each of *new* was fetched, in that order."""
        gone = []
        for name in new:
            before = set(self.held)
            self.use(name)
            gone += sorted(before - set(self.held))
        return gone


class PlainLru:
    def __init__(self, blocks: int) -> None:
        self.blocks, self.held, self.fetched = blocks, OrderedDict[str, None](), 0

    def use(self, *names: str) -> None:
        for name in names:
            if name not in self.held:
                self.fetched += 1
                if len(self.held) == self.blocks:
                    self.held.popitem(last=False)
                self.held[name] = None
            self.held.move_to_end(name)


def many(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]
