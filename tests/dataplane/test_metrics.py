from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bootplane.core.blob import Blob
from bootplane.core.counters import COUNTERS
from bootplane.core.lru import Cache
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.cachereport import CACHE_NUMBERS
from bootplane.dataplane.fillstats import FillStats
from bootplane.dataplane.metrics import (
    CACHE_COUNTERS,
    CACHE_GAUGES,
    CONTROL_OUTCOMES,
    FETCH_ERRORS,
    QUESTION_OUTCOMES,
    REACTOR_COUNTERS,
    SCRUB_COUNTERS,
    Exposition,
    Numbers,
)
from bootplane.dataplane.reports import DROPPED
from bootplane.dataplane.scrub import Scrubber, ScrubStats
from bootplane.dataplane.transfers import OUTCOMES, PROTOCOLS
from tests.fakes.region import chunks_of

MIB = 1 << 20
PAGE = 4096


def numbers(start: int, real: Mapping[str, int] | None = None, scrub: ScrubStats | None = None) -> Numbers:
    """Every number a different one, counted up from *start*; those of cache and scrub are *real* ones when given."""
    n = iter(range(start, start + 1000))
    core = {counter.name: next(n) for counter in COUNTERS}
    cache = {key: next(n) for key in (*CACHE_GAUGES, *CACHE_COUNTERS)}
    fill = FillStats(upstream_bytes=next(n), chunks=next(n), runs=next(n), refused=next(n), given_up=next(n))
    fill.damaged = next(n)
    fill.throttled_s = next(n)
    fill.wasted_bytes = next(n)
    scrubbed = ScrubStats(**{key: next(n) for key in SCRUB_COUNTERS}, last_pass_s=next(n))
    for reason in FETCH_ERRORS:
        fill.errors[reason] = next(n)
    return Numbers(
        core=core,
        cache=real or cache,
        fill=fill,
        scrub=scrub or scrubbed,
        upstream_limit_bytes_s=next(n),
        questions={outcome: next(n) for outcome in QUESTION_OUTCOMES},
        control={outcome: next(n) for outcome in CONTROL_OUTCOMES},
        transfers={(protocol, outcome): next(n) for protocol in PROTOCOLS for outcome in OUTCOMES},
        reports_waiting=next(n),
        reports_sent=next(n),
        reports_dropped={reason: next(n) for reason in DROPPED},
        shares={"others": (next(n), next(n))},
        reactors=[{key: next(n) for key in REACTOR_COUNTERS}],
        sources=next(n),
        catalogue_version=next(n),
        catalogue_names=next(n),
        region_reachable=start > 0,
        certificate_ends=next(n),
    )


