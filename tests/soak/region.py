"""The region of a soak: one control port and several sources, each of which can misbehave in its own way.

    control   signed catalogue, chunk lists, beats with settings: the fake region's, on an address of this run's own
    Source    ranges of blobs, made as they are sent; ``fault`` is what it does wrong now, changed while it runs

Left to others: which fault when (plan), what a fault explains (weather).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import socket
import struct
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bootplane.dataplane import cachereport, catalogue
from bootplane.dataplane.catalogue import BlobEntry
from tests.fakes.region import FakeRegion, _Api, _Server
from tests.soak.content import PIECE, File, Stream

BEAT_BYTES = 64 * 1024
SLOW_BYTES_S = 512 * 1024
SILENT_S = 30.0  # a stalled answer is given up after this, when nobody else ends it


class Control(FakeRegion):
    """The control port. *sources* are told as bulk addresses; *settings* go out with each beat's answer."""

    def __init__(self, host: str, files: Iterable[File], sources: Iterable[Source]) -> None:
        self.host = host
        self.files: dict[str, File] = {}
        self.bulk_list = [f"{source.host}:{source.port}" for source in sources]
        self.settings: dict[str, Any] = {}
        self.last_beat: dict[str, Any] = {}
        self.refused_beat = ""
        self.speaks = threading.Event()  # cleared: no answer leaves
        self.speaks.set()
        self._server: _Server | None = None
        super().__init__({})
        self.offer(files)

    def publish(self, files: Mapping[str, bytes], version: int | None = None) -> None:
        """Nothing: see offer()."""

    def offer(self, files: Iterable[File]) -> None:
        """A new version of the catalogue."""
        files = list(files)
        entries = {file.sha256: BlobEntry(file.size, file.root) for file in files}
        with self.lock:
            self.files |= {file.sha256: file for file in files}
            self.version += 1
            names = {file.name: file.sha256 for file in files}
            self.body = catalogue.encode(catalogue.build("soak", self.version, entries, names))
            self.signature = self.key.sign_catalogue(self.body)
            self.changed.notify_all()

    @property
    def bulk(self) -> str:
        return ",".join(self.bulk_list)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.api_port}"

    def start(self) -> None:
        self.stopping.clear()
        self._server = _Server((self.host, self.api_port), _Control)
        self._server.region = self
        self.api_port = self._server.server_address[1]
        serve(self._server)

    def stop(self) -> None:
        if self._server is None:
            return
        self.stopping.set()
        with self.changed:
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._server.cut()
        self._server = None

    def close(self) -> None:
        self.speaks.set()
        self.stop()

    def fail(self, how: str | None) -> None:
        """None: all is well again."""
        if how == "gone":
            self.stop()
        elif self._server is None:
            self.start()
        self.api_status = 500 if how == "500" else None
        (self.speaks.clear if how == "silent" else self.speaks.set)()


class _Control(_Api):
    region: Control

    def do_GET(self) -> None:
        region: Any = self.region
        region.speaks.wait(SILENT_S)
        if region.api_status is None and self.path.startswith("/rack/v1/chunks/"):
            file = region.files.get(self.path.rpartition("/")[2])
            self.answer(404) if file is None else self.answer(200, file.chunks)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        region: Any = self.region
        region.speaks.wait(SILENT_S)
        if region.api_status is None and self.path == "/rack/v1/transfers":
            self.body()  # 10 minutes of them need not be kept
            self.answer(200, json.dumps({"taken": 0, "refused": 0, "sentences": []}).encode())
        elif region.api_status is None and self.path == "/rack/v1/beat":
            raw = self.body()
            beat = json.loads(raw)
            try:
                cachereport.parse(beat)
                assert len(raw) < BEAT_BYTES, f"expected a beat of less than {BEAT_BYTES} bytes, got {len(raw)}"
            except (ValueError, AssertionError) as error:
                region.refused_beat = str(error)
            with region.lock:
                region.last_beat = beat
                answer = {"bulk": region.bulk_list, "settings": region.settings}
            self.answer(200, json.dumps(answer).encode())
        else:
            super().do_POST()


