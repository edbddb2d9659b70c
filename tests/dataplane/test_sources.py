from __future__ import annotations

from bootplane.dataplane.sources import (
    FIRST_RUN_BYTES,
    FORGET_S,
    MAX_BACKOFF_S,
    MISSING_S,
    PATIENCE_S,
    PROBE_S,
    QUARANTINE_S,
    SILENCE_S,
    Source,
    Sources,
)

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


def several(count: int, threads: int = 3) -> tuple[Sources, list[Source]]:
    sources = Sources(threads)
    sources.replace([(f"10.0.0.{n}", 5241) for n in range(count)])
    return sources, list(sources)


def ask(sources: Sources, times: int, sha256: str = A, now: float = 0) -> list[str]:
    """What so many threads would ask, none of which has ended."""
    asked = []
    for _ in range(times):
        source = sources.pick(sha256, now)
        if source is not None:
            source.flights += 1
        asked.append(source.host if source else "nobody")
    return asked


def test_threads_are_spread_over_the_sources() -> None:
    sources, _ = several(3)
    assert sorted(ask(sources, 3)) == ["10.0.0.0", "10.0.0.1", "10.0.0.2"]


def test_the_last_thread_is_not_given_to_a_source_while_there_is_another() -> None:
    sources, (first, second) = several(2)
    sources.missing(second, A, 0)
    assert ask(sources, 3) == [first.host, first.host, "nobody"]  # they may all hang in there for a while
    assert ask(sources, 1, B) == [second.host]
    alone, (only,) = several(1)
    assert ask(alone, 3) == [only.host] * 3


def test_a_source_that_failed_meets_one_thread_at_a_time_until_it_delivers() -> None:
    sources, (only,) = several(1)
    sources.failed(only, 0)
    assert ask(sources, 3, now=1) == [only.host, "nobody", "nobody"]
    sources.succeeded(only)
    assert ask(sources, 2, now=1) == [only.host] * 2


def test_nobodys_chunk_is_risked_on_a_source_that_failed_while_another_is_well() -> None:
    sources, (first, second) = several(2)
    sources.failed(first, 0)
    assert sources.is_due(PROBE_S - 1) is None
    assert ask(sources, 3, now=PROBE_S) == [second.host, second.host, "nobody"]
    assert sources.is_due(PROBE_S) is first
    first.flights = 1  # somebody is at it
    assert sources.is_due(PROBE_S) is None
    sources.failed(second, PROBE_S)  # all have failed: each fetch is a try
    first.flights = second.flights = 0
    assert sources.is_due(2 * PROBE_S) is None
    assert sorted(ask(sources, 3, now=2 * PROBE_S)) == [first.host, second.host, "nobody"]


def test_a_much_slower_source_gets_no_work_while_a_fast_one_has_it() -> None:
    sources, (slow, fast) = several(2)
    sources.measured(slow, 1 << 20, 1.0, now=0)
    sources.measured(fast, 1 << 20, 0.01, now=0)
    assert ask(sources, 3) == [fast.host, fast.host, "nobody"]
    assert ask(sources, 1, now=FORGET_S * 5) == [slow.host], "it may have become faster"


def test_sources_of_a_like_speed_share_the_work() -> None:
    sources, (a, b) = several(2)
    sources.measured(a, 3 << 20, 0.1, now=0)
    sources.measured(b, 2 << 20, 0.1, now=0)
    assert ask(sources, 3) == [a.host, b.host, a.host]


def test_a_run_is_what_a_source_delivers_in_about_a_second() -> None:
    sources, (source,) = several(1)
    assert sources.longest_run(source) == FIRST_RUN_BYTES
    sources.measured(source, 1 << 20, 0.1, now=0)
    assert sources.longest_run(source) == 10 << 20
    for _ in range(50):
        sources.measured(source, 1 << 20, 2.0, now=0)
    assert sources.longest_run(source) == 1 << 19


def test_a_source_is_given_up_in_mid_chunk_only_for_one_that_is_well_and_much_faster() -> None:
    sources, (drip, other) = several(2)
    chunk = 1 << 20
    assert sources.patience_s(drip, A, chunk, 0) == 0.0, "nothing is known of the other"
    sources.measured(other, chunk, PATIENCE_S / 2, now=0)
    assert sources.patience_s(drip, A, chunk, 0) == 0.0, "it is slow, too: both on a narrow link"
    sources.measured(other, 1000 * chunk, 1.0, now=0)
    assert sources.patience_s(drip, A, chunk, 0) == PATIENCE_S
    sources.missing(other, A, 0)
    assert sources.patience_s(drip, A, chunk, 0) == 0.0
    sources.failed(other, 0)
    assert sources.patience_s(drip, B, chunk, 0) == 0.0


def test_a_silent_source_is_left_early_only_for_one_that_would_have_sent_the_chunk_meanwhile() -> None:
    sources, (silent, other) = several(2)
    chunk = 1 << 20
    sources.measured(silent, 1000 * chunk, 1.0, now=0)
    assert sources.silence_s(silent, A, chunk, 0) == 0.0, "nothing is known of the other"
    sources.measured(other, chunk, SILENCE_S * 1.01, now=0)
    assert sources.silence_s(silent, A, chunk, 0) == 0.0, "a narrow link, on which silence is no wonder"
    other.bytes_s = 0.0
    sources.measured(other, chunk, SILENCE_S / 2, now=0)
    assert sources.silence_s(silent, A, chunk, 0) == SILENCE_S
    sources.missing(other, A, 0)
    assert (sources.silence_s(silent, A, chunk, 0), sources.silence_s(silent, B, chunk, 0)) == (0.0, SILENCE_S)
    sources.wrong(other, B, 0)
    assert sources.silence_s(silent, "c" * 64, chunk, 0) == 0.0, "it is asked only when no other is left"
    sources.failed(other, QUARANTINE_S)
    assert sources.silence_s(silent, B, chunk, QUARANTINE_S) == 0.0
    sources.replace([(silent.host, silent.port)])
    assert sources.silence_s(silent, B, chunk, QUARANTINE_S) == 0.0, "there is no other"
