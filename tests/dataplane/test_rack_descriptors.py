"""A rack that may open 256 files, with 1,550 segments to serve: every byte right, whatever has happened in between."""

from __future__ import annotations

import concurrent.futures
import hashlib
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bootplane.core import http_fetch, tftp_fetch
from tests.dataplane.rackprocess import RackProcess
from tests.fakes.region import FakeRegion

pytestmark = pytest.mark.integration

MIB = 1 << 20
ALLOWED = 256  # descriptors of the whole process
SEGMENTS_OPEN = 96  # dataplane.openfiles
AT_WORK = 8  # threads that may have one more open, on its way in or out
SMALL = {f"small/{i}": b"small file %d" % i * (1 + i % 50) for i in range(1500)}
BIG = random.Random(8).randbytes(MIB) * 200  # fifty segments; one digest for all chunks is enough here
FILES = {**SMALL, "images/x/squashfs": BIG}
CLIENTS = 8


class Watch:
    """The most descriptors that a process was seen with."""

    def __init__(self, pid: int, cache: Path) -> None:
        self._fds, self._cache = Path(f"/proc/{pid}/fd"), f"{cache}/"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.looks = self.most = self.most_segments = 0

    def look(self) -> None:
        targets = []
        for fd in self._fds.iterdir():
            with suppress(FileNotFoundError):
                targets.append(str(fd.readlink()))
        self.looks += 1
        self.most = max(self.most, len(targets))
        segments = [target for target in targets if target.startswith(self._cache) and ".d/" in target]
        self.most_segments = max(self.most_segments, len(segments))

    def _run(self) -> None:
        with suppress(FileNotFoundError, ProcessLookupError):
            while not self._done.wait(0.02):
                self.look()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


@contextmanager
def running(rack: RackProcess) -> Iterator[RackProcess]:
    with rack:
        assert rack.process is not None
        with Watch(rack.process.pid, rack.directory / "data" / "cache") as watch:
            yield rack
        assert watch.most_segments <= SEGMENTS_OPEN + AT_WORK
        assert watch.most < ALLOWED and watch.looks > 5


def over_http(rack: RackProcess, name: str) -> bool:
    return http_fetch.fetch(rack.http.host, rack.http.port, f"/{name}", keep=True).body == FILES[name]


def over_tftp(rack: RackProcess, name: str) -> bool:
    got = tftp_fetch.fetch(rack.tftp.host, rack.tftp.port, name, windowsize=16)
    return got.sha256 == hashlib.sha256(FILES[name]).hexdigest()


def wrong(rack: RackProcess) -> list[str]:
    """Every file over either protocol, in an order that comes back to old ones; the names of the wrong ones."""
    names = random.Random(1).sample(sorted(SMALL), len(SMALL))
    work = [("http", "images/x/squashfs"), *(("http" if i % 2 else "tftp", name) for i, name in enumerate(names))]
    work += [("tftp" if i % 2 else "http", name) for i, name in enumerate(names)]
    work.insert(len(work) // 2, ("tftp", "images/x/squashfs"))
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        right = pool.map(lambda job: (over_http if job[0] == "http" else over_tftp)(rack, job[1]), work)
        return [name for (_, name), is_right in zip(work, right, strict=True) if not is_right]


def test_many_more_segments_than_descriptors_are_filled_served_and_kept(tmp_path: Path) -> None:
    with FakeRegion(FILES) as region:
        rack = RackProcess(tmp_path / "rack", region, "--cache-size", "512MiB")
        rack.command = ["sh", "-c", 'ulimit -n "$0"; exec "$@"', str(ALLOWED), *rack.command]
        with running(rack):
            assert wrong(rack) == []
            numbers = rack.metrics()
            assert numbers["bootplane_cache_segments"] == 1550
            assert numbers["bootplane_cache_open_segments"] <= SEGMENTS_OPEN
            assert numbers["bootplane_cache_reopened_segments_total"] > 1000
        assert "cache: at most 96 segments open, 256 descriptors allowed" in rack.log()
        assert set(region.sent.values()) == {1}, "what is closed is not fetched again"

    with running(rack):  # and its region is gone
        assert wrong(rack) == []
        numbers = rack.metrics()
        assert numbers["bootplane_fill_upstream_bytes_total"] == 0
        assert rack.stop(signal.SIGKILL) != 0
    assert "1550 segments" in rack.log() and "kept (clean)" in rack.log()

    with running(rack):  # nothing is known of any file but its name
        assert wrong(rack) == []
    assert "kept (unclean" in rack.log()
