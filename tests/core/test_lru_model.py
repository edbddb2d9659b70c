"""The cache against a plain model: an OrderedDict of segments. One thread, so the order of eviction must be exact."""

from __future__ import annotations

import hashlib
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
ABSENT, FILLING, PRESENT = range(3)
_rng = random.Random(3)
DATA = [_rng.randbytes(size) for size in (1, 4096, 4097, 9000, 20000, MIB + 5, SEGMENT + 10)]
DIGESTS = [hashlib.sha256(data).hexdigest() for data in DATA]
LISTS = [b"".join(hashlib.sha256(d[i : i + MIB]).digest() for i in range(0, len(d), MIB)) for d in DATA]
ALL_CHUNKS = [(blob, chunk) for blob, data in enumerate(DATA) for chunk in range((len(data) + MIB - 1) // MIB)]
LIMITS = [0, 4095, 2 * 4096, 6 * 4096, 12 * 4096, MIB + 3 * 4096, SEGMENT + 8192, 3 * SEGMENT]


@dataclass(eq=False)
class Segment:
    charge: int
    states: dict[int, int] = field(default_factory=dict)  # chunk -> state, ABSENT left out
    pins: int = 0
    doomed: bool = False

    @property
    def is_filling(self) -> bool:
        return FILLING in self.states.values()


class CacheMachine(RuleBasedStateMachine):
    pins = Bundle("pins")

    def __init__(self) -> None:
        super().__init__()
        reap()
        self.before = counts()
        self.directory = tempfile.mkdtemp(prefix="lru-model-")
        self.cache = Cache(self.directory, LIMITS[3])
        self.blobs: list[Blob] = [
            self.cache.blob(digest, len(data), chunks)
            for digest, data, chunks in zip(DIGESTS, DATA, LISTS, strict=True)
        ]
        self.limit = LIMITS[3]
        self.model: OrderedDict[tuple[int, int], Segment] = OrderedDict()  # (blob, index), oldest first
        self.condemned: list[Segment] = []  # out of the model, pinned
        self.evicted = 0
        self.is_over = False  # the limit was shrunk below what is held

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

    def remove(self, key: tuple[int, int]) -> None:
        segment = self.model.pop(key)
        if segment.pins:
            self.condemned.append(segment)

    def make_room(self, need: int, limit: int) -> bool:
        for key, segment in list(self.model.items()):
            if self.used + need <= limit:
                break
            if not segment.pins and not segment.is_filling:
                self.remove(key)
                self.evicted += 1
        return self.used + need <= limit

    def end(self, key: tuple[int, int], chunk: int, state: int) -> None:
        segment = self.model[key]
        segment.states[chunk] = state
        if state == ABSENT:
            del segment.states[chunk]
        if not segment.is_filling and (segment.doomed or not segment.states):
            self.remove(key)

    def state(self, blob: int, chunk: int) -> int:
        segment = self.model.get((blob, chunk // 4))
        return segment.states.get(chunk, ABSENT) if segment else ABSENT

    def chunk_data(self, blob: int, chunk: int) -> bytes:
        return DATA[blob][chunk * MIB : (chunk + 1) * MIB]

    # -- what callers do

    @rule(at=st.sampled_from(ALL_CHUNKS))
    def begin(self, at: tuple[int, int]) -> None:
        blob, chunk = at
        key = (blob, chunk // 4)
        if self.state(blob, chunk) != ABSENT:
            assert not self.cache.begin(self.blobs[blob], chunk)
            return
        if key not in self.model:
            length = min(SEGMENT, len(DATA[blob]) - key[1] * SEGMENT)
            charge = (length + 4095) // 4096 * 4096
            if charge > self.limit or not self.make_room(charge, self.limit):
                with pytest.raises(CacheFull):
                    self.cache.begin(self.blobs[blob], chunk)
                return
            self.model[key] = Segment(charge)
        assert self.cache.begin(self.blobs[blob], chunk)
        segment = self.model[key]
        segment.states[chunk] = FILLING
        segment.doomed = False
        self.model.move_to_end(key)

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

    @rule(at=st.sampled_from(ALL_CHUNKS))
    def fill(self, at: tuple[int, int]) -> None:
        """Most of what a rack does: without it the machine would seldom get as far as evicting."""
        blob, chunk = at
        before = self.state(blob, chunk)
        self.begin(at)
        if before == ABSENT and self.state(blob, chunk) == FILLING:
            self.cache.store(self.blobs[blob], chunk, self.chunk_data(blob, chunk))
            self.end((blob, chunk // 4), chunk, PRESENT)

    @rule(at=st.sampled_from(ALL_CHUNKS))
    def read(self, at: tuple[int, int]) -> None:
        blob, chunk = at
        right = self.chunk_data(blob, chunk)
        if self.state(blob, chunk) == PRESENT:
            assert self.blobs[blob].read(chunk * MIB, len(right)) == right
            self.model.move_to_end((blob, chunk // 4))
        else:
            assert self.blobs[blob].span(chunk * MIB) == 0

    @precondition(lambda self: any(PRESENT in segment.states.values() for segment in self.model.values()))
    @rule(target=pins, data=st.data())
    def pin(self, data: st.DataObject) -> tuple[Pin, Segment, bytes]:
        present = [(key, c) for key, s in self.model.items() for c, state in s.states.items() if state == PRESENT]
        key, chunk = data.draw(st.sampled_from(sorted(present)))
        self.model[key].pins += 1
        self.model.move_to_end(key)
        return self.blobs[key[0]].pin(chunk * MIB), self.model[key], self.chunk_data(key[0], chunk)

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
        for key, segment in list(self.model.items()):
            if key[0] == blob and segment.is_filling:
                segment.doomed = True
            elif key[0] == blob:
                dropped += segment.charge
                self.remove(key)
        assert self.cache.drop(self.blobs[blob]) == dropped

    @rule(limit=st.sampled_from(LIMITS))
    def set_limit(self, limit: int) -> None:
        self.cache.limit_bytes = limit
        self.limit = limit
        self.is_over = not self.make_room(0, limit)

    @rule(blob=st.integers(0, len(DATA) - 1))
    def ask_for_a_blob_again(self, blob: int) -> None:
        again = self.cache.blob(DIGESTS[blob], len(DATA[blob]), LISTS[blob])
        assert again == self.blobs[blob]
        self.blobs[blob] = again

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
        assert stats["evicted_segments"] == self.evicted
        self.is_over = self.is_over and self.used > self.limit
        assert self.is_over or stats["charged_bytes"] + stats["condemned_bytes"] <= self.limit

    @invariant()
    def the_states_are_the_models(self) -> None:
        for blob, chunk in ALL_CHUNKS:
            assert self.blobs[blob].states(chunk, 1)[0] == self.state(blob, chunk), (blob, chunk)

    @invariant()
    def the_files_are_the_models(self) -> None:
        root = pathlib.Path(self.directory)
        found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != "lock"}
        assert found == {f"{DIGESTS[blob]}.d/{index}" for blob, index in self.model}
        assert {path.name for path in root.iterdir() if path.is_dir()} == {
            f"{DIGESTS[blob]}.d" for blob, _ in self.model
        }


CacheMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCacheAgainstAModel = CacheMachine.TestCase


@pytest.mark.parametrize("seed", range(6))
def test_the_order_of_eviction_is_exact_over_thousands_of_random_uses(seed: int, tmp_path: pathlib.Path) -> None:
    """Long runs without I/O to speak of: 40 blobs of one block, 25 of which fit."""
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
