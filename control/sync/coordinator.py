"""The sync: refresh, reserve, download, unpack, commit sets, publish. One thread, one run at a time.

What it decides stands in the database before anything is fetched, and every step may be repeated: a region that is
killed and started again goes on with the unfinished run, without asking the sources again if they had been asked. The
files themselves are works of the engine, so that they outlive this process and can be divided among several.

A sync that began by itself keeps to the operator's window: at its end the downloads stop where they are, the run stays
unfinished, and it goes on when the window opens. What an operator asks for begins, or goes on, at once.

Invariants: one bad file stops no other and is named; a set is complete, and published, as soon as its own files are
here. Left to others: metadata (refresh), bytes (download), room (space), what racks see (the ``publish`` callback).
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bootplane.control.banners import FILES_REFUSED, SYNC_ENGINE, SYNC_FAILED, Board
from bootplane.control.events import Hub
from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.images import ImageRepository
from bootplane.control.storage.runs import Run, RunRepository
from bootplane.control.storage.settings import SYNC_DECIDED, SettingsRepository
from bootplane.control.sync.decide import Fetch
from bootplane.control.sync.download import Downloader
from bootplane.control.sync.engine import SyncEngine, WorkStatus
from bootplane.control.sync.housekeeping import Housekeeper
from bootplane.control.sync.limits import SyncLimits
from bootplane.control.sync.progress import Progress
from bootplane.control.sync.refresh import Refresher
from bootplane.control.sync.removal import Removal
from bootplane.control.sync.space import Room
from bootplane.dataplane.store import InsufficientSpace

POLL_S = 0.25
SPACE_CHECK_S = 15.0  # a sync waits for room
SPACE_LOOK_S = 60.0
SWEEP_S = 5.0  # between two looks at all works of a sync, whoever has them
REST_FOR_COST = 4  # of a sync of many small files no more than a fifth of a processor goes into looking at it
COMMIT_REST = 20  # nor more than a twentieth into publishing what is whole: that looks at all sets, each time
WINDOW_CHECK_S = 10.0  # how soon an opened or closed window is seen
REFUSED_OFTEN = 2  # syncs in a row; then it is the file, and not the line
SHOWN_FILES = 3
BY_HAND = "sync_by_hand"  # setting: id of the run that an operator asked for
REFUSED = "sync_refused"  # setting: digest -> in how many syncs in a row its file was not taken
REFUSED_COUNTED = 1000
NO_WORK_S = 5.0  # how soon a region that is due finds its first source and selection
SETTLE_S = 15.0  # a running work ends within one read of its socket, or not at all
CLOSE_S = 5.0
_LOG = logging.getLogger("bootplane.sync")


@dataclass
class _Outcome:
    """What a run has met so far."""

    errors: list[str] = field(default_factory=list)
    is_decided: bool = False  # every source was read, and has what is selected: what is wanted stands in the database
    refused: dict[str, str] = field(default_factory=dict)  # digest -> why its file was not taken
    moved: bool = False  # a file was not where its list says: the stream may have moved on
    space: str | None = None  # the disk is full, in one sentence
    needed_bytes: int = 0
    stopped: bool = False


class Coordinator:
    """``start`` begins the thread; every other method may be called from any thread."""

    def __init__(
        self,
        *,
        images: ImageRepository,
        blobs: BlobRepository,
        runs: RunRepository,
        settings: SettingsRepository,
        board: Board,
        limits: SyncLimits,
        refresher: Refresher,
        housekeeper: Housekeeper,
        removal: Removal,
        engine: SyncEngine,
        downloader: Downloader,
        progress: Progress,
        room: Room,
        hub: Hub,
        publish: Callable[[], None],
        interval_s: float,
    ) -> None:
        self._images, self._blobs, self._runs, self._board = images, blobs, runs, board
        self._settings, self.limits = settings, limits
        self._refresher, self._housekeeper, self._room = refresher, housekeeper, room
        self._removal = removal
        self._engine, self._downloader, self._progress = engine, downloader, progress
        self._hub, self._publish = hub, publish
        self._interval_s = interval_s  # between two automatic syncs; 0: only when asked
        self._wake = threading.Condition()
        self._asked = self._asked_by_hand = False
        self._by_hand = False  # the running sync was asked for by an operator: no window binds it
        self._stop_asked = False
        self._closing = False
        self._run: Run | None = runs.unfinished() or runs.last()
        self._goes_on = self._is_running()  # with what an earlier process has begun
        self._state = self._run.state if self._run else "idle"
        self._ended_at = time.monotonic() - _age_s(self._run)  # when the last run ended, on the monotonic clock
        self._thread = threading.Thread(target=self._main, name="sync", daemon=True)

    # -- from any thread

    def start(self) -> None:
        self._thread.start()

    def request(self, *, by_hand: bool = True) -> None:
        """Sync now; once more after the running one, which may have read its sources before this call. *by_hand*: an
        operator wants it, whatever the window says."""
        with self._wake:
            if self._state == "paused" and by_hand:  # what it lacks is known: it goes on, and does not begin again
                self._go_on_by_hand()
            else:
                if not self._is_running():
                    self._open()
                    self._asked_by_hand = False
                self._asked = True
                self._asked_by_hand |= by_hand
            self._wake.notify_all()

    def needs_less(self) -> None:
        """Less is wanted than before: a sync that waits for room may fit now."""
        with self._wake:
            self._room.reckon_anew()
            self._wake.notify_all()

    def set_limits(self, changes: Mapping[str, Any]) -> None:
        """See SyncLimits.change; a running sync follows at once."""
        self.limits.change(changes)
        with self._wake:
            self._wake.notify_all()
        self._tell()

    def stop(self) -> None:
        """End the running sync; what has arrived is kept. Without one, nothing."""
        with self._wake:
            if self._is_running():
                self._stop_asked = True
                self._asked = False
                self._downloader.stop()
                self._wake.notify_all()

    def wait_ended(self, timeout_s: float) -> bool:
        """True once no sync is running or asked for."""
        with self._wake:
            return self._wake.wait_for(lambda: not (self._asked or self._is_running()), timeout_s)

    def close(self) -> bool:
        """The process ends: the run stays unfinished and goes on at the next start. False when something still waits
        for a silent source; nothing is lost by not waiting for it."""
        with self._wake:
            self._closing = True
            self._downloader.stop()
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        return not self._thread.is_alive() and not self._downloader.is_busy

    def document(self) -> dict[str, Any]:
        """The API's <sync>."""
        run = self._run
        return {
            "state": self._state,
            **self._progress.document(),
            **self.limits.document(),
            "started": run.started if run else None,
            "finished": run.finished if run else None,
            "error": run.error if run else None,
        }

    # -- when

    def _main(self) -> None:
        try:
            self._engine.start(self._downloader)
        except Exception as error:  # whatever it is, the region serves what it has and says so
            _LOG.exception("the sync engine cannot start")
            self._board.show(SYNC_ENGINE, f"The sync engine cannot start: {error}.")
            return
        self._board.end(SYNC_ENGINE)
        if self._goes_on:
            _LOG.info("going on with the sync of %s, which was %s", self._run.started, self._state)  # type: ignore[union-attr]
            with self._wake:
                was = self._state
                self._run = self._runs.begin()
                self._by_hand = self._settings.get(BY_HAND) == str(self._run.id)
            self._carry_out(self._run, resumed=was in ("downloading", "finishing", "paused"))
        while not self._closing:
            try:
                self._room.look()
                self._removal.step_if_due()
                self._room.look()
                if self._is_due():
                    with self._wake:
                        run = self._run if self._is_running() else self._open()
                    assert run is not None
                    self._carry_out(run, resumed=False)
            except Exception:  # the database is away or full: the next turn may do better, a dead thread cannot
                _LOG.exception("sync: this turn failed")
                with self._wake:
                    self._wake.wait(NO_WORK_S)
        self._engine.close()

    def _is_running(self) -> bool:
        return self._run is not None and self._run.finished is None

    def _open(self) -> Run:
        """Begin a run; the caller holds the lock."""
        self._progress.begin([])
        self._stop_asked = self._by_hand = False
        self._run = self._runs.begin()
        self._state = self._run.state
        return self._run

    def _go_on_by_hand(self) -> None:
        """No window binds the running sync from now on, nor after a restart; the caller holds the lock."""
        assert self._run is not None
        self._by_hand = True
        self._settings.put({BY_HAND: str(self._run.id)})

    def _is_due(self) -> bool:
        """Wait a while for something to do; True when a sync is to begin."""
        with self._wake:
            if not (self._asked or self._closing):
                self._wake.wait(self._pause_s())
            if self._closing:
                return False
            if self._asked:
                self._asked = False
                if not self._is_running():
                    self._open()
                if self._asked_by_hand:
                    self._go_on_by_hand()
                self._asked_by_hand = False
                return True
            if self._is_running():  # asked for and stopped before it began
                return True
        if not self.limits.is_open():
            return False
        if self._room.waits():
            return self._room.has_come() or (self._interval_s > 0 and self.rest_s() <= 0)
        return self._interval_s > 0 and self.rest_s() <= 0 and self._refresher.has_work()

    def _pause_s(self) -> float:
        if self._is_running():
            return 0.0
        if self._room.waits():
            return SPACE_CHECK_S
        if self._interval_s <= 0:
            return SPACE_LOOK_S
        if self.rest_s() > 0:
            return min(self.rest_s(), SPACE_LOOK_S)
        if not self.limits.is_open():
            return WINDOW_CHECK_S
        return 0.0 if self._refresher.has_work() else NO_WORK_S

    def rest_s(self) -> float:
        """Seconds until the next automatic sync."""
        return self._ended_at + self._interval_s - time.monotonic()

    # -- one run

    def _carry_out(self, run: Run, *, resumed: bool) -> None:
        """From where it stands to its end; leaves it unfinished when the process closes."""
        outcome = _Outcome()
        try:
            self._turns(run, outcome, resumed)
        except Exception as error:  # ours: the run must end and say so, not die with its thread
            _LOG.exception("sync failed")
            outcome.errors.insert(0, f"the sync failed in the region itself: {error}")
            outcome.is_decided = False
        finally:
            self._downloader.close_gate()
            self._room.release()
        if not self._closing:
            self._finish(run, outcome)

    def _turns(self, run: Run, outcome: _Outcome, resumed: bool) -> None:
        """Refresh and download; once more when a file was not where its list said, for the stream may have moved."""
        for turn in (1, 2):
            if resumed and turn == 1:
                refreshed = self._refresher.decided()
            else:
                self._enter(run, "refreshing")
                refreshed = self._refresher.refresh()
                self._hub.publish("sources", {})
            outcome.errors = [*refreshed.errors]
            outcome.is_decided = not refreshed.errors and not (resumed and turn == 1)
            outcome.refused = {}
            outcome.moved = False
            if self._must_end(outcome):
                return
            self._download(run, turn, refreshed.fetches, outcome)
            if not outcome.moved or outcome.space or self._must_end(outcome):
                return

    def _download(self, run: Run, turn: int, wanted: Iterable[Fetch], outcome: _Outcome) -> None:
        """Have *wanted* fetched; commit and publish sets as they become whole."""
        wanted = list(wanted)
        self._progress.begin([(each.sha256, each.path, each.size) for each in wanted])
        self._enter(run, "downloading")
        if not self._has_room(wanted, outcome):
            return
        self._engine.hurry(True)
        try:
            self._fetch(run, str(turn), wanted, outcome)
        finally:
            self._engine.hurry(False)
        if not outcome.space and not self._must_end(outcome):
            self._enter(run, "finishing")
            self._commit(outcome, last=True)

    def _fetch(self, run: Run, turn: str, wanted: list[Fetch], outcome: _Outcome) -> None:
        """Until every file has come or was refused; where the window ends, the rest waits for the next one."""
        pauses = 0
        while wanted and not outcome.space and not self._must_end(outcome):
            if self._must_pause():
                self._pause(run, wanted, outcome)
                continue
            pending = self._enqueue(run, f"{turn}.{pauses}" if pauses else turn, wanted)
            self._downloader.open_gate(self._room.reservations)
            ended: set[str] = set()
            swept, cost_s = time.monotonic(), 0.0
            brought, due = False, 0.0  # files that no commit has seen; when the next one is due
            while pending and not outcome.space and not self._must_end(outcome) and not self._must_pause():
                with self._wake:
                    self._wake.wait(max(POLL_S, cost_s * REST_FOR_COST))
                self._room.look_if_due()
                began = time.monotonic()
                ended = (ended | self._downloader.ended()) & pending.keys()
                if began - swept >= SWEEP_S:  # works that other processes have ended
                    ended, swept = set(pending), began
                brought |= self._collect(pending, outcome, ended)
                self._tell()
                cost_s = time.monotonic() - began
                if brought and pending and time.monotonic() >= due:
                    began, brought = time.monotonic(), False
                    self._commit(outcome, last=False)
                    due = time.monotonic() + COMMIT_REST * (time.monotonic() - began)
            if not pending and not outcome.space:
                return  # what follows commits
            brought |= self._settle(pending, outcome)
            if brought:
                self._commit(outcome, last=False)
            have = self._blobs.present()
            wanted = [each for each in wanted if each.sha256 not in have and each.sha256 not in outcome.refused]
            pauses += 1

    def _must_pause(self) -> bool:
        return not self._by_hand and not self.limits.is_open()

    def _pause(self, run: Run, wanted: list[Fetch], outcome: _Outcome) -> None:
        """Until the window opens, or somebody asks for the sync or stops it. Room is for what comes meanwhile, an
        operator's upload; the rest of *wanted* asks for it anew."""
        self._room.release()
        self._enter(run, "paused")
        _LOG.info("sync: paused until the window %s opens; what has arrived is kept", self.limits.window)
        while self._must_pause() and not self._must_end(outcome):
            self._room.look_if_due()
            with self._wake:
                self._wake.wait(WINDOW_CHECK_S)
        if not self._must_end(outcome) and self._has_room(wanted, outcome):
            self._enter(run, "downloading")

    def _has_room(self, wanted: list[Fetch], outcome: _Outcome) -> bool:
        """Reserve what *wanted* lacks; False, and noted, when the disk has not got it."""
        try:
            self._room.reserve(wanted)
        except InsufficientSpace as error:
            outcome.space = f"{error.path}: expected {error.needed} bytes free for this sync, got {error.free}"
            outcome.needed_bytes = error.needed
            return False
        return True

    def _enqueue(self, run: Run, turn: str, wanted: Iterable[Fetch]) -> dict[str, Fetch]:
        """Works of an earlier start of this run go on under their own ids; the rest gets new ones."""
        running = {work_id.split("-")[1]: work_id for work_id in self._engine.unfinished()}
        pending: dict[str, Fetch] = {}
        for each in wanted:
            work_id = running.pop(each.sha256, None) or f"fetch-{each.sha256}-{run.id}.{run.starts}.{turn}"
            job = {"sha256": each.sha256, "size": each.size, "path": each.path, "urls": list(each.urls)}
            self._engine.enqueue(work_id, job)
            pending[work_id] = each
        if running:  # nobody wants these any more
            self._engine.cancel(running.values())
        return pending

    def _collect(self, pending: dict[str, Fetch], outcome: _Outcome, among: Iterable[str] | None = None) -> bool:
        """Take ended works out of *pending*, those *among* it that are asked for; None: all. True when some brought
        files: sets may be whole now."""
        brought = False
        for work_id, status in self._engine.status(pending if among is None else among).items():
            if status.is_over:
                brought |= self._judge(status, pending.pop(work_id), outcome)
        return brought

    def _judge(self, status: WorkStatus, fetch: Fetch, outcome: _Outcome) -> bool:
        """Note how one work ended; True when its file is here."""
        said: Mapping[str, Any] = status.outcome or {}
        if status.state == "done" and said.get("ok"):
            self._progress.end(fetch.sha256, "done")
            return True
        if status.state == "cancelled" or said.get("kind") == "stopped":
            self._progress.end(fetch.sha256, "stopped")
            return False
        error = str(said.get("error") or status.error or f"{fetch.path}: the fetch ended without an outcome")
        self._progress.end(fetch.sha256, "failed", error)
        if said.get("kind") == "space":
            outcome.space, outcome.needed_bytes = error, int(said.get("needed", 0))
        else:
            outcome.errors.append(error)
            outcome.refused[fetch.sha256] = error
            outcome.moved |= said.get("kind") == "NotFound"
        return False

    def _settle(self, pending: dict[str, Fetch], outcome: _Outcome) -> bool:
        """After a stop: running works end within one read, queued ones are cancelled, or left when the process ends.
        True when some had brought files."""
        self._downloader.stop()
        if not self._closing:
            self._engine.cancel(pending)
        deadline = time.monotonic() + (CLOSE_S / 2 if self._closing else SETTLE_S)
        while time.monotonic() < deadline:
            statuses = self._engine.status(pending).values()
            if not any(
                status.state == "running" or (status.state == "queued" and not self._closing) for status in statuses
            ):
                break
            time.sleep(0.05)
        brought = self._collect(pending, outcome)
        for each in pending.values():
            self._progress.end(each.sha256, "stopped")
        return brought

    def _say_refused(self, outcome: _Outcome) -> None:
        """One banner for all files that were refused in several syncs in a row."""
        before = json.loads(self._settings.get(REFUSED) or "{}")
        now = {sha256: before.get(sha256, 0) + 1 for sha256 in list(outcome.refused)[:REFUSED_COUNTED]}
        if now != before:
            self._settings.put({REFUSED: json.dumps(now)})
        often = [sha256 for sha256, count in now.items() if count >= REFUSED_OFTEN]
        if not often:
            self._board.end(FILES_REFUSED)
            return
        text = f"{len(often)} file{'s' if len(often) > 1 else ''} could not be had in the last syncs: "
        text += "; ".join(outcome.refused[sha256] for sha256 in often[:SHOWN_FILES])
        more = len(often) - SHOWN_FILES
        self._board.show(FILES_REFUSED, text + (f"; and {more} more." if more > 0 else "."))

    def _commit(self, outcome: _Outcome, *, last: bool) -> None:
        """Unpack, complete what is whole, publish; at the end also let go what nobody needs."""
        sets = self._images.sets()
        refused = self._housekeeper.unpack_archives(sets, self._blobs.present())
        ready = self._housekeeper.ready(sets, self._blobs.present())  # with what was unpacked
        if ready:
            self._images.complete(each.id for each in ready)
        if last:
            outcome.errors += refused.values()
        if ready or last:
            self._publish()
        if last:
            self._removal.step()

    def _must_end(self, outcome: _Outcome) -> bool:
        outcome.stopped |= self._stop_asked
        return self._stop_asked or self._closing

    def _enter(self, run: Run, state: str) -> None:
        self._state = state
        self._runs.enter(run.id, state)
        self._tell()

    def _tell(self) -> None:
        if self._hub.subscribers:  # the document of a large sync is long, and it moves four times a second
            self._hub.publish("sync", self.document())

    def _finish(self, run: Run, outcome: _Outcome) -> None:
        error = None
        if outcome.space:
            state, error = "stopped", f"{outcome.space}; it goes on by itself when there is room"
            self._room.lacked(outcome.space, outcome.needed_bytes)
        else:
            self._room.sufficed()
            state = "stopped" if outcome.stopped else "failed" if outcome.errors else "complete"
        if state == "failed":
            more = len(outcome.errors) - 1
            error = outcome.errors[0] + (f" (and {more} more, see the files of the sync or the log)" if more else "")
            failed = self._runs.failed_in_a_row() + 1
            since = "The last sync failed" if failed == 1 else f"The last {failed} syncs failed"
            self._board.show(SYNC_FAILED, f"{since}: {error}.")
        elif state == "complete":
            self._board.end(SYNC_FAILED)
        if state in ("failed", "complete"):
            self._say_refused(outcome)
            if outcome.is_decided:
                self._settings.put({SYNC_DECIDED: str(run.id)})
        for sentence in outcome.errors:
            _LOG.warning("sync: %s", sentence)
        with self._wake:
            self._runs.finish(run.id, state, error)
            self._run = self._runs.last()
            self._state = state
            self._ended_at = time.monotonic()
            self._stop_asked = False
            self._wake.notify_all()
        _LOG.info("sync %s%s", state, f": {error}" if error else "")
        self._tell()


def _age_s(run: Run | None) -> float:
    """Seconds since *run* ended. Without one: 0, so that a new region waits to be asked before its first sync."""
    if run is None or run.finished is None:
        return 0.0
    return max((datetime.now(UTC) - datetime.fromisoformat(run.finished)).total_seconds(), 0.0)
