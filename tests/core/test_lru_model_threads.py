"""The cache against a plain model while several threads work on it at once.

Idea: the order in which threads get their turn is nobody's to know, so the model does not say what must come out, but
what may. Hypothesis draws rounds: what each of two to four threads does from the same instant on. After a round
everything rests, and the model looks: every chunk in a state that some order of the round leads to, each claim given to
one thread only, the directory, the segments and the numbers the same thing, nothing above the limit. What was seen is
where the next round starts.

All the while other threads send: they compare what they find with the right bytes, hold segments over evictions, and
look at the end of a chunk in the instant in which it appears.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import os
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from bootplane.core.blob import Blob, Pin, counts, reap
from bootplane.core.lru import Cache, CacheFull, alive
from bootplane.core.status import CoreError, DigestMismatch

MIB = 1 << 20
SEGMENT = 4 * MIB
BLOCK = 4096
ABSENT, FILLING, PRESENT, UNCHECKED, CLOSED = range(5)  # CLOSED is PRESENT to the model: its file is not open
_rng = random.Random(11)
DATA = [_rng.randbytes(size) for size in (1, BLOCK + 1, MIB + 5, 2 * MIB, SEGMENT + 10, SEGMENT + MIB + 77)]
DIGESTS = [hashlib.sha256(data).hexdigest() for data in DATA]
LISTS = [b"".join(hashlib.sha256(d[i : i + MIB]).digest() for i in range(0, len(d), MIB)) for d in DATA]
CHUNKS = [(blob, chunk) for blob, data in enumerate(DATA) for chunk in range((len(data) + MIB - 1) // MIB)]
LIMITS = [3 * BLOCK, MIB + 3 * BLOCK, SEGMENT + 4 * BLOCK, 2 * SEGMENT, 3 * SEGMENT]
STUCK_S = 3.0  # a round takes some ms: a thread that has not ended by then waits for a fill that nobody ends
Chunk = tuple[int, int]  # (which blob, which chunk of it)
Segment = tuple[int, int]  # (which blob, which segment of it)


def right(at: Chunk) -> bytes:
    return DATA[at[0]][at[1] * MIB : (at[1] + 1) * MIB]


def segment_of(at: Chunk) -> Segment:
    return at[0], at[1] // 4


def charge(segment: Segment) -> int:
    length = min(SEGMENT, len(DATA[segment[0]]) - segment[1] * SEGMENT)
    return (length + BLOCK - 1) // BLOCK * BLOCK


def leaks() -> tuple[object, ...]:
    gc.collect()
    reap()
    return counts(), alive(), len(list(pathlib.Path("/proc/self/fd").iterdir())), threading.active_count()


@dataclass
class Claim:
    """A chunk that begin() gave to a thread, from when begin() had returned to when its end was called."""

    at: Chunk
    given: int = 0
    ended: int = 0


def next_of(mine: list[Claim]) -> Claim | None:
    """The oldest of them, which is the caller's to end, whoever else asks."""
    try:
        return mine.pop(0)
    except IndexError:
        return None


@dataclass
class Log:
    """What the threads of one round did and were told."""

    claims: list[Claim] = field(default_factory=list)  # those from before the round too
    asked: list[Chunk] = field(default_factory=list)  # begun, whatever came of it
    refused: list[Chunk] = field(default_factory=list)
    full: list[Chunk] = field(default_factory=list)
    stored: list[Chunk] = field(default_factory=list)
    wrong: int = 0
    rechecked: list[Chunk] = field(default_factory=list)
    rotten: list[Chunk] = field(default_factory=list)
    discarded: list[Chunk] = field(default_factory=list)
    dropped: set[int] = field(default_factory=set)
    limits: list[int] = field(default_factory=list)
    evicted: bool = False
    closed: bool = False


