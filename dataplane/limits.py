"""What bounds a rack: the limits its region has set, and its own command line where the region sets none.

    region ──answer to a beat──▶ Keeper.take ──▶ DIR/limits.json, then the cache and the filler, while they serve
                                                       └──▶ kept(): the next start, with a region or without

Invariants: limits out of bounds change nothing, and are said once; what was taken is on disk before it is applied (on
a full disk it is applied all the same). Left to others: eviction (core.lru), pacing (fill), what an operator may set
(control), where the words come from is not proved: the answer to a beat is not signed, so a liar on the link to the
region can make a rack small or slow, and not wrong.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from bootplane.core.shares import Group
from bootplane.dataplane import shares
from bootplane.dataplane.durable import sync_directory
from bootplane.dataplane.segments import SEGMENT_BYTES
from bootplane.dataplane.units import rate, size

FILE = "limits.json"  # in the rack's data directory
MIN_UPSTREAM_BYTES_S = 10**6 // 8  # a chunk takes 8.4 s then, and a machine waits for 20
_MAX = (1 << 63) - 1

log = logging.getLogger("bootplane.rack")


class LimitError(ValueError):
    """No rack can keep that; one sentence."""


class Limits(NamedTuple):
    """What a region has set for a rack. None: nothing, the rack's own command line holds."""

    cache_bytes: int | None = None
    upstream_bytes_s: int | None = None  # 0: as fast as the regions give
    shares: str | None = None  # in the words of dataplane.shares; "": no shares


class CacheLike(Protocol):
    limit_bytes: int

    @property
    def directory(self) -> str: ...
    def evict(self, wanted: int) -> int: ...
    def stats(self) -> dict[str, int]: ...


class Paced(Protocol):
    upstream_limit_bytes_s: int


class Shared(Protocol):
    def set(self, groups: Sequence[Group], total_bytes_s: int = 0) -> None: ...


def checked(limits: Limits) -> Limits:
    """*limits*, when a rack can work with them. Raises LimitError."""
    cache, upstream, words = limits
    for what, limit in (("cache limit", cache), ("upstream limit", upstream)):
        if limit is not None and limit > _MAX:
            raise LimitError(f"{what}: expected at most {_MAX} bytes, got {limit}")
    if cache is not None and cache < SEGMENT_BYTES:
        raise LimitError(f"cache limit: expected {SEGMENT_BYTES} bytes (one segment) or more, got {cache}")
    if upstream is not None and upstream != 0 and upstream < MIN_UPSTREAM_BYTES_S:
        raise LimitError(
            f"upstream limit: expected 0 for none, or {MIN_UPSTREAM_BYTES_S} bytes a second (1 Mbit/s) or more, "
            f"got {upstream}"
        )
    if words is not None:
        try:
            shares.parse(words)
        except ValueError as error:
            raise LimitError(str(error)) from None
    return limits


def parse(document: object) -> Limits:
    """{"cache_bytes": int or null, "upstream_bytes_s": int or null, "shares": text or null}; what else stands there
    is for later racks. Raises LimitError."""
    if not isinstance(document, Mapping):
        raise LimitError(f"limits: expected an object, got {type(document).__name__}")
    values = [document.get(key) for key in Limits._fields]
    for key, value in zip(Limits._fields, values, strict=True):
        kind, word = (str, "text") if key == "shares" else (int, "a number")
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise LimitError(f"limits: expected {word} or null as {key}, got {str(value)[:40]!r}")
    return checked(Limits(*values))


