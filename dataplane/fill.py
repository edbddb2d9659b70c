"""Fill: what reactors miss is fetched from the region, verified by chunk and handed to whoever waits.

    reactor ──miss──▶ Planner ──run──▶ fill thread ──Range──▶ source
       ▲                                  │ cache.begin, readinto 1 MiB, cache.store (hash, pwrite, PRESENT)
       └──────────── wake ◀───────────────┘

A chunk whose file is not open (CLOSED) is opened again, and nobody is asked for it (core.lru_open, rechecks).
A chunk of an earlier run's file (UNCHECKED) is hashed where it lies before anybody is asked for it (rechecks). Right:
present. Wrong: its segment leaves the cache, and it is fetched like any other. The same goes for unreadable ones.

Invariants: a chunk is fetched by one thread however many wait; nobody is woken with "present" before its digest
matched; everybody who waits is woken in the end: present, or with the status why not, no later than the park limit.
Who waits for a blob that its sources have removed is told so once the catalogue has been asked for (refresh): the
reactor looks again what the name means, in the table that came before that word.
A wrong chunk is refused in one sentence that names blob, chunk, source, expected and got, and its source is
quarantined.

Left to others: what to fetch next (fillplan), whom to ask (sources), how fast in all (budget), what to look at where it
lies (rechecks) and doing so (look), HTTP (upstream), a disk that is full or refuses (storing), eviction (core.lru).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from bootplane.core.blob import Blob
from bootplane.core.lru import CacheFull
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.budget import Budget
from bootplane.dataplane.catalogue import CHUNK_BYTES, chunk_count, chunk_length
from bootplane.dataplane.fillplan import SHORT_RUN, Planner, Run
from bootplane.dataplane.fillstats import FillStats
from bootplane.dataplane.look import Looked, Looker
from bootplane.dataplane.rechecks import Rechecks
from bootplane.dataplane.refresh import Refresher
from bootplane.dataplane.refusals import Refusal, Refusals
from bootplane.dataplane.segments import ABSENT, HERE
from bootplane.dataplane.sources import Source, Sources
from bootplane.dataplane.storing import PATIENCE_S, DiskHealth, Storer
from bootplane.dataplane.upstream import BlobMissing, BlobRemoved, Body, Upstream, UpstreamError

OK = 0
ST_FULL = 3  # status.pxd
ST_GONE = 12
ST_UPSTREAM = 13

READ_AHEAD_BYTES = 32 << 20
MAX_RUN_BYTES = 16 << 20  # one request
CACHE_SHARE = 4  # read-ahead of all readers takes this part of the cache: a small one must not evict what is being read
RETRY_S = 0.05  # between looks at sources that back off
FOLLOW_S = 0.02  # between looks at how far readers have come
IDLE_S = 0.5  # between looks at the graveyard
STOP_S = 2.0  # a thread in a stalled read is left behind: it is a daemon and touches nothing that is freed

# chunk_state_t -> must it be fetched? ABSENT yes, FILLING, PRESENT and CLOSED no, UNCHECKED not before it was checked
_MUST_FETCH = bytes(state == ABSENT for state in range(256))

log = logging.getLogger("bootplane.fill")


class CacheLike(Protocol):
    @property
    def limit_bytes(self) -> int: ...
    def begin(self, blob: Blob, chunk: int) -> bool: ...
    def store(self, blob: Blob, chunk: int, data: memoryview) -> None: ...
    def abandon(self, blob: Blob, chunk: int) -> None: ...
    def recheck(self, blob: Blob, chunk: int) -> bool: ...
    def discard(self, blob: Blob, chunk: int) -> bool: ...
    @property
    def directory(self) -> str: ...
    def evict(self, wanted: int) -> int: ...
    def reap(self) -> int: ...


class Filler:
    """*wake(blob, chunk, status)* tells every reactor; it is called on fill threads and on the caller of miss()."""

    def __init__(
        self,
        cache: CacheLike,
        wake: Callable[[Blob, int, int], None],
        *,
        threads: int = 3,
        park_limit_s: float = 20.0,
        upstream_bytes_s: int = 0,
        refresher: Refresher | None = None,
    ) -> None:
        self._cache = cache
        self._wake = wake
        self._park_limit_s = park_limit_s
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._check_work = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._plan = Planner(longest_run=MAX_RUN_BYTES // CHUNK_BYTES)
        self._sources = Sources(threads)
        self._budget = Budget(upstream_bytes_s)
        self._throttled_at: float | None = None  # since when somebody waits for the budget
        self._long_runs = 0  # in hand; one thread is always kept for short ones
        self._blobs: dict[int, Blob] = {}  # those the planner knows
        self._rechecks = Rechecks()
        self._storer = Storer(cache, self._stopping)
        self._disk = DiskHealth()
        self._runs_in_hand = 0
        self._looker = Looker(cache, self._met_damage, self._stopping)
        self._refusals = Refusals()
        self._refresher = refresher
        self._removed: set[int] = set()  # ids of blobs that a source says it has removed
        self._last_error = "no bulk address is known yet"
        self._disk_error = ""
        self._last_reap = self._followed_at = 0.0
        self._fill_threads = threads
        self._threads = [threading.Thread(target=self._run, name=f"fill-{i}", daemon=True) for i in range(threads)]
        self._threads.append(threading.Thread(target=self._run_checks, name="fill-check", daemon=True))
        self.stats = FillStats()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        with self._work:
            self._work.notify_all()
            self._check_work.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=STOP_S)

    def set_sources(self, addresses: Iterable[tuple[str, int]]) -> None:
        with self._work:
            self._sources.replace(addresses)
            self._work.notify_all()

    @property
    def events(self) -> deque[Refusal]:
        return self._refusals.recent

    @property
    def upstream_limit_bytes_s(self) -> int:
        """What all fetches together may take from the sources; 0: no limit. May be changed at any time."""
        return self._budget.limit_bytes_s

    @upstream_limit_bytes_s.setter
    def upstream_limit_bytes_s(self, limit: int) -> None:
        with self._work:
            self._budget.change(limit, time.monotonic())
            self._work.notify_all()

    def source_keys(self) -> list[str]:
        with self._lock:
            return self._sources.keys()

    def miss(self, blob: Blob, chunk: int) -> None:
        """Somebody waits for *chunk*. Any thread; returns at once."""
        now = time.monotonic()
        status = OK
        with self._work:
            if self._rechecks.ask(blob, chunk):
                self._blobs[blob.id] = blob
                self._plan.miss(blob.id, chunk_count(blob.size), chunk, now, present=True)  # the reader's place
                self._work.notify()
                self._check_work.notify()
                return
            present = not _must_fetch(blob, chunk, 1)[0] and chunk not in self._plan.flying(blob.id)
            status = OK if present else self._hopeless_status_locked(blob, now)
            if status != OK:
                self.stats.given_up += 1
            else:
                self._blobs[blob.id] = blob
                self._plan.miss(blob.id, chunk_count(blob.size), chunk, now, present=present)
                self._work.notify()
        if present or status != OK:
            self._wake(blob, chunk, status)

    def damaged(self, blob: Blob, chunk: int) -> None:
        """A reader waits for *chunk*, which is PRESENT: it or the next cannot be read. Any thread; returns at once."""
        with self._work:
            self._rechecks.report(blob, chunk)
            self._work.notify()
            self._check_work.notify()

    def forget(self, blob: Blob) -> bool:
        """Nobody can ask for this blob any more. False, and nothing done, while chunks of it are being fetched."""
        with self._lock:
            if self._plan.flying(blob.id) or self._rechecks.has(blob):
                return False
            self._plan.forget(blob.id)
            self._blobs.pop(blob.id, None)
            self._removed.discard(blob.id)
            return True

    def look_again(self) -> None:
        """The catalogue has been asked for: who waits for a removed blob hears it now. Any thread."""
        with self._work:
            self._work.notify_all()

    # -- fill threads

    def _run(self) -> None:
        upstream = Upstream()
        buffer = memoryview(bytearray(CHUNK_BYTES))
        try:
            while not self._stopping.is_set():
                try:
                    self._turn(upstream, buffer)
                except Exception:  # everything: each waiter depends on this thread, and the log has the traceback
                    log.exception("a fill failed in a way that was not foreseen")
                    self._stopping.wait(RETRY_S)
        finally:
            upstream.close()

    def _turn(self, upstream: Upstream, buffer: memoryview) -> None:
        """Does what is next, or waits a while for something to do."""
        with self._work:
            check = self._rechecks.take()
            found = self._next_locked() if check is None else None
            probe = self._probe_locked() if check is None and found is None else None
            hopeless = self._hopeless_locked()
            if found is None and check is None and probe is None and not hopeless:
                now = time.monotonic()
                pause = max(self._budget.wait_s(now), self._disk.wait_s(now)) or IDLE_S
                soon = self._plan.is_starving() or self._plan.places(now)
                self._work.wait(min(pause, RETRY_S if soon else IDLE_S))
        try:
            self._tell(hopeless)
        finally:  # what was taken in hand ends in any case
            if check is not None:
                self._recheck(*check)
            if found is not None:
                self._fetch(upstream, buffer, *found)
            if probe is not None:
                self._probe(upstream, *probe)
        self._reap()

    def _run_checks(self) -> None:
        """A lane that no source can hold up."""
        while not self._stopping.is_set():
            with self._work:
                check = self._rechecks.take()
                if check is None and not self._stopping.is_set():
                    self._check_work.wait()
            if check is not None:
                try:
                    self._recheck(*check)
                except Exception:  # as in _run; _recheck has woken who waited
                    log.exception("a check failed in a way that was not foreseen")

    def _recheck(self, blob: Blob, chunk: int) -> None:
        """Whatever happens, who waits for the chunk is woken, or it is demanded of the sources."""
        looked = Looked.FAILED
        try:
            looked = self._looker.look(blob, chunk, is_reported=self._rechecks.is_reported(blob, chunk))
        finally:
            with self._work:
                awaited = self._rechecks.done(blob, chunk)
                is_present = looked is Looked.SHORT or blob.states(chunk, 1)[0] in HERE  # else the reader asks again
                if awaited and not is_present:
                    self._blobs[blob.id] = blob
                    self._plan.miss(blob.id, chunk_count(blob.size), chunk, time.monotonic())
                    self._work.notify()
        if awaited and is_present:
            self._wake(blob, chunk, ST_FULL if looked is Looked.UNREADABLE else OK)

    def _met_damage(self, sha256: str, chunk: int, expected: str, got: str) -> None:
        with self._lock:
            self.stats.damaged += 1
            self._refusals.recent.append(Refusal(sha256, chunk, "its own disk", expected, got, time.time()))

    def _next_locked(self) -> tuple[Run, Blob, Source] | None:
        now = time.monotonic()
        if self._is_throttled_locked(now) or self._disk.wait_s(now):
            return None
        if self._disk.failures and self._runs_in_hand:
            return None  # one tries for all
        self._follow_readers_locked(now)
        affordable = max(1, self._cache.limit_bytes // CHUNK_BYTES // CACHE_SHARE)
        self._plan.read_ahead = min(READ_AHEAD_BYTES // CHUNK_BYTES, affordable)
        self._plan.read_ahead_in_all = affordable
        chosen: dict[int, Source] = {}

        def longest_run(blob: int) -> int:
            source = self._sources.pick(self._blobs[blob].sha256, now)
            if source is None:
                return 0
            chosen[blob] = source
            if self._disk.failures:
                return 1
            longest = min(self._sources.longest_run(source), self._budget.longest_run() or MAX_RUN_BYTES) // CHUNK_BYTES
            return max(1, min(longest, SHORT_RUN) if self._long_runs >= self._fill_threads - 1 else longest)

        run = self._plan.next(lambda blob, first, count: _must_fetch(self._blobs[blob], first, count), longest_run)
        if run is None:
            return None
        source = chosen[run.blob]
        source.flights += 1
        self._runs_in_hand += 1
        self._long_runs += run.length > SHORT_RUN
        self.stats.runs += 1
        blob = self._blobs[run.blob]
        self._budget.spend(_span(blob, run.first, run.first + run.length), now)
        return run, blob, source

    def _follow_readers_locked(self, now: float) -> None:
        """Readers who find all they want here do not ask: read-ahead goes on before them, and not once they have to."""
        if now - self._followed_at < FOLLOW_S:
            return
        self._followed_at = now
        for blob, first, horizon in self._plan.places(now):
            if (reached := self._blobs[blob].reached(first, horizon)) >= 0:
                self._plan.miss(blob, chunk_count(self._blobs[blob].size), reached, now, present=True)

    def _is_throttled_locked(self, now: float) -> bool:
        throttled = self._budget.wait_s(now) > 0
        if self._throttled_at is not None:
            self.stats.throttled_s += now - self._throttled_at
        self._throttled_at = now if throttled and self._plan.demanding() else None
        return throttled

    def _probe_locked(self) -> tuple[Source, Blob] | None:
        source = self._sources.is_due(time.monotonic())
        blob = next(iter(self._blobs.values()), None)
        if source is None or blob is None:
            return None
        source.flights += 1
        return source, blob

    def _probe(self, upstream: Upstream, source: Source, blob: Blob) -> None:
        """Asks a source that has failed for one byte, which nobody waits for."""
        try:
            with upstream.open(source, blob.sha256, blob.size, 0, 1) as body:
                body.readinto(memoryview(bytearray(1)))
            with self._lock:
                self.stats.upstream_bytes += 1
                self._sources.succeeded(source)
        except BlobMissing as error:
            with self._lock:
                self._sources.succeeded(source)
                self._missing_locked(source, blob, error, time.monotonic())
        except UpstreamError as error:
            self._source_failed(source, blob, error)
        finally:
            with self._work:
                source.flights -= 1
                self._work.notify_all()

    def _hopeless_locked(self) -> list[tuple[Blob, int, int]]:
        """(blob, chunk, status): what nobody can get, or what was waited for too long. Its waiters are told."""
        now = time.monotonic()
        lost = dict.fromkeys(self._plan.overdue(now - self._park_limit_s), ST_UPSTREAM)
        for blob in self._plan.demanding():
            if (status := self._hopeless_status_locked(self._blobs[blob], now)) != OK:
                lost |= dict.fromkeys(((blob, chunk) for chunk in self._plan.demanded(blob)), status)
        if self._disk.is_given_up(now):
            lost |= dict.fromkeys(self._plan.overdue(now - PATIENCE_S), ST_FULL)
        found = []
        for (blob, chunk), status in lost.items():
            if chunk not in self._plan.flying(blob):
                self._plan.failed(blob, chunk)
                self.stats.given_up += 1
                found.append((self._blobs[blob], chunk, status))
        return found

    def _hopeless_status_locked(self, blob: Blob, now: float) -> int:
        """What who waits for the blob is to be told now; OK: nothing, it may come, or a newer catalogue may."""
        if not self._sources.is_hopeless(blob.sha256, now):
            return OK
        if blob.id not in self._removed:
            return ST_UPSTREAM
        return OK if self._refresher is not None and self._refresher.is_running else ST_GONE

    def _tell(self, lost: list[tuple[Blob, int, int]]) -> None:
        for blob, chunk, status in lost:
            if status == ST_FULL:
                log.error("no room for chunk %d of blob %s: %s", chunk, blob.sha256, self._disk_error)
            else:
                log.warning("gave up chunk %d of blob %s: %s", chunk, blob.sha256, self._last_error)
            self._wake(blob, chunk, status)

    def _fetch(self, upstream: Upstream, buffer: memoryview, run: Run, blob: Blob, source: Source) -> None:
        """Carries out one run. Whatever happens, each of its chunks ends as landed, returned or failed."""
        chunk, end = run.first, run.first + run.length
        unsent = _span(blob, chunk, end)
        try:
            with self._lock:
                silence_s = self._sources.silence_s(source, blob.sha256, CHUNK_BYTES, time.monotonic())
            with upstream.open(source, blob.sha256, blob.size, chunk * CHUNK_BYTES, unsent, silence_s) as body:
                try:
                    while chunk < end and not self._stopping.is_set():
                        self._fetch_chunk(body, buffer[: chunk_length(blob.size, chunk)], blob, chunk, source)
                        chunk += 1
                finally:
                    unsent = body.left
        except BlobMissing as error:
            self._source_failed(source, blob, error, missing=True)
        except UpstreamError as error:
            self._source_failed(source, blob, error)
        except DigestMismatch as error:
            self._refused(source, blob, chunk, error)
        except CacheFull as error:
            self._no_room(blob, chunk, error)
            chunk += 1
        except OSError as error:
            self._disk_failed(error)
        finally:
            with self._work:
                source.flights -= 1
                self._runs_in_hand -= 1
                self._long_runs -= run.length > SHORT_RUN
                self._budget.give_back(unsent)
                for left in range(chunk, end):
                    self._plan.returned(blob.id, left)
                self._work.notify_all()

    def _fetch_chunk(self, body: Body, view: memoryview, blob: Blob, chunk: int, source: Source) -> None:
        mine = self._storer.claim(blob, chunk)
        before = body.left
        is_kept = False
        try:
            self._receive(body, view, blob, source)
            if mine:
                self._storer.put(blob, chunk, view)
                is_kept = True
        finally:
            if not is_kept:
                with self._lock:
                    self.stats.wasted_bytes += before - body.left
                if mine:
                    self._cache.abandon(blob, chunk)
        with self._lock:
            self._plan.landed(blob.id, chunk)
            self._removed.discard(blob.id)
            self.stats.chunks += mine
            disk_is_back = mine and self._disk.succeeded()
        if disk_is_back:
            log.info("the cache's disk takes chunks again")
        self._wake(blob, chunk, OK)

    def _receive(self, body: Body, view: memoryview, blob: Blob, source: Source) -> None:
        """Fills *view*; its bytes are counted before anybody can see them."""
        before, began = body.left, time.monotonic()
        with self._lock:
            patience_s = self._sources.patience_s(source, blob.sha256, len(view), began)
        try:
            body.readinto(view, patience_s)
        finally:
            with self._lock:
                self.stats.upstream_bytes += before - body.left
        now = time.monotonic()
        with self._lock:
            self._sources.measured(source, len(view), now - began, now)
            self._sources.succeeded(source)

    def _source_failed(self, source: Source, blob: Blob, error: UpstreamError, *, missing: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            self._last_error = str(error)
            self.stats.errors["missing" if missing else error.reason] += 1
            if missing:
                self._missing_locked(source, blob, error, now)
            else:
                self._sources.failed(source, now)

    def _missing_locked(self, source: Source, blob: Blob, error: UpstreamError, now: float) -> None:
        self._sources.missing(source, blob.sha256, now)
        if isinstance(error, BlobRemoved):
            self._removed.add(blob.id)
            if self._refresher is not None:
                self._refresher.told(blob.sha256, source.key)

    def _refused(self, source: Source, blob: Blob, chunk: int, error: DigestMismatch) -> None:
        expected, _, got = str(error).partition("expected ")[2].partition(", got ")
        refusal = Refusal(blob.sha256, chunk, source.key, expected, got, time.time())
        now = time.monotonic()
        with self._lock:
            self.stats.refused += 1
            self._last_error = refusal.sentence()
            others = self._sources.others(source, blob.sha256, now)
            is_news, is_wrong = self._refusals.met(refusal, others=others)
            if is_wrong:
                self._sources.wrong(source, blob.sha256, now)
        if is_news:
            log.error("%s", refusal.sentence())

    def _no_room(self, blob: Blob, chunk: int, error: CacheFull) -> None:
        with self._lock:
            self.stats.errors["disk"] += 1
            self.stats.given_up += 1
            self._plan.failed(blob.id, chunk)
        log.error("no room for chunk %d of blob %s: %s", chunk, blob.sha256, error)
        self._wake(blob, chunk, ST_FULL)

    def _disk_failed(self, error: OSError) -> None:
        """The chunk is tried again: nothing is fetched for a while, and who has waited for long is told."""
        with self._lock:
            self.stats.errors["disk"] += 1
            is_news = not self._disk.failures
            self._disk_error = str(error)
            self._disk.failed(time.monotonic())
        if is_news:
            log.error("the cache's disk refuses chunks; it is tried again until it takes them: %s", error)

    def _reap(self) -> None:
        """Closes and unmaps what nobody uses any more, here and not on a reactor."""
        now = time.monotonic()
        with self._lock:
            if now - self._last_reap < IDLE_S:
                return
            self._last_reap = now
        self._cache.reap()


def _span(blob: Blob, first: int, end: int) -> int:
    """Bytes of the chunks from *first* to before *end*."""
    return min(end * CHUNK_BYTES, blob.size) - first * CHUNK_BYTES if first < end else 0


def _must_fetch(blob: Blob, first: int, count: int) -> bytes:
    return bytes(count) if blob.complete else blob.states(first, count).translate(_MUST_FETCH)
