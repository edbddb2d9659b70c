"""The engine on DBOS: asked twice is done once, a dead process's work is taken over, outcomes are kept."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.storage.database import Database
from bootplane.control.storage.leases import LeaseRepository
from bootplane.control.sync.dbos_engine import BUSY_POLL_S, POLL_S, DbosEngine

WAIT_S = 60.0


class Work:
    """A work function that records its calls; ids in *held* wait until released."""

    def __init__(self, *held: str) -> None:
        self.calls: list[str] = []
        self.gates = {work_id: threading.Event() for work_id in held}
        self.begun = threading.Semaphore(0)

    def __call__(self, work_id: str, job: Mapping[str, Any]) -> dict[str, Any]:
        self.calls.append(work_id)
        self.begun.release()
        if work_id in self.gates:
            self.gates[work_id].wait(WAIT_S)
        if job.get("raise"):
            raise RuntimeError("the disk has gone")
        return {"ok": True, "n": job["n"]}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'region.sqlite'}")
    made.migrate()
    yield made
    made.close()


def engine_of(tmp_path: Path, database: Database) -> DbosEngine:
    url = f"sqlite:///{tmp_path / 'sync.sqlite'}"
    return DbosEngine(url, LeaseRepository(database), region_id="r", parallel=2, lease_s=5.0, alone=True)


def ended(engine: DbosEngine, *work_ids: str) -> dict[str, Any]:
    tick = threading.Event()
    for _ in range(int(WAIT_S / 0.05)):
        statuses = engine.status(work_ids)
        if len(statuses) == len(work_ids) and all(status.is_over for status in statuses.values()):
            return statuses
        tick.wait(0.05)
    raise AssertionError(f"expected {work_ids} to end, got {engine.status(work_ids)}")


def test_a_work_that_is_asked_for_twice_is_done_once_and_its_outcome_is_kept(
    tmp_path: Path, database: Database
) -> None:
    work = Work()
    engine = engine_of(tmp_path, database)
    engine.start(work)
    try:
        for _ in range(2):
            engine.enqueue("fetch-a-1", {"n": 1})
        engine.enqueue("fetch-b-1", {"n": 2, "raise": True})
        statuses = ended(engine, "fetch-a-1", "fetch-b-1")
        assert (statuses["fetch-a-1"].state, statuses["fetch-a-1"].outcome) == ("done", {"ok": True, "n": 1})
        assert statuses["fetch-b-1"].state == "failed" and "the disk has gone" in statuses["fetch-b-1"].error
        engine.enqueue("fetch-a-1", {"n": 1})
        engine.enqueue("fetch-a-2", {"n": 3})  # wanted again later: another id
        assert ended(engine, "fetch-a-1", "fetch-a-2")["fetch-a-2"].outcome == {"ok": True, "n": 3}
        assert sorted(work.calls) == ["fetch-a-1", "fetch-a-2", "fetch-b-1"]
        assert engine.unfinished() == [] and engine.status(["nobody"]) == {}
    finally:
        engine.close()


def test_its_commits_are_durable_by_one_fsync_of_a_log(tmp_path: Path, database: Database) -> None:
    engine = engine_of(tmp_path, database)
    engine.start(Work())
    engine.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "sync.sqlite")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL, as for DBOS, which says nothing else


def test_in_a_hurry_it_looks_for_work_more_often(tmp_path: Path, database: Database) -> None:
    engine = engine_of(tmp_path, database)
    engine.start(Work())
    try:
        found = []
        for is_busy in (True, False):
            engine.hurry(is_busy)
            with sqlite3.connect(tmp_path / "sync.sqlite") as connection:
                found += connection.execute("select polling_interval_sec from queues where name = 'fetch'").fetchall()
        assert found == [(BUSY_POLL_S,), (POLL_S,)]
    finally:
        engine.close()


def test_a_queued_work_can_be_cancelled_and_a_running_one_finishes(tmp_path: Path, database: Database) -> None:
    work = Work("fetch-a-1", "fetch-b-1")
    engine = engine_of(tmp_path, database)
    engine.start(work)
    try:
        for work_id in ("fetch-a-1", "fetch-b-1", "fetch-c-1"):
            engine.enqueue(work_id, {"n": 1})
        work.begun.acquire(timeout=WAIT_S)
        work.begun.acquire(timeout=WAIT_S)  # two slots, both taken
        engine.cancel(["fetch-c-1"])
        assert engine.status(["fetch-c-1"])["fetch-c-1"].state == "cancelled"
        for gate in work.gates.values():
            gate.set()
        ended(engine, "fetch-a-1", "fetch-b-1")
        assert "fetch-c-1" not in work.calls
    finally:
        engine.close()


CHILD = """
import sys, threading
from bootplane.control.storage.database import Database
from bootplane.control.storage.leases import LeaseRepository
from bootplane.control.sync.dbos_engine import BUSY_POLL_S, POLL_S, DbosEngine

directory = sys.argv[1]
begun = threading.Semaphore(0)

def work(work_id, job):
    begun.release()
    threading.Event().wait()

engine = DbosEngine(f"sqlite:///{directory}/sync.sqlite", LeaseRepository(Database(f"sqlite:///{directory}/region.sqlite")),
                    region_id="r", parallel=2, lease_s=5.0, alone=True)
engine.start(work)
for name in "abc":
    engine.enqueue(f"fetch-{name}-1", {"n": 1})
begun.acquire(); begun.acquire()
print("begun", flush=True)
threading.Event().wait()
"""


@pytest.mark.integration
def test_the_work_of_a_killed_process_is_taken_over_at_the_next_start(tmp_path: Path, database: Database) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, env=os.environ)
    assert child.stdout is not None and child.stdout.readline() == b"begun\n"
    child.kill()
    child.wait()
    child.stdout.close()
    work = Work()
    engine = engine_of(tmp_path, database)
    engine.start(work)
    try:
        ended(engine, "fetch-a-1", "fetch-b-1", "fetch-c-1")
        assert sorted(work.calls) == ["fetch-a-1", "fetch-b-1", "fetch-c-1"]  # two running, one queued
    finally:
        engine.close()


def test_it_starts_without_a_word_on_the_console(
    tmp_path: Path, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = engine_of(tmp_path, database)
    engine.start(Work())
    engine.close()
    assert capfd.readouterr() == ("", "")
    assert not any(h.name == "__dbos_console_log_handler__" for h in logging.getLogger("dbos").handlers)
