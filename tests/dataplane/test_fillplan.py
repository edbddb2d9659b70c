from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bootplane.dataplane.fillplan import LOOK_S, MAX_STREAMS, SHORT_RUN, Planner, Run


class Files:
    """Which chunks are present, as a cache would say."""

    def __init__(self) -> None:
        self.present: set[tuple[int, int]] = set()
        self.unready: set[int] = set()
        self.longest = 1000

    def absent(self, blob: int, first: int, count: int) -> bytes:
        return bytes((blob, chunk) not in self.present for chunk in range(first, first + count))

    def ready(self, blob: int) -> int:
        return 0 if blob in self.unready else self.longest

    def land(self, plan: Planner, run: Run) -> None:
        for chunk in range(run.first, run.first + run.length):
            self.present.add((run.blob, chunk))
            plan.landed(run.blob, chunk)


def take(plan: Planner, files: Files) -> Run | None:
    return plan.next(files.absent, files.ready)


def test_nothing_wanted_is_nothing_to_fetch() -> None:
    assert take(Planner(), Files()) is None


def test_the_start_of_a_file_is_fetched_by_the_segment() -> None:
    plan, files = Planner(), Files()
    plan.miss(1, 100, 0, now=0)
    assert take(plan, files) == Run(1, 0, 4)
    assert take(plan, files) is None


def test_nobody_need_look_for_a_reader_of_what_is_on_its_way_until_the_next_run_may_begin() -> None:
    plan, files = Planner(read_ahead=32, longest_run=8), Files()
    assert plan.miss(1, 1000, 0, now=0)
    files.land(plan, take(plan, files) or Run(1, 0, 0))
    assert plan.miss(1, 1000, 4, now=0), "it is not on its way"
    assert take(plan, files) == Run(1, 4, 8)
    for chunk in range(4, 12):
        begins = plan.miss(1, 1000, chunk, now=0)
        assert begins == (take(plan, files) is not None), chunk
        files.present.add((1, chunk))
        plan.landed(1, chunk)
        if begins:
            break
    assert chunk == 10  # two of its chunks were on their way


def test_a_small_file_is_fetched_whole_and_no_further() -> None:
    plan, files = Planner(), Files()
    plan.miss(1, 2, 0, now=0)
    assert take(plan, files) == Run(1, 0, 2)
    assert take(plan, files) is None


def test_a_reader_that_is_seen_further_on_without_having_missed_moves_the_window() -> None:
    plan, files = Planner(read_ahead=32), Files()
    plan.miss(1, 1000, 0, now=0)
    assert plan.places(0) == [], "the first window is one segment: a miss alone tells that it was left"
    for chunk, run in ((4, Run(1, 0, 4)), (8, Run(1, 4, 8))):
        assert take(plan, files) == run
        files.land(plan, run)
        assert take(plan, files) is None
        plan.miss(1, 1000, chunk, now=0, present=chunk == 8)
    assert take(plan, files) == Run(1, 12, 12)
    assert plan.places(0) == [(1, 12, 24)]
    assert plan.places(LOOK_S) == [(1, 12, 24)]
    assert plan.places(LOOK_S + 0.1) == [], "it stands still: its next miss will tell"


def test_what_was_fetched_for_a_place_and_evicted_is_not_fetched_again_before_somebody_asks() -> None:
    """A reader that misses nothing is further than it was seen: its read-ahead would push out what it is at."""
    plan, files = Planner(read_ahead=32), Files()
    plan.miss(1, 1000, 0, now=0)
    files.land(plan, take(plan, files) or Run(0, 0, 0))
    plan.miss(1, 1000, 4, now=0)
    files.present -= {(1, chunk) for chunk in range(4)}
    assert take(plan, files) == Run(1, 4, 8)
    files.land(plan, Run(1, 4, 8))
    files.present -= {(1, chunk) for chunk in range(4, 8)}
    assert take(plan, files) is None
    plan.miss(1, 1000, 5, now=0)
    assert take(plan, files) == Run(1, 5, 3), "who asks gets it"


