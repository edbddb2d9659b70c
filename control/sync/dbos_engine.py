"""SyncEngine on DBOS: durable workflows in a database of their own (SQLite for one region, PostgreSQL for several).

What experiments showed, and what is therefore done here:
- an executor id is unique per process start, and leases are our own table: DBOS takes nothing over by itself;
- taking over is public calls only: list the PENDING workflows of a dead executor, resume each onto the queue;
- nobody takes over before its own beats have succeeded for a full lease: after an outage of the database every lease
  looks lapsed. A region alone on its data directory (``alone``) holds a lock that proves the others dead at once;
- ``application_version`` is the version of the *work's shape*, not of bootplane: DBOS leaves work of another version
  waiting, and an upgrade must not;
- resuming resets DBOS's attempt count, so attempts are counted by the work function (storage.runs);
- DBOS logs to the console and advertises at launch: its loggers get no handler but ours, at WARNING.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable
from typing import Any

from bootplane.control.storage.leases import LeaseRepository
from bootplane.control.sync.engine import Job, Outcome, WorkFunction, WorkStatus

SQLITE = "sqlite:///"
QUEUE = "fetch"
WORK_VERSION = "fetch-1"  # change it only together with a migration of waiting work
BEAT_S = 1.0
POLL_S = 0.5  # how soon a free slot finds queued work; half as long costs an idle region 1 % of a CPU more
BUSY_POLL_S = 0.1  # while a sync fetches: with four slots, 40 small files a second instead of 8

_LOG = logging.getLogger("bootplane.sync")
_STATES: dict[str, Any] = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "SUCCESS": "done",
    "ERROR": "failed",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
    "CANCELLED": "cancelled",
}


class DbosEngine:
    """One per process: DBOS itself is a process-wide singleton."""

    def __init__(
        self, url: str, leases: LeaseRepository, *, region_id: str, parallel: int, lease_s: float, alone: bool
    ) -> None:
        self.executor_id = f"{region_id}:{secrets.token_hex(8)}"
        self._url = url
        self._leases = leases
        self._parallel = parallel
        self._lease_s = lease_s
        self._alone = alone
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._good_since: float | None = None  # monotonic; since when every beat has succeeded
        self._run: Any = None
        self._queue: Any = None

    def start(self, work: WorkFunction) -> None:
        dbos = _quiet_dbos()
        if self._url.startswith(SQLITE):
            _write_ahead(self._url.removeprefix(SQLITE))
        dbos.DBOS(
            config={
                "name": "bootplane",
                "system_database_url": self._url,
                "application_version": WORK_VERSION,
                "executor_id": self.executor_id,
                "serializer": dbos.DBOSPortableJSONSerializer(),
                "log_level": "WARNING",
                "enable_otlp": False,
                "max_executor_threads": self._parallel + 4,
                "scheduler_polling_interval_sec": 3600.0,  # no schedules here
            }
        )
        _hush_handlers()

        @dbos.DBOS.workflow(name="fetch")  # type: ignore[untyped-decorator, unused-ignore]
        def fetch(work_id: str, job: dict[str, Any]) -> dict[str, Any]:
            # No step: the work may be done again, and the workflow's own outcome is as durable as a step's would be.
            # A stalled process that wakes after being taken over is refused there: the outcome is not its to write.
            return dict(work(work_id, job))

        self._run = fetch
        self._leases.beat(self.executor_id)
        self._good_since = time.monotonic()
        dbos.DBOS.launch()
        self._queue = dbos.DBOS.register_queue(
            QUEUE, worker_concurrency=self._parallel, polling_interval_sec=POLL_S, on_conflict="always_update"
        )
        if self._alone:
            self.take_over()
        self._thread = threading.Thread(target=self._beat, name="sync-lease", daemon=True)
        self._thread.start()

    def enqueue(self, work_id: str, job: Job) -> None:
        dbos = _quiet_dbos()
        with dbos.SetWorkflowID(work_id):
            dbos.DBOS.enqueue_workflow(QUEUE, self._run, work_id, dict(job))

    def status(self, work_ids: Iterable[str]) -> dict[str, WorkStatus]:
        ids = list(work_ids)
        if not ids:
            return {}
        found = {}
        for row in _quiet_dbos().DBOS.list_workflows(workflow_ids=ids, load_input=False):
            state = _STATES[row.status]
            outcome: Outcome | None = row.output if state == "done" else None
            error = str(row.error or row.status) if state == "failed" else None
            found[row.workflow_id] = WorkStatus(row.workflow_id, state, outcome, error)
        return found

    def unfinished(self) -> list[str]:
        rows = _quiet_dbos().DBOS.list_workflows(
            status=["ENQUEUED", "PENDING", "DELAYED"], load_input=False, load_output=False
        )
        return [row.workflow_id for row in rows]

    def cancel(self, work_ids: Iterable[str]) -> None:
        dbos = _quiet_dbos()
        for status in self.status(work_ids).values():
            if not status.is_over:
                dbos.DBOS.cancel_workflow(status.work_id)

    def hurry(self, is_busy: bool) -> None:
        self._queue.set_polling_interval_sec(BUSY_POLL_S if is_busy else POLL_S)

    def take_over(self) -> int:
        dbos = _quiet_dbos()
        taken = 0
        for dead in self._leases.claim_lapsed(self.executor_id, 0.0 if self._alone else self._lease_s):
            rows = dbos.DBOS.list_workflows(status="PENDING", executor_id=dead, load_input=False, load_output=False)
            for row in rows:
                dbos.DBOS.resume_workflow(row.workflow_id, queue_name=QUEUE)
                taken += 1
            self._leases.release(dead)
            if rows:
                _LOG.info("took over %d fetches of executor %s", len(rows), dead)
        return taken

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        _quiet_dbos().DBOS.destroy(destroy_registry=True)
        # The lease row stays when work is left: the next start finds by it what to take over.

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                self._leases.beat(self.executor_id)
                now = time.monotonic()
                if self._good_since is None:
                    self._good_since = now
                if not self._alone and now - self._good_since >= self._lease_s:
                    self.take_over()
            except Exception as error:  # the database is away: live on, and be in no hurry to take over
                self._good_since = None
                _LOG.warning("sync lease: beat failed, expected the database to answer, got: %s", error)


def _quiet_dbos() -> Any:
    """The dbos module. Imported late: it takes a second, and only a region needs it."""
    import dbos

    return dbos


def _write_ahead(path: str) -> None:
    """A commit to the database costs one fsync, of its log, and not three with a journal that comes and goes. The
    database remembers it. It is as durable: DBOS leaves ``synchronous`` at FULL."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


def _hush_handlers() -> None:
    logger = logging.getLogger("dbos")
    for handler in list(logger.handlers):
        if handler.name == "__dbos_console_log_handler__":
            logger.removeHandler(handler)
    logger.propagate = True
    logger.setLevel(logging.WARNING)
