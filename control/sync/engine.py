"""SyncEngine: what the coordinator asks of whatever carries out durable work.

The idea: one *work* is one upstream file, named by a work id that is unique for ever (``fetch-<sha256>-<run>``). An
engine remembers it across restarts, runs it at least once, and never twice at the same time. The work function returns
an outcome and does not raise: a file that cannot be had is a result, not an accident. An engine swap is one module.

Progress is no business of an engine: bytes go through memory (progress.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Job = Mapping[str, Any]  # JSON
Outcome = Mapping[str, Any]  # JSON
WorkFunction = Callable[[str, Job], Outcome]  # (work id, job) -> outcome; may be called again after a crash

State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class WorkStatus:
    work_id: str
    state: State
    outcome: Outcome | None = None  # of a work that is done
    error: str | None = None  # of one that failed: the work function raised, or the engine gave up

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


class SyncEngine(Protocol):
    def start(self, work: WorkFunction) -> None:
        """Begin to carry out works; also those an earlier process left. Blocks until it is ready."""

    def enqueue(self, work_id: str, job: Job) -> None:
        """Have *job* done once. Asking again with the same id is no new work."""

    def status(self, work_ids: Iterable[str]) -> dict[str, WorkStatus]:
        """Those of *work_ids* that are known."""

    def unfinished(self) -> list[str]:
        """Ids of works that are queued or running, whoever has them."""

    def cancel(self, work_ids: Iterable[str]) -> None:
        """Works that have not begun never will; running ones are asked elsewhere (by their job) to end."""

    def hurry(self, is_busy: bool) -> None:
        """Many works are about to be asked for, or no longer: how soon a free place finds the next one."""

    def take_over(self) -> int:
        """Make works of executors that died ours to do; returns how many. start() and the beat call it."""

    def close(self) -> None:
        """End this executor. What it had running is taken over by whoever comes next."""
