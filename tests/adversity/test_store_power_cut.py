"""Power cuts under a region's store, on real file systems: what is on the device at one instant is all there is.

Files are fetched, adopted and removed, with their rows in a database on the same disk; the disk's image is cloned, in
one instant, while they are. Each clone is mounted, which replays its journal, a region's start is made on it, and every
file is compared with its name, with its row, and with what was promised before the cut.

Every boundary of the store's own system calls: test_store_cut_anywhere. kill -9, where nothing unsynced is lost: the
last test here.
"""

from __future__ import annotations

import random
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bootplane.control.storage.blobs import BlobRecord, BlobRepository
from bootplane.control.storage.database import Database
from bootplane.control.storage.images import ImageRepository
from bootplane.control.storage.settings import SettingsRepository
from bootplane.control.sync.housekeeping import Housekeeper
from bootplane.control.sync.owner import OwnerFile, Verdict, judge
from bootplane.core.digest import sha256_hex
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.store import Store
from tests.fakes.checkout import ROOT
from tests.fakes.filesystems import KINDS, MIB, attached, mounted, on_disk, or_skip
from tests.fakes.power import Cuts

SIZES = (0, 77, 50_000, MIB, MIB + 77, 3 * MIB + 1)
OUTER_BYTES = 2048 * MIB  # sparse; holds the image and its clones, which share their blocks
THREADS = 3
CUTS = 5
KILLS = 4
PIECE = 300_000


def content(number: int) -> bytes:
    """The same for one number, on both sides of a cut."""
    return random.Random(number).randbytes(SIZES[number % len(SIZES)] + number)


class Site:
    """A store, its database and its owner file in *folder*, as a region has them."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder / 'region.sqlite'}")
        self.database.migrate()
        self.blobs, self.store = BlobRepository(self.database), Store(folder)
        self.images = ImageRepository(self.database)
        self.owner = OwnerFile(self.store.directory, SettingsRepository(self.database), self.database.make_durable)

    def take(self) -> Verdict:
        claim = self.owner.claim_of(knows_blobs=self.blobs.usage().blobs > 0)
        owner, is_readable = self.owner.read()
        found = judge(owner, is_readable, claim, has_files=bool(self.store.inventory().blobs))
        self.owner.take(owner, claim, "region-1", "")
        return found.verdict

    def fetch(self, number: int) -> str:
        """As a download that is stopped in its middle and goes on."""
        data = content(number)
        sha256 = sha256_hex(data)
        for last in (False, True):
            with self.store.begin(sha256, len(data)) as ingest:
                while ingest.offset < (len(data) if last else len(data) // 2):
                    ingest.write(data[ingest.offset : ingest.offset + PIECE])
                if last:
                    root = ingest.commit().root
        self.blobs.record([BlobRecord(sha256, len(data), root)])
        return sha256

    def close(self) -> None:
        self.database.close()


class Work:
    """Threads that fetch, and remove when there are more than *most*, until left."""

    def __init__(self, site: Site, first: int, most: int = 8) -> None:
        self.site, self.done, self._most = site, 0, most
        self._next = first
        self._promised: dict[str, int] = {}
        self._moved = threading.Condition()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(THREADS)

    def __enter__(self) -> Work:
        self._running = [self._pool.submit(self._run, random.Random(i)) for i in range(THREADS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for running in self._running:
            running.result()

    def promised(self) -> set[str]:
        """Digests that are here, whatever happens from now on."""
        with self._moved:
            return set(self._promised)

    def wait_for(self, steps: int) -> None:
        with self._moved:
            assert self._moved.wait_for(lambda: self.done >= steps or self._broken(), 60)

    def _broken(self) -> bool:
        return any(running.done() for running in self._running)

    def _run(self, chance: random.Random) -> None:
        while not self._stop.is_set():
            with self._moved:
                number, self._next = self._next, self._next + 1
                gone = chance.choice(sorted(self._promised)) if len(self._promised) > self._most else ""
                self._promised.pop(gone, None)
            if gone:
                assert self.site.blobs.take_away([gone]) == [gone]
                self.site.store.remove(gone)
            sha256 = self.site.fetch(number)
            with self._moved:
                self._promised[sha256] = number
                self.done += 1
                self._moved.notify_all()


def check(folder: Path, promised: set[str]) -> Counter[str]:
    """A region's start on what a cut has left. *promised*: what must be there, and right."""
    site = Site(folder)
    try:
        assert site.take() is not Verdict.STRANGE, "a cut has made the store somebody else's"
        found = Housekeeper(site.store, site.blobs, site.images, 3600.0).reconcile()
        present, final = site.blobs.present(), dict(site.store.complete())
        assert present.keys() == final.keys()
        for sha256, size in final.items():
            data = site.store.path_of(sha256).read_bytes()
            assert sha256_hex(data) == sha256 and len(data) == size == present[sha256].size
        assert promised <= final.keys(), "what was committed is lost"
        assert not found.doubted
        partials = site.store.partials()
        for sha256 in partials:
            ingest = site.store.begin(sha256, 64 * MIB)
            with pytest.raises(DigestMismatch):
                ingest.commit()
        assert site.store.partials() == []
        return Counter(final=len(final), adopted=len(found.adopted), missing=len(found.missing), partial=len(partials))
    finally:
        site.close()