def test_a_run_that_was_cut_goes_on_where_it_was_when_the_reader_comes_nearer() -> None:
    plan, files = Planner(read_ahead=32), Files()
    plan.miss(1, 1000, 0, now=0)
    files.land(plan, take(plan, files) or Run(0, 0, 0))
    plan.miss(1, 1000, 4, now=0)
    assert take(plan, files) == Run(1, 4, 8)
    files.land(plan, Run(1, 4, 2))
    for chunk in range(6, 12):
        plan.returned(1, chunk)
    assert take(plan, files) is None
    plan.miss(1, 1000, 5, now=0, present=True)
    assert take(plan, files) == Run(1, 6, 15)


def test_a_place_that_was_let_go_of_is_looked_at_no_more() -> None:
    plan = Planner(read_ahead=32)
    for blob in (1, 2):
        plan.miss(blob, 1000, 0, now=0)
        plan.miss(blob, 1000, 4, now=0)
    plan.forget(1)
    assert plan.places(0) == [(2, 8, 12)]
    for chunk in range(50, 50 + 10 * MAX_STREAMS, 10):
        plan.miss(2, 1000, chunk, now=0)
    assert plan.places(0) == []


def test_a_chunk_out_of_nowhere_is_fetched_alone() -> None:
    plan, files = Planner(), Files()
    plan.miss(1, 100, 50, now=0)
    assert take(plan, files) == Run(1, 50, 1)
    assert take(plan, files) is None


def test_however_many_ask_a_chunk_flies_once() -> None:
    plan, files = Planner(), Files()
    for now in range(16):
        plan.miss(1, 100, 0, now=now)
    assert take(plan, files) == Run(1, 0, 4)
    for chunk in (0, 1, 2, 3):
        plan.miss(1, 4, chunk, now=20)
    run = take(plan, files)
    assert run is None or run.first >= 4


def test_the_window_doubles_while_a_reader_follows_up_to_the_limit() -> None:
    plan, files = Planner(read_ahead=32, longest_run=1000), Files()
    fetched: list[tuple[int, int]] = []
    for chunk in range(200):
        if (1, chunk) not in files.present:
            plan.miss(1, 1000, chunk, now=chunk)
        while (run := take(plan, files)) is not None:
            fetched.append((run.first, run.first + run.length))
            files.land(plan, run)
    # a reader slower than the source meets an absent chunk only at the horizon
    assert fetched[:6] == [(0, 4), (4, 12), (12, 28), (28, 60), (60, 92), (92, 124)]


def test_the_next_run_starts_before_the_last_one_has_ended() -> None:
    plan, files = Planner(), Files()
    plan.miss(1, 100, 0, now=0)
    assert take(plan, files) == Run(1, 0, 4)
    files.land(plan, Run(1, 0, 1))
    plan.miss(1, 100, 1, now=1)
    assert take(plan, files) is None  # three chunks are still on their way
    files.land(plan, Run(1, 1, 1))
    assert take(plan, files) == Run(1, 4, 5)


def test_a_run_is_never_longer_than_its_limit() -> None:
    plan, files = Planner(read_ahead=32, longest_run=8), Files()
    for chunk in range(6):
        plan.miss(1, 100, chunk, now=chunk)
    run = take(plan, files)
    assert run == Run(1, 0, 8)


def test_demand_goes_before_read_ahead_and_the_oldest_first() -> None:
    plan, files = Planner(longest_run=4), Files()
    plan.miss(1, 100, 0, now=0)
    plan.miss(1, 100, 1, now=1)
    assert take(plan, files) == Run(1, 0, 4)
    plan.miss(3, 100, 50, now=3)
    plan.miss(2, 100, 50, now=2)
    files.land(plan, Run(1, 0, 4))
    assert take(plan, files) == Run(2, 50, 1)
    assert take(plan, files) == Run(3, 50, 1)
    assert take(plan, files) == Run(1, 4, 4)


def test_a_run_stops_before_what_is_present_and_goes_on_behind_it() -> None:
    plan, files = Planner(), Files()
    files.present = {(1, 2)}
    plan.miss(1, 100, 0, now=0)
    assert take(plan, files) == Run(1, 0, 2)
    assert take(plan, files) == Run(1, 3, 1)


def test_two_readers_far_apart_each_keep_their_window() -> None:
    plan, files = Planner(longest_run=100), Files()
    for step in range(4):
        for base in (0, 500):
            chunk = base + step
            plan.miss(1, 1000, chunk, now=step)
    runs = []
    while (run := take(plan, files)) is not None:
        runs.append((run.first, run.first + run.length))
        files.land(plan, run)
    # short ones in turns while both wait; the last miss of each was at 3 and at 503
    assert runs == [(0, 2), (500, 502), (2, 4), (502, 511), (4, 3 + 32)]
    assert 511 == 503 + 8


