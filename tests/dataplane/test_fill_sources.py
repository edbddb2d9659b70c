"""The filler among fake regions over loopback, one of which misbehaves: the file comes, right, and hardly a byte
is fetched twice. What is counted is what the regions sent and what the rack read, not time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootplane.dataplane.fill import ST_UPSTREAM
from tests.fakes.filling import COUNT, DATA, MIB, SHA, Rack, eventually
from tests.fakes.region import FakeRegion, Link

OTHER = DATA[::-1]
OTHER_SHA = hashlib.sha256(OTHER).hexdigest()
FILES = {"squashfs": DATA, "other": OTHER}


@pytest.fixture
def regions() -> Iterator[tuple[FakeRegion, FakeRegion, FakeRegion]]:
    with FakeRegion(FILES) as first, FakeRegion(FILES) as second, FakeRegion(FILES) as third:
        yield first, second, third


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rack]]:
    with contextlib.ExitStack() as undo:

        def build(*regions: FakeRegion, **options: float) -> Rack:
            rack = Rack(tmp_path / "cache", *regions, **options)
            undo.callback(rack.close)
            return rack

        yield build


def chunks_sent(*regions: FakeRegion) -> Counter[int]:
    """chunk of DATA -> times that any of them began to send it."""
    return sum(
        (Counter({c: n for (sha256, c), n in region.sent.items() if sha256 == SHA}) for region in regions), Counter()
    )


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall is no fault yet while such a test runs."""
    monkeypatch.setattr("bootplane.dataplane.upstream.STALL_S", 60.0)


def test_two_sources_share_a_file_and_each_chunk_is_sent_once(
    make: Callable[..., Rack], regions: tuple[FakeRegion, FakeRegion, FakeRegion]
) -> None:
    rack = make(*regions)
    assert rack.read_whole(rack.blob()) == DATA
    assert chunks_sent(*regions) == dict.fromkeys(range(COUNT), 1)
    eventually(lambda: rack.filler.stats.upstream_bytes == len(DATA) == sum(region.bulk_bytes for region in regions))


def refuses(region: FakeRegion) -> None:
    region.stop()


def answers_404(region: FakeRegion) -> None:
    region.bulk_status = 404


def answers_410(region: FakeRegion) -> None:
    region.bulk_status = 410


def answers_503(region: FakeRegion) -> None:
    region.bulk_status = 503


def sends_the_whole_file(region: FakeRegion) -> None:
    region.ignore_range = True


def has_another_size(region: FakeRegion) -> None:
    region.lie_about_length = 1


def sends_another_range(region: FakeRegion) -> None:
    region.lie_about_start = 1


def says_it_sends_more(region: FakeRegion) -> None:
    region.lie_about_body = 1


def says_it_sends_less(region: FakeRegion) -> None:
    region.lie_about_body = -1


@pytest.mark.parametrize(
    ("misbehave", "reason"),
    [
        (refuses, "unreachable"),
        (answers_404, "missing"),
        (answers_410, "missing"),
        (answers_503, "answer"),
        (sends_the_whole_file, "answer"),
        (has_another_size, "answer"),
        (sends_another_range, "answer"),
        (says_it_sends_more, "answer"),
        (says_it_sends_less, "answer"),
    ],
)
def test_a_source_whose_answer_is_none_is_left_for_another_at_once(
    make: Callable[..., Rack],
    regions: tuple[FakeRegion, FakeRegion, FakeRegion],
    misbehave: Callable[[FakeRegion], None],
    reason: str,
) -> None:
    bad, good, _ = regions
    misbehave(bad)
    rack = make(bad, good)
    assert rack.read_whole(rack.blob()) == DATA
    assert chunks_sent(good) == dict.fromkeys(range(COUNT), 1)
    assert 1 <= rack.filler.stats.errors[reason] == sum(rack.filler.stats.errors.values()) <= 3
    assert rack.filler.stats.upstream_bytes == len(DATA) == good.bulk_bytes, "nothing of the other was read"
    assert rack.filler.stats.given_up == 0