def cut_at_work(cuts: Cuts, instants: int) -> list[tuple[Path, set[str]]]:
    """Clones, each with what was promised before and not taken back after it."""
    chance, taken = random.Random(6), []
    folder = cuts.disk.point / "data"
    folder.mkdir()
    first = 0
    for _ in range(2):
        site = Site(folder)
        site.take()
        with Work(site, first) as work:
            for _ in range(instants):
                work.wait_for(work.done + chance.randrange(3, 20))
                before = work.promised()
                cuts.cut("at work")
                taken.append((cuts.taken[-1][0], before & work.promised()))
        first += 10_000
        site.close()
    return taken


@pytest.mark.integration
@pytest.mark.parametrize("kind", KINDS)
def test_after_a_power_cut_every_name_row_and_byte_agree(kind: str, tmp_path: Path) -> None:
    for each in ("xfs", kind):
        with or_skip(mounted(each, tmp_path)):  # what fails from here on is a failure
            pass
    total: Counter[str] = Counter()
    with on_disk("xfs", tmp_path, OUTER_BYTES) as outer:
        inner = outer.point / "disk"
        inner.mkdir()
        with on_disk(kind, inner, options="commit=1" if kind == "ext4" else "defaults") as disk:
            taken = cut_at_work(Cuts(disk), CUTS)
        for image, promised in taken:  # the original is gone by now: two with one UUID could not be mounted
            with attached(kind, image, inner / "point", direct=False) as copy:
                total += check(copy.point / "data", promised)
            image.unlink()
    print(f"\n{kind}: {len(taken)} cuts: {dict(total)}")
    assert total["final"], "the cuts have left nothing to look at"


WORKER = """
import sys, pathlib
from tests.adversity.test_store_power_cut import Site, Work
site = Site(pathlib.Path(sys.argv[1]))
site.take()
with Work(site, int(sys.argv[2]), most=1 << 30) as work:
    told = set()
    while True:
        work.wait_for(work.done + 1)
        for sha256 in work.promised() - told:
            told.add(sha256)
            print(sha256, flush=True)
"""


@pytest.mark.integration
def test_a_region_killed_at_any_moment_has_lost_nothing_and_claims_nothing_wrong(tmp_path: Path) -> None:
    chance, total, told = random.Random(7), Counter[str](), set[str]()
    for turn in range(KILLS):
        argv = [sys.executable, "-c", WORKER, str(tmp_path), str(turn * 10_000)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            try:
                for _ in range(chance.randrange(2, 12)):
                    assert select.select([process.stdout], [], [], 60)[0]
                    told.add(process.stdout.readline().decode().strip())
            finally:
                process.send_signal(signal.SIGKILL)
        total += check(tmp_path, told)
    print(f"\n{KILLS} kills: {dict(total)}")
    assert len(told) > KILLS