class Watchers:
    """Threads that send again and again, but only within sending()."""

    def __init__(self, *bodies: Callable[[random.Random], None]) -> None:
        self.change = threading.Condition()
        self.resting, self.ended = True, False
        self.at_work = 0
        self.errors: list[BaseException] = []
        self.threads = [threading.Thread(target=self.run, args=(body, i)) for i, body in enumerate(bodies)]
        for thread in self.threads:
            thread.start()

    def run(self, body: Callable[[random.Random], None], seed: int) -> None:
        rng = random.Random(seed)
        while True:
            with self.change:
                self.change.wait_for(lambda: not self.resting or self.ended)
                if self.ended:
                    return
                self.at_work += 1
            try:
                while not self.resting:
                    body(rng)
            except BaseException as error:
                self.errors.append(error)
                return
            finally:
                with self.change:
                    self.at_work -= 1
                    self.change.notify_all()

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Afterwards none of them holds anything."""
        with self.change:
            self.resting = False
            self.change.notify_all()
        try:
            yield
        finally:
            with self.change:
                self.resting = True
                self.change.wait_for(lambda: self.at_work == 0)
        if self.errors:
            raise self.errors[0]

    def end(self) -> None:
        with self.change:
            self.ended = True
            self.change.notify_all()
        for thread in self.threads:
            thread.join()


OPERATIONS = st.one_of(
    *[st.tuples(st.just("begin"), st.sampled_from(CHUNKS))] * 4,
    *[st.tuples(st.just("end"), st.sampled_from(["right"] * 6 + ["wrong", "abandon"]))] * 4,
    st.tuples(st.just("drop"), st.integers(0, len(DATA) - 1)),
    st.tuples(st.just("discard"), st.sampled_from(CHUNKS)),
    st.tuples(st.just("recheck"), st.sampled_from(CHUNKS)),
    st.tuples(st.just("evict"), st.sampled_from([BLOCK, MIB, SEGMENT])),
    st.tuples(st.just("limit"), st.sampled_from(LIMITS)),
    st.tuples(st.just("reap"), st.none()),
)
ROUNDS = st.lists(st.lists(OPERATIONS, min_size=1, max_size=4), min_size=2, max_size=4)


class CacheUnderThreads(RuleBasedStateMachine):
    open_limit = 0

    def __init__(self) -> None:
        super().__init__()
        self.interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-4)  # with Python's 5 ms, threads would hardly meet
        self.before = leaks()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="lru-threads-"))
        self.states: dict[Chunk, int] = dict.fromkeys(CHUNKS, ABSENT)
        self.claims: list[Claim] = []
        self.pins: list[tuple[Pin, Segment, int]] = []  # (pin, segment, inode)
        self.doomed: set[Segment] = set()  # perhaps: dropped or found rotten while a chunk of it was filled
        self.rotten: set[Segment] = set()  # of which somebody wrote over the file on the disk
        self.holes: set[Chunk] = set()  # UNCHECKED in a file that was not looked into yet: perhaps never written
        self.limit = self.allowed = 2 * SEGMENT
        self.open()
        self.watchers = Watchers(self.compare, self.chase)

    def open(self) -> None:
        self.cache = Cache(str(self.directory), self.limit, open_limit=self.open_limit)
        self.blobs: list[Blob] = [
            self.cache.blob(digest, len(data), chunks)
            for digest, data, chunks in zip(DIGESTS, DATA, LISTS, strict=True)
        ]
        self.numbers = {"filled_bytes": 0, "refused_chunks": 0, "rechecked_chunks": 0, "rotten_chunks": 0}

    def state(self, at: Chunk) -> int:
        state = self.blobs[at[0]].states(at[1], 1)[0]
        return PRESENT if state == CLOSED else state

    def teardown(self) -> None:
        sys.setswitchinterval(self.interval)
        self.watchers.end()
        for pin, _, _ in self.pins:
            pin.release()
        self.cache.close()
        del self.cache
        self.blobs.clear()
        shutil.rmtree(self.directory)
        assert leaks() == self.before

    # -- what senders do all the while

    def compare(self, rng: random.Random) -> None:
        which = rng.randrange(len(DATA))
        _, wrong = self.blobs[which].compare(DATA[which], 30, rng.getrandbits(60))
        assert wrong == 0, f"blob {which}: {wrong} ranges were sent wrong"
        stats = self.cache.stats()
        used, allowed = stats["charged_bytes"] + stats["condemned_bytes"], self.allowed
        assert used <= allowed, f"{used} bytes, {allowed} are allowed"

    def chase(self, rng: random.Random) -> None:
        """A chunk that appears is right to its last byte."""
        for claim in [*self.claims]:
            blob, data = self.blobs[claim.at[0]], right(claim.at)
            start = claim.at[1] * MIB
            end = time.monotonic_ns() + 200_000
            while blob.span(start) == 0 and time.monotonic_ns() < end:
                pass
            with contextlib.suppress(CoreError):  # not here, or not any more
                tail = min(BLOCK, len(data))
                assert blob.read(start + len(data) - tail, tail) == data[-tail:], f"the end of {claim.at}"

    # -- what workers do

    def work(self, cache: Cache, operations: list[tuple[str, object]], mine: list[Claim], log: Log) -> None:
        for kind, what in operations:
            if kind == "begin":
                at = what
                log.asked.append(at)
                try:
                    if cache.begin(self.blobs[at[0]], at[1]):
                        claim = Claim(at, time.monotonic_ns())
                        mine.append(claim)
                        log.claims.append(claim)
                    else:
                        log.refused.append(at)
                except CacheFull:
                    log.full.append(at)
            elif kind == "end":
                if claim := next_of(mine):
                    self.finish(cache, claim, what, log)
            elif kind == "drop":
                log.dropped.add(what)
                cache.drop(self.blobs[what])
            elif kind == "discard":
                if cache.discard(self.blobs[what[0]], what[1]):
                    log.discarded.append(what)
            elif kind == "recheck":
                try:
                    if cache.recheck(self.blobs[what[0]], what[1]):
                        log.rechecked.append(what)
                except DigestMismatch:
                    log.rotten.append(what)
            elif kind == "evict":
                log.evicted = True
                cache.evict(what)
            elif kind == "limit":
                log.limits.append(what)
                cache.limit_bytes = what
            elif kind == "reap":
                cache.reap()
            elif kind == "close":
                log.closed = True
                cache.close()

    def finish(self, cache: Cache, claim: Claim, how: str, log: Log) -> None:
        blob, data = self.blobs[claim.at[0]], right(claim.at)
        claim.ended = time.monotonic_ns()
        if how == "right":
            log.stored.append(claim.at)
            cache.store(blob, claim.at[1], data)
        elif how == "wrong":
            log.wrong += 1
            try:
                cache.store(blob, claim.at[1], bytes([data[0] ^ 1]) + data[1:])
            except DigestMismatch:
                return
            raise AssertionError(f"wrong bytes of {claim.at} were taken")
        else:
            cache.abandon(blob, claim.at[1])

    def at_once(self, plan: list[list[tuple[str, object]]]) -> Log:
        log = Log(claims=[*self.claims])
        start, errors = threading.Barrier(len(plan)), []

        def body(operations: list[tuple[str, object]], mine: list[Claim]) -> None:
            try:
                start.wait()
                self.work(self.cache, operations, mine, log)
            except BaseException as error:
                if not (isinstance(error, ValueError) and "is closed" in str(error) and log.closed):
                    errors.append(error)

        self.allowed = max([self.allowed, self.limit, *(w for ops in plan for kind, w in ops if kind == "limit")])
        shares = [self.claims[i :: len(plan)] for i in range(len(plan))]
        threads = [threading.Thread(target=body, args=each) for each in zip(plan, shares, strict=True)]
        self.condemned = self.cache.stats()["condemned_bytes"]
        with self.watchers.sending():
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(STUCK_S)
                while thread.is_alive():
                    self.end_all(shares, log)
                    thread.join(STUCK_S)
        if errors:
            raise errors[0]
        return log

    def end_all(self, shares: list[list[Claim]], log: Log) -> None:
        """Somebody waits in begin() for the end of the fills in a damaged segment, and nobody else will end them."""
        for mine in shares:
            while not log.closed and (claim := next_of(mine)):
                self.finish(self.cache, claim, "abandon", log)

    # -- rounds

    @rule(plan=ROUNDS)
    def a_round(self, plan: list[list[tuple[str, object]]]) -> None:
        log = self.at_once(plan)
        self.look(log)

    @rule(at=st.sampled_from(CHUNKS), threads=st.integers(2, 4), end=st.booleans())
    def everybody_begins_the_same_chunk(self, at: Chunk, threads: int, end: bool) -> None:
        log = self.at_once([[("begin", at), ("end", "right")] if end else [("begin", at)]] * threads)
        self.look(log)

    @rule(limit=st.sampled_from(LIMITS), first=st.integers(0, len(CHUNKS) - 1))
    def everybody_begins_another_segment(self, limit: int, first: int) -> None:
        self.look(self.at_once([[("limit", limit)]]))
        others = {segment_of(at): at for at in [*CHUNKS[first:], *CHUNKS[:first]]}
        self.look(self.at_once([[("begin", at)] for at in [*others.values()][:4]]))

    @rule(blob=st.integers(0, len(DATA) - 1))
    def a_whole_blob_is_filled(self, blob: int) -> None:
        chunks = [at for at in CHUNKS if at[0] == blob]
        log = self.at_once(
            [[step for at in chunks[i::2] for step in (("begin", at), ("end", "right"))] for i in range(2)]
        )
        self.look(log)

    @rule(threads=st.integers(1, 3), others=st.lists(OPERATIONS, min_size=1, max_size=4))
    def everybody_checks_everything(self, threads: int, others: list[tuple[str, object]]) -> None:
        every = [("recheck", at) for at, state in self.states.items() if state in (UNCHECKED, PRESENT)]
        self.look(self.at_once([*[every] * threads, others]))

    @rule(blob=st.integers(0, len(DATA) - 1), times=st.integers(2, 8), how=st.sampled_from(["right", "abandon"]))
    def a_segment_comes_and_goes(self, blob: int, times: int, how: str) -> None:
        """Each step of one thread meets the file of another's."""
        chunks = [at for at in CHUNKS if at[0] == blob][-2:]
        first, last = (
            [("begin", at), ("end", each)] for at, each in zip((chunks[0], chunks[-1]), ("right", how), strict=True)
        )
        drop, evict = ("drop", blob), ("evict", SEGMENT)
        log = self.at_once([[*first, drop] * times, [drop, *last] * times, [evict, *last, *first] * times])
        self.look(log)

    @rule(plan=ROUNDS, late=st.integers(0, 3), is_clean=st.booleans(), damage=st.booleans())
    def closed_under_work_and_opened_again(
        self, plan: list[list[tuple[str, object]]], late: int, is_clean: bool, damage: bool
    ) -> None:
        for pin, _, _ in self.pins:
            pin.release()
        self.pins.clear()
        log = self.at_once([*plan, [*[("reap", None)] * late, ("close", None)]])
        self.claims.clear()
        self.doomed.clear()
        if not is_clean:
            (self.directory / "state").unlink()
        if damage and not is_clean:
            self.damage()
        for limit in log.limits:
            self.limit = min(self.limit, limit)
        self.allowed = self.limit
        self.open()
        written = {at for at, state in self.states.items() if state != ABSENT} | {*log.stored}
        for at, before in self.states.items():
            now = self.state(at)
            kept = {PRESENT} if is_clean else {UNCHECKED}
            may = kept | {ABSENT} if at in written else {ABSENT}
            may |= {UNCHECKED} if before == UNCHECKED else set()
            if self.open_limit and not is_clean and segment_of(at) in map(segment_of, written - {at}):
                may |= {UNCHECKED}
                self.holes |= {at} if now == UNCHECKED and at not in written else set()
            assert now in may, f"{at}: {before} before the start, {now} after it, expected {may}"
            self.states[at] = now
        self.everything_is_one_thing()
        if not is_clean:
            self.everybody_checks_everything(2, [("drop", late), ("reap", None)])

    def damage(self) -> None:
        for blob, digest in enumerate(DIGESTS):
            for path in (self.directory / f"{digest}.d").glob("*"):
                self.rotten.add((blob, int(path.name)))
                with path.open("r+b") as file:
                    first = file.read(1)
                    file.seek(0)
                    file.write(bytes([first[0] ^ 255]))
            return  # the first blob's are enough to meet one now and then

    @rule(which=st.integers(0, len(CHUNKS) - 1), leaves=st.booleans())
    def pin(self, which: int, leaves: bool) -> None:
        """Somebody sends slowly; the segment perhaps leaves meanwhile."""
        present = [at for at, state in self.states.items() if state == PRESENT]
        if present:
            at = present[which % len(present)]
            self.cache.recheck(self.blobs[at[0]], at[1])  # opens its file
            pin = self.blobs[at[0]].pin(at[1] * MIB)
            self.pins.append((pin, segment_of(at), os.fstat(pin.fd).st_ino))
            if leaves:
                log = self.at_once([[("drop", at[0])], [("evict", BLOCK), ("reap", None)]])
                self.look(log)
            assert os.pread(pin.fd, len(right(at)), pin.offset) == right(at)

    @rule(which=st.integers(0, 3))
    def unpin(self, which: int) -> None:
        if self.pins:
            self.pins.pop(which % len(self.pins))[0].release()

    # -- what may have come of a round

    def look(self, log: Log) -> None:
        self.each_claim_is_one_threads(log)
        for limit in log.limits:
            assert len(log.limits) > 1 or self.cache.limit_bytes == limit
        needs_room = self.may_need_room(log)
        self.states_before = {**self.states}
        self.answers_have_a_reason(log, needs_room)
        self.limit = self.cache.limit_bytes
        self.claims = [claim for claim in log.claims if not claim.ended]
        owned = {claim.at for claim in self.claims}
        claimed = {segment_of(claim.at) for claim in log.claims}
        bad = {segment_of(at) for at in (*log.discarded, *log.rotten)}
        self.doomed |= claimed & ({s for s in claimed if s[0] in log.dropped} | bad)
        for at, before in self.states.items():
            now, segment = self.state(at), segment_of(at)
            is_kept = not (needs_room or at[0] in log.dropped or segment in self.doomed | bad)
            if at in owned:
                may = {FILLING}
            else:
                may = {PRESENT} if before == PRESENT or at in (*log.stored, *log.rechecked) else set()
                may |= {UNCHECKED} if before == UNCHECKED and (at not in log.rechecked or not is_kept) else set()
                if not may or not is_kept or (at in self.holes and at not in log.rechecked):
                    may |= {ABSENT}
            assert now in may, f"{at}: {before} before the round, {now} after it, expected {may}: {log}"
            self.states[at] = now
        self.holes = {at for at in self.holes if self.states[at] == UNCHECKED}
        self.doomed &= {segment_of(at) for at in owned}
        self.numbers["filled_bytes"] += sum(len(right(at)) for at in log.stored)
        self.numbers["refused_chunks"] += log.wrong
        self.numbers["rechecked_chunks"] += sum(self.states_before[at] == UNCHECKED for at in {*log.rechecked})
        self.numbers["rotten_chunks"] += len(log.rotten) + len(log.discarded)
        self.everything_is_one_thing()

    def each_claim_is_one_threads(self, log: Log) -> None:
        claims = defaultdict(list)
        for claim in log.claims:
            claims[claim.at].append(claim)
        for at, given in claims.items():
            given.sort(key=lambda claim: claim.given)
            for one, other in itertools.pairwise(given):
                assert one.ended and one.ended <= other.given, f"{at} was given to two: {one}, {other}"

    def may_need_room(self, log: Log) -> bool:
        """Whether something had to leave, in some order: then whatever is not held may have."""
        asked = {segment_of(at) for at in log.asked}
        there = {segment_of(at) for at, state in self.states.items() if state != ABSENT}
        room = min([self.limit, *log.limits])
        wanted = sum(map(charge, asked | there)) * (2 if self.pins or log.dropped else 1)
        # Whoever asks for a chunk of a rotten segment gets another segment, while a sender may still hold the old one.
        wanted += sum(charge(segment) for segment in self.doomed & asked)
        wanted += sum(charge(segment_of(at)) for at in (*log.discarded, *log.rotten) if segment_of(at) in asked)
        return log.evicted or wanted + self.condemned > room  # what left more than once under pins counts each time

    def answers_have_a_reason(self, log: Log, needs_room: bool) -> None:
        begun = [claim.at for claim in log.claims]
        for at in log.refused:
            assert self.states[at] != ABSENT or at in begun, f"{at} is absent, and nobody was given it"
        for at in log.full:
            assert needs_room or self.pins, f"{at}: there was room: {log}"
        for at in log.rotten:
            assert segment_of(at) in self.rotten, f"{at}: nobody damaged it"

    def everything_is_one_thing(self) -> None:
        """At rest: model, segments, directory, numbers."""
        self.cache.reap()
        there: dict[Segment, list[int]] = {}
        for at, state in self.states.items():
            there.setdefault(segment_of(at), []).append(state)
        there = {segment: states for segment, states in there.items() if any(states)}
        names = {digest: blob for blob, digest in enumerate(DIGESTS)}
        listed = {
            (names[sha], index): [PRESENT if state == CLOSED else state for state in states]
            for sha, index, states, _ in self.cache.segments()
        }
        assert listed == there
        files = {
            (names[path.parent.name.removesuffix(".d")], int(path.name)): path.stat()
            for path in self.directory.glob("*.d/*")
        }
        assert files.keys() == there.keys()
        for segment, found in files.items():
            assert found.st_size == min(SEGMENT, len(DATA[segment[0]]) - segment[1] * SEGMENT)
        condemned = {
            inode: segment for _, segment, inode in self.pins if segment not in files or files[segment].st_ino != inode
        }
        stats = self.cache.stats()
        assert stats["segments"] == len(there)
        assert stats["charged_bytes"] == sum(map(charge, there))
        assert stats["condemned_bytes"] == sum(map(charge, condemned.values()))
        used = stats["charged_bytes"] + stats["condemned_bytes"]
        assert used <= self.allowed
        assert not self.open_limit or stats["open_segments"] <= self.open_limit + len(self.pins) + len(self.claims) + 4
        self.allowed = max(self.limit, used)
        assert {name: stats[name] for name in self.numbers} == self.numbers
        assert counts()["segments"] - self.before[0]["segments"] == len(there) + len(condemned)  # type: ignore[index]


