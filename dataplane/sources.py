"""Which source to ask for a blob: regions' bulk addresses, their speed, back-off and quarantine. Pure; time is given.

Fetch threads are spread: among sources that are well, the one that would serve one more thread fastest is asked, by
what each thread got from it lately and by how many are at it. No source holds the last thread when there are several:
if it falls silent, threads hang in it, and the blobs of the others must not wait for that.

Invariants: a source that fails is left alone for a growing while, never longer than MAX_BACKOFF_S, so that a region
that comes back is found within seconds, and meets one thread at a time until it has delivered. While another source is
well, nobody's chunk is risked on it: is_due() says when to try it with a byte. A source that sent a wrong chunk is not
asked for that blob again for QUARANTINE_S, and for other blobs only when no other source is left: with one region, one
damaged file must not stop the good ones (every chunk is verified whoever sends it).

Left to others: sockets and verification (fill), who the sources are (region_client).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

QUARANTINE_S = 60.0
MISSING_S = 10.0  # a source that does not have a blob is asked again after this: it may still be copying it
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0
PROBE_S = 5.0  # between tries of a source that failed, while others do its work
RUN_S = 1.0  # a run is no longer than what its source delivers in about this time
FIRST_RUN_BYTES = 2 << 20  # the run of a source nobody has measured
FORGET_S = 10.0  # a measured speed is believed to have doubled after so long: what was slow gets another chance
TOO_SLOW = 4.0  # times slower than the best: then a busy best one is waited for
PATIENCE_S = 10.0  # with a source for one chunk, when another would have sent it several times over
SILENCE_S = 2.0  # without one byte, when another would have sent the whole chunk in that time


@dataclass(slots=True, eq=False)
class Source:
    """One bulk address. *key* is "H:P", as messages and metrics name it."""

    host: str
    port: int
    failures: int = 0  # in a row
    failed_at: float = 0.0
    ready_at: float = 0.0
    quarantined_until: float = 0.0
    refuses: dict[str, float] = field(default_factory=dict)  # sha256 -> not before
    flights: int = 0  # threads that are at it
    bytes_s: float = 0.0  # what one thread got from it, smoothed; 0: not measured yet
    measured_at: float = 0.0

    @property
    def key(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Sources:
    """The known sources, for *threads* that ask them. Not thread-safe: the filler calls it under its lock."""

    def __init__(self, threads: int = 3) -> None:
        self._sources: list[Source] = []
        self._threads = threads

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[Source]:
        return iter(self._sources)

    def keys(self) -> list[str]:
        return [source.key for source in self._sources]

    def replace(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Takes a new list; a source that stays keeps its state."""
        known = {(source.host, source.port): source for source in self._sources}
        self._sources = [known.get(address) or Source(*address) for address in dict.fromkeys(addresses)]

    def pick(self, sha256: str, now: float) -> Source | None:
        """The best source for this blob that one more thread may ask now, or None."""
        usable = [s for s in self._sources if s.ready_at <= now and s.refuses.get(sha256, 0.0) <= now]
        if not usable:
            return None
        health = min(_ailments(s, now) for s in usable)
        usable = [s for s in usable if _ailments(s, now) == health]
        fastest = max(s.bytes_s for s in usable) or 1.0
        waits = {s.key: (s.flights + 1) / _speed(s, fastest, now) for s in usable}
        worst = TOO_SLOW * min(waits.values())
        free = [s for s in usable if s.flights < self._most(s) and waits[s.key] <= worst]
        return min(free, key=lambda s: (s.failures, waits[s.key]), default=None)

    def is_due(self, now: float) -> Source | None:
        """A source that failed and that nobody is at, to be tried with one byte; None while there is none, and when
        every source has failed: then each fetch is a try."""
        if all(s.failures for s in self._sources):
            return None
        due = [s for s in self._sources if s.failures and not s.flights and s.failed_at + PROBE_S <= now]
        return min(due, key=lambda s: s.failed_at, default=None)

    @staticmethod
    def longest_run(source: Source) -> int:
        """Bytes it delivers in about RUN_S."""
        return int(source.bytes_s * RUN_S) if source.bytes_s else FIRST_RUN_BYTES

    def patience_s(self, source: Source, sha256: str, length: int, now: float) -> float:
        """How long *source* may take for *length* bytes of the blob before they are had from another; 0.0: as it
        likes, since none is well and so much faster that a change makes sense."""
        return PATIENCE_S if self._fastest_other(source, sha256, now) * PATIENCE_S >= TOO_SLOW * length else 0.0

    def silence_s(self, source: Source, sha256: str, length: int, now: float) -> float:
        """How long *source* may send nothing while somebody may wait for *length* bytes of the blob; 0.0: as long as
        any source may. With one source, on a narrow link, and before the others were measured it is that."""
        return SILENCE_S if self._fastest_other(source, sha256, now) * SILENCE_S >= length else 0.0

    def _fastest_other(self, source: Source, sha256: str, now: float) -> float:
        """Bytes a second of the fastest one that is well and has the blob; 0.0: none is, or none was measured."""
        others = (s for s in self._sources if s is not source and not any(_ailments(s, now)))
        return max((s.bytes_s for s in others if s.refuses.get(sha256, 0.0) <= now), default=0.0)

    def _most(self, source: Source) -> int:
        """Threads that may be at it."""
        if source.failures:
            return 1
        return self._threads if len(self._sources) == 1 else max(1, self._threads - 1)

    def others(self, source: Source, sha256: str, now: float) -> bool:
        """Whether a source besides *source* may still have this blob right."""
        return any(s is not source and s.refuses.get(sha256, 0.0) <= now for s in self._sources)

    def is_hopeless(self, sha256: str, now: float) -> bool:
        """Whether there are sources and each of them has refused, or spoilt, this blob: waiting would not help."""
        return bool(self._sources) and all(s.refuses.get(sha256, 0.0) > now for s in self._sources)

    def succeeded(self, source: Source) -> None:
        source.failures = 0
        source.ready_at = 0.0

    def measured(self, source: Source, length: int, seconds: float, now: float) -> None:
        """A thread got *length* bytes from it in that time."""
        bytes_s = length / max(seconds, 1e-6)
        source.bytes_s = 0.7 * source.bytes_s + 0.3 * bytes_s if source.bytes_s else bytes_s
        source.measured_at = now

    def failed(self, source: Source, now: float) -> None:
        """It could not be reached, stalled, or answered nonsense."""
        source.failed_at = now
        source.ready_at = now + min(FIRST_BACKOFF_S * 2**source.failures, MAX_BACKOFF_S)
        source.failures = min(source.failures + 1, 16)

    def wrong(self, source: Source, sha256: str, now: float) -> None:
        """It sent a chunk whose digest differs."""
        source.quarantined_until = now + QUARANTINE_S
        self._refuse(source, sha256, now, now + QUARANTINE_S)

    def missing(self, source: Source, sha256: str, now: float) -> None:
        """It answered 404 or 410."""
        self._refuse(source, sha256, now, now + MISSING_S)

    @staticmethod
    def _refuse(source: Source, sha256: str, now: float, until: float) -> None:
        if len(source.refuses) > 1000:  # bounded: an entry is only worth keeping while it holds
            source.refuses = {name: at for name, at in source.refuses.items() if at > now}
        source.refuses[sha256] = until


def _ailments(source: Source, now: float) -> tuple[bool, bool]:
    """The less, the better."""
    return source.quarantined_until > now, source.failures > 0


def _speed(source: Source, fastest: float, now: float) -> float:
    """Bytes a second one thread may hope for; a source of which nothing is known is thought to be as good as any."""
    if not source.bytes_s:
        return fastest
    return min(fastest, source.bytes_s * math.exp2(min(60.0, (now - source.measured_at) / FORGET_S)))
