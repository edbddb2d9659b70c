"""What happens in a soak, made from the seed alone: the same seed gives the same actions and the same reads.

    actions   a timeline: faults of the sources, of the region, the end of the rack and its next start, limits
    reads     for each seat an endless list of reads; a seat carries them out one after the other

Times are seconds of the plan's own clock, which stands still at quiet points. What a run does besides depends on the
machine; a replay does the same things in the same order at the same times.

Left to others: carrying it out (world), what a fault does (region), what a read is (readers).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

KIB, MIB = 1 << 10, 1 << 20

SPOILS = ("corrupt", "swap")  # right in form, wrong in its bytes: the source is quarantined
TRANSIENT = ("refuse", "cut", "reset", "stall", "slow", "500", "short-length", "long-length", "wrong-range", "whole")
FAULTS = (*TRANSIENT, *SPOILS, "404")
CONTROL = ("gone", "silent", "500")
ROT = ("flip", "swap", "zero", "truncate")


class Profile(NamedTuple):
    name: str
    seconds: float
    cache_bytes: int
    sizes: tuple[int, ...]  # of the files
    seats: dict[str, int]  # how they read -> how many
    sources: int
    life_s: tuple[float, float]  # of a rack, mostly
    long_life_s: tuple[float, float]  # and sometimes
    stall_s: tuple[float, float]  # of a reader that does not read
    quiet_s: float  # between quiet points
    dark_s: float  # between times when every source fails
    park_limit_s: float
    limits: tuple[float, ...]  # of the cache, in shares of cache_bytes
    files: tuple[int, ...]  # descriptors the rack may have; 0: as many as it likes


EDGES = (0, 1, 4095, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB - 1, MIB, MIB + 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1)

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "full", 600.0, 96 * MIB,
            (*EDGES, *(n * MIB + 977 * n for n in (2, 3, 5, 6, 7, 9, 11, 13)),
             *(30 * MIB + 12345 + n for n in range(5)), 200 * MIB),
            {"whole": 4, "range": 4, "pipeline": 3, "small": 3, "slow": 4, "stall": 8, "hangup": 2, "hash": 3,
             "tftp1": 2, "tftp16": 3},
            3, (1.0, 4.5), (12.0, 30.0), (3.0, 55.0), 100.0, 35.0, 20.0, (1.0, 0.5, 0.75, 1.5), (0, 0, 96, 128),
        ),
        Profile(
            "short", 20.0, 32 * MIB,
            (*EDGES, 3 * MIB + 5, 7 * MIB + 11, 9 * MIB + 13, 13 * MIB + 1, 21 * MIB + 3, 30 * MIB + 12345, 40 * MIB),
            {"whole": 2, "range": 2, "pipeline": 1, "small": 1, "slow": 1, "stall": 4, "hangup": 1, "hash": 1,
             "tftp1": 1, "tftp16": 1},
            3, (3.0, 5.0), (6.0, 9.0), (2.0, 6.0), 13.0, 8.0, 12.0, (1.0, 0.75, 1.5), (0, 80),
        ),
    )
}  # fmt: skip


class Action(NamedTuple):
    at: float
    kind: str
    values: dict[str, Any]

    def __str__(self) -> str:
        shown = {key: len(value) if key == "rot" else value for key, value in self.values.items()}
        return f"{self.at:7.2f} s  {self.kind} " + " ".join(f"{key}={value}" for key, value in shown.items())


class Read(NamedTuple):
    """One read of a seat. *first* and *last* are shares of the file, so that they fit every size."""

    way: str  # http, tftp
    files: tuple[int, ...]  # numbers; several: one connection
    ranges: tuple[str, ...]  # for each: "whole", "head", "N-", "-N", "N-M"
    pipelined: bool = False
    rate: int = 0  # bytes a second; 0: as fast as they come
    stall_at: float = -1.0  # share of the body; -1: never
    stall_s: float = 0.0
    hangup_at: float = -1.0
    window: int = 1
    loss: float = 0.0
    receive_buffer: int = 0


def actions(seed: int, seconds: float, profile: Profile) -> list[Action]:
    rng = random.Random(f"{seed}/actions")
    quiet = _every(profile.quiet_s, seconds)
    found = [Action(round(at, 2), "quiet", {}) for at in quiet]
    found += _of_the_rack(rng, seconds, profile)
    found += _of_the_sources(rng, seconds, profile)
    found += _of_the_region(rng, seconds, profile)
    found += _new_versions(rng, seconds, profile)
    found += _dark(rng, seconds, profile, quiet)
    found.sort(key=lambda action: action.at)
    return found


def _every(step: float, seconds: float) -> list[float]:
    return [step * n for n in range(1, int(seconds / step) + 1) if step * n < seconds - step / 3]


def _of_the_rack(rng: random.Random, seconds: float, profile: Profile) -> Iterator[Action]:
    at = 0.0
    while True:
        at += rng.uniform(*(profile.long_life_s if rng.random() < 0.12 else profile.life_s))
        if at >= seconds:
            return
        how = rng.choices(("kill", "term", "freeze", "limit"), (14, 3, 3, 3))[0]
        if how == "freeze":
            yield Action(round(at, 2), "freeze", {"s": round(rng.uniform(0.5, 4.0), 2)})
            continue
        share = rng.choice(profile.limits)
        if how == "limit":
            yield Action(round(at, 2), "limit", {"bytes": int(profile.cache_bytes * share)})
            continue
        damaged = rng.choice((0, 2, 8, 99) if how == "kill" else (0, 99, 99))  # segments; there are fewer than 99
        rot = [rng.choice(ROT) for _ in range(damaged)]
        size = int(profile.cache_bytes * (share if rng.random() < 0.4 else 1.0))
        files = rng.choice(profile.files)
        down_s = round(rng.uniform(0.0, 0.6), 2)
        values = {"down_s": down_s, "cache_bytes": size, "files": files, "reactors": rng.choice((1, 1, 2)), "rot": rot}
        yield Action(round(at, 2), how, values)


def _of_the_sources(rng: random.Random, seconds: float, profile: Profile) -> Iterator[Action]:
    """The first source never lies about bytes, nor that it has none: it is what the others are quarantined against."""
    for source in range(profile.sources):
        at = rng.uniform(1.0, 4.0)
        while at < seconds - 1.0:
            kind = rng.choice(TRANSIENT if source == 0 else FAULTS)
            if source and rng.random() < 0.3:
                kind = rng.choice(SPOILS)
            for_s = round(min(rng.uniform(0.5, 5.0), seconds - at), 2)
            yield Action(round(at, 2), "fault", {"source": source, "fault": kind, "s": for_s})
            at += for_s + rng.uniform(0.5, 6.0 if source == 0 else 3.0)


def _of_the_region(rng: random.Random, seconds: float, profile: Profile) -> Iterator[Action]:
    at = rng.uniform(0.2, 0.4) * profile.dark_s
    while at < seconds - 2.0:
        for_s = round(min(rng.uniform(1.0, 0.4 * profile.dark_s), seconds - at), 2)
        yield Action(round(at, 2), "control", {"fault": rng.choice(CONTROL), "s": for_s})
        at += for_s + rng.uniform(0.4, 1.0) * profile.dark_s


def _new_versions(rng: random.Random, seconds: float, profile: Profile) -> Iterator[Action]:
    """Some files get other bytes under the same names; the old ones leave the catalogue."""
    small_enough = [number for number, size in enumerate(profile.sizes) if 0 < size <= 40 * MIB]
    for at in _every(0.4 * profile.dark_s, seconds):
        yield Action(round(at, 2), "publish", {"files": sorted(rng.sample(small_enough, 3))})


def _dark(rng: random.Random, seconds: float, profile: Profile, quiet: list[float]) -> Iterator[Action]:
    """Every source at once. What they are quarantined for outlives the fault, but not the rack."""
    for at in _every(profile.dark_s, seconds):
        start = at + rng.uniform(-0.2, 0.2) * profile.dark_s
        kind = rng.choice((*SPOILS, *SPOILS, *SPOILS, "refuse", "stall", "404", "500"))
        for_s = round(rng.uniform(2.0, 0.4 * profile.dark_s), 2)
        if start + for_s > seconds - 1.0 or any(start - 1.0 < point < start + for_s + 1.0 for point in quiet):
            continue
        for source in range(profile.sources):
            yield Action(round(start, 2), "fault", {"source": source, "fault": kind, "s": for_s})
        if kind in SPOILS or kind == "404":
            ends = {"down_s": 0.1, "cache_bytes": profile.cache_bytes, "files": 0, "reactors": 1, "rot": []}
            yield Action(round(start + for_s + 0.01, 2), "kill", ends)


def seats(profile: Profile) -> list[str]:
    return [kind for kind, count in profile.seats.items() for _ in range(count)]


def reads(seed: int, seat: int, kind: str, profile: Profile) -> Iterator[Read]:
    """What a seat reads, for ever."""
    rng = random.Random(f"{seed}/seat/{seat}")
    sizes = profile.sizes
    every = range(len(sizes))
    large = [n for n in every if sizes[n] > 8 * MIB]
    middle = [n for n in every if MIB <= sizes[n] <= 40 * MIB]
    small = [n for n in every if sizes[n] <= 4 * MIB + 1]
    for _ in itertools.count():
        rate = buffer = 0
        if kind in ("whole", "hash"):
            yield Read("http" if kind == "whole" else "hash", (rng.choice(every),), ("whole",))
        elif kind == "range":
            number = rng.choice(large + middle)
            yield Read("http", (number,), (_range(rng, sizes[number]),))
        elif kind in ("pipeline", "small"):
            chosen = tuple(rng.choice(small if kind == "small" else list(every)) for _ in range(rng.randint(2, 6)))
            wanted = tuple("head" if rng.random() < 0.2 else _range(rng, sizes[n]) for n in chosen)
            yield Read("http", chosen, wanted, pipelined=rng.random() < 0.6)
        elif kind == "slow":
            rate, buffer = rng.choice((300_000, 1_500_000, 4_000_000)), rng.choice((0, 64 * KIB))
            yield Read("http", (rng.choice(middle),), ("whole",), rate=rate, receive_buffer=buffer)
        elif kind == "stall":
            number = rng.choice(large)
            part = "whole" if rng.random() < 0.7 else _range(rng, sizes[number])
            at, buffer = rng.choice((0.0, rng.random() * 0.9)), rng.choice((0, MIB, 4 * MIB))
            for_s = rng.uniform(*profile.stall_s)
            yield Read("http", (number,), (part,), stall_at=at, stall_s=for_s, receive_buffer=buffer)
        elif kind == "hangup":
            yield Read("http", (rng.choice(middle + large),), ("whole",), hangup_at=rng.random())
        elif kind == "tftp1":
            number = rng.choice([n for n in small if sizes[n] <= MIB + 1])
            yield Read("tftp", (number,), ("whole",), loss=rng.choice((0.0, 0.001)))
        else:
            number = rng.choice(small + middle)
            ends = rng.random() if rng.random() < 0.15 else -1.0
            yield Read("tftp", (number,), ("whole",), window=16, loss=rng.choice((0.0, 0.003)), hangup_at=ends)


def _range(rng: random.Random, size: int) -> str:
    kind = rng.choice(("whole", "start", "middle", "end", "suffix", "edge"))
    if size < 2 or kind == "whole":
        return "whole"
    if kind == "start":
        return f"0-{rng.randrange(size)}"
    if kind == "end":
        return f"{rng.randrange(size)}-"
    if kind == "suffix":
        return f"-{rng.randint(1, size)}"
    if kind == "edge":  # around the end of a chunk or of a segment
        first = max(0, rng.randrange(0, size, MIB) - rng.randint(0, 3))
        return f"{first}-{min(size - 1, first + rng.choice((1, 3, 4096, MIB, 4 * MIB)))}"
    first = rng.randrange(size)
    return f"{first}-{rng.randint(first, size - 1)}"
