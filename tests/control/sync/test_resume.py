"""kill -9 of a region in mid-sync: it goes on by itself at the next start and fetches no byte twice that it has."""

from __future__ import annotations

import base64
import hashlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import image, make_file, publish, small_loaders
from tests.fakes.region_api import RegionApi

pytestmark = pytest.mark.integration

SQUASHFS_BYTES = 24 << 20
HALF = SQUASHFS_BYTES // 2
PIECE = 64 << 10
DRIP_S = 0.1  # between two pieces of the second half, which so takes 20 s
GATHER = 1 << 20  # what a killed process may hold unwritten
WAIT_S = 90.0
SILENCE_S = 25.0  # less than the 30 s for which a download waits for the next byte


class Halting(ThreadingHTTPServer):
    """Serves a folder with ranges; the second half of the squashfs drips until ``go_on`` is set, so that a sync is
    under way for as long as a test needs. Knows start and length of every body."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.bodies: dict[str, list[list[int]]] = {}  # path -> [start, bytes sent] of each request
        self.halfway = threading.Event()
        self.silent = threading.Event()  # set: the squashfs stops in the middle, the connection stays
        self.go_on = threading.Event()
        self.ending = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a killed region hangs up: that is the test
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Halting

    def do_GET(self) -> None:
        path = unquote(self.path).lstrip("/")
        file = self.server.root / path
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        body = [start, 0]
        self.server.bodies.setdefault(path, []).append(body)
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:16]}"')
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        for at in range(start, len(data), PIECE):
            if len(data) == SQUASHFS_BYTES and at >= HALF:
                self.server.halfway.set()
                if self.server.silent.is_set():
                    self.server.ending.wait(WAIT_S)
                self.server.go_on.wait(DRIP_S)
            piece = data[at : at + PIECE]
            body[1] += len(piece)  # before the write: whoever has the last byte may look at the sum at once
            self.wfile.write(piece)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, signer: Signer) -> Iterator[Halting]:
    inputs = tmp_path / "inputs"
    big = inputs / "squashfs"
    inputs.mkdir()
    big.write_bytes(os.urandom(SQUASHFS_BYTES))
    product = image(
        serial="20250709",
        arch="amd64",
        subarch="ga-24.04",
        kernel=make_file(inputs, "kernel", 30_000),
        initrd=make_file(inputs, "initrd", 70_000),
        squashfs=big,
    )
    publish(tmp_path / "mirror", [product, *small_loaders(inputs)], signer)
    with Halting(tmp_path / "mirror") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.ending.set()
        server.go_on.set()
        server.shutdown()
        thread.join()


class RegionProcess(RegionApi):
    def __init__(self, data: Path, process: subprocess.Popen[bytes], address: str) -> None:
        super().__init__(address, data)
        self.process = process
        self._partial = data / "image-storage" / ".partial"

    def kept_bytes(self) -> int:
        """Of all files that have not come whole."""
        return sum(path.stat().st_size for path in self._partial.iterdir())

    def until(self, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The <sync> document once it *is_so*."""
        tick = threading.Event()
        for _ in range(int(WAIT_S / 0.1)):
            sync: dict[str, Any] = self.call("GET", "/sync")
            if is_so(sync):
                return sync
            tick.wait(0.1)
        raise AssertionError(f"expected another state within {WAIT_S:.0f} s, got {sync}")

    def until_halfway(self, mirror: Halting) -> None:
        """The squashfs alone is under way, and its first half stands on the disk, but for what is gathered."""
        assert mirror.halfway.wait(WAIT_S)
        self.until(lambda sync: [file["size"] for file in sync["files"] if file["state"] != "done"] == [SQUASHFS_BYTES])
        self.until(lambda sync: self.kept_bytes() >= HALF - GATHER)

    def ended_sync(self) -> dict[str, Any]:
        return self.until(lambda sync: sync["state"] in ("complete", "failed", "stopped", "idle"))


@contextmanager
def region(data: Path, **environment: str) -> Iterator[RegionProcess]:
    command = [sys.executable, "-m", "bootplane.control.region", "--data", str(data)]
    command += ["--listen", "127.0.0.1:0", "--bulk", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment})
    assert process.stdout is not None
    try:
        assert select.select([process.stdout], [], [], WAIT_S)[0], "no word from the region"
        line = process.stdout.readline().decode().split()
        assert line[:1] == ["ready"], line
        yield RegionProcess(data, process, line[1].partition("=")[2])
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(WAIT_S)
        process.stdout.close()


