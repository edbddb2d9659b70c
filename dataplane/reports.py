"""The rack's part of the boot timeline: transfers that have ended, on their way from the reactors to the region.

    reactors' rings ──poll, each POLL_S──▶ whose machine (machines) ──▶ queue ──send, each SEND_S──▶ region
        full: newest lost, counted              reading thread       full: oldest dropped, counted    sending thread

Invariants: no reactor ever waits for this; both ends of the queue are bounded and everything that falls out is counted
and told to the region; a batch is repeated as it was until a region has answered, so that it counts once. What a storm
or a flood can cost is bounded by READ_PER_S: what is not read falls out of the ring, which costs nothing. A batch tells
the time by the clock that its transfers were timed by, also when that was put right while they waited, so that the
region can put them right, too.

Left to others: making records (core), the form of a batch (transfers), what becomes of it (control). What has not been
sent when the process ends is lost.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bootplane.dataplane.machines import Machines
from bootplane.dataplane.region_client import RegionError, RegionRefused, Taken
from bootplane.dataplane.transfers import BATCH_TRANSFERS, Transfer, encode, encode_batch, printable

if TYPE_CHECKING:
    from bootplane.core.reactor import Record  # a type only: the extension has no such name

POLL_S = 0.5
SEND_S = 1.0
BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0)
POLL_RECORDS = 1024
READ_PER_S = 400.0  # 64 machines of 40 transfers boot within 7 s of it, and it is what one batch a second carries
READ_BURST = 4096.0  # a full ring
REFUSED_SHARE = 4  # requests that were refused take up a quarter of the queue at most
QUEUE_TRANSFERS = 10_000  # 250 boots of 40 transfers while the region is away; about 4 MB
SAID = 3  # refusals of one batch that are logged
CLOCK_READINGS = 3
CLOCK_S = 0.5  # transfers of one batch were timed by clocks that differ by no more
DROPPED = ("queue", "refusals", "region")  # why: newer ones came, their quarter was full, it refused them

log = logging.getLogger("bootplane.timeline")

Read = Callable[[int], Sequence["Record"]]
Post = Callable[[bytes], Taken]


class Entry(NamedTuple):
    """One transfer on its way."""

    body: bytes  # as ``encode`` has made it
    is_refusal: bool
    wall_offset: float  # time of day less our clock, by which it was timed


class Reporter:
    """*read(limit)* gives records, *lost()* how many the rings had no room for, *post* sends a batch."""

    def __init__(
        self,
        read: Read,
        lost: Callable[[], int],
        post: Post,
        machines: Machines | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        queue_transfers: int = QUEUE_TRANSFERS,
    ) -> None:
        self._read = read
        self._lost_in_rings = lost
        self._post = post
        self._machines = machines or Machines(clock=clock)
        self._clock = clock
        self._wall = wall
        self._limit = queue_transfers
        self.start_id = os.urandom(8).hex()
        self._seq = 0
        self._allowance = READ_BURST
        self._polled_at = clock()
        self._lock = threading.Lock()
        self._queue: deque[Entry] = deque()
        self._refusals = 0  # of them
        self._flight: list[Entry] = []  # the batch that is being sent, until it is answered
        self._told = 0
        self._failing = False
        self._stopping = threading.Event()
        self._waiting = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=work.__qualname__, daemon=True) for work in (self._polls, self._sends)
        ]
        # for metrics
        self.ended: Counter[tuple[str, str]] = Counter()  # (protocol, outcome) -> transfers read
        self.sent = 0  # a region has them
        self.dropped: Counter[str] = Counter()  # one of DROPPED -> transfers

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._flight)

    @property
    def lost(self) -> int:
        """Transfers of this start that no timeline will show."""
        return self._lost_in_rings() + self.dropped.total()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """Takes what the rings still hold and sends what waits, as far as *timeout_s* allows."""
        deadline = self._clock() + timeout_s
        self._stopping.set()
        self._waiting.set()
        for thread in self._threads:
            thread.join(max(deadline - self._clock(), 0.0))
        if not any(thread.is_alive() for thread in self._threads):
            while self.poll():
                pass
            while self.waiting and self._clock() < deadline and self.send():
                pass
        if self.waiting:
            log.warning("%d transfers are not in the boot timeline: no region took them", self.waiting)

    def poll(self) -> int:
        """Reads what has ended and queues it; returns how many."""
        now = self._clock()
        self._allowance = min(self._allowance + READ_PER_S * (now - self._polled_at), READ_BURST)
        self._polled_at = now
        limit = min(POLL_RECORDS, int(self._allowance))
        records = self._read(limit) if limit else ()
        if not records:
            return 0
        self._allowance -= len(records)
        wall_offset = self._wall_offset()
        entries = [
            Entry(self._encoded(record, wall_offset), record.outcome == "refused", wall_offset) for record in records
        ]
        with self._lock:
            for entry in entries:
                self._keep(entry)
        self._waiting.set()
        return len(records)

    def _wall_offset(self) -> float:
        """Time of day less our clock, in seconds. Of several readings the one in which the least time went by between
        the two: what a busy machine does to this thread there would move transfers past what came after them."""
        found = []
        for _ in range(CLOCK_READINGS):
            began = self._clock()
            wall = self._wall()
            took = self._clock() - began
            found.append((took, wall - began - took / 2))
        return min(found)[1]

    def _keep(self, entry: Entry) -> None:
        """Under the lock. A flood of refusals meets its share of the queue before it meets anybody's transfer."""
        if entry.is_refusal and self._refusals >= max(self._limit // REFUSED_SHARE, 1):
            self.dropped["refusals"] += 1
            return
        self._queue.append(entry)
        self._refusals += entry.is_refusal
        while len(self._queue) > self._limit:
            self._next()
            self.dropped["queue"] += 1

    def _next(self) -> Entry:
        entry = self._queue.popleft()
        self._refusals -= entry.is_refusal
        return entry

    def _batch(self) -> list[Entry]:
        """Under the lock. The oldest of the queue, as far as one clock has timed them."""
        batch: list[Entry] = []
        while self._queue and len(batch) < BATCH_TRANSFERS:
            if batch and abs(self._queue[0].wall_offset - batch[0].wall_offset) > CLOCK_S:
                break
            batch.append(self._next())
        return batch

    def send(self) -> bool:
        """Sends one batch, or the last one again. False when no region took it."""
        with self._lock:
            if not self._flight:
                self._flight = self._batch()
            batch = self._flight
        if not batch:
            return True
        lost = self.lost
        sent = self._clock() + batch[0].wall_offset
        body = encode_batch(self.start_id, sent, lost, self._told, (entry.body for entry in batch))
        try:
            taken = self._post(body)
        except RegionRefused as error:  # it will be refused again: the next ones may fare better
            log.error("%d transfers are not in the boot timeline: %s", len(batch), error)
            self._done(sent=0, dropped=len(batch))
            return True
        except RegionError as error:
            if not self._failing:
                log.warning("transfers wait for a region: %s", error)
            self._failing = True
            return False
        if self._failing:
            log.info("a region takes transfers again; %d wait", len(self._queue))
        self._told = lost
        self._done(sent=len(batch) - taken.refused, dropped=taken.refused)
        for sentence in taken.sentences[:SAID]:
            log.error("the region refused a transfer: %s", sentence)
        return True

    def _done(self, sent: int, dropped: int) -> None:
        with self._lock:
            self._flight = []
            self._failing = False
            self.sent += sent
            self.dropped["region"] += dropped

    def _encoded(self, record: Record, wall_offset: float) -> bytes:
        address, port = record.peer
        machine = self._machines.of(record.name, address)
        self.ended[record.proto, record.outcome] += 1
        self._seq += 1
        return encode(
            Transfer(
                seq=self._seq,
                at=round(record.began_ns / 1e9 + wall_offset, 6),
                protocol=record.proto,
                address=address,
                outcome=record.outcome,
                seconds=round((record.ended_ns - record.began_ns) / 1e9, 6),
                port=port,
                name=printable(record.name),
                mac=machine.mac,
                known_by=machine.known_by,
                uuid=machine.uuid,
                status=record.status,
                size=record.size,
                offset=record.offset,
                sent=record.sent,
                source=record.source,
                blksize=record.blksize,
                windowsize=record.windowsize,
                packets=record.packets,
                retransmits=record.retransmits,
                duplicate_acks=record.duplicate_acks,
                head=record.head,
                agent=printable(record.agent),
                reused=record.reused,
            )
        )

    # -- the threads

    def _polls(self) -> None:
        while not self._stopping.wait(POLL_S):
            try:
                self.poll()
            except Exception:  # everything: a timeline with a hole is better than none; the log has the traceback
                log.exception("records could not be read")

    def _sends(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            self._waiting.wait()
            self._waiting.clear()
            try:
                is_well = self.send()
            except Exception:  # as above: the batch is sent again
                log.exception("transfers could not be sent")
                is_well = False
            failures = 0 if is_well else failures + 1
            self._stopping.wait(SEND_S if is_well else BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])
            if self.waiting:
                self._waiting.set()
