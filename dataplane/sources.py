"""Which source to ask for a blob: regions' bulk addresses, their back-off and their quarantine. Pure; time is given.

Invariants: a source that fails is left alone for a growing while, never longer than MAX_BACKOFF_S, so that a region
that comes back is found within seconds. A source that sent a wrong chunk is not asked for that blob again for
QUARANTINE_S, and for other blobs only when no other source is left: with one region, one damaged file must not stop
the good ones (every chunk is verified whoever sends it).

Left to others: sockets and verification (fill), who the sources are (region_client).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

QUARANTINE_S = 60.0
MISSING_S = 10.0  # a source that does not have a blob is asked again after this: it may still be copying it
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0


@dataclass(slots=True, eq=False)
class Source:
    """One bulk address. *key* is "H:P", as messages and metrics name it."""

    host: str
    port: int
    failures: int = 0  # in a row
    ready_at: float = 0.0
    quarantined_until: float = 0.0
    refuses: dict[str, float] = field(default_factory=dict)  # sha256 -> not before

    @property
    def key(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Sources:
    """The known sources. Not thread-safe: the filler calls it under its lock."""

    def __init__(self) -> None:
        self._sources: list[Source] = []

    def __len__(self) -> int:
        return len(self._sources)

    def keys(self) -> list[str]:
        return [source.key for source in self._sources]

    def replace(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Takes a new list; a source that stays keeps its state."""
        known = {(source.host, source.port): source for source in self._sources}
        self._sources = [known.get(address) or Source(*address) for address in dict.fromkeys(addresses)]

    def pick(self, sha256: str, now: float) -> Source | None:
        """The best source for this blob that may be asked now, or None."""
        usable = [s for s in self._sources if s.ready_at <= now and s.refuses.get(sha256, 0.0) <= now]
        if not usable:
            return None
        return min(usable, key=lambda s: (s.quarantined_until > now, s.failures))

    def others(self, source: Source, sha256: str, now: float) -> bool:
        """Whether a source besides *source* may still have this blob right."""
        return any(s is not source and s.refuses.get(sha256, 0.0) <= now for s in self._sources)

    def is_hopeless(self, sha256: str, now: float) -> bool:
        """Whether there are sources and each of them has refused, or spoilt, this blob: waiting would not help."""
        return bool(self._sources) and all(s.refuses.get(sha256, 0.0) > now for s in self._sources)

    def succeeded(self, source: Source) -> None:
        source.failures = 0
        source.ready_at = 0.0

    def failed(self, source: Source, now: float) -> None:
        """It could not be reached, stalled, or answered nonsense."""
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