class CacheOfFewFiles(CacheUnderThreads):
    open_limit = 2


CacheUnderThreads.TestCase.settings = CacheOfFewFiles.TestCase.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # what depends on whose turn it is cannot be made smaller by trying again
    suppress_health_check=list(HealthCheck),
)
TestCacheUnderThreads = CacheUnderThreads.TestCase
TestCacheOfFewFiles = CacheOfFewFiles.TestCase


def test_a_round_ends_though_somebody_waits_for_a_fill_that_nobody_ends() -> None:
    machine = CacheUnderThreads()
    machine.a_round([[("begin", (5, 1))], [("begin", (5, 2)), ("end", "right")]])
    machine.a_round([[("discard", (5, 2)), ("begin", (5, 3))], [("reap", None)]])
    machine.teardown()


def test_there_may_be_no_room_for_what_replaces_a_rotten_segment_that_a_sender_holds() -> None:
    machine = CacheUnderThreads()  # with room for two segments
    try:
        for steps in ([("begin", (4, 0)), ("end", "right")], [("begin", (5, 0))], [("begin", (4, 1))]):
            machine.look(machine.at_once([steps]))
        pin = machine.blobs[4].pin(0)
        log = machine.at_once([[("discard", (4, 0)), ("begin", (4, 2))], [("end", "abandon")]])
        pin.release()
        assert log.full == [(4, 2)]
        machine.look(log)
    finally:
        machine.teardown()
