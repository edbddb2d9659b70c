"""The planner against anything that can happen to it: what must hold after every step, in any order of steps."""

from __future__ import annotations

import random

import pytest

from bootplane.dataplane.fillplan import MAX_STREAMS, SHORT_RUN, Planner, Run

BLOBS, CHUNKS = 3, 40


class PlannerLife:
    """`hands` are the runs that threads have, `waiting` what somebody asked for and was not told about."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.plan = Planner(read_ahead=8, longest_run=6, read_ahead_in_all=12)
        self.present: set[tuple[int, int]] = set()
        self.waiting: set[tuple[int, int]] = set()
        self.hands: list[list[tuple[int, int]]] = []
        self.unready: set[int] = set()
        self.passed_over: dict[int, int] = {}  # ready blob with demand nobody has in hand -> runs of others meanwhile
        self.readers = [(self.random.randint(1, BLOBS), self.random.choice((0, 0, 7, 20))) for _ in range(12)]
        self.now = 0.0
        self.fetched = 0  # chunks

    def absent(self, blob: int, first: int, count: int) -> bytes:
        return bytes((blob, chunk) not in self.present for chunk in range(first, first + count))

    def in_hand(self) -> list[tuple[int, int]]:
        return [chunk for hand in self.hands for chunk in hand]

    def starving(self) -> set[int]:
        held = set(self.in_hand())
        return {blob for blob, chunk in self.waiting if (blob, chunk) not in held}

    def step(self) -> None:
        steps = {
            self.a_reader_goes_on: 30,
            self.a_thread_looks: 25,
            self.a_chunk_in_hand_ends: 40,
            self.a_chunk_is_evicted: 30,
            self.a_source_comes_or_goes: 1,
            self.a_blob_leaves_the_catalogue: 1,
        }
        self.random.choices(list(steps), list(steps.values()))[0]()
        self.look_inside()

    def a_reader_goes_on(self) -> None:
        """Now and then to somewhere else, as one does who wants another file, or a Range."""
        number = self.random.randrange(len(self.readers))
        blob, chunk = self.readers[number]
        while chunk < CHUNKS and (blob, chunk) in self.present and self.random.random() < 0.9:
            chunk += 1
        if chunk >= CHUNKS or self.random.random() < 0.05:
            blob, chunk = self.random.randint(1, BLOBS), self.random.choice((0, 0, self.random.randrange(CHUNKS)))
        self.readers[number] = blob, chunk
        self.now += self.random.choice((0.0, 0.1, 5.0))
        present = (blob, chunk) in self.present and (blob, chunk) not in self.in_hand()
        self.plan.miss(blob, CHUNKS, chunk, self.now, present=present)
        if not present:
            self.waiting.add((blob, chunk))

    def a_thread_looks(self) -> None:
        if len(self.hands) == 3:
            return
        longest = self.random.choice((1, 2, 6))
        starving = self.starving()
        run = self.plan.next(self.absent, lambda blob: 0 if blob in self.unready else longest)
        if run is None:
            assert not starving - self.unready, "somebody waits, a source is ready, and nothing is fetched"
            return
        self.check(run, starving, longest)
        self.fetched += run.length
        self.hands.append([(run.blob, run.first + n) for n in range(run.length)])

    def check(self, run: Run, starving: set[int], longest: int) -> None:
        chunks = {(run.blob, run.first + n) for n in range(run.length)}
        assert 1 <= run.length <= longest
        assert run.first >= 0
        assert run.first + run.length <= CHUNKS
        assert run.blob not in self.unready
        assert not chunks & self.present, "it is here"
        assert not chunks & set(self.in_hand()), "somebody has it in hand"
        ready = starving - self.unready
        if ready:
            assert run.blob in ready, "demand goes before read-ahead"
            assert chunks & self.waiting
        if len(ready) > 1:
            assert run.length <= SHORT_RUN, "others wait"
        for blob in list(self.passed_over):
            if blob not in ready or blob == run.blob:
                del self.passed_over[blob]
        for blob in ready - {run.blob}:
            self.passed_over[blob] = self.passed_over.get(blob, 0) + 1
            assert self.passed_over[blob] <= (BLOBS - 1) * 6, "its turn does not come"

    def a_chunk_in_hand_ends(self) -> None:
        if not self.hands:
            return
        outcome = self.random.choices(("landed", "returned", "failed"), (20, 2, 1))[0]
        hand = self.random.choice(self.hands)
        blob, chunk = hand.pop(0)
        getattr(self.plan, outcome)(blob, chunk)
        if outcome == "landed":
            self.present.add((blob, chunk))
        if outcome != "returned":
            self.waiting.discard((blob, chunk))
        if outcome != "landed":  # a connection that was cut: the rest comes back, too
            while hand:
                self.plan.returned(blob, hand.pop(0)[1])
        self.hands = [hand for hand in self.hands if hand]

    def a_chunk_is_evicted(self) -> None:
        if self.present:
            self.present.discard(self.random.choice(sorted(self.present)))

    def a_source_comes_or_goes(self) -> None:
        self.unready = {self.random.randint(1, BLOBS)} if not self.unready else set()

    def a_blob_leaves_the_catalogue(self) -> None:
        blob = self.random.randint(1, BLOBS)
        if not any(held == blob for held, _ in self.in_hand()):
            self.plan.forget(blob)
            self.waiting = {(b, c) for b, c in self.waiting if b != blob}
            self.passed_over.pop(blob, None)

    def look_inside(self) -> None:
        for blob in range(1, BLOBS + 1):
            assert set(self.plan.demanded(blob)) == {c for b, c in self.waiting if b == blob}
            assert self.plan.flying(blob) == {c for b, c in self.in_hand() if b == blob}
        assert set(self.plan.demanding()) == {blob for blob, _ in self.waiting}
        assert self.plan.is_starving() == bool(self.starving())
        assert all(len(wanted.streams) <= MAX_STREAMS for wanted in self.plan._wanted.values())


@pytest.mark.parametrize("seed", range(8))
def test_the_planner_keeps_its_promises_whatever_happens(seed: int) -> None:
    life = PlannerLife(seed)
    for _ in range(5000):
        life.step()
    assert life.fetched > 800
