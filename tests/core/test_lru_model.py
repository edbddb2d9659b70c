"""The cache against a plain model: three lists of segments. One thread, given times: what is evicted must be exact."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from bootplane.core.blob import Blob, Pin, counts, reap
from bootplane.core.lru import Cache, CacheFull
from bootplane.core.status import DigestMismatch

MIB = 1 << 20
SEGMENT = 4 * MIB
S = 10**9  # in ns
REUSE = 60 * S
ABSENT, FILLING, PRESENT, _UNCHECKED, CLOSED = range(5)
_rng = random.Random(3)
SMALL = (1, 4096, 4097, 9000, 20000, MIB + 5)
TAILS = (10, 4096, 5000, *range(1, 13))  # of files whose second segment costs little
_BODY = _rng.randbytes(SEGMENT)
DATA = [*(_rng.randbytes(size) for size in SMALL), *(_BODY + _rng.randbytes(size) for size in TAILS)]
DIGESTS = [hashlib.sha256(data).hexdigest() for data in DATA]
LISTS = [b"".join(hashlib.sha256(d[i : i + MIB]).digest() for i in range(0, len(d), MIB)) for d in DATA]
ALL_CHUNKS = [(blob, chunk) for blob, data in enumerate(DATA) for chunk in range((len(data) + MIB - 1) // MIB)]
CHEAP = [(blob, chunk) for blob, chunk in ALL_CHUNKS if len(DATA[blob]) - chunk * MIB <= 20000]
CHUNKS = st.one_of(st.sampled_from(CHEAP), st.sampled_from(CHEAP), st.sampled_from(ALL_CHUNKS))
LIMITS = [0, 4095, 2 * 4096, 6 * 4096, 8 * 4096, 12 * 4096, MIB + 3 * 4096, SEGMENT + 8192, 3 * SEGMENT]
NEW, REUSED, PROTECTED = range(3)


@dataclass(eq=False)
class Segment:
    key: tuple[int, int]  # (blob, index)
    charge: int
    group: int
    stamp: int = 0  # last use
    rank: int = 0  # where it lies in its group
    filled: int = 0
    states: dict[int, int] = field(default_factory=dict)  # chunk -> state, ABSENT left out
    pins: int = 0
    doomed: bool = False

    @property
    def is_filling(self) -> bool:
        return FILLING in self.states.values()

    @property
    def may_go(self) -> bool:
        return not self.pins and not self.is_filling


class CacheMachine(RuleBasedStateMachine):
    pins = Bundle("pins")
    open_limit = 0  # files; what is evicted, and when, must not depend on it

    def __init__(self) -> None:
        super().__init__()
        reap()
        self.before = counts()
        self.directory = tempfile.mkdtemp(prefix="lru-model-")
        self.cache = Cache(self.directory, LIMITS[4], reuse_s=REUSE / S, open_limit=self.open_limit)
        self.blobs: list[Blob] = [
            self.cache.blob(digest, len(data), chunks)
            for digest, data, chunks in zip(DIGESTS, DATA, LISTS, strict=True)
        ]
        self.limit = LIMITS[4]
        self.now = 10**15
        self.model: dict[tuple[int, int], Segment] = {}
        self.groups: list[list[Segment]] = [[], [], []]  # the oldest first
        self.protected = set(range(len(SMALL)))
        self.condemned: list[Segment] = []  # out of the model, pinned
        self.evicted = {"room": 0, "limit": 0, "disk": 0}
        self.left: list[list] = []  # [blob, segments, bytes, reason, wanted_by]
        self.ghosts: dict[tuple[int, int], tuple[int, int]] = {}  # -> bytes evicted for room by then, `filled`
        self.made = [0, 0, 0]  # segments; what twice, four times the limit would have had
        self.room_bytes = 0
        self.is_over = False  # the limit was shrunk below what is held
        self.most_held = 0  # segments at once that were filled or pinned: their files stay open

    def teardown(self) -> None:
        self.cache.close()
        self.blobs.clear()
        del self.cache
        shutil.rmtree(self.directory)
        reap()
        # pins that were never released let go of their segments with their objects: at the latest with the bundle

    # -- the model

    @property
    def used(self) -> int:
        return sum(s.charge for s in self.model.values()) + sum(s.charge for s in self.condemned)

    def bytes_of(self, group: int) -> int:
        return sum(segment.charge for segment in self.groups[group])

    def remove(self, segment: Segment, reason: str, wanted_by: str = "") -> None:
        del self.model[segment.key]
        self.groups[segment.group].remove(segment)
        if segment.pins:
            self.condemned.append(segment)
        if not reason:
            return
        blob = DIGESTS[segment.key[0]]
        if not self.left or (self.left[-1][0], self.left[-1][3]) != (blob, reason):
            self.left.append([blob, 0, 0, reason, ""])
        self.left[-1][1] += 1
        self.left[-1][2] += segment.charge
        self.left[-1][4] = wanted_by

    def place(self, segment: Segment, group: int) -> None:
        segment.group = group
        self.groups[group].append(segment)
        self.groups[group].sort(key=lambda each: each.rank)

    def look(self, group: int, for_any: bool = False) -> Segment | None:
        """Puts what was used since it was placed where it belongs, up to the first that was not and may go (*for_any*:
        or may not): that one, or None. Until nothing had to be moved within the group."""
        while True:
            found, moved = None, []
            for segment in self.groups[group]:
                if segment.stamp > segment.rank:
                    moved.append(segment)
                elif for_any or segment.may_go:
                    found = segment
                    break
            stayed = False
            for segment in moved:
                self.groups[group].remove(segment)
            for segment in moved:
                segment.rank = segment.stamp
                is_reused = group == NEW and segment.stamp >= segment.filled + REUSE
                stayed |= not is_reused
                self.place(segment, REUSED if is_reused else group)
            demoted = group == NEW and self.demote()
            if not stayed and (found or not demoted):
                return found

    def demote(self) -> bool:
        demoted = False
        while self.bytes_of(REUSED) > max(0, self.limit - self.bytes_of(PROTECTED)) // 4 * 3:
            segment = self.look(REUSED, for_any=True)
            assert segment
            self.groups[REUSED].remove(segment)
            segment.rank = max([segment.rank, *(each.rank for each in self.groups[NEW])])
            self.place(segment, NEW)
            demoted = True
        return demoted

    def pick(self, incoming: int) -> Segment | None:
        first = PROTECTED if self.bytes_of(PROTECTED) + incoming > self.limit // 4 else NEW
        for group in (first, NEW, REUSED, PROTECTED):
            if segment := self.look(group):
                return segment
        return None

    def make_room(self, need: int, target: int, reason: str, blob: int = -1) -> bool:
        while self.used + need > target:
            segment = self.pick(need if blob in self.protected else 0)
            if segment is None:
                return False
            why = "limit" if self.used > self.limit else reason
            self.remove(segment, why, DIGESTS[blob] if blob >= 0 and why == reason else "")
            self.evicted[why] += 1
            if why == "room":
                self.room_bytes += segment.charge
                self.ghosts[segment.key] = self.room_bytes, segment.filled
        return True

    def make(self, key: tuple[int, int], charge: int) -> None:
        at, filled = self.ghosts.pop(key, (-(1 << 62), 0))
        gone = self.room_bytes - at
        self.made[0] += 1
        self.made[1] += gone <= self.limit
        self.made[2] += gone <= 3 * self.limit
        has_proven = gone <= self.bytes_of(REUSED) or self.now >= filled + REUSE
        group = REUSED if gone <= self.limit and has_proven else NEW
        group = PROTECTED if key[0] in self.protected else group
        self.model[key] = segment = Segment(key, charge, group, self.now, self.now)
        self.place(segment, group)

    def end(self, key: tuple[int, int], chunk: int, state: int) -> None:
        segment = self.model[key]
        segment.states[chunk] = state
        if state == ABSENT:
            del segment.states[chunk]
        if not segment.is_filling and (segment.doomed or not segment.states):
            self.remove(segment, "dropped" if segment.doomed else "")

    def state(self, blob: int, chunk: int) -> int:
        segment = self.model.get((blob, chunk // 4))
        return segment.states.get(chunk, ABSENT) if segment else ABSENT

    def chunk_data(self, blob: int, chunk: int) -> bytes:
        return DATA[blob][chunk * MIB : (chunk + 1) * MIB]

    def open(self, blob: int, chunk: int) -> None:
        """What a fill thread does for a sender that met a CLOSED chunk."""
        if self.blobs[blob].states(chunk, 1)[0] == CLOSED:
            assert self.blobs[blob].span(chunk * MIB, self.now) == 0
            assert self.cache.recheck(self.blobs[blob], chunk)
        assert self.blobs[blob].states(chunk, 1)[0] == PRESENT
        assert not self.cache.recheck(self.blobs[blob], chunk)

    def use(self, key: tuple[int, int]) -> int:
        self.now += 1000
        self.model[key].stamp = self.now
        return self.now

    # -- what callers do

    @rule(ns=st.sampled_from([S, 29 * S, 30 * S, REUSE, 86400 * S]))
    def time_goes_by(self, ns: int) -> None:
        self.now += ns

    @rule(at=CHUNKS)
    def begin(self, at: tuple[int, int]) -> None:
        blob, chunk = at
        key = (blob, chunk // 4)
        self.now += 1000
        if self.state(blob, chunk) != ABSENT:
            assert not self.cache.begin(self.blobs[blob], chunk, self.now)
            return
        if key not in self.model:
            length = min(SEGMENT, len(DATA[blob]) - key[1] * SEGMENT)
            charge = (length + 4095) // 4096 * 4096
            if charge > self.limit or not self.make_room(charge, self.limit, "room", blob):
                with pytest.raises(CacheFull):
                    self.cache.begin(self.blobs[blob], chunk, self.now)
                return
            self.make(key, charge)
        assert self.cache.begin(self.blobs[blob], chunk, self.now)
        segment = self.model[key]
        segment.stamp = segment.filled = self.now
        segment.states[chunk] = FILLING
        segment.doomed = False

    @precondition(lambda self: any(segment.is_filling for segment in self.model.values()))
    @rule(data=st.data(), how=st.sampled_from(["store", "store", "store", "wrong", "short", "abandon"]))
    def end_a_fill(self, data: st.DataObject, how: str) -> None:
        filling = [
            (key, c) for key, segment in self.model.items() for c, state in segment.states.items() if state == FILLING
        ]
        key, chunk = data.draw(st.sampled_from(sorted(filling)))
        blob, right = self.blobs[key[0]], self.chunk_data(key[0], chunk)
        if how == "store":
            self.cache.store(blob, chunk, right)
        elif how == "abandon":
            self.cache.abandon(blob, chunk)
        else:
            with pytest.raises(DigestMismatch):
                self.cache.store(blob, chunk, right[:-1] + (bytes([right[-1] ^ 1]) if how == "wrong" else b""))
        self.end(key, chunk, PRESENT if how == "store" else ABSENT)

    @rule(at=CHUNKS)
    def fill(self, at: tuple[int, int]) -> None:
        """Most of what a rack does: without it the machine would seldom get as far as evicting."""
        blob, chunk = at
        before = self.state(blob, chunk)
        self.begin(at)
        if before == ABSENT and self.state(blob, chunk) == FILLING:
            self.cache.store(self.blobs[blob], chunk, self.chunk_data(blob, chunk))
            self.end((blob, chunk // 4), chunk, PRESENT)

    @rule(ats=st.lists(st.sampled_from(CHEAP), min_size=2, max_size=6))
    def fill_some(self, ats: list[tuple[int, int]]) -> None:
        for at in ats:
            self.fill(at)

    @rule(at=CHUNKS)
    def read(self, at: tuple[int, int]) -> None:
        blob, chunk = at
        right = self.chunk_data(blob, chunk)
        if self.state(blob, chunk) == PRESENT:
            self.open(blob, chunk)
            with self.blobs[blob].pin(chunk * MIB, self.use((blob, chunk // 4))) as pin:
                assert os.pread(pin.fd, len(right), pin.offset) == right
        else:
            assert self.blobs[blob].span(chunk * MIB, self.now) == 0

    @precondition(lambda self: any(PRESENT in segment.states.values() for segment in self.model.values()))
    @rule(data=st.data(), pause=st.sampled_from([0, REUSE]))
    def use_some(self, data: st.DataObject, pause: int) -> None:
        present = sorted((k[0], c) for k, s in self.model.items() for c, state in s.states.items() if state == PRESENT)
        self.now += pause
        for blob, chunk in data.draw(st.lists(st.sampled_from(present), max_size=8)):
            self.open(blob, chunk)
            assert self.blobs[blob].span(chunk * MIB, self.use((blob, chunk // 4)))

    @precondition(lambda self: any(PRESENT in segment.states.values() for segment in self.model.values()))
    @rule(target=pins, data=st.data())
    def pin(self, data: st.DataObject) -> tuple[Pin, Segment, bytes]:
        present = [(key, c) for key, s in self.model.items() for c, state in s.states.items() if state == PRESENT]
        key, chunk = data.draw(st.sampled_from(sorted(present)))
        self.open(key[0], chunk)
        self.model[key].pins += 1
        return self.blobs[key[0]].pin(chunk * MIB, self.use(key)), self.model[key], self.chunk_data(key[0], chunk)

    @rule(held=consumes(pins))
    def unpin(self, held: tuple[Pin, Segment, bytes]) -> None:
        pin, segment, right = held
        with open(f"/proc/self/fd/{pin.fd}", "rb", buffering=0) as file:
            file.seek(pin.offset)
            assert file.read(len(right)) == right, "what a sender holds must not change under it"
        pin.release()
        segment.pins -= 1
        if not segment.pins and segment in self.condemned:
            self.condemned.remove(segment)

    @rule(blob=st.integers(0, len(DATA) - 1))
    def drop(self, blob: int) -> None:
        dropped = 0
        for _, segment in sorted(self.model.items()):
            if segment.key[0] == blob and segment.is_filling:
                segment.doomed = True
            elif segment.key[0] == blob:
                dropped += segment.charge
                self.remove(segment, "dropped")
        assert self.cache.drop(self.blobs[blob]) == dropped

    @rule(limit=st.sampled_from(LIMITS))
    def set_limit(self, limit: int) -> None:
        self.cache.limit_bytes = limit
        self.limit = limit
        self.is_over = not self.make_room(0, limit, "limit")

    @rule(wanted=st.sampled_from([1, 4096, 3 * 4096, SEGMENT]))
    def evict(self, wanted: int) -> None:
        before = sum(segment.charge for segment in self.model.values())
        self.make_room(0, min(max(0, self.used - wanted), self.limit), "disk")
        assert self.cache.evict(wanted) == before - sum(segment.charge for segment in self.model.values())

    @rule(blob=st.integers(0, len(DATA) - 1), protected=st.sampled_from([False] * 5 + [True]))
    def ask_for_a_blob_again(self, blob: int, protected: bool) -> None:
        again = self.cache.blob(DIGESTS[blob], len(DATA[blob]), LISTS[blob], protected=protected)
        assert again == self.blobs[blob]
        self.blobs[blob] = again
        if protected and blob not in self.protected:
            self.protected.add(blob)
            for _, segment in sorted(self.model.items()):
                if segment.key[0] == blob:
                    self.groups[segment.group].remove(segment)
                    self.place(segment, PROTECTED)

    # -- what must hold after each of them

    @invariant()
    def the_numbers_are_the_models(self) -> None:
        self.cache.reap()
        stats = self.cache.stats()
        charged = sum(segment.charge for segment in self.model.values())
        assert (stats["limit_bytes"], stats["charged_bytes"], stats["segments"]) == (
            self.limit,
            charged,
            len(self.model),
        )
        assert stats["condemned_bytes"] == sum(segment.charge for segment in self.condemned)
        assert stats["evicted_segments"] == sum(self.evicted.values())
        assert {reason: stats[f"evicted_{reason}_segments"] for reason in self.evicted} == self.evicted
        self.is_over = self.is_over and self.used > self.limit
        assert self.is_over or stats["charged_bytes"] + stats["condemned_bytes"] <= self.limit

    @invariant()
    def the_groups_are_the_models(self) -> None:
        stats = self.cache.stats()
        assert (stats["protected_bytes"], stats["reused_bytes"]) == (self.bytes_of(PROTECTED), self.bytes_of(REUSED))
        order = [(DIGESTS[segment.key[0]], segment.key[1]) for group in self.groups for segment in group]
        assert [each[:2] for each in self.cache.segments()] == order
        ghosts = ("made_segments", "ghost_double_segments", "ghost_quadruple_segments")
        assert [stats[key] for key in ghosts] == self.made

    @invariant()
    def what_left_is_the_models(self) -> None:
        left = [[e.sha256, e.segments, e.bytes, e.reason, e.wanted_by] for e in self.cache.evictions()]
        assert left == self.left[-64:]

    @invariant()
    def the_states_are_the_models(self) -> None:
        for blob, chunk in ALL_CHUNKS:
            state = self.blobs[blob].states(chunk, 1)[0]
            assert (PRESENT if state == CLOSED else state) == self.state(blob, chunk), (blob, chunk)

    @invariant()
    def no_more_files_are_open_than_allowed(self) -> None:
        held = [segment for segment in (*self.model.values(), *self.condemned) if not segment.may_go]
        self.most_held = max(self.most_held, len(held))
        stats = self.cache.stats()
        assert stats["rechecked_chunks"] == 0, "what is closed is not hashed again"
        states = {segment[:2]: set(segment[2]) for segment in self.cache.segments()}
        assert not any({PRESENT, CLOSED} <= each or {FILLING, CLOSED} <= each for each in states.values())
        is_closed = [CLOSED in each for each in states.values()]
        assert stats["open_segments"] == len(states) - sum(is_closed)
        if not self.open_limit:
            assert not any(is_closed) and stats["reopened_segments"] == 0
            return
        assert stats["open_segments"] <= self.open_limit + self.most_held
        assert not any(states[DIGESTS[s.key[0]], s.key[1]] & {CLOSED} for s in held if s in self.model.values())

    @invariant()
    def the_files_are_the_models(self) -> None:
        root = pathlib.Path(self.directory)
        found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != "lock"}
        assert found == {f"{DIGESTS[blob]}.d/{index}" for blob, index in self.model}
        assert {path.name for path in root.iterdir() if path.is_dir()} == {
            f"{DIGESTS[blob]}.d" for blob, _ in self.model
        }


CacheMachine.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCacheAgainstAModel = CacheMachine.TestCase


class FewFilesMachine(CacheMachine):
    open_limit = 2


FewFilesMachine.TestCase.settings = settings(CacheMachine.TestCase.settings, max_examples=60)
TestFewFilesAgainstAModel = FewFilesMachine.TestCase


@pytest.mark.parametrize(("seed", "machine_class"), [*((i, CacheMachine) for i in range(8)), (9, FewFilesMachine)])
def test_what_is_evicted_is_exact_over_thousands_of_random_uses(seed: int, machine_class: type[CacheMachine]) -> None:
    """The machine above, driven so that every class is full most of the time."""
    rng = random.Random(seed)
    machine = machine_class()
    machine.set_limit([8, 16, 24][seed % 3] * 4096)
    favourites = rng.sample(CHEAP, 6)
    for _ in range(3000):
        at = rng.choice(favourites if rng.random() < 0.5 else CHEAP)
        if rng.random() < 0.6 or machine.state(*at) != PRESENT:
            machine.fill(at)
        else:
            machine.read(at)
        roll = rng.random()
        if roll < 0.15:
            machine.time_goes_by(rng.choice([S, 59 * S, 86400 * S]))
        elif roll < 0.16:
            machine.set_limit(rng.choice([6, 8, 16, 24, 40]) * 4096)
        elif roll < 0.17:
            machine.drop(rng.randrange(len(DATA)))
        elif roll < 0.18:
            machine.evict(2 * 4096)
        elif roll < 0.20:
            favourites = rng.sample(CHEAP, 6)
        elif roll < 0.2002:
            machine.ask_for_a_blob_again(rng.randrange(len(DATA)), protected=True)
        machine.the_numbers_are_the_models()
        machine.the_groups_are_the_models()
        machine.what_left_is_the_models()
    assert min(machine.evicted.values()) > 3 and machine.made[1] > 20 and machine.made[2] > machine.made[1]
    machine.the_files_are_the_models()
    machine.teardown()


@pytest.mark.parametrize("seed", range(6))
def test_small_files_alone_are_one_exact_lru(seed: int, tmp_path: pathlib.Path) -> None:
    """Long runs on the clock: 40 blobs of one block, 25 of which fit."""
    rng = random.Random(seed)
    cache = Cache(str(tmp_path), 25 * 4096)
    texts = [f"blob {i}".encode() for i in range(40)]
    blobs = [cache.blob(hashlib.sha256(t).hexdigest(), len(t), hashlib.sha256(t).digest()) for t in texts]
    model: OrderedDict[int, None] = OrderedDict()
    for _ in range(2000):
        i = rng.randrange(40) if rng.random() < 0.1 else rng.choice(list(model) or [0])
        if blobs[i].span(0):
            assert i in model
        else:
            assert i not in model and cache.begin(blobs[i], 0)
            cache.store(blobs[i], 0, texts[i])
            if len(model) == 25:
                model.popitem(last=False)
            model[i] = None
        model.move_to_end(i)
    assert {i for i in range(40) if blobs[i].complete} == set(model)
    cache.limit_bytes = 3 * 4096  # now the order of the rest shows too
    assert {i for i in range(40) if blobs[i].complete} == set(list(model)[-3:])
    cache.close()
