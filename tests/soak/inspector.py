"""What the kernel says of a rack, compared with what it should be.

while it runs   about once a second: bytes on the disk against the limit, memory, what its beats say
at rest         when nobody reads, it has what it had at its start: descriptors, sockets, threads, nothing condemned,
                and on the disk what is charged; its region is told the same
"""

from __future__ import annotations

import http.client
import time
from collections import Counter

from tests.soak import rack
from tests.soak.rack import Life, Rack
from tests.soak.readers import Wrong
from tests.soak.region import Control, Source
from tests.soak.tally import Tally

MIB = 1 << 20
BEAT_S = 20.0
SETTLE_S = 20.0  # for the rack to let go of everything
ANONYMOUS = 160 * MIB  # of a rack, above what it had at its start
SOURCE_SOCKETS = 4  # kept alive to each source: one for each thread that asks
REGION_SOCKETS = 17
CLOSE_WAIT = ":08"  # kept alive, and the source has ended it: it is noticed when it is wanted next


class Inspector:
    """*readers*: how their addresses begin. *wanted_limit*: the one the rack was told last."""

    def __init__(self, tally: Tally, it: Rack, control: Control, sources: list[Source], readers: str) -> None:
        self.tally, self.rack, self.control, self.sources, self.readers = tally, it, control, sources, readers
        self.wanted_limit = 0
        self._base: dict[int, rack.Numbers] = {}

    def began(self, life: Life, cache_bytes: int) -> None:
        """A new life, started with this limit."""
        numbers = life.metrics()  # what it imports and opens for the first one is there from now on
        self.wanted_limit = cache_bytes
        # it keeps one that was set
        life.limits = [(0.0, max(cache_bytes, int(numbers["bootplane_cache_limit_bytes"])))]
        with life.still():
            self._base[life.number] = rack.look(life, self.rack.cache)

    def scrape(self, life: Life) -> dict[str, float]:
        try:
            self.tally.totals[life.number] = life.metrics()
        except (OSError, http.client.HTTPException):  # it is being killed
            return {}
        return self.tally.totals[life.number]

    # -- while it runs

    def sample(self, life: Life, *, is_busy: bool) -> None:
        """Raises ProcessLookupError or FileNotFoundError when it has ended meanwhile. *is_busy*: readers read."""
        with life.still():
            now, numbers = time.monotonic(), rack.look(life, self.rack.cache)
        limit, tally = life.limit(now), self.tally
        tally.count("samples")
        if self.control.refused_beat:
            tally.fail(f"life {life.number} told its region what no region takes: {self.control.refused_beat}")
        tally.note("bytes on the disk", numbers.disk)
        tally.note("anonymous bytes", numbers.anonymous)
        tally.note("descriptors", numbers.files + numbers.deleted + len(numbers.other) + len(numbers.sockets))
        if numbers.disk > limit + rack.BLOCK * numbers.disk_files:
            tally.fail(
                f"life {life.number}: expected at most {limit} bytes on the disk, got {numbers.disk}"
                f" in {numbers.disk_files} files, {numbers.deleted} of them without a name"
            )
        if numbers.anonymous > self._base[life.number].anonymous + ANONYMOUS:
            tally.fail(
                f"life {life.number}: expected at most {ANONYMOUS} more anonymous bytes, got {numbers.anonymous}"
            )
        total, full = rack.queues(self.control.host, self.readers)
        if total >= 8 and is_busy:
            tally.ratios.append(full / total)
        told = int(self.scrape(life).get("bootplane_cache_limit_bytes", self.wanted_limit))
        if told == self.wanted_limit != life.limits[-1][1]:
            life.limits.append((time.monotonic(), told))

    # -- at rest

    def settles(self, life: Life) -> None:
        """Raises Wrong when it has not come to rest after a while."""
        until = time.monotonic() + SETTLE_S
        while wrong := self._unsettled(life):
            if self.tally.failed.is_set():
                return
            if time.monotonic() > until:
                raise Wrong(f"life {life.number}, {SETTLE_S:.0f} s after the last read: {wrong}")
            self.tally.failed.wait(0.2)
        self._is_told(life, time.time())

    def _is_told(self, life: Life, since: float) -> None:
        """A beat tells the region what is on the disk: not always the next one, since what was begun to be read ahead
        goes on for a while."""
        until = time.monotonic() + BEAT_S
        wrong = f"expected a beat within {BEAT_S:.0f} s, got none"
        while not self.tally.failed.wait(0.1):
            with life.still():
                now = rack.look(life, self.rack.cache)
            beat = self.control.last_beat
            if beat.get("time", 0.0) >= since and beat["http"] == str(life.http):
                charged, condemned = beat["cache"]["charged_bytes"], beat["cache"]["condemned_bytes"]
                present = beat["cache_report"]["present_bytes"]
                if charged == now.charge and not condemned and present <= now.disk:
                    return
                wrong = (
                    f"the region is told of {charged} bytes charged, {condemned} condemned and {present} present,"
                    f" and there are {now.charge}, of which {now.disk} are on the disk"
                )
            if time.monotonic() > until:
                raise Wrong(f"life {life.number}: {wrong}")

    def _unsettled(self, life: Life) -> str:
        """What is not as it should be when nobody reads; "" when all is."""
        stats = life.metrics()
        with life.still():
            now = rack.look(life, self.rack.cache)
        base = self._base[life.number]
        known = {f"to:{self.control.api_port}": REGION_SOCKETS} | {f"to:{s.port}": SOURCE_SOCKETS for s in self.sources}
        upstream = Counter(word.removesuffix(CLOSE_WAIT) for word in now.sockets if word.startswith("to:"))
        strays = [word for word in now.sockets if word not in ("listen", "udp", "unix") and not word.startswith("to:")]
        strays += [f"{n} x {word}" for word, n in upstream.items() if n > known.get(word, 0)]
        charged, segments = stats["bootplane_cache_charged_bytes"], stats["bootplane_cache_segments"]
        condemned = stats["bootplane_cache_condemned_bytes"]
        opened = stats.get("bootplane_cache_open_segments", segments)
        if condemned or now.deleted:
            return f"expected nothing condemned, got {condemned:.0f} bytes, {now.deleted} files without a name"
        if now.files != opened:
            return f"expected a descriptor for each of {opened:.0f} open segments, got {now.files}"
        if more := Counter(now.other) - Counter(base.other):  # not !=: a catalogue may just have been kept at the start
            return f"expected the descriptors that it had at its start, got {dict(more)} more"
        if strays:
            return f"expected only sockets of its own and to its regions, got {strays}"
        if now.threads > base.threads:
            return f"expected {base.threads} threads, got {now.threads}"
        if stats["bootplane_catalogue_version"] != self.control.version:
            return f"expected catalogue {self.control.version}, got {stats['bootplane_catalogue_version']:.0f}"
        if now.charge != charged:
            return f"expected {charged:.0f} bytes charged on the disk, got {now.charge} by the lengths of the files"
        if stats["bootplane_cache_limit_bytes"] != self.wanted_limit:
            return f"expected a limit of {self.wanted_limit}, got {stats['bootplane_cache_limit_bytes']:.0f}"
        if charged > self.wanted_limit:
            return f"expected at most {self.wanted_limit} bytes charged, got {charged:.0f}"
        if now.disk > charged + rack.BLOCK * now.disk_files:
            return f"expected {charged:.0f} bytes on the disk, got {now.disk}"
        return ""
