"""kill -9 of a region in mid-sync: it goes on by itself at the next start and fetches no byte twice that it has."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import image, make_file, publish, small_loaders

pytestmark = pytest.mark.integration

SQUASHFS_BYTES = 24 << 20
RATE_BYTES_S = 6 << 20
PIECE = 64 << 10
GATHER = 1 << 20  # what a killed process may hold unwritten: one gather and one receive buffer
WAIT_S = 90.0
SILENCE_S = 25.0  # less than the 30 s for which a download waits for the next byte


class Throttled(ThreadingHTTPServer):
    """Serves a folder with ranges at RATE_BYTES_S for each body; knows start and length of every body."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.bodies: dict[str, list[list[int]]] = {}  # path -> [start, bytes sent] of each request
        self.halfway = threading.Event()
        self.silent = threading.Event()  # set: the squashfs stops in the middle, the connection stays
        self.tick = threading.Event()  # its wait is the throttle; set at the end only

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a killed region hangs up: that is the test
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Throttled

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
            if self.server.silent.is_set() and at >= SQUASHFS_BYTES // 2:
                self.server.halfway.set()
                self.server.tick.wait(WAIT_S)
            piece = data[at : at + PIECE]
            self.wfile.write(piece)
            body[1] += len(piece)
            if len(data) == SQUASHFS_BYTES:
                self.server.tick.wait(len(piece) / RATE_BYTES_S)
                if at >= SQUASHFS_BYTES // 2:
                    self.server.halfway.set()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, signer: Signer) -> Iterator[Throttled]:
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
    with Throttled(tmp_path / "mirror") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.tick.set()
        server.shutdown()
        thread.join()


class RegionProcess:
    def __init__(self, data: Path, process: subprocess.Popen[bytes], address: str) -> None:
        self.process = process
        self._base = f"http://{address}/api/v1"
        self._token = (data / "admin-token").read_text().strip()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self._base + path,
            json.dumps(body).encode() if body is not None else None,
            {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def ended_sync(self) -> dict[str, Any]:
        tick = threading.Event()
        for _ in range(int(WAIT_S / 0.1)):
            sync: dict[str, Any] = self.call("GET", "/sync")
            if sync["state"] in ("complete", "failed", "stopped", "idle"):
                return sync
            tick.wait(0.1)
        raise AssertionError(f"the sync did not end: {sync}")


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
    tmp_path: Path, mirror: Throttled, signer: Signer
) -> None:
    data = tmp_path / "data"
    squashfs = "noble/amd64/20250709/squashfs"
    with region(data) as first:
        keyring = base64.b64encode(signer.public()).decode()
        first.call("POST", "/sources", {"url": mirror.url, "keyring": keyring})
        first.call("POST", "/selections", {"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        first.call("POST", "/sync")
        assert mirror.halfway.wait(WAIT_S)
        first.process.kill()
        first.process.wait()
    kept = sum(path.stat().st_size for path in (data / "image-storage" / ".partial").iterdir())
    assert kept >= SQUASHFS_BYTES // 2 - GATHER - (1 << 20), "little of what was sent stands on the disk"
    index_reads = len(mirror.bodies["streams/v1/index.sjson"])

    with region(data) as second:
        assert second.call("GET", "/sync")["state"] not in ("idle", "complete")
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
    tmp_path: Path, mirror: Throttled, signer: Signer
) -> None:
    data = tmp_path / "data"
    with region(data) as first:
        keyring = base64.b64encode(signer.public()).decode()
        first.call("POST", "/sources", {"url": mirror.url, "keyring": keyring})
        first.call("POST", "/selections", {"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        first.call("POST", "/sync")
        assert mirror.halfway.wait(WAIT_S)
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(WAIT_S) == 0
    with region(data) as second:
        assert second.ended_sync()["state"] == "complete"
    [[start, _], [resumed, _]] = mirror.bodies["noble/amd64/20250709/squashfs"]
    assert start == 0 and resumed >= SQUASHFS_BYTES // 2 - (1 << 20)


def test_a_window_that_ends_pauses_a_sync_over_a_kill_and_the_next_one_finishes_it(
    tmp_path: Path, mirror: Throttled, signer: Signer
) -> None:
    data = tmp_path / "data"
    squashfs = "noble/amd64/20250709/squashfs"
    now = datetime.now().astimezone()
    shut = "-".join((now + timedelta(minutes=minutes)).strftime("%H:%M") for minutes in (240, 300))

    def until(process: RegionProcess, state: str) -> dict[str, Any]:
        tick = threading.Event()
        for _ in range(int(WAIT_S / 0.1)):
            sync: dict[str, Any] = process.call("GET", "/sync")
            if sync["state"] == state:
                return sync
            tick.wait(0.1)
        raise AssertionError(f"expected {state}, got {sync}")

    with region(data, BOOTPLANE_SYNC_INTERVAL="0.5") as first:  # a sync by itself: nobody asks for one
        keyring = base64.b64encode(signer.public()).decode()
        first.call("POST", "/sources", {"url": mirror.url, "keyring": keyring})
        first.call("POST", "/selections", {"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        assert mirror.halfway.wait(WAIT_S)
        first.call("PATCH", "/sync", {"window": shut})
        paused = until(first, "paused")
        assert 0 < paused["bytes_done"] < paused["bytes_total"] and paused["window_open"] is False
        first.process.kill()
        first.process.wait()
    kept = sum(path.stat().st_size for path in (data / "image-storage" / ".partial").iterdir())
    with region(data, BOOTPLANE_SYNC_INTERVAL="0.5") as second:
        until(second, "paused")
        asked = len(mirror.bodies[squashfs])
        second.call("PATCH", "/sync", {"window": None, "limit_bytes_s": 1 << 30})
        assert until(second, "complete")["error"] is None
        assert len(mirror.bodies[squashfs]) == asked + 1
    assert mirror.bodies[squashfs][-1] == [kept, SQUASHFS_BYTES - kept]


def test_a_source_that_falls_silent_does_not_hold_up_the_end(tmp_path: Path, mirror: Throttled, signer: Signer) -> None:
    mirror.silent.set()
    with region(tmp_path / "data") as process:
        keyring = base64.b64encode(signer.public()).decode()
        process.call("POST", "/sources", {"url": mirror.url, "keyring": keyring})
        process.call("POST", "/selections", {"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        process.call("POST", "/sync")
        assert mirror.halfway.wait(WAIT_S)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(SILENCE_S) == 0
