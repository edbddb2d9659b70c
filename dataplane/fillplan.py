"""What to fetch next: a pure planner of runs of chunks. No thread, no socket, no clock of its own.

    demand   chunks somebody waits for, with the time the first one asked
    flying   chunks a fetch thread has in hand: whoever asks for one joins the wait, nothing is fetched twice
    stream   a place where readers move through a blob. One that begins out of nowhere gets just the chunk it asked for
             (a Range fills what it needs), one that starts a file gets its first segment, and each step that follows on
             doubles the window, up to read_ahead chunks past where readers were seen last

                 position        horizon = position + window at the last step
        ─────────────┼──────────────────┼───────────────▶ chunks
          present    │ flying, then to be fetched

Turns, so that fifteen machines at fifteen places of one image do not make another team's kernel wait: each blob has a
clock that runs by the chunks it took, and the one that is furthest behind is next (start-time fair queueing; who was
idle begins where the others are now, so that a pause earns nothing). Within a blob the place served longest ago is
next, and while somebody else waits a run is short, since nobody takes a chunk back from a fetch thread.

Invariants: a chunk is in at most one run; demand goes before read-ahead; with n blobs waiting, at most n - 1 short runs
are taken before the turn of each; read-ahead that fails, or was evicted since, is dropped until a reader comes there,
so that nothing is fetched for ever for nobody; the windows of all readers that move take no more than
read_ahead_in_all chunks.

Left to others: presence (a function the caller gives), sources, telling the waiters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from bootplane.dataplane.segments import SEGMENT_CHUNKS

FIRST_WINDOW = SEGMENT_CHUNKS  # it is charged whole anyway
OVERLAP = 2  # a stream's next run starts while this many chunks are still on their way: no round trip between runs
MAX_STREAMS = 64  # places of one blob remembered; the one used least recently goes
SHORT_RUN = 2  # chunks of a run while somebody else waits
RESTING = 4  # active blobs that are looked at for whether they can rest, each time
MOVING_S = 10.0  # a reader that was not seen for so long shares no read-ahead
LOOK_S = 2.0  # a reader that was seen within that may be further by now without having missed anything

Absent = Callable[[int, int, int], bytes]  # (blob, first, count) -> a byte for each chunk, non-zero: must be fetched
Ready = Callable[[int], int]  # blob -> the longest run that some source may be asked for now, in chunks; 0: none may


class Run(NamedTuple):
    """Consecutive chunks of one blob, now flying. Each ends by landed(), returned() or failed()."""

    blob: int
    first: int
    length: int  # chunks


@dataclass(slots=True, eq=False)
class _Stream:
    position: int  # the furthest chunk at which a reader was seen
    window: int
    horizon: int  # exclusive
    seen_at: float
    ahead: int = 0  # chunks before it were fetched for this place: who wants one that is absent again will ask for it
    turn: int = 0  # when it was served last, by the planner's count of runs

    @property
    def next(self) -> int:
        """Where its read-ahead goes on."""
        return max(self.position, self.ahead)

    def covers(self, chunk: int) -> bool:
        return self.position - self.window < chunk <= self.horizon


@dataclass(slots=True, eq=False)
class _Wanted:
    chunks: int  # of the blob
    demand: dict[int, tuple[float, _Stream]] = field(default_factory=dict)
    flying: set[int] = field(default_factory=set)
    streams: list[_Stream] = field(default_factory=list)  # the one used last at the end
    clock: int = 0  # chunks taken, and those of others while it wanted none

    def waiting(self) -> list[tuple[int, float, int]]:
        """(turn of its place, since, chunk) of demand that is not flying, the next one first."""
        return sorted((s.turn, since, c) for c, (since, s) in self.demand.items() if c not in self.flying)


class Planner:
    """Not thread-safe: the filler calls it under its lock."""

    def __init__(self, read_ahead: int = 32, longest_run: int = 16, read_ahead_in_all: int = 1 << 30) -> None:
        self.read_ahead = read_ahead  # chunks before one reader; these may be changed at any time
        self.read_ahead_in_all = read_ahead_in_all  # chunks before all of them
        self.longest_run = longest_run
        self._wanted: dict[int, _Wanted] = {}
        self._active: dict[int, None] = {}  # blobs next() must look at; the streams of others stay, for who comes back
        self._clock = 0  # that of the blob which was served last, before it was
        self._runs = 0
        self._moving: dict[_Stream, int] = {}  # -> blob; the one seen last at the end

    def miss(self, blob: int, chunks: int, chunk: int, now: float, *, present: bool = False) -> bool:
        """Somebody met *chunk* of a blob of *chunks* chunks. *present*: it is there, only note the reader. Returns
        whether next() may find something because of that: not when it is on its way, and enough of what comes after."""
        wanted = self._wanted.setdefault(blob, _Wanted(chunks))
        self._active.setdefault(blob)
        stream = self._follow(wanted, chunk, now)
        self._moving.pop(stream, None)
        self._moving[stream] = blob
        if not present:
            wanted.demand.setdefault(chunk, (now, stream))
            if chunk not in wanted.flying:
                return True
        return self._on_the_way(wanted, stream) <= OVERLAP

    @staticmethod
    def _on_the_way(wanted: _Wanted, stream: _Stream) -> int:
        return sum(stream.position <= chunk < stream.horizon for chunk in wanted.flying)

    def places(self, now: float) -> list[tuple[int, int, int]]:
        """Of readers seen lately, who may be further now: (blob, first chunk of the segment after theirs, horizon)."""
        while self._moving and now - (stream := next(iter(self._moving))).seen_at > LOOK_S:
            del self._moving[stream]
        found = (
            (blob, (s.position // SEGMENT_CHUNKS + 1) * SEGMENT_CHUNKS, s.horizon) for s, blob in self._moving.items()
        )
        return [(blob, first, horizon) for blob, first, horizon in found if first < horizon]

    def next(self, absent: Absent, ready: Ready) -> Run | None:
        """Takes the next run into flight, or returns None when nothing can be fetched now."""
        self._let_rest(absent)
        return self._next_awaited(absent, ready) or self._next_ahead(absent, ready)

    def _let_rest(self, absent: Absent) -> None:
        """Looks at a few active blobs, in turns: those for which nothing is to be done are active no more. While
        somebody waits all the time nobody else would see that, and each miss would walk through all there were."""
        for blob in list(itertools.islice(self._active, RESTING)):
            del self._active[blob]
            wanted = self._wanted[blob]
            if (
                wanted.demand
                or wanted.flying
                or any(any(absent(blob, s.next, max(0, s.horizon - s.next))) for s in wanted.streams)
            ):
                self._active[blob] = None

    def _next_awaited(self, absent: Absent, ready: Ready) -> Run | None:
        waiting = {blob: found for blob in self._active if (found := self._wanted[blob].waiting())}
        longest = {blob: ready(blob) for blob in waiting}
        turns = sorted(
            (self._clock_of(blob), min(since for _, since, _ in waiting[blob]), blob)
            for blob in waiting
            if longest[blob]
        )
        places = sum(
            len({id(self._wanted[blob].demand[chunk][1]) for *_, chunk in waiting[blob]}) for *_, blob in turns
        )
        for *_, blob in turns:
            most = min(longest[blob], SHORT_RUN) if places > 1 else longest[blob]
            for *_, chunk in waiting[blob]:
                stream = self._wanted[blob].demand[chunk][1]
                if (run := self._take(blob, stream, chunk, max(stream.horizon, chunk + 1), most, absent)) is not None:
                    return run
        return None

    def _next_ahead(self, absent: Absent, ready: Ready) -> Run | None:
        for blob in sorted(self._active, key=self._clock_of):
            wanted = self._wanted[blob]
            for stream in sorted(wanted.streams, key=lambda stream: stream.turn):
                if self._on_the_way(wanted, stream) > OVERLAP or stream.next >= stream.horizon:
                    continue
                longest = ready(blob)
                if longest < 1:
                    break
                run = self._take(blob, stream, stream.next, stream.horizon, longest, absent)
                if run is not None:
                    return run
            if not wanted.demand and not wanted.flying:
                del self._active[blob]
        return None

    def landed(self, blob: int, chunk: int) -> None:
        """It is present."""
        if wanted := self._wanted.get(blob):
            wanted.flying.discard(chunk)
            wanted.demand.pop(chunk, None)

    def returned(self, blob: int, chunk: int) -> None:
        """It could not be had this time; it is tried again if somebody waits for it."""
        if wanted := self._wanted.get(blob):
            wanted.flying.discard(chunk)
            if chunk not in wanted.demand:
                self._stop_at(wanted, chunk)

    def failed(self, blob: int, chunk: int) -> None:
        """It cannot be had: the waiters are being told, nobody waits for it any more."""
        if wanted := self._wanted.get(blob):
            wanted.flying.discard(chunk)
            wanted.demand.pop(chunk, None)
            self._stop_at(wanted, chunk)

    def overdue(self, before: float) -> list[tuple[int, int]]:
        """(blob, chunk) that somebody has waited for since *before* or longer."""
        return [
            (blob, chunk)
            for blob in self._active
            for chunk, (since, _) in self._wanted[blob].demand.items()
            if since <= before
        ]

    def demanded(self, blob: int) -> list[int]:
        wanted = self._wanted.get(blob)
        return list(wanted.demand) if wanted else []

    def flying(self, blob: int) -> frozenset[int]:
        wanted = self._wanted.get(blob)
        return frozenset(wanted.flying) if wanted else frozenset()

    def demanding(self) -> list[int]:
        """Blobs somebody waits for."""
        return [blob for blob in self._active if self._wanted[blob].demand]

    def is_starving(self) -> bool:
        """Whether somebody waits for a chunk that nobody has in hand. While all that is waited for is on its way nobody
        need look: whoever ends a fetch looks for the next one."""
        return any(
            chunk not in wanted.flying
            for wanted in (self._wanted[blob] for blob in self._active)
            for chunk in wanted.demand
        )

    def forget(self, blob: int) -> None:
        """The blob is nobody's any more."""
        if wanted := self._wanted.pop(blob, None):
            for stream in wanted.streams:
                self._moving.pop(stream, None)
        self._active.pop(blob, None)

    def _clock_of(self, blob: int) -> int:
        return max(self._clock, self._wanted[blob].clock)

    def _window_limit(self, now: float) -> int:
        """Chunks ahead of one reader, when all that move share what there is for all."""
        moving = sum(now - s.seen_at <= MOVING_S for blob in self._active for s in self._wanted[blob].streams)
        return max(1, min(self.read_ahead, self.read_ahead_in_all // max(1, moving)))

    def _follow(self, wanted: _Wanted, chunk: int, now: float) -> _Stream:
        """The stream this miss belongs to, moved on or begun."""
        limit = self._window_limit(now)
        for stream in reversed(wanted.streams):
            if stream.covers(chunk):
                wanted.streams.remove(stream)
                if chunk > stream.position:
                    stream.window = min(stream.window * 2, limit)
                    stream.position = chunk
                stream.seen_at = now
                break
        else:
            stream = _Stream(chunk, min(FIRST_WINDOW if chunk == 0 else 1, limit), 0, now)
            if len(wanted.streams) >= MAX_STREAMS:
                self._moving.pop(wanted.streams.pop(0), None)
        wanted.streams.append(stream)
        stream.horizon = min(max(stream.horizon, stream.position + stream.window), wanted.chunks)
        return stream

    def _take(self, blob: int, stream: _Stream, first: int, end: int, longest: int, absent: Absent) -> Run | None:
        """Puts the first stretch of absent chunks in [first, end) that is not flying into flight."""
        wanted = self._wanted[blob]
        needed = absent(blob, first, max(0, end - first))
        start = next((c for c in range(first, end) if needed[c - first] and c not in wanted.flying), None)
        if start is None:
            return None
        stop, end = start + 1, min(end, start + min(longest, self.longest_run))
        while stop < end and needed[stop - first] and stop not in wanted.flying:
            stop += 1
        wanted.flying.update(range(start, stop))
        self._runs += 1
        stream.turn = self._runs
        stream.ahead = max(stream.ahead, stop)
        self._clock = self._clock_of(blob)
        wanted.clock = self._clock + stop - start
        return Run(blob, start, stop - start)

    @staticmethod
    def _stop_at(wanted: _Wanted, chunk: int) -> None:
        for stream in wanted.streams:
            stream.ahead = min(stream.ahead, chunk)
            if stream.position <= chunk < stream.horizon:
                stream.horizon = chunk