def test_a_slow_reader_that_comes_back_is_still_a_follower() -> None:
    plan, files = Planner(), Files()
    plan.miss(1, 100, 0, now=0)
    run = take(plan, files)
    assert run is not None
    files.land(plan, run)
    assert take(plan, files) is None  # idle: everything up to the horizon is here
    plan.miss(1, 100, 4, now=1000)
    assert take(plan, files) == Run(1, 4, 8)


def test_a_chunk_that_came_meanwhile_moves_the_reader_and_waits_for_nothing() -> None:
    plan, files = Planner(), Files()
    plan.miss(1, 100, 0, now=0)
    run = take(plan, files)
    assert run is not None
    files.land(plan, run)
    plan.miss(1, 100, 2, now=1, present=True)
    assert plan.demanded(1) == []
    assert take(plan, files) == Run(1, 4, 6)


def test_a_demanded_chunk_that_came_back_is_fetched_again() -> None:
    plan, files = Planner(), Files()
    plan.miss(1, 100, 0, now=0)
    assert take(plan, files) == Run(1, 0, 4)
    for chunk in range(4):
        plan.returned(1, chunk)
    assert take(plan, files) == Run(1, 0, 1)  # what nobody waits for is not tried again
    assert take(plan, files) is None


def test_read_ahead_that_failed_is_fetched_when_a_reader_comes_there() -> None:
    plan, files = Planner(), Files()
    plan.miss(1, 100, 0, now=0)
    assert take(plan, files) == Run(1, 0, 4)
    files.land(plan, Run(1, 0, 2))
    plan.returned(1, 2)
    plan.returned(1, 3)
    assert take(plan, files) is None
    plan.miss(1, 100, 2, now=1)
    assert take(plan, files) == Run(1, 2, 8)


def test_a_failed_chunk_is_waited_for_no_more() -> None:
    plan, files = Planner(), Files()
    plan.miss(1, 100, 50, now=0)
    assert take(plan, files) == Run(1, 50, 1)
    plan.failed(1, 50)
    assert plan.demanded(1) == []
    assert not plan.is_starving()
    assert take(plan, files) is None


def test_nobody_starves_while_all_that_is_waited_for_is_on_its_way() -> None:
    plan, files = Planner(), Files()
    plan.miss(1, 100, 50, now=0)
    assert plan.is_starving()
    assert take(plan, files) == Run(1, 50, 1)
    assert not plan.is_starving()
    plan.returned(1, 50)
    assert plan.is_starving()
    plan.failed(1, 50)
    assert not plan.is_starving()


def test_a_blob_without_a_ready_source_is_passed_over() -> None:
    plan, files = Planner(), Files()
    files.unready = {1}
    plan.miss(1, 100, 50, now=0)
    plan.miss(2, 100, 50, now=1)
    assert take(plan, files) == Run(2, 50, 1)
    assert take(plan, files) is None
    files.unready = set()
    assert take(plan, files) == Run(1, 50, 1)


def test_waits_are_reported_by_age() -> None:
    plan = Planner()
    plan.miss(1, 100, 50, now=0)
    plan.miss(1, 100, 50, now=5)
    plan.miss(2, 100, 60, now=7)
    assert plan.overdue(before=1) == [(1, 50)]
    assert plan.overdue(before=7) == [(1, 50), (2, 60)]
    assert plan.demanding() == [1, 2]
    plan.forget(1)
    assert plan.demanding() == [2]


def test_a_tiny_cache_gets_a_tiny_window() -> None:
    plan, files = Planner(read_ahead=1), Files()
    plan.miss(1, 100, 0, now=0)
    assert take(plan, files) == Run(1, 0, 1)
    plan.miss(1, 100, 1, now=0)
    assert take(plan, files) == Run(1, 1, 1)


