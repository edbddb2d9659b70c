"""What filling has cost and come to since start. Left to others: counting (fill), the exposition (metrics)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class FillStats:
    """Counts since start; written under the filler's lock."""

    upstream_bytes: int = 0  # body bytes received from sources
    wasted_bytes: int = 0  # of them: not kept, as the answer was cut or wrong, or the disk refused the chunk
    chunks: int = 0  # verified and stored
    runs: int = 0  # range requests begun
    refused: int = 0  # chunks whose digest differed
    given_up: int = 0  # chunks whose waiters were told that they cannot be had
    damaged: int = 0  # chunks that were found damaged on this host's disk while they were sent
    throttled_s: float = 0.0  # in which somebody waited and the upstream limit let nothing be asked for
    errors: Counter[str] = field(default_factory=Counter)  # by reason of UpstreamError, "disk" and "missing" besides
