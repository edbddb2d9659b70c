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

Left to others: what to fetch next (fillplan), whom to ask (sources), how fast in all (budget), fetching and storing it
(fetcher), what to look at where it lies (rechecks) and doing so (look), eviction (core.lru).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from bootplane.core.blob import Blob
from bootplane.dataplane.budget import Budget
from bootplane.dataplane.catalogue import CHUNK_BYTES, chunk_count
from bootplane.dataplane.fetcher import Fetcher, Shared, span
from bootplane.dataplane.fillplan import SHORT_RUN, Planner, Run
from bootplane.dataplane.look import Looked, Looker
from bootplane.dataplane.rechecks import Rechecks
from bootplane.dataplane.refresh import Refresher
from bootplane.dataplane.refusals import Refusal
from bootplane.dataplane.segments import ABSENT, HERE
from bootplane.dataplane.sources import Source, Sources
from bootplane.dataplane.storing import PATIENCE_S
from bootplane.dataplane.upstream import Upstream

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
        self._plan = Planner(longest_run=MAX_RUN_BYTES // CHUNK_BYTES)
        self._sources = Sources(threads)
        self._budget = Budget(upstream_bytes_s)
        shared = Shared(self._plan, self._sources, self._budget, self._work)
        self._disk, self._stopping, self.stats = shared.disk, shared.stopping, shared.stats
        self._fetcher = Fetcher(shared, cache, wake, refresher)
        self._throttled_at: float | None = None  # since when somebody waits for the budget
        self._blobs: dict[int, Blob] = {}  # those the planner knows
        self._rechecks = Rechecks()
        self._looker = Looker(cache, self._met_damage, self._stopping)
        self._refresher = refresher
        self._last_reap = self._followed_at = 0.0
        self._fill_threads = threads
        self._threads = [threading.Thread(target=self._run, name=f"fill-{i}", daemon=True) for i in range(threads)]
        self._threads.append(threading.Thread(target=self._run_checks, name="fill-check", daemon=True))

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
        return self._fetcher.refusals.recent

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
                if self._plan.miss(blob.id, chunk_count(blob.size), chunk, now, present=present):
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
            self._fetcher.removed.discard(blob.id)
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
                self._fetcher.fetch(upstream, buffer, *found)
            if probe is not None:
                self._fetcher.probe(upstream, *probe)
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
            self._fetcher.refusals.recent.append(Refusal(sha256, chunk, "its own disk", expected, got, time.time()))

    def _next_locked(self) -> tuple[Run, Blob, Source] | None:
        now = time.monotonic()
        if self._is_throttled_locked(now) or self._disk.wait_s(now):
            return None
        if self._disk.failures and self._fetcher.in_hand:
            return None  # one tries for all
        self._follow_readers_locked(now)
        affordable = max(1, self._cache.limit_bytes // CHUNK_BYTES // CACHE_SHARE)
        self._plan.read_ahead = min(READ_AHEAD_BYTES // CHUNK_BYTES, affordable)
        self._plan.read_ahead_in_all = affordable
        chosen: dict[int, Source] = {}
        long_runs = sum(run.length > SHORT_RUN for run in self._fetcher.in_hand)

        def longest_run(blob: int) -> int:
            source = self._sources.pick(self._blobs[blob].sha256, now)
            if source is None:
                return 0
            chosen[blob] = source
            if self._disk.failures:
                return 1
            longest = min(self._sources.longest_run(source), self._budget.longest_run() or MAX_RUN_BYTES) // CHUNK_BYTES
            is_last = long_runs >= self._fill_threads - 1  # one thread is always kept for short ones
            return max(1, min(longest, SHORT_RUN) if is_last else longest)

        run = self._plan.next(lambda blob, first, count: _must_fetch(self._blobs[blob], first, count), longest_run)
        if run is None:
            return None
        source = chosen[run.blob]
        source.flights += 1
        self._fetcher.in_hand.append(run)
        self.stats.runs += 1
        blob = self._blobs[run.blob]
        self._budget.spend(span(blob, run.first, run.first + run.length), now)
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
        if blob.id not in self._fetcher.removed:
            return ST_UPSTREAM
        return OK if self._refresher is not None and self._refresher.is_running else ST_GONE

    def _tell(self, lost: list[tuple[Blob, int, int]]) -> None:
        for blob, chunk, status in lost:
            if status == ST_FULL:
                log.error("no room for chunk %d of blob %s: %s", chunk, blob.sha256, self._fetcher.disk_error)
            else:
                log.warning("gave up chunk %d of blob %s: %s", chunk, blob.sha256, self._fetcher.last_error)
            self._wake(blob, chunk, status)

    def _reap(self) -> None:
        """Closes and unmaps what nobody uses any more, here and not on a reactor."""
        now = time.monotonic()
        with self._lock:
            if now - self._last_reap < IDLE_S:
                return
            self._last_reap = now
        self._cache.reap()


def _must_fetch(blob: Blob, first: int, count: int) -> bytes:
    return bytes(count) if blob.complete else blob.states(first, count).translate(_MUST_FETCH)