def test_a_pause_earns_nothing_and_who_comes_back_is_not_made_to_pay_for_what_it_had_alone() -> None:
    plan, files = Planner(longest_run=4), Files()
    for chunk in range(0, 40, 4):
        plan.miss(1, 1000, chunk, now=0)
        while (run := take(plan, files)) is not None:
            files.land(plan, run)
    order = []
    for step in range(200, 800, 100):  # both want something all the time from now on
        for blob in (1, 2):
            plan.miss(blob, 1000, step, now=step)
        for _ in (1, 2):
            run = take(plan, files)
            assert run is not None
            order.append(run.blob)
            files.land(plan, run)
    assert Counter(order) == {1: 6, 2: 6}
    assert all(set(order[at : at + 3]) == {1, 2} for at in range(4, 10))


def test_all_readers_that_move_share_what_may_be_read_ahead() -> None:
    plan, files = Planner(read_ahead=32, read_ahead_in_all=40), Files()
    for step in range(10):
        for blob in (1, 2, 3, 4):
            plan.miss(blob, 1000, 100 + step, now=step)
    ahead = Counter[int]()
    while (run := take(plan, files)) is not None:
        ahead[run.blob] += run.length
        files.land(plan, run)
    assert ahead == {blob: 9 + 10 for blob in (1, 2, 3, 4)}  # from the first miss to 10 past the last one
    for step in range(19, 25):  # the others have stopped
        plan.miss(1, 1000, 100 + step, now=20 + step)
    while (run := take(plan, files)) is not None:
        ahead[run.blob] += run.length
        files.land(plan, run)
    assert ahead[1] == 24 + 32


@dataclass
class Reader:
    blob: int
    at: int  # the chunk it waits for
    end: int
    got: int = 0


@dataclass
class Threads:
    """Fetch threads over one link: in a round each lands one chunk of the run it has in hand."""

    plan: Planner
    files: Files
    size: int  # chunks of every blob
    readers: list[Reader] = field(default_factory=list)
    hands: list[list[tuple[int, int]]] = field(default_factory=lambda: [[], [], []])
    landed: list[tuple[int, int]] = field(default_factory=list)
    now: float = 0.0

    def round(self) -> None:
        self.now += 0.1
        for reader in self.readers:
            while reader.at < reader.end and (reader.blob, reader.at) in self.files.present:
                reader.at, reader.got = reader.at + 1, reader.got + 1
            if reader.at < reader.end:
                self.plan.miss(reader.blob, self.size, reader.at, self.now)
        for hand in self.hands:
            if not hand and (run := take(self.plan, self.files)) is not None:
                hand += [(run.blob, run.first + n) for n in range(run.length)]
            if hand:
                blob, chunk = hand.pop(0)
                self.files.land(self.plan, Run(blob, chunk, 1))
                self.landed.append((blob, chunk))


def test_a_small_file_waits_for_a_few_chunks_however_many_places_of_an_image_are_being_read() -> None:
    work = Threads(Planner(), Files(), size=8192)
    work.readers = [Reader(1, place * 500, 8192) for place in range(15)]
    for _ in range(200):
        work.round()
    before = len(work.landed)
    work.plan.miss(2, 8192, 0, work.now)
    while (2, 0) not in work.landed:
        work.round()
    ahead = sum(blob == 1 for blob, _ in work.landed[before:])
    assert ahead <= len(work.hands) * SHORT_RUN


def test_blobs_share_the_link_evenly_and_the_places_of_one_blob_share_its_part() -> None:
    work = Threads(Planner(), Files(), size=100_000)
    work.readers = [Reader(1, place * 5000, 100_000) for place in range(10)]
    work.readers += [Reader(2, 0, 100_000), Reader(3, 700, 100_000)]
    for _ in range(1000):
        work.round()
    parts = Counter(blob for blob, _ in work.landed)
    assert sum(parts.values()) == 3000
    assert all(900 <= part <= 1100 for part in parts.values()), parts
    places = [reader.got for reader in work.readers if reader.blob == 1]
    assert all(80 <= got <= 120 for got in places), places


def test_a_storm_of_small_files_leaves_no_trail_that_every_miss_must_walk() -> None:
    plan, files, waiting = Planner(), Files(), 0
    for blob in range(500):
        plan.miss(blob, 1, 0, now=blob)
        waiting += 1
        if waiting == 16:  # as many clients as that: somebody waits all the time
            run = take(plan, files)
            assert run is not None
            files.land(plan, run)
            waiting -= 1
    assert len(plan._active) <= 16 + 4