def test_a_fetch_goes_on_where_it_was_cut_at_another_source(
    make: Callable[..., Rack], regions: tuple[FakeRegion, FakeRegion, FakeRegion]
) -> None:
    first, second, _ = regions
    first.cut_after, first.cut_times = MIB + MIB // 2, 1  # in the second chunk of a run
    rack = make(first, second)
    assert rack.read_whole(rack.blob()) == DATA
    sent = chunks_sent(first, second)
    assert rack.filler.stats.errors == {"cut": 1}
    assert sorted(sent.values()) == [1] * (COUNT - 1) + [2], "what had come whole is not sent again"
    assert first.bulk_bytes + second.bulk_bytes == len(DATA) + MIB // 2 == rack.filler.stats.upstream_bytes
    assert rack.filler.stats.wasted_bytes == MIB // 2


def test_a_source_that_is_cut_all_the_time_delivers_the_file_chunk_by_chunk(
    make: Callable[..., Rack], regions: tuple[FakeRegion, FakeRegion, FakeRegion]
) -> None:
    region = regions[0]
    region.cut_after, region.cut_times = MIB + MIB // 4, 1000
    rack = make(region)
    blob = rack.blob()
    assert rack.read_whole(blob) == DATA
    cuts = rack.filler.stats.errors["cut"]
    assert region.bulk_bytes == len(DATA) + cuts * (MIB // 4) == rack.filler.stats.upstream_bytes
    assert rack.filler.stats.wasted_bytes == cuts * (MIB // 4)


def test_threads_that_hang_in_one_source_leave_one_for_the_files_of_another(
    make: Callable[..., Rack],
    regions: tuple[FakeRegion, FakeRegion, FakeRegion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patient(monkeypatch)
    dead, good, _ = regions
    dead.publish({"squashfs": DATA})
    good.publish({"other": OTHER})
    dead.stall.set()
    rack = make(good, dead)
    rack.filler.miss(rack.blob(), 2)
    eventually(lambda: SHA in str(good.requests))  # it does not have that one, so only the other is asked from now on
    for chunk in (4, 6, 8, 10):
        rack.filler.miss(rack.blob(), chunk)
    eventually(lambda: sum("blob" in path for _, path in dead.requests) == 2)
    assert rack.read_whole(rack.blob(OTHER)) == OTHER
    assert sum("blob" in path for _, path in dead.requests) == 2
    dead.stall.clear()
    assert rack.status_of(rack.blob(), 10) == 0


def test_what_hangs_in_a_source_that_stalls_comes_from_the_other(
    make: Callable[..., Rack],
    regions: tuple[FakeRegion, FakeRegion, FakeRegion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bootplane.dataplane.upstream.STALL_S", 1.0)
    dead, good, _ = regions
    dead.stall.set()
    rack = make(dead, good)
    assert rack.read_whole(rack.blob()) == DATA
    assert chunks_sent(dead) == {}
    assert chunks_sent(good) == dict.fromkeys(range(COUNT), 1)
    assert 1 <= rack.filler.stats.errors["stalled"] <= 2
    dead.stall.clear()


def test_a_source_that_falls_silent_is_left_early_when_another_is_known_to_be_fast(
    make: Callable[..., Rack],
    regions: tuple[FakeRegion, FakeRegion, FakeRegion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patient(monkeypatch)
    monkeypatch.setattr("bootplane.dataplane.sources.SILENCE_S", 0.5)
    dead, good, _ = regions
    dead.stall.set()
    rack = make(good)
    assert rack.read_whole(rack.blob(OTHER)) == OTHER  # now the good one's speed is known
    rack.filler.set_sources([("127.0.0.1", dead.bulk_port), ("127.0.0.1", good.bulk_port)])
    assert rack.read_whole(rack.blob()) == DATA, "no chunk is waited for as long as a source may be silent: 60 s here"
    assert chunks_sent(dead) == {}
    assert 1 <= rack.filler.stats.errors["stalled"] <= 2
    assert "sent nothing for 0.5 s" in rack.filler._fetcher.last_error
    dead.stall.clear()


def test_what_drips_from_one_source_comes_from_the_other(
    make: Callable[..., Rack],
    regions: tuple[FakeRegion, FakeRegion, FakeRegion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bootplane.dataplane.upstream.STALL_S", 0.5)
    monkeypatch.setattr("bootplane.dataplane.sources.PATIENCE_S", 1.0)
    drip, good, _ = regions
    drip.link = Link(200_000)  # never silent for long, and a chunk takes it 5 s
    rack = make(good)
    assert rack.read_whole(rack.blob(OTHER)) == OTHER  # now the good one's speed is known
    rack.filler.set_sources([("127.0.0.1", drip.bulk_port), ("127.0.0.1", good.bulk_port)])
    assert rack.read_whole(rack.blob()) == DATA
    assert sum(chunks_sent(drip).values()) >= 1
    assert 1 <= rack.filler.stats.errors["stalled"] <= 2, "one for each thread that may be at it"
    assert 0 < rack.filler.stats.wasted_bytes < 2 * MIB
    drip.link = None


def test_a_much_slower_source_hardly_slows_the_file(
    make: Callable[..., Rack], regions: tuple[FakeRegion, FakeRegion, FakeRegion]
) -> None:
    slow, fast, _ = regions
    slow.link = Link(2 * MIB)
    rack = make(slow, fast)
    assert rack.read_whole(rack.blob()) == DATA
    assert sum(chunks_sent(slow).values()) <= 5, "two to find out"
    assert chunks_sent(slow, fast) == dict.fromkeys(range(COUNT), 1)


def test_a_source_that_is_back_is_found_with_a_byte_and_gets_its_part_again(
    make: Callable[..., Rack],
    regions: tuple[FakeRegion, FakeRegion, FakeRegion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bootplane.dataplane.sources.PROBE_S", 0.2)
    first, second, _ = regions
    first.stop()
    rack = make(first, second)
    assert rack.read_whole(rack.blob()) == DATA
    first.start()
    eventually(lambda: first.bulk_bytes == 1)
    assert rack.read_whole(rack.blob(OTHER)) == OTHER
    assert first.bulk_bytes > 1
    assert first.bulk_bytes + second.bulk_bytes == len(DATA) + len(OTHER) + 1


def test_a_source_that_sends_wrong_bytes_is_quarantined_and_the_event_names_it(
    make: Callable[..., Rack], regions: tuple[FakeRegion, FakeRegion, FakeRegion]
) -> None:
    bad, good, _ = regions
    bad.corrupt = {(SHA, chunk) for chunk in range(COUNT)}
    rack = make(bad, good)
    assert rack.read_whole(rack.blob()) == DATA
    assert chunks_sent(good) == dict.fromkeys(range(COUNT), 1)
    assert {event.source for event in rack.filler.events} == {bad.bulk}
    asked = len(bad.requests)
    assert rack.read_whole(rack.blob(OTHER)) == OTHER
    assert len(bad.requests) == asked, "nor is it asked for other files while somebody else has them"


def test_where_every_source_is_wrong_the_waiters_are_told_and_the_events_name_each(
    make: Callable[..., Rack], regions: tuple[FakeRegion, FakeRegion, FakeRegion]
) -> None:
    for region in regions:
        region.corrupt = {(SHA, 5)}
    rack = make(*regions)
    blob = rack.blob()
    assert rack.wait_for(blob, 5) == ST_UPSTREAM
    assert blob.states(5, 1) == b"\0"
    good = DATA[5 * MIB : 6 * MIB]
    expected, got = (hashlib.sha256(data).hexdigest() for data in (good, bytes([good[0] ^ 1]) + good[1:]))
    found = {(event.blob, event.chunk, event.source, event.expected, event.got) for event in rack.filler.events}
    assert found == {(SHA, 5, region.bulk, expected, got) for region in regions}
    assert rack.filler.stats.wasted_bytes == 4 * MIB
    assert rack.filler.stats.refused == 4, "the last one was asked twice: the fault may have been on the way"
    assert rack.wait_for(blob, 5) == ST_UPSTREAM, "at once, while they are in quarantine"
    assert rack.filler.stats.refused == 4
    assert rack.wait_for(blob, 0) == ST_UPSTREAM, "nor is another chunk of that file had from them"


def test_back_off_ends_when_the_last_source_is_back(
    make: Callable[..., Rack], regions: tuple[FakeRegion, FakeRegion, FakeRegion]
) -> None:
    first, second, _ = regions
    first.stop()
    second.stop()
    rack = make(first, second)
    blob = rack.blob()
    rack.filler.miss(blob, 5)
    eventually(lambda: rack.filler.stats.errors["unreachable"] >= 6)
    assert max(source.ready_at - source.failed_at for source in rack.filler._sources) > 0.3, "it has grown"
    second.start()
    assert rack.status_of(blob, 5) == 0
    assert rack.filler.stats.given_up == 0
