"""What to fetch next: a pure planner of runs of chunks. No thread, no socket, no clock of its own.

    demand   chunks somebody waits for, with the time the first one asked
    flying   chunks a fetch thread has in hand: whoever asks for one joins the wait, nothing is fetched twice
    stream   a place where readers move through a blob. One that begins out of nowhere gets just the chunk it asked for
             (a Range fills what it needs), one that starts a file gets its first segment, and each miss that follows on
             doubles the window, up to read_ahead chunks past the last miss

                 position        horizon = position + window at the last miss
        ─────────────┼──────────────────┼───────────────▶ chunks
          present    │ flying, then to be fetched

Invariants: a chunk is in at most one run; demand goes before read-ahead, oldest first; read-ahead that fails is dropped
until a reader comes there, so that nothing is fetched for ever for nobody.

Left to others: presence (a function the caller gives), sources, telling the waiters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

FIRST_WINDOW = 4  # chunks: one segment, charged whole anyway
OVERLAP = 2  # a stream's next run starts while this many chunks are still on their way: no round trip between runs
MAX_STREAMS = 8  # places of one blob remembered; the one used least recently goes

Absent = Callable[[int, int, int], bytes]  # (blob, first, count) -> a byte for each chunk, non-zero: must be fetched
Ready = Callable[[int], bool]  # whether some source may be asked for that blob now


class Run(NamedTuple):
    """Consecutive chunks of one blob, now flying. Each ends by landed(), returned() or failed()."""

    blob: int
    first: int
    length: int  # chunks


@dataclass(slots=True, eq=False)
class _Stream:
    position: int  # the furthest miss
    window: int
    horizon: int  # exclusive

    def covers(self, chunk: int) -> bool:
        return self.position - self.window < chunk <= self.horizon


@dataclass(slots=True, eq=False)
class _Wanted:
    chunks: int  # of the blob
    demand: dict[int, tuple[float, _Stream]] = field(default_factory=dict)
    flying: set[int] = field(default_factory=set)
    streams: list[_Stream] = field(default_factory=list)  # the one used last at the end


class Planner:
    """Not thread-safe: the filler calls it under its lock."""

    def __init__(self, read_ahead: int = 32, longest_run: int = 16) -> None:
        self.read_ahead = read_ahead  # chunks; may be changed at any time
        self.longest_run = longest_run
        self._wanted: dict[int, _Wanted] = {}
        self._active: dict[int, None] = {}  # blobs next() must look at; in turns

    def miss(self, blob: int, chunks: int, chunk: int, now: float, *, present: bool = False) -> None:
        """Somebody met *chunk* of a blob of *chunks* chunks. *present*: it has come meanwhile, only note the reader."""
        wanted = self._wanted.setdefault(blob, _Wanted(chunks))
        self._active.setdefault(blob)
        stream = self._follow(wanted, chunk)
        if not present:
            wanted.demand.setdefault(chunk, (now, stream))

    def next(self, absent: Absent, ready: Ready) -> Run | None:
        """Takes the next run into flight, or returns None when nothing can be fetched now."""
        waiting = [
            (since, blob, chunk)
            for blob in self._active
            for chunk, (since, _) in self._wanted[blob].demand.items()
            if chunk not in self._wanted[blob].flying
        ]
        for _, blob, chunk in sorted(waiting):
            if ready(blob):
                wanted = self._wanted[blob]
                end = max(wanted.demand[chunk][1].horizon, chunk + 1)
                if (run := self._take(blob, chunk, end, absent)) is not None:
                    return run
        for blob in list(self._active):
            wanted = self._wanted[blob]
            if ready(blob):
                for stream in wanted.streams:
                    on_the_way = sum(stream.position <= chunk < stream.horizon for chunk in wanted.flying)
                    if on_the_way > OVERLAP:
                        continue
                    if (run := self._take(blob, stream.position, stream.horizon, absent)) is not None:
                        del self._active[blob]
                        self._active[blob] = None
                        return run
            if not wanted.demand and not wanted.flying:
                del self._active[blob]  # the streams stay: a slow reader that comes back is still a follower
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

    def oldest_demand(self) -> float | None:
        """When the longest-waiting miss began."""
        return min((since for blob in self._active for since, _ in self._wanted[blob].demand.values()), default=None)

    def forget(self, blob: int) -> None:
        """The blob is nobody's any more."""
        self._wanted.pop(blob, None)
        self._active.pop(blob, None)

    def _follow(self, wanted: _Wanted, chunk: int) -> _Stream:
        """The stream this miss belongs to, moved on or begun."""
        for stream in reversed(wanted.streams):
            if stream.covers(chunk):
                wanted.streams.remove(stream)
                if chunk > stream.position:
                    stream.window = min(stream.window * 2, self.read_ahead)
                    stream.position = chunk
                break
        else:
            stream = _Stream(chunk, min(FIRST_WINDOW if chunk == 0 else 1, self.read_ahead), 0)
            if len(wanted.streams) >= MAX_STREAMS:
                del wanted.streams[0]
        wanted.streams.append(stream)
        stream.horizon = min(max(stream.horizon, stream.position + max(stream.window, 1)), wanted.chunks)
        return stream

    def _take(self, blob: int, first: int, end: int, absent: Absent) -> Run | None:
        """Puts the first stretch of absent chunks in [first, end) that is not flying into flight."""
        flying = self._wanted[blob].flying
        needed = absent(blob, first, max(0, end - first))
        start = next((c for c in range(first, end) if needed[c - first] and c not in flying), None)
        if start is None:
            return None
        stop = start + 1
        while stop < min(end, start + self.longest_run) and needed[stop - first] and stop not in flying:
            stop += 1
        flying.update(range(start, stop))
        return Run(blob, start, stop - start)

    @staticmethod
    def _stop_at(wanted: _Wanted, chunk: int) -> None:
        for stream in wanted.streams:
            if stream.position <= chunk < stream.horizon:
                stream.horizon = chunk
