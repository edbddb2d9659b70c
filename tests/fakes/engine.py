"""A SyncEngine without a database: threads, and outcomes in memory; its promises hold within a process."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bootplane.control.sync.engine import Job, Outcome, WorkFunction, WorkStatus


class ThreadEngine:
    """``enqueued`` lists every id in the order of asking, new or not; ``hurried`` what hurry() was told."""

    def __init__(self, parallel: int = 4) -> None:
        self._pool = ThreadPoolExecutor(parallel)
        self._work: WorkFunction | None = None
        self._futures: dict[str, Future[Outcome]] = {}
        self._lock = threading.Lock()
        self.enqueued: list[str] = []
        self.hurried: list[bool] = []
        self.jobs: dict[str, dict[str, Any]] = {}

    def start(self, work: WorkFunction) -> None:
        self._work = work

    def enqueue(self, work_id: str, job: Job) -> None:
        assert self._work is not None
        with self._lock:
            self.enqueued.append(work_id)
            self.jobs[work_id] = dict(job)
            if work_id not in self._futures:
                self._futures[work_id] = self._pool.submit(self._work, work_id, job)

    def status(self, work_ids: Iterable[str]) -> dict[str, WorkStatus]:
        with self._lock:
            return {work_id: self._one(work_id) for work_id in work_ids if work_id in self._futures}

    def unfinished(self) -> list[str]:
        with self._lock:
            return [work_id for work_id in self._futures if not self._one(work_id).is_over]

    def cancel(self, work_ids: Iterable[str]) -> None:
        with self._lock:
            for work_id in work_ids:
                self._futures[work_id].cancel()

    def hurry(self, is_busy: bool) -> None:
        self.hurried.append(is_busy)

    def take_over(self) -> int:
        return 0

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, work_id: str) -> WorkStatus:
        future = self._futures[work_id]
        if future.cancelled():
            return WorkStatus(work_id, "cancelled")
        if not future.done():
            return WorkStatus(work_id, "running" if future.running() else "queued")
        error = future.exception()
        if error is not None:
            return WorkStatus(work_id, "failed", error=str(error))
        return WorkStatus(work_id, "done", future.result())
