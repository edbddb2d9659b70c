from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bootplane.core.counters import COUNTERS
from bootplane.core.lru import Cache
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.fill import FillStats
from bootplane.dataplane.metrics import (
    CACHE_COUNTERS,
    CACHE_GAUGES,
    CONTROL_OUTCOMES,
    FETCH_ERRORS,
    QUESTION_OUTCOMES,
    Exposition,
    Numbers,
)
from bootplane.dataplane.transfers import OUTCOMES, PROTOCOLS


def numbers(start: int, real: Mapping[str, int] | None = None) -> Numbers:
    """Every number a different one, counted up from *start*; those of the cache are *real* ones when given."""
    n = iter(range(start, start + 1000))
    core = {counter.name: next(n) for counter in COUNTERS}
    cache = {key: next(n) for key in (*CACHE_GAUGES, *CACHE_COUNTERS)}
    fill = FillStats(upstream_bytes=next(n), chunks=next(n), runs=next(n), refused=next(n), given_up=next(n))
    fill.damaged = next(n)
    fill.throttled_s = next(n)
    for reason in FETCH_ERRORS:
        fill.errors[reason] = next(n)
    return Numbers(
        core=core,
        cache=real or cache,
        fill=fill,
        upstream_limit_bytes_s=next(n),
        questions={outcome: next(n) for outcome in QUESTION_OUTCOMES},
        control={outcome: next(n) for outcome in CONTROL_OUTCOMES},
        transfers={(protocol, outcome): next(n) for protocol in PROTOCOLS for outcome in OUTCOMES},
        reports_waiting=next(n),
        reports_sent=next(n),
        reports_dropped=next(n),
        sources=next(n),
        catalogue_version=next(n),
        catalogue_names=next(n),
        region_reachable=start > 0,
    )


def samples(start: int, real: Mapping[str, int] | None = None) -> dict[str, float]:
    text = Exposition(lambda: numbers(start, real), "1.2.3").text().decode()
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
    bounded = (*QUESTION_OUTCOMES, *CONTROL_OUTCOMES, *FETCH_ERRORS)
    assert len(labelled) == len(bounded) + len(PROTOCOLS) * len(OUTCOMES)


def test_every_series_of_the_cache_moves_with_what_a_cache_does(tmp_path: Path) -> None:
    cache = Cache(str(tmp_path), 1 << 20)

    def series() -> dict[str, float]:
        found = samples(0, cache.stats())
        return {name.removeprefix("bootplane_cache_"): value for name, value in found.items() if "_cache_" in name}

    digest = hashlib.sha256(b"x" * 100)
    blob = cache.blob(digest.hexdigest(), 100, digest.digest())
    new = dict.fromkeys([*CACHE_GAUGES, *(f"{key}_total" for key in CACHE_COUNTERS)], 0) | {"limit_bytes": 1 << 20}
    assert series() == new
    assert cache.begin(blob, 0)
    filling = new | {"charged_bytes": 4096, "segments": 1}
    assert series() == filling
    with pytest.raises(DigestMismatch):
        cache.store(blob, 0, b"y" * 100)
    assert cache.begin(blob, 0)
    cache.store(blob, 0, b"x" * 100)
    full = filling | {"refused_chunks_total": 1, "filled_bytes_total": 100}
    assert series() == full
    pin = blob.pin(0)
    cache.drop(blob)
    condemned = full | {"charged_bytes": 0, "segments": 0, "condemned_bytes": 4096}
    assert {key: value for key, value in series().items() if not key.startswith("evicted")} == {
        key: value for key, value in condemned.items() if not key.startswith("evicted")
    }
    pin.release()
    cache.reap()
    assert cache.begin(blob, 0)
    cache.store(blob, 0, b"x" * 100)
    before = series()
    cache.limit_bytes = 0
    after = series()
    assert after["evicted_segments_total"] == before["evicted_segments_total"] + 1
    assert after["evicted_bytes_total"] == before["evicted_bytes_total"] + 4096
    assert (after["limit_bytes"], after["charged_bytes"], after["segments"], after["condemned_bytes"]) == (0, 0, 0, 0)
    cache.close()
