from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootplane.core.blob import Blob
from bootplane.core.lru import Cache, Eviction
from bootplane.dataplane import cachereport, catalogue
from bootplane.dataplane.cachereport import (
    EVICTIONS,
    FILES,
    LEAVING,
    MANY_BLOBS,
    REFUSALS,
    WALK_S,
    CachedFile,
    CacheReporter,
    ReportError,
)
from bootplane.dataplane.catalogue import CHUNK_BYTES, BlobEntry, Catalogue
from bootplane.dataplane.fill import Refusal
from tests.fakes.region import chunks_of

CORE = {"hits": 0, "misses": 0, "coalesced": 0, "http_body_bytes": 0, "tftp_data_bytes": 0}
BEAT_BYTES = 64 << 10


def catalogue_of(names: dict[str, str]) -> Catalogue:
    blobs = {sha256: BlobEntry(1, "0" * 64) for sha256 in names.values()}
    return catalogue.build("r", 1, blobs, names)


class Clock:
    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(str(tmp_path / "cache"), 64 << 20)
    yield cache
    cache.close()


def blob_of(cache: Cache, data: bytes) -> Blob:
    return cache.blob(hashlib.sha256(data).hexdigest(), len(data), chunks_of(data))


def fill(cache: Cache, blob: Blob, data: bytes, *chunks: int) -> None:
    for chunk in chunks:
        assert cache.begin(blob, chunk)
        cache.store(blob, chunk, data[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES])


def beat(cache: Cache, reporter: CacheReporter, **more: Any) -> dict[str, Any]:
    """As a rack makes it, after its way over the wire."""
    report = {"cache": cache.stats(), "cache_report": reporter.report(), "upstream_bytes": 0, "events": []}
    document: dict[str, Any] = json.loads(json.dumps(report | more))
    return document


def test_a_report_says_of_each_file_how_much_of_it_is_here_most_bytes_first(cache: Cache) -> None:
    big, small, absent = bytes(CHUNK_BYTES) + b"b" * 1000, b"s" * 100, b"nothing of it"
    blobs = [blob_of(cache, data) for data in (small, absent, big)]
    fill(cache, blobs[0], small, 0)
    fill(cache, blobs[2], big, 1)
    names = {"bootx64.efi": blobs[0].sha256, "ubuntu/amd64/ga-24.04/noble/stable/squashfs": blobs[2].sha256}
    core = CORE | {"hits": 5, "misses": 2, "coalesced": 1, "http_body_bytes": 3000, "tftp_data_bytes": 41}
    reporter = CacheReporter(lambda: blobs, lambda: catalogue_of(names), lambda: core)
    refusal = Refusal("a" * 64, 3, "10.0.0.1:5241", "b" * 64, "c" * 64, 1.5)
    found = cachereport.parse(beat(cache, reporter, upstream_bytes=1200, events=[dict(refusal._asdict(), text="...")]))
    assert found is not None
    assert found.files == (
        CachedFile("ubuntu/noble/amd64/ga-24.04/squashfs", blobs[2].sha256, len(big), 1000),
        CachedFile("bootx64.efi", blobs[0].sha256, 100, 100),
    )
    assert (found.files_total, found.present_bytes, found.in_place_files) == (2, 1100, 0)
    assert (found.hits, found.misses, found.coalesced, found.served_bytes, found.upstream_bytes) == (
        5,
        2,
        1,
        3041,
        1200,
    )
    assert found.numbers == {key: cache.stats()[key] for key in cachereport.CACHE_NUMBERS}
    assert found.numbers["filled_bytes"] == 1100 and found.numbers["segments"] == 2
    assert [tuple(each) for each in found.refusals] == [(1.5, "a" * 64, 3, "10.0.0.1:5241", "b" * 64, "c" * 64)]


def test_what_was_evicted_is_no_longer_in_the_report(cache: Cache) -> None:
    blob = blob_of(cache, b"x" * 100)
    fill(cache, blob, b"x" * 100, 0)
    reporter = CacheReporter(lambda: [blob], lambda: None, lambda: CORE)
    assert reporter.report()["files"] == [{"name": "", "sha256": blob.sha256, "size": 100, "present_bytes": 100}]
    cache.evict(1)
    after = reporter.report()
    assert (after["files"], after["files_total"], after["present_bytes"]) == ([], 0, 0)


