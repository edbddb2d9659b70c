from __future__ import annotations

from bootplane.dataplane.sources import MAX_BACKOFF_S, MISSING_S, QUARANTINE_S, Source, Sources

A, B = "a" * 64, "b" * 64


def two() -> tuple[Sources, Source, Source]:
    sources = Sources()
    sources.replace([("10.0.0.1", 5241), ("10.0.0.2", 5241)])
    first = sources.pick(A, 0)
    assert first is not None
    sources.failed(first, 0)
    second = sources.pick(A, 0)
    assert second is not None
    sources.succeeded(first)
    return sources, first, second


def test_a_source_is_named_as_an_address() -> None:
    assert Source("10.0.0.1", 5241).key == "10.0.0.1:5241"
    assert Source("fd00::1", 5241).key == "[fd00::1]:5241"


def test_without_sources_nobody_is_asked_and_waiting_makes_sense() -> None:
    sources = Sources()
    assert sources.pick(A, 0) is None
    assert not sources.is_hopeless(A, 0)


def test_a_source_that_failed_is_left_alone_for_a_growing_but_bounded_while() -> None:
    sources = Sources()
    sources.replace([("10.0.0.1", 5241)])
    source = sources.pick(A, 0)
    assert source is not None
    waits = []
    for _ in range(8):
        sources.failed(source, 100.0)
        assert sources.pick(A, 100.0) is None
        waits.append(round(source.ready_at - 100.0, 3))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert sources.pick(A, 100.0 + MAX_BACKOFF_S) is source
    sources.succeeded(source)
    sources.failed(source, 100.0)
    assert round(source.ready_at - 100.0, 3) == 0.1


def test_the_other_source_takes_over() -> None:
    sources, first, second = two()
    assert first is not second
    sources.failed(first, 10)
    assert sources.pick(A, 10) is second


def test_a_source_that_sent_a_wrong_chunk_is_not_asked_for_that_blob_for_a_minute() -> None:
    sources, first, second = two()
    sources.wrong(first, A, 0)
    assert sources.pick(A, 1) is second
    assert sources.pick(B, 1) is second
    sources.wrong(second, A, 1)
    assert sources.pick(A, 2) is None
    assert sources.is_hopeless(A, 2)
    assert sources.pick(A, QUARANTINE_S) is first
    assert not sources.is_hopeless(A, QUARANTINE_S)


def test_one_damaged_file_does_not_stop_the_good_ones_of_the_only_source() -> None:
    sources = Sources()
    sources.replace([("10.0.0.1", 5241)])
    source = sources.pick(A, 0)
    assert source is not None
    sources.wrong(source, A, 0)
    assert sources.pick(A, 1) is None
    assert sources.pick(B, 1) is source


def test_a_source_that_lacks_a_blob_is_asked_again_after_a_while() -> None:
    sources = Sources()
    sources.replace([("10.0.0.1", 5241)])
    source = sources.pick(A, 0)
    assert source is not None
    sources.missing(source, A, 0)
    assert sources.is_hopeless(A, 1)
    assert sources.pick(A, MISSING_S) is source


def test_a_source_that_stays_keeps_its_state() -> None:
    sources, first, _ = two()
    sources.wrong(first, A, 0)
    sources.replace([(first.host, first.port), ("10.0.0.9", 5241), (first.host, first.port)])
    assert sources.keys() == [first.key, "10.0.0.9:5241"]
    picked = sources.pick(A, 1)
    assert picked is not None
    assert picked.key == "10.0.0.9:5241"
