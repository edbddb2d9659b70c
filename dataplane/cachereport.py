"""What a rack tells its region of its cache, with every beat: made and checked in one file, so that both ends agree.

    beat = {..., "cache": Cache.stats(), "upstream_bytes": int, "events": [refusals],
            "cache_report": {"up_s", "hits", "misses", "coalesced", "served_bytes", "present_bytes", "in_place_files",
                             "files": [{"name", "sha256", "size", "present_bytes"}, ...], "files_total", "files_age_s",
                             "leaving": [[place in files or -1, bytes], ...],
                             "evictions": [{"at", "sha256", "name", "segments", "bytes", "reason", "idle_s",
                                            "wanted_by", "wanted_name"}, ...],
                             "upstream_limit_bytes_s", "throttled_s", "disk_bytes", "disk_free_bytes",
                             "scrub_passes", "scrub_chunks", "scrub_damaged", "scrub_last_pass_s"}}

Counts are since this start of the rack; ages are seconds, so that no two clocks are compared. The list of files is made
anew for each beat, and at most each WALK_S where there are very many; so is "leaving", what would leave if something
new were fetched, in this order.

Invariants: a beat stays under 64 KiB whatever the files are called; what a rack says is bounded in number, length and
range before it is kept, and every text that passes is printable.

Left to others: counting (core), sending (rackservice, region_client), keeping and showing (control).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from bootplane.core.blob import Blob
from bootplane.core.lru import Eviction
from bootplane.dataplane.catalogue import Catalogue

FILES = 50  # told with a beat
REFUSALS = 32
EVICTIONS = 24
LEAVING = 64
FORMER_NAMES = 1000  # of files that have left the catalogue; to say what was dropped
NAME_CHARACTERS = 120
TEXT_CHARACTERS = 256
REASON_CHARACTERS = 32
MANY_BLOBS = 1000
WALK_S = 30.0  # between walks when there are more

CACHE_NUMBERS = (
    "limit_bytes",
    "charged_bytes",
    "condemned_bytes",
    "segments",
    "open_segments",
    "reopened_segments",
    "protected_bytes",
    "reused_bytes",
    "made_segments",
    "ghost_double_segments",
    "ghost_quadruple_segments",
    "evicted_segments",
    "evicted_room_segments",
    "evicted_limit_segments",
    "evicted_disk_segments",
    "evicted_bytes",
    "filled_bytes",
    "refused_chunks",
    "kept_segments",
    "misfit_segments",
    "rechecked_chunks",
    "rotten_chunks",
)
_OWN_NUMBERS = (
    "hits",
    "misses",
    "coalesced",
    "served_bytes",
    "present_bytes",
    "in_place_files",
    "files_total",
    "upstream_limit_bytes_s",
    "disk_bytes",
    "disk_free_bytes",
    "scrub_passes",
    "scrub_chunks",
    "scrub_damaged",
)
_MAX = (1 << 63) - 1
_MAX_S = 1e10
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
_ASIDE = ("images/", "bios/", "syslinux/")  # other names of what has a shorter or a plainer one


class ReportError(ValueError):
    """A beat says something of its cache that no rack of ours says; one sentence."""


class CachedFile(NamedTuple):
    """One blob of which bytes are here. A file that has left the catalogue, and is still read, has no name."""

    name: str
    sha256: str
    size: int
    present_bytes: int


class Evicted(NamedTuple):
    """core.lru.Eviction with names: what the files are called, or were while the catalogue had them; else ""."""

    at: float  # Unix s, by the rack's clock
    sha256: str
    name: str
    segments: int
    bytes: int
    reason: str
    idle_s: float
    wanted_by: str  # sha256, or ""
    wanted_name: str


class Leaving(NamedTuple):
    """What would leave at one time. *sha256* "": of files that are not among those told, or of several."""

    sha256: str
    bytes: int


class RefusedChunk(NamedTuple):
    """dataplane.refusals.Refusal as a region has heard it."""

    at: float  # Unix s, by the rack's clock
    blob: str
    chunk: int
    source: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What one beat said. Counts are since the rack's start, *up_s* before."""

    numbers: Mapping[str, int]  # CACHE_NUMBERS
    up_s: float
    hits: int  # transfers that never waited for a byte
    misses: int  # ... that waited for a chunk they were the first to ask for
    coalesced: int  # ... that waited only for chunks that others had asked for
    served_bytes: int  # to machines: boot texts and TFTP packets sent again included
    upstream_bytes: int  # from regions, refused and repeated ones included
    present_bytes: int  # of all files
    in_place_files: int  # read in the region's store, never in the cache
    files: tuple[CachedFile, ...]  # those with most bytes here, first
    files_total: int  # with bytes here
    leaving: tuple[Leaving, ...]  # if something new were fetched, the first to go first
    files_age_s: float  # how much older than the beat the list of files is
    refusals: tuple[RefusedChunk, ...]
    evictions: tuple[Evicted, ...]  # newest last
    upstream_limit_bytes_s: int  # in force; 0: none
    throttled_s: float  # in which somebody waited for the upstream limit
    disk_bytes: int  # of the file system under the cache; 0: it did not say
    disk_free_bytes: int
    scrub_passes: int  # whole ones
    scrub_chunks: int  # read again
    scrub_damaged: int
    scrub_last_pass_s: float  # how long the last whole one took