def samples(start: int, real: Mapping[str, int] | None = None, scrub: ScrubStats | None = None) -> dict[str, float]:
    text = Exposition(lambda: numbers(start, real, scrub), "1.2.3").text().decode()
    return {
        sample.name + "".join(f"|{v}" for v in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_series_moves_with_its_number() -> None:
    before, after = samples(0), samples(1000)
    assert before.keys() == after.keys()
    still = {name for name in before if before[name] == after[name]}
    assert still == {"bootplane_build_info|rack|1.2.3"} or still == {"bootplane_build_info|1.2.3|rack"}
    values = [value for name, value in after.items() if "reachable" not in name and "build" not in name]
    assert len(set(values)) == len(values)


def test_every_counter_of_core_is_there_with_its_help() -> None:
    text = Exposition(lambda: numbers(1), "1.2.3").text().decode()
    for counter in COUNTERS:
        assert f"# HELP bootplane_{counter.name}_total {counter.help}\n" in text
        assert f"# TYPE bootplane_{counter.name}_total counter\n" in text


def test_every_name_begins_with_ours_and_no_label_is_unbounded() -> None:
    found = samples(1)
    assert all(name.startswith("bootplane_") for name in found)
    labelled = [name for name in found if "|" in name and "build" not in name]
    bounded = (*QUESTION_OUTCOMES, *CONTROL_OUTCOMES, *FETCH_ERRORS, *DROPPED)
    assert (
        len(labelled) == len(bounded) + len(PROTOCOLS) * len(OUTCOMES) + len(REACTOR_COUNTERS) + 2
    )  # and two of shares


def test_the_manual_lists_exactly_the_series_there_are_and_the_values_of_each_label() -> None:
    manual = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", manual, re.MULTILINE))
    found: dict[str, set[str]] = {}
    for name in samples(1):
        series, *labels = name.removeprefix("bootplane_").split("|")
        found.setdefault(series, set()).update(labels)
    assert rows.keys() == found.keys()
    del found["build_info"]
    for series, values in found.items():
        assert values == set(re.findall(r"`(\w+)`[,.]", rows[series])), series


def cache_series(cache: Cache) -> dict[str, int]:
    """Every series of the cache, by its name without what all have."""
    return {
        name.removeprefix("bootplane_cache_").removesuffix("_total"): int(value)
        for name, value in samples(0, cache.stats()).items()
        if "_cache_" in name
    }


def moved(cache: Cache, before: dict[str, int]) -> dict[str, int]:
    """By how much each series has moved since; those that have not are left out."""
    return {name: value - before[name] for name, value in cache_series(cache).items() if value != before[name]}


def blob_of(cache: Cache, data: bytes) -> Blob:
    return cache.blob(hashlib.sha256(data).hexdigest(), len(data), chunks_of(data))


def fill(cache: Cache, data: bytes) -> Blob:
    blob = blob_of(cache, data)
    for chunk in range(-(-len(data) // MIB)):
        assert cache.begin(blob, chunk)
        cache.store(blob, chunk, data[chunk * MIB : (chunk + 1) * MIB])
    return blob


def test_every_number_of_a_cache_is_a_series_and_is_told_to_the_region(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), MIB)
    assert set(cache.stats()) == {*CACHE_GAUGES, *CACHE_COUNTERS} == set(CACHE_NUMBERS)
    cache.close()


def test_every_series_of_the_cache_moves_with_what_a_cache_does(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), MIB)
    blob = blob_of(cache, b"x" * 100)
    before = cache_series(cache)
    assert before == dict.fromkeys([*CACHE_GAUGES, *CACHE_COUNTERS], 0) | {"limit_bytes": MIB}
    assert cache.begin(blob, 0)
    made = {"charged_bytes": 4096, "protected_bytes": 4096, "segments": 1, "open_segments": 1, "made_segments": 1}
    assert moved(cache, before) == made
    with pytest.raises(DigestMismatch):
        cache.store(blob, 0, b"y" * 100)
    assert moved(cache, before) == {"made_segments": 1, "refused_chunks": 1}
    assert cache.begin(blob, 0)
    cache.store(blob, 0, b"x" * 100)
    assert moved(cache, before) == made | {"made_segments": 2, "refused_chunks": 1, "filled_bytes": 100}
    before = cache_series(cache)
    pin = blob.pin(0)
    cache.drop(blob)
    gone = {"charged_bytes": -4096, "protected_bytes": -4096, "segments": -1, "open_segments": -1}
    assert moved(cache, before) == gone | {"condemned_bytes": 4096}
    pin.release()
    cache.reap()
    assert moved(cache, before) == gone
    cache.close()


def test_every_reason_of_an_eviction_moves_its_series_and_so_does_what_a_larger_cache_would_have_had(
    tmp_path: Path,
) -> None:
    cache = Cache(str(tmp_path), 2 * PAGE)
    files = [bytes([n]) * 100 for n in range(8)]
    for data in files[:2]:
        fill(cache, data)
    before = cache_series(cache)
    fill(cache, files[2])
    out = {"evicted_segments": 1, "evicted_room_segments": 1, "evicted_bytes": PAGE}
    assert moved(cache, before) == out | {"made_segments": 1, "filled_bytes": 100}
    before = cache_series(cache)
    fill(cache, files[0])  # one page has left since it did
    wanted = out | {"made_segments": 1, "filled_bytes": 100, "ghost_quadruple_segments": 1}
    assert moved(cache, before) == wanted | {"ghost_double_segments": 1}
    for data in files[3:7]:
        fill(cache, data)
    before = cache_series(cache)
    fill(cache, files[0])  # four pages: a cache of twice the limit would not have it any more
    assert moved(cache, before) == wanted
    before = cache_series(cache)
    cache.limit_bytes = PAGE
    less = {
        "charged_bytes": -PAGE,
        "protected_bytes": -PAGE,
        "segments": -1,
        "open_segments": -1,
        "evicted_segments": 1,
        "evicted_bytes": PAGE,
    }
    assert moved(cache, before) == less | {"limit_bytes": -PAGE, "evicted_limit_segments": 1}
    before = cache_series(cache)
    assert cache.evict(1) == PAGE
    assert moved(cache, before) == less | {"evicted_disk_segments": 1}
    assert [eviction.reason for eviction in cache.evictions()][-2:] == ["limit", "disk"]
    cache.close()


def test_what_is_used_long_after_it_was_fetched_moves_its_series(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 12 * MIB, reuse_s=0)
    used = fill(cache, b"u" * (8 * MIB))
    for segment in range(2):
        used.span(segment * 4 * MIB)
    before = cache_series(cache)
    fill(cache, b"n" * (8 * MIB))
    assert moved(cache, before)["reused_bytes"] > 0
    cache.close()


def test_a_file_that_is_closed_and_opened_again_moves_its_series(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 64 * MIB, open_limit=2)
    blobs = [fill(cache, bytes([n]) * 100) for n in range(4)]
    cache.reap()
    before = cache_series(cache)
    assert before["open_segments"] <= 2 and before["segments"] == 4
    closed = next(blob for blob in blobs if blob.states(0, 1) == b"\4")
    assert cache.recheck(closed, 0)
    assert moved(cache, before)["reopened_segments"] == 1
    cache.close()


def test_what_an_earlier_run_left_moves_its_series(tmp_path: Path) -> None:
    data = b"".join(bytes([n]) * MIB for n in range(6))
    cache = Cache(str(tmp_path), 64 * MIB)
    fill(cache, data)
    cache.close()
    (tmp_path / "state").unlink()  # as after a kill: every chunk is unchecked
    path = tmp_path / f"{hashlib.sha256(data).hexdigest()}.d" / "1"
    path.write_bytes(bytes(2 * MIB))
    cache = Cache(str(tmp_path), 64 * MIB)
    blob = blob_of(cache, data)
    assert cache_series(cache)["kept_segments"] == 2
    before = cache_series(cache)
    assert cache.recheck(blob, 0)
    assert moved(cache, before) == {"rechecked_chunks": 1}
    with pytest.raises(DigestMismatch):
        cache.recheck(blob, 4)
    assert moved(cache, before)["rotten_chunks"] == 1
    cache.close()


def test_every_series_of_the_scrub_moves_with_what_a_scrub_does(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 64 * MIB)
    data = b"s" * (MIB + 100)
    blob = fill(cache, data)
    scrubber = Scrubber(cache, lambda: [blob])

    def series() -> dict[str, float]:
        return {key.removeprefix("bootplane_scrub_"): value for key, value in samples(0, scrub=scrubber.stats).items()
                if "_scrub_" in key}  # fmt: skip

    keys = [*(f"{key}_total" for key in SCRUB_COUNTERS), "last_pass_seconds"]
    assert series() == dict.fromkeys(keys, 0)
    for _ in range(2):
        scrubber.step()
    once = series()
    assert once.pop("last_pass_seconds") > 0
    assert once == {
        "passes_total": 1,
        "chunks_total": 2,
        "bytes_total": len(data),
        "hashed_total": 2,
        "damaged_total": 0,
    }
    path = tmp_path / f"{blob.sha256}.d" / "0"
    path.write_bytes(bytes(len(data)))
    for _ in range(2):
        scrubber.step()
    assert series()["damaged_total"] >= 1
    cache.close()
