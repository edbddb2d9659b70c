"""How many bytes a second a rack takes from its regions, all fetch threads together. Pure; time is given.

A run is paid for whole before it is asked for, and nothing is asked for while there is a debt:

    paid_until ──────────────▶   spend(n): paid_until += n / rate        wait_s(): paid_until - now, while that is > 0

so the choice of what comes next is made as late as can be, which is what keeps the turns of the planner fair while the
budget binds, and a source never sends ahead into socket buffers what has not been paid for.

Invariant: in any time t no more is spent than rate * (t + SAVED_S) and one run, which longest_run() keeps to what the
rate gives in RUN_S (or to one chunk, where that is more). Left to others: whose turn it is (fillplan).
"""

from __future__ import annotations

SAVED_S = 0.1  # of an idle time
RUN_S = 0.25


class Budget:
    """*limit_bytes_s* 0: no limit. Not thread-safe: the filler calls it under its lock."""

    def __init__(self, limit_bytes_s: int = 0) -> None:
        self.limit_bytes_s = limit_bytes_s
        self._paid_until = 0.0

    def change(self, limit_bytes_s: int, now: float) -> None:
        """From now on. A debt is paid off at the new rate. Raises ValueError for less than 0."""
        if limit_bytes_s < 0:
            raise ValueError(f"upstream limit: expected 0 bytes/s or more, got {limit_bytes_s}")
        debt = self.wait_s(now) * self.limit_bytes_s
        self.limit_bytes_s = limit_bytes_s
        self._paid_until = now + debt / limit_bytes_s if limit_bytes_s else 0.0

    def wait_s(self, now: float) -> float:
        """Until something may be asked for; 0.0: now."""
        return max(0.0, self._paid_until - now) if self.limit_bytes_s else 0.0

    def longest_run(self) -> int | None:
        """Bytes; None: any number."""
        return int(self.limit_bytes_s * RUN_S) if self.limit_bytes_s else None

    def spend(self, length: int, now: float) -> None:
        if self.limit_bytes_s:
            self._paid_until = max(self._paid_until, now - SAVED_S) + length / self.limit_bytes_s

    def give_back(self, length: int) -> None:
        """So much of what was spent has not come."""
        if self.limit_bytes_s:
            self._paid_until -= length / self.limit_bytes_s