class CacheReporter:
    """Makes a rack's side of it. One thread (the beat's) calls report(); *now* is monotonic seconds. *rest*: the
    limits in force and the numbers of the scrub."""

    def __init__(
        self,
        blobs: Callable[[], Iterable[Blob]],
        catalogue: Callable[[], Catalogue | None],
        counters: Callable[[], Mapping[str, int]],
        evictions: Callable[[], Sequence[Eviction]] = tuple,
        leavers: Callable[[], Sequence[tuple[str, int, int]]] = tuple,
        rest: Callable[[], Mapping[str, float]] = dict,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._blobs, self._catalogue, self._counters = blobs, catalogue, counters
        self._evictions, self._leavers, self._rest, self._now = evictions, leavers, rest, now
        self._began = now()
        self._walked: dict[str, Any] = {}
        self._walked_at = 0.0
        self._again_after = 0.0
        self._former: dict[str, str] = {}
        self._named: tuple[Catalogue | None, dict[str, str]] = (None, {})

    def report(self) -> dict[str, Any]:
        counters = self._counters()
        now = self._now()
        if now >= self._again_after:
            self._walked, self._walked_at = self._walk(), now
        return {
            "up_s": round(now - self._began, 3),
            "hits": counters["hits"],
            "misses": counters["misses"],
            "coalesced": counters["coalesced"],
            "served_bytes": counters["http_body_bytes"] + counters["tftp_data_bytes"],
            **self._rest(),
            "evictions": [self._evicted(eviction) for eviction in self._evictions()[-EVICTIONS:]],
            **self._walked,
            "files_age_s": round(now - self._walked_at, 3),
        }

    def _walk(self) -> dict[str, Any]:
        """Each blob is looked at once, without the GIL, so that reactors and fills go on meanwhile."""
        blobs = list(self._blobs())
        self._again_after = self._now() + WALK_S if len(blobs) > MANY_BLOBS else 0.0
        cached = [blob for blob in blobs if blob.chunks is not None]
        here = [(present, blob) for blob in cached if (present := blob.present_bytes())]
        here.sort(key=lambda each: (-each[0], each[1].sha256))
        names = self._names()
        return {
            "present_bytes": sum(present for present, _ in here),
            "in_place_files": len(blobs) - len(cached),
            "files": [
                {
                    "name": names.get(blob.sha256, ""),
                    "sha256": blob.sha256,
                    "size": blob.size,
                    "present_bytes": present,
                }
                for present, blob in here[:FILES]
            ],
            "files_total": len(here),
            "leaving": self._leaving([blob.sha256 for _, blob in here[:FILES]]),
        }

    def _leaving(self, told: Sequence[str]) -> list[list[int]]:
        """The last entry stands for all that would go after the ones before it."""
        places = {sha256: place for place, sha256 in enumerate(told)}
        found: list[list[int]] = []
        for sha256, size, _ in self._leavers():
            place = places.get(sha256, -1)
            if found and (len(found) == LEAVING or found[-1][0] == place):
                found[-1][1] += size
                found[-1][0] = place if found[-1][0] == place else -1
            else:
                found.append([place, size])
        return found

    def _evicted(self, eviction: Eviction) -> dict[str, Any]:
        names, former = self._names(), self._former

        def name_of(sha256: str) -> str:
            return names.get(sha256) or former.get(sha256, "")

        times = {"at": round(eviction.at, 3), "idle_s": round(max(eviction.idle_s, 0.0), 3)}
        named = {"name": name_of(eviction.sha256), "wanted_name": name_of(eviction.wanted_by)}
        return {**eviction._asdict(), **times, **named}

    def _names(self) -> dict[str, str]:
        catalogue = self._catalogue()
        before, names = self._named
        if catalogue is not before:
            self._named = (catalogue, names_of_blobs(catalogue.names) if catalogue else {})
            gone = {sha256: name for sha256, name in names.items() if sha256 not in self._named[1]}
            kept = list((self._former | gone).items())[-FORMER_NAMES:]
            self._former = {sha256: name for sha256, name in kept if sha256 not in self._named[1]}
        return self._named[1]


def names_of_blobs(names: Mapping[str, str]) -> dict[str, str]:
    """sha256 -> the one name people know the file by, in ASCII and bounded; *names* is a catalogue's table.

    A file of an image: its image as ``image list`` has it, then the file (``ubuntu/noble/amd64/ga-24.04/squashfs``); of
    a boot loader: its shortest name. Several images that share a file: the first by length, then by the alphabet."""
    chosen: dict[str, tuple[bool, int, str]] = {}
    for name, sha256 in names.items():
        rank = (name.startswith(_ASIDE), len(name), name)
        if sha256 not in chosen or rank < chosen[sha256]:
            chosen[sha256] = rank
    return {sha256: _shown(name) for sha256, (_, _, name) in chosen.items()}


def _shown(name: str) -> str:
    parts = name.split("/")
    if len(parts) == 6 and not name.startswith((*_ASIDE, "bootloader/")):  # namespace.tree_name
        os, arch, subarch, release, _, file = parts
        name = "/".join((os, release, arch, subarch, file))
    return "".join(c if " " <= c <= "~" else "?" for c in name[:NAME_CHARACTERS])  # ASCII: JSON makes no more of it


def parse(beat: Mapping[str, Any]) -> CacheReport | None:
    """What *beat* says of its cache, checked; None when it carries no report. Raises ReportError."""
    said = beat.get("cache_report")
    if said is None:
        return None
    if not isinstance(said, Mapping):
        raise ReportError(f"cache report: expected an object, got {type(said).__name__}")
    stats = beat.get("cache")
    if not isinstance(stats, Mapping):
        raise ReportError("cache report: expected the cache's own numbers beside it, got none")
    own = {key: _number(said, key) for key in _OWN_NUMBERS}
    files = tuple(_file(each) for each in _items(said, "files", FILES))
    return CacheReport(
        numbers={key: _number(stats, key) for key in CACHE_NUMBERS},
        upstream_bytes=_number(beat, "upstream_bytes"),
        up_s=_seconds(said, "up_s"),
        files=files,
        files_age_s=_seconds(said, "files_age_s"),
        throttled_s=_seconds(said, "throttled_s"),
        scrub_last_pass_s=_seconds(said, "scrub_last_pass_s"),
        leaving=_leaving(said, files),
        evictions=tuple(_eviction(each) for each in _items(said, "evictions", EVICTIONS)),
        refusals=tuple(_refusal(each) for each in _items(beat, "events", REFUSALS)),
        **own,
    )


def _items(document: Mapping[str, Any], key: str, limit: int) -> list[Mapping[str, Any]]:
    value = document.get(key, [])
    if not isinstance(value, list) or len(value) > limit or not all(isinstance(each, Mapping) for each in value):
        raise ReportError(f"cache report: expected at most {limit} objects as {key}, got something else")
    return value


def _file(document: Mapping[str, Any]) -> CachedFile:
    size, present = _number(document, "size"), _number(document, "present_bytes")
    if present > size:
        raise ReportError(f"cache report: expected at most {size} bytes of a file of {size} bytes, got {present}")
    return CachedFile(_text(document, "name", NAME_CHARACTERS), _digest(document, "sha256"), size, present)


def _leaving(document: Mapping[str, Any], files: Sequence[CachedFile]) -> tuple[Leaving, ...]:
    value = document.get("leaving", [])
    if not isinstance(value, list) or len(value) > LEAVING:
        raise ReportError(f"cache report: expected at most {LEAVING} pairs as leaving, got something else")
    found = []
    for pair in value:
        is_pair = isinstance(pair, list) and len(pair) == 2 and all(type(each) is int for each in pair)
        if not is_pair or not -1 <= pair[0] < len(files) or not 0 <= pair[1] <= _MAX:
            raise ReportError(f"cache report: expected a place in files and bytes as leaving, got {str(pair)[:40]!r}")
        found.append(Leaving(files[pair[0]].sha256 if pair[0] >= 0 else "", pair[1]))
    return tuple(found)


def _eviction(document: Mapping[str, Any]) -> Evicted:
    return Evicted(
        at=_seconds(document, "at"),
        sha256=_digest(document, "sha256"),
        name=_text(document, "name", NAME_CHARACTERS),
        segments=_number(document, "segments"),
        bytes=_number(document, "bytes"),
        reason=_text(document, "reason", REASON_CHARACTERS),  # a later rack may have others than this region knows
        idle_s=_seconds(document, "idle_s"),
        wanted_by=_digest(document, "wanted_by") if document.get("wanted_by") else "",
        wanted_name=_text(document, "wanted_name", NAME_CHARACTERS),
    )


def _refusal(document: Mapping[str, Any]) -> RefusedChunk:
    return RefusedChunk(
        _seconds(document, "at"),
        _digest(document, "blob"),
        _number(document, "chunk"),
        _text(document, "source", TEXT_CHARACTERS),
        _text(document, "expected", TEXT_CHARACTERS),
        _text(document, "got", TEXT_CHARACTERS),
    )


def _number(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX:
        raise ReportError(f"cache report: expected a number from 0 to {_MAX} as {key}, got {str(value)[:40]!r}")
    return value


def _seconds(document: Mapping[str, Any], key: str) -> float:
    value = document.get(key, 0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _MAX_S:  # NaN neither
        raise ReportError(f"cache report: expected seconds as {key}, got {str(value)[:40]!r}")
    return float(value)


def _text(document: Mapping[str, Any], key: str, limit: int) -> str:
    value = document.get(key, "")
    if not isinstance(value, str) or len(value) > limit or not value.isprintable():
        got = str(value)[:40]
        raise ReportError(f"cache report: expected at most {limit} printable characters as {key}, got {got!r}")
    return value


def _digest(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not _HEX64.match(value):
        raise ReportError(f"cache report: expected a sha256 as {key}, got {str(value)[:80]!r}")
    return value
