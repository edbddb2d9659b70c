"""What was wrong when: faults of sources, region and rack as intervals, so that a refusal can be held against them.

A rack may refuse a chunk in two cases only: every source has spoilt or denied that blob a short while ago (it is
hopeless to ask), or for the whole time it may keep a machine waiting no source was well for long enough to send it.
"""

from __future__ import annotations

import threading
import time

QUARANTINE_S = {"corrupt": 61.0, "swap": 61.0, "404": 11.0}  # sources.py, and a second
STALL_S = 6.0  # upstream.py: so long a stalled answer is waited for
BACKOFF_S = 2.5
CONTROL_S = 9.0  # until the next beat, or the follower's next try
ENOUGH = 0.5  # of the park limit: so long a source must have been well


class Fault:
    def __init__(self, who: str, kind: str) -> None:
        self.who, self.kind = who, kind
        self.began = time.monotonic()
        self.ended = float("inf")

    def tail(self) -> float:
        if self.who == "rack":
            return 1.0
        return QUARANTINE_S.get(self.kind, STALL_S + BACKOFF_S if self.kind in ("stall", "slow") else BACKOFF_S)


class Weather:
    def __init__(self, sources: int, park_limit_s: float) -> None:
        self.names = [f"source-{n}" for n in range(sources)]
        self.park_limit_s = park_limit_s
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def begin(self, who: str, kind: str) -> Fault:
        fault = Fault(who, kind)
        with self._lock:
            self._faults.append(fault)
        return fault

    def end(self, fault: Fault) -> None:
        fault.ended = min(fault.ended, time.monotonic())

    def clear(self) -> None:
        with self._lock:
            for fault in self._faults:
                self.end(fault)

    def spoilt(self, who: str, until: float, life_began: float, kinds: tuple[str, ...]) -> bool:
        """Whether *who* has had one of these faults in this life and lately."""
        with self._lock:
            return any(
                f.who == who and f.kind in kinds and f.ended >= max(life_began, until - f.tail()) and f.began <= until
                for f in self._faults
            )

    def explains(self, since: float, until: float, life_began: float) -> str:
        """Why a rack begun at *life_began* could refuse at some time from *since* to *until*; "": nothing does."""
        if all(self.spoilt(who, until, life_began, tuple(QUARANTINE_S)) for who in self.names):
            return "every source was quarantined"
        at = until
        while at >= min(since, until):
            if all(self._longest_well(who, at, life_began) < ENOUGH * self.park_limit_s for who in self.names):
                return "no source was well for long"
            at -= 0.5
        return ""

    def _longest_well(self, who: str, until: float, life_began: float) -> float:
        """The longest time within the park limit before *until* in which *who* could be asked and would answer."""
        start = max(until - self.park_limit_s, life_began)
        unwell: list[tuple[float, float]] = []
        with self._lock:
            for f in self._faults:
                if f.who in (who, "rack") and f.ended >= life_began and f.began <= until:
                    unwell.append((f.began, f.ended + f.tail()))
                elif f.who == "control" and f.began <= life_began + 1.0 and f.ended >= life_began:
                    unwell.append((f.began, f.ended + CONTROL_S))  # nobody has told the rack of its sources
        longest = 0.0
        for began, ended in sorted(unwell):
            longest = max(longest, min(began, until) - start)
            start = max(start, ended)
        return max(longest, until - start)