def test_a_killed_region_goes_on_with_its_sync_and_fetches_no_kept_byte_again(
    tmp_path: Path, mirror: Halting, signer: Signer
) -> None:
    data = tmp_path / "data"
    squashfs = "noble/amd64/20250709/squashfs"
    with region(data) as first:
        keyring = base64.b64encode(signer.public()).decode()
        first.call("POST", "/sources", {"url": mirror.url, "keyring": keyring})
        first.call("POST", "/selections", {"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        first.call("POST", "/sync")
        first.until_halfway(mirror)
        first.process.kill()
        first.process.wait()
        kept = first.kept_bytes()
    assert HALF - GATHER <= kept < SQUASHFS_BYTES
    index_reads = len(mirror.bodies["streams/v1/index.sjson"])

    with region(data) as second:
        assert second.call("GET", "/sync")["state"] not in ("idle", "complete")
        mirror.go_on.set()
        sync = second.ended_sync()
        assert (sync["state"], sync["error"]) == ("complete", None)
        images = second.call("GET", "/images")["items"]
        assert {image["name"] for image in images if image["complete"]} >= {"ubuntu/noble/amd64/ga-24.04"}
    [[first_start, _], second_body] = mirror.bodies[squashfs]
    assert first_start == 0 and second_body == [kept, SQUASHFS_BYTES - kept]
    for path, bodies in mirror.bodies.items():
        if not path.startswith("streams/") and path != squashfs:
            assert [start for start, _ in bodies] == [0], f"{path} was fetched again"
    assert len(mirror.bodies["streams/v1/index.sjson"]) == index_reads  # the plan stood in the database


def test_a_region_that_is_told_to_end_in_mid_sync_ends_at_once_and_goes_on_later(
    tmp_path: Path, mirror: Halting, signer: Signer
) -> None:
    data = tmp_path / "data"
    with region(data) as first:
        keyring = base64.b64encode(signer.public()).decode()
        first.call("POST", "/sources", {"url": mirror.url, "keyring": keyring})
        first.call("POST", "/selections", {"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        first.call("POST", "/sync")
        first.until_halfway(mirror)
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(WAIT_S) == 0
    mirror.go_on.set()
    with region(data) as second:
        assert second.ended_sync()["state"] == "complete"
    [[start, _], [resumed, _]] = mirror.bodies["noble/amd64/20250709/squashfs"]
    assert start == 0 and resumed >= HALF - GATHER


def test_a_window_that_ends_pauses_a_sync_over_a_kill_and_the_next_one_finishes_it(
    tmp_path: Path, mirror: Halting, signer: Signer
) -> None:
    data = tmp_path / "data"
    squashfs = "noble/amd64/20250709/squashfs"
    now = datetime.now().astimezone()
    shut = "-".join((now + timedelta(minutes=minutes)).strftime("%H:%M") for minutes in (240, 300))

    def until(process: RegionProcess, state: str) -> dict[str, Any]:
        return process.until(lambda sync: sync["state"] == state)

    with region(data, BOOTPLANE_SYNC_INTERVAL="0.5") as first:  # a sync by itself: nobody asks for one
        keyring = base64.b64encode(signer.public()).decode()
        first.call("POST", "/sources", {"url": mirror.url, "keyring": keyring})
        first.call("POST", "/selections", {"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        first.until_halfway(mirror)
        first.call("PATCH", "/sync", {"window": shut})
        paused = until(first, "paused")
        assert 0 < paused["bytes_done"] < paused["bytes_total"] and paused["window_open"] is False
        first.process.kill()
        first.process.wait()
        kept = first.kept_bytes()
    mirror.go_on.set()
    with region(data, BOOTPLANE_SYNC_INTERVAL="0.5") as second:
        until(second, "paused")
        asked = len(mirror.bodies[squashfs])
        second.call("PATCH", "/sync", {"window": None, "limit_bytes_s": 1 << 30})
        assert until(second, "complete")["error"] is None
        assert len(mirror.bodies[squashfs]) == asked + 1
    assert mirror.bodies[squashfs][-1] == [kept, SQUASHFS_BYTES - kept]


def test_a_source_that_falls_silent_does_not_hold_up_the_end(tmp_path: Path, mirror: Halting, signer: Signer) -> None:
    mirror.silent.set()
    with region(tmp_path / "data") as process:
        keyring = base64.b64encode(signer.public()).decode()
        process.call("POST", "/sources", {"url": mirror.url, "keyring": keyring})
        process.call("POST", "/selections", {"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        process.call("POST", "/sync")
        assert mirror.halfway.wait(WAIT_S)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(SILENCE_S) == 0
