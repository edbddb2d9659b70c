from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from bootplane.core.counters import COUNTERS
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


def numbers(start: int) -> Numbers:
    """Every number a different one, counted up from *start*."""
    n = iter(range(start, start + 1000))
    core = {counter.name: next(n) for counter in COUNTERS}
    cache = {key: next(n) for key in (*CACHE_GAUGES, *CACHE_COUNTERS)}
    fill = FillStats(upstream_bytes=next(n), chunks=next(n), runs=next(n), refused=next(n), given_up=next(n))
    for reason in FETCH_ERRORS:
        fill.errors[reason] = next(n)
    return Numbers(
        core=core,
        cache=cache,
        fill=fill,
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


def samples(start: int) -> dict[str, float]:
    text = Exposition(lambda: numbers(start), "1.2.3").text().decode()
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