def test_files_read_in_the_regions_directory_are_counted_apart(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(b"whole")
    whole = Blob.open_file(str(tmp_path / "whole"), hashlib.sha256(b"whole").hexdigest(), 5)
    report = CacheReporter(lambda: [whole], lambda: None, lambda: CORE).report()
    assert (report["files"], report["present_bytes"], report["in_place_files"]) == ([], 0, 1)


def test_a_file_has_the_name_people_know_it_by() -> None:
    table = {
        "images/aaaaaaaaaaaaaaaa/ubuntu/amd64/ga-24.04/noble/stable/squashfs": "a",
        "bios/ubuntu/amd64/ga-24.04/noble/stable/squashfs": "a",
        "ubuntu/amd64/hwe-24.04/noble/stable/squashfs": "a",
        "ubuntu/amd64/ga-24.04/noble/stable/squashfs": "a",
        "images/bootx64.efi": "b",
        "bootx64.efi": "b",
        "bootloader/uefi/amd64/bootx64.efi": "b",
        "bootloader/uefi/amd64/x.efi": "c",
        "syslinux/ldlinux.c32": "d",
        "images/only": "e",
        "\x1b[2J\u202e\U0001f600": "f",
        "x" * 512: "g",
    }
    assert cachereport.names_of_blobs(table) == {
        "a": "ubuntu/noble/amd64/ga-24.04/squashfs",
        "b": "bootx64.efi",
        "c": "bootloader/uefi/amd64/x.efi",
        "d": "syslinux/ldlinux.c32",
        "e": "images/only",
        "f": "?[2J??",
        "g": "x" * 120,
    }


def test_what_left_is_told_by_name_also_when_the_catalogue_has_it_no_more(cache: Cache) -> None:
    squashfs, loader, stranger = (each * 64 for each in "abc")
    table = {"ubuntu/amd64/ga-24.04/noble/stable/squashfs": squashfs, "bootx64.efi": loader}
    catalogues = [catalogue_of(table), catalogue_of({"bootx64.efi": loader})]
    left = [
        Eviction(squashfs, 12, 48 << 20, "room", 1763719200.1234567, 17.25, loader),
        Eviction(stranger, 1, 4096, "dropped", 1763719201.0, -1e-9, ""),
    ]
    reporter = CacheReporter(list, lambda: catalogues[0], lambda: CORE, lambda: left)
    room, dropped = reporter.report()["evictions"]
    assert room == {
        "at": 1763719200.123, "sha256": squashfs, "name": "ubuntu/noble/amd64/ga-24.04/squashfs", "segments": 12,
        "bytes": 48 << 20, "reason": "room", "idle_s": 17.25, "wanted_by": loader, "wanted_name": "bootx64.efi",
    }  # fmt: skip
    assert (dropped["name"], dropped["wanted_by"], dropped["wanted_name"], dropped["idle_s"]) == ("", "", "", 0)
    del catalogues[0]
    found = cachereport.parse(beat(cache, reporter))
    assert found is not None and found.evictions[0].name == "ubuntu/noble/amd64/ga-24.04/squashfs"
    assert found.evictions[1] == (1763719201.0, stranger, "", 1, 4096, "dropped", 0.0, "", "")
    left += [Eviction(loader, 1, n, "limit", 1.0, 0.0, "") for n in range(100)]
    assert [each["bytes"] for each in reporter.report()["evictions"]] == list(range(100 - EVICTIONS, 100))


def test_a_real_cache_that_makes_room_says_for_whom(tmp_path: Path) -> None:
    old, new = b"o" * (8 << 20), b"n" * (8 << 20)
    cache = Cache(str(tmp_path / "tight"), 8 << 20)
    blobs = [blob_of(cache, data) for data in (old, new)]
    fill(cache, blobs[0], old, *range(8))
    fill(cache, blobs[1], new, *range(8))
    names = {"old": blobs[0].sha256, "new": blobs[1].sha256}
    reporter = CacheReporter(lambda: blobs, lambda: catalogue_of(names), lambda: CORE, cache.evictions)
    found = cachereport.parse(beat(cache, reporter))
    assert found is not None
    (eviction,) = found.evictions
    assert (eviction.name, eviction.segments, eviction.bytes) == ("old", 2, 8 << 20)
    assert (eviction.reason, eviction.wanted_name) == ("room", "new")
    assert found.numbers["evicted_room_segments"] == found.numbers["evicted_segments"] == 2
    cache.close()


def test_what_would_leave_is_told_by_its_place_in_the_list_of_files(cache: Cache) -> None:
    blobs = [FakeBlob(number) for number in range(FILES + 2)]
    near, far, other = blobs[3].sha256, blobs[FILES].sha256, blobs[FILES + 1].sha256
    leavers = [(near, 5, 1), (far, 7, 1), (other, 1, 1), (near, 2, 1)]
    reporter = CacheReporter(
        lambda: blobs,  # type: ignore[arg-type, return-value]
        lambda: None,
        lambda: CORE,
        leavers=lambda: leavers,
    )
    assert reporter.report()["leaving"] == [[3, 5], [-1, 8], [3, 2]]
    found = cachereport.parse(beat(cache, reporter))
    assert found is not None and found.leaving == ((near, 5), ("", 8), (near, 2))
    leavers += [(blobs[number % 2].sha256, 1, 1) for number in range(500)]
    told = reporter.report()["leaving"]
    assert len(told) == LEAVING and sum(size for _, size in told) == 515 and told[-1][0] == -1


def test_numbers_of_other_parts_are_told_as_they_are(cache: Cache) -> None:
    rest = {"upstream_limit_bytes_s": 7, "throttled_s": 1.5, "disk_bytes": 9, "disk_free_bytes": 8, "scrub_passes": 1}
    rest |= {"scrub_chunks": 4, "scrub_damaged": 2, "scrub_last_pass_s": 3.5}
    found = cachereport.parse(beat(cache, CacheReporter(list, lambda: None, lambda: CORE, rest=lambda: rest)))
    assert found is not None and {key: getattr(found, key) for key in rest} == rest


class FakeBlob:
    """A blob of which everything is here, and how often it was looked at."""

    chunks = b""
    size = 1 << 40

    def __init__(self, number: int) -> None:
        self.sha256 = f"{number:064x}"
        self.looks = 0

    def present_bytes(self) -> int:
        self.looks += 1
        return self.size


def test_very_many_files_are_walked_each_30_seconds_and_the_report_says_how_old_the_list_is() -> None:
    blobs = [FakeBlob(number) for number in range(MANY_BLOBS + 1)]
    clock, core = Clock(), dict(CORE)
    reporter = CacheReporter(lambda: blobs, lambda: None, lambda: core, now=clock)  # type: ignore[arg-type, return-value]
    first = reporter.report()
    assert (len(first["files"]), first["files_total"], first["files_age_s"]) == (FILES, MANY_BLOBS + 1, 0)
    clock.s += WALK_S - 1
    core["hits"] = 7
    second = reporter.report()
    assert (second["hits"], second["up_s"], second["files_age_s"]) == (7, WALK_S - 1, WALK_S - 1)
    assert {blob.looks for blob in blobs} == {1}
    clock.s += 1
    assert reporter.report()["files_age_s"] == 0 and {blob.looks for blob in blobs} == {2}
    blobs.pop()
    for _ in range(2):
        clock.s += WALK_S
        assert reporter.report()["files_age_s"] == 0
    assert {blob.looks for blob in blobs} == {4}


def test_a_beat_stays_under_its_limit_whatever_the_files_are_called(cache: Cache) -> None:
    blobs = [FakeBlob(number) for number in range(200)]
    names = {f"{number:03}" + "\U0001f600" * 127: blob.sha256 for number, blob in enumerate(blobs)}
    names |= {"\\" * 509 + f"{number:03}": blob.sha256 for number, blob in enumerate(blobs[:100])}
    left = [Eviction(blob.sha256, 1 << 40, 1 << 60, "dropped", 1e9 + 0.1, 1e9, blob.sha256) for blob in blobs[:64]]
    reporter = CacheReporter(
        lambda: blobs,  # type: ignore[arg-type, return-value]
        lambda: catalogue_of(names),
        lambda: CORE,
        lambda: left,
    )
    refusal = Refusal(
        "a" * 64, 1 << 40, "[fe80:1234:1234:1234:1234:1234:1234:1234]:65535", "b" * 64, "c" * 64, 1e9 + 0.1
    )
    events = [dict(refusal._asdict(), text=refusal.sentence())] * REFUSALS
    body = json.dumps(beat(cache, reporter, events=events))
    assert len(body) < BEAT_BYTES * 3 // 4
    found = cachereport.parse(json.loads(body))
    assert found is not None and (len(found.files), found.files_total, len(found.refusals)) == (FILES, 200, REFUSALS)
    assert len(found.evictions) == EVICTIONS


def test_a_beat_without_a_report_has_none() -> None:
    assert cachereport.parse({"cache": {"limit_bytes": 1}}) is None


FILE = {"name": "n", "sha256": "a" * 64, "size": 2, "present_bytes": 1}
LEFT = {"at": 1.0, "sha256": "a" * 64, "segments": 1, "bytes": 2, "reason": "room", "idle_s": 0}
EVENT = {"at": 1.0, "blob": "a" * 64, "chunk": 0, "source": "s", "expected": "e", "got": "g"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cache_report": []}, "expected an object, got list"),
        ({"cache": None}, "expected the cache's own numbers"),
        ({"cache": {"segments": -1}}, "segments, got '-1'"),
        ({"cache": {"limit_bytes": "4 GiB"}}, "limit_bytes, got '4 GiB'"),
        ({"upstream_bytes": 1 << 63}, "upstream_bytes"),
        ({"cache_report": {"hits": True}}, "hits, got 'True'"),
        ({"cache_report": {"hits": 1.5}}, "hits"),
        ({"cache_report": {"up_s": float("nan")}}, "seconds as up_s, got 'nan'"),
        ({"cache_report": {"files_age_s": -1}}, "files_age_s"),
        ({"cache_report": {"files_age_s": 10**400}}, "files_age_s"),
        ({"cache_report": {"files": [FILE] * (FILES + 1)}}, f"at most {FILES} objects as files"),
        ({"cache_report": {"files": {}}}, "as files"),
        ({"cache_report": {"files": [1]}}, "as files"),
        ({"cache_report": {"files": [FILE | {"present_bytes": 3}]}}, "at most 2 bytes of a file of 2 bytes, got 3"),
        ({"cache_report": {"files": [FILE | {"name": "x" * 121}]}}, "as name"),
        ({"cache_report": {"files": [FILE | {"name": "\x1b[2J"}]}}, "printable characters as name"),
        ({"cache_report": {"files": [FILE | {"name": "\ud800"}]}}, "printable characters as name"),
        ({"cache_report": {"files": [FILE | {"sha256": "A" * 64}]}}, "a sha256 as sha256"),
        ({"cache_report": {"evictions": [LEFT] * (EVICTIONS + 1)}}, f"at most {EVICTIONS} objects as evictions"),
        ({"cache_report": {"evictions": [LEFT | {"reason": "x" * 33}]}}, "printable characters as reason"),
        ({"cache_report": {"evictions": [LEFT | {"wanted_by": "x"}]}}, "a sha256 as wanted_by"),
        ({"cache_report": {"evictions": [LEFT | {"idle_s": -1}]}}, "seconds as idle_s"),
        ({"cache_report": {"leaving": [[0, 1]]}}, "a place in files and bytes as leaving, got '[0, 1]'"),
        ({"cache_report": {"leaving": [[-2, 1]]}}, "a place in files and bytes as leaving"),
        ({"cache_report": {"leaving": [[-1, -1]]}}, "a place in files and bytes as leaving"),
        ({"cache_report": {"leaving": [[-1, 1, 2]]}}, "a place in files and bytes as leaving"),
        ({"cache_report": {"leaving": [[-1, True]]}}, "a place in files and bytes as leaving"),
        ({"cache_report": {"leaving": [[-1, 1]] * (LEAVING + 1)}}, f"at most {LEAVING} pairs as leaving"),
        ({"cache_report": {"scrub_last_pass_s": -1}}, "seconds as scrub_last_pass_s"),
        ({"events": [EVENT] * (REFUSALS + 1)}, f"at most {REFUSALS} objects as events"),
        ({"events": [EVENT | {"at": 1e10}]}, "seconds as at"),
        ({"events": [EVENT | {"blob": None}]}, "a sha256 as blob"),
        ({"events": [EVENT | {"source": "x" * 257}]}, "as source"),
    ],
)
def test_what_no_rack_of_ours_says_is_refused_in_one_sentence(change: dict[str, Any], words: str) -> None:
    good = {"cache": {}, "cache_report": {"files": [FILE], "evictions": [LEFT]}, "events": [EVENT]}
    assert cachereport.parse(good) is not None
    with pytest.raises(ReportError) as error:
        cachereport.parse(good | change)
    assert words in str(error.value) and len(str(error.value)) < 200