def kept(directory: Path) -> Limits:
    """What was set when this rack last ran. A file that makes no sense is said, and counts for nothing."""
    path = directory / FILE
    try:
        return parse(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return Limits()
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s: %s; the command line holds until the region says otherwise", path, error)
        return Limits()


def keep(path: Path, limits: Limits) -> None:
    """Durable: a crash leaves the old file or the new one. Raises OSError."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("wb") as out:
        out.write(json.dumps(limits._asdict()).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())
    aside.rename(path)
    sync_directory(path.parent)


def disk_warning(cache_bytes: int, used: int, disk: int, free: int) -> str:
    """Why a cache of *cache_bytes*, of which *used* are there, cannot grow so far on a file system of *disk* bytes with
    *free* ones; "" when it can, or when nothing is known (*disk* 0)."""
    if not disk or cache_bytes <= used + free:
        return ""
    there = f"{size(disk)} of which {size(free)} are free" if cache_bytes <= disk else size(disk)
    return f"cache limit {size(cache_bytes)}: the file system under the cache has {there}; it will be full before"


class Keeper:
    """Holds a rack to its limits. *own* are the command line's, both given; *told* what kept() found, in force already.

    Any thread but a reactor or the event loop: take() and settle() evict, which takes as long as the disk does."""

    def __init__(
        self,
        directory: Path,
        own: Limits,
        told: Limits,
        cache: CacheLike,
        paced: Paced | None = None,
        shared: Shared | None = None,
    ) -> None:
        self._path, self._own, self._told, self._cache, self._paced = directory / FILE, own, told, cache, paced
        self._shared = shared
        self._lock = threading.Lock()
        self._said = ""
        self._is_kept = True
        if paced is not None:
            paced.upstream_limit_bytes_s = self._value("upstream_bytes_s")
        if told.cache_bytes is not None:
            log.info("cache limit: %s, as the region has set it", size(told.cache_bytes))
        if told.upstream_bytes_s is not None:
            log.info("upstream limit: %s, as the region has set it", rate(told.upstream_bytes_s))
        self._warn_of_disk()
        self._in_words = ""
        self._apply_shares()

    def take(self, document: object) -> bool:
        """What the region's answer to a beat said: kept and applied when it is news. Returns whether it was."""
        try:
            told = parse(document)
        except LimitError as error:
            self._say(f"refused: {error}")
            return False
        with self._lock:
            before, self._told = self._told, told
            if told == before and self._is_kept:
                return False
            try:
                keep(self._path, told)
                self._is_kept = True
            except OSError as error:  # tried again with the next beat: they must be there at the next start
                self._is_kept = False
                self._say(f"{self._path}: the limits could not be kept: {error.strerror}")
            self._apply_cache()
            self._apply_upstream()
            self._apply_shares()
            return told != before

    def settle(self) -> None:
        """Evicts what a lower limit could not take because it was being read or filled. Call it now and then."""
        with self._lock:
            now = self._cache.stats()
            if now["charged_bytes"] + now["condemned_bytes"] > now["limit_bytes"]:
                self._evict()

    def in_force(self) -> dict[str, int]:
        """For the beat, beside the cache's own numbers."""
        disk, free = self._disk()
        upstream = self._paced.upstream_limit_bytes_s if self._paced is not None else 0
        return {"upstream_limit_bytes_s": upstream, "disk_bytes": disk, "disk_free_bytes": free}

    def _apply_shares(self) -> None:
        words = (self._own.shares if self._told.shares is None else self._told.shares) or ""
        words = "" if words.strip() == shares.NONE else " ".join(words.split())
        if self._shared is None or words == self._in_words:
            return
        plan = shares.parse(words)
        self._shared.set(plan.groups, plan.total_bytes_s)
        self._in_words = words
        log.info("shares: %s, set by %s", words or "none", self._by("shares"))
        if remark := shares.remark(plan):
            log.warning("%s", remark)

    def _value(self, key: str) -> int:
        told: int | None = getattr(self._told, key)
        return told if told is not None else int(getattr(self._own, key))

    def _by(self, key: str) -> str:
        return "the region" if getattr(self._told, key) is not None else "the command line"

    def _apply_cache(self) -> None:
        limit, before = self._value("cache_bytes"), self._cache.limit_bytes
        if limit != before:
            log.info("cache limit: %s, set by %s; it was %s", size(limit), self._by("cache_bytes"), size(before))
            self._evict(limit)
            self._warn_of_disk()

    def _evict(self, limit: int | None = None) -> None:
        """Down to *limit*, which is a new one, or to the one there is."""
        before = self._cache.stats()
        try:
            if limit is None:
                self._cache.evict(0)
            else:
                self._cache.limit_bytes = limit
        except OSError as error:
            self._say(f"cache limit: {error}; what is over it goes later")
        except ValueError:  # the cache has been closed meanwhile: this rack ends
            return
        after = self._cache.stats()
        gone = after["evicted_segments"] - before["evicted_segments"]
        over = after["charged_bytes"] + after["condemned_bytes"] - after["limit_bytes"]
        if gone or (over > 0 and limit is not None):
            more = f"; {size(over)} more go when they are no longer read or filled" if over > 0 else ""
            freed = after["evicted_bytes"] - before["evicted_bytes"]
            log.info("cache limit: evicted %d segments, %s%s", gone, size(freed), more)

    def _apply_upstream(self) -> None:
        if self._paced is None:
            return
        limit, before = self._value("upstream_bytes_s"), self._paced.upstream_limit_bytes_s
        if limit != before:
            self._paced.upstream_limit_bytes_s = limit
            by = self._by("upstream_bytes_s")
            log.info("upstream limit: %s, set by %s; it was %s", rate(limit), by, rate(before))

    def _disk(self) -> tuple[int, int]:
        """Bytes of the file system under the cache, and those of them that are free; (0, 0): it does not say."""
        try:
            found = os.statvfs(self._cache.directory)
        except OSError:
            return 0, 0
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def _warn_of_disk(self) -> None:
        now = self._cache.stats()
        if warning := disk_warning(now["limit_bytes"], now["charged_bytes"], *self._disk()):
            log.warning("%s", warning)

    def _say(self, sentence: str) -> None:
        if sentence != self._said:
            self._said = sentence
            log.warning("%s", sentence)