class Source:
    """One bulk address."""

    def __init__(self, host: str, seed: str) -> None:
        self.host, self.port = host, 0
        self.files: Mapping[str, File] = {}
        self.fault: str | None = None
        self.sent_bytes = 0
        self.requests = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)  # what it does wrong, or that it closes
        self.rng = random.Random(seed)
        self._server: _BulkServer | None = None
        self.open()

    def draw(self) -> random.Random:
        with self.lock:
            self.requests += 1
            return random.Random(self.rng.random())

    def fail(self, fault: str | None) -> None:
        with self.changed:
            self.fault = fault
            self.changed.notify_all()
        if fault == "refuse":
            self.close()
        elif self._server is None:
            self.open()

    def open(self) -> None:
        self.stopping.clear()
        self._server = _BulkServer((self.host, self.port), _Bulk)
        self._server.source = self
        self.port = self._server.server_address[1]
        serve(self._server)

    def close(self) -> None:
        if self._server is not None:
            with self.changed:
                self.stopping.set()
                self.changed.notify_all()
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._server = None

    def wait(self, most_s: float, while_fault: str) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.fault != while_fault or self.stopping.is_set(), most_s)


def serve(server: ThreadingHTTPServer) -> None:
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class _BulkServer(_Server):
    source: Source


class _Bulk(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _BulkServer

    def log_message(self, format: str, *args: object) -> None:
        """Counters tell."""

    def do_GET(self) -> None:
        source = self.server.source
        rng, fault = source.draw(), source.fault
        file = source.files.get(self.path.removeprefix("/blob/"))
        first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
        if source.stopping.is_set():
            self.close_connection = True
        elif fault in ("404", "500") or file is None:
            self.send_response(int(fault or 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.blob(file, first, last, fault if rng.random() < 0.8 else None, rng)

    def blob(self, file: File, first: int, last: int, fault: str | None, rng: random.Random) -> None:
        length, told = last + 1 - first, f"bytes {first}-{last}/{file.size}"
        said = length
        if fault == "short-length":
            said = length - rng.randint(1, min(length, 5000))
        elif fault == "long-length":
            said = length + rng.randint(1, 5000)
        elif fault == "wrong-range":
            shift = rng.choice((-1, 1, 1 << 20))
            told = rng.choice(
                (f"bytes {first + shift}-{last + shift}/{file.size}", f"bytes {first}-{last}/{file.size + 1}")
            )
        if fault == "whole":
            first, length, said = 0, file.size, file.size
        self.send_response(200 if fault == "whole" else 206)
        if fault != "whole":
            self.send_header("Content-Range", told)
        self.send_header("Content-Length", str(said))
        self.end_headers()
        ends = rng.randrange(length) if fault in ("cut", "reset", "stall") else length
        flip = rng.randrange(length) if fault == "corrupt" else -1
        stream = Stream(hashlib.md5(file.key).digest(), first) if fault == "swap" else file.stream(first)
        self.body(stream, min(ends, said), flip, fault)
        if fault == "stall":
            self.server.source.wait(SILENT_S, "stall")
        if ends < length or said != length:
            self.close_connection = True
        if fault == "reset":
            with contextlib.suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def body(self, stream: Stream, length: int, flip: int, fault: str | None) -> None:
        source, sent = self.server.source, 0
        while sent < length:
            if source.stopping.is_set():
                self.close_connection = True
                return
            n = min(PIECE, length - sent)
            piece = stream.take(n)
            if sent <= flip < sent + n:
                spoilt = bytearray(piece)
                spoilt[flip - sent] ^= 1
                piece = bytes(spoilt)
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            sent += n
            with source.lock:
                source.sent_bytes += n
            if fault == "slow":
                source.wait(n / SLOW_BYTES_S, "slow")
