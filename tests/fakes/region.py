"""A small region for racks' tests: signs a catalogue, serves chunk lists, boot texts and blobs, and can misbehave.

It counts what it sends by chunk, so that a test can say "every chunk once". Faults are plain attributes, changed while
it runs. Real sockets on loopback, any free port; api and bulk are two servers, so that either can be stopped alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bootplane.dataplane import catalogue, transfers
from bootplane.dataplane.catalogue import BlobEntry, SigningKey
from bootplane.dataplane.racktoken import RackToken

CHUNK = 1 << 20
PIECE = 64 * 1024


def chunks_of(data: bytes) -> bytes:
    return b"".join(hashlib.sha256(data[at : at + CHUNK]).digest() for at in range(0, len(data), CHUNK))


def _held() -> socket.socket:
    """A free port. Nobody listens: who connects is refused, and gets no such port for its own end by chance either."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(("127.0.0.1", 0))
    return held


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    allow_reuse_port = True
    region: FakeRegion

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.connections: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, peer = super().get_request()
        self.connections.add(connection)
        return connection, peer

    def cut(self) -> None:
        """What a killed process does to its connections."""
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client or stop() that cut the connection is no news; anything else is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Link:
    """So many bytes a second for everybody together, in the order of asking; short sleeps are saved up."""

    def __init__(self, bytes_s: int) -> None:
        self.bytes_s = bytes_s
        self.lock = threading.Lock()
        self.free_at = 0.0
        self.up = threading.Event()  # cleared: nothing passes
        self.up.set()

    def take(self, n: int) -> None:
        self.up.wait(60)
        with self.lock:
            now = time.monotonic()
            self.free_at = max(self.free_at, now - 0.005) + n / self.bytes_s
            wait = self.free_at - now
        if wait > 0.002:
            time.sleep(wait)  # paces the load


class FakeRegion:
    """Serves *files* (wire name -> bytes). ``with FakeRegion(files) as region: region.url, region.token, ...``"""

    def __init__(self, files: Mapping[str, bytes], secret: bytes = bytes(range(32))) -> None:
        self.key = SigningKey(secret)
        self.token = RackToken("rack-1", "5e" * 32, self.key.public_hex)
        self.blobs: dict[str, bytes] = {}
        self.version = 0
        self.body = b""
        self.signature: str | None = None
        self.texts: dict[str, bytes] = {}  # boot name -> text
        self.settings: Any = None  # told with the answer to a beat
        # what has happened
        self.lock = threading.Lock()
        self.sent: Counter[tuple[str, int]] = Counter()  # (sha256, chunk) -> times it was begun
        self.begun: list[tuple[str, int]] = []  # the same, in order
        self.bulk_bytes = 0
        self.requests: list[tuple[str, str]] = []
        self.hasty = 0  # questions for the catalogue that were no long polls
        self.beats: list[dict[str, Any]] = []
        self.batches: list[transfers.Batch] = []  # of transfers, repeated ones included
        self.boots: list[dict[str, str]] = []
        self.proxied: list[tuple[str, str, dict[str, str], bytes]] = []
        # faults
        self.corrupt: set[tuple[str, int]] = set()  # chunks sent with one byte flipped
        self.corrupt_times: int | None = None  # None: always
        self.cut_after: int | None = None  # body bytes of a bulk answer, then the connection is closed
        self.cut_times = 0
        self.lie_about_length = 0  # added to Content-Range's total
        self.lie_about_start = 0  # added to Content-Range's first
        self.lie_about_body = 0  # added to Content-Length
        self.ignore_range = False
        self.bulk_status: int | None = None
        self.api_status: int | None = None
        self.stall = threading.Event()  # set: bulk answers stop before the body until it is cleared
        self.link: Link | None = None  # what bulk answers go over
        self.unsigned_boot = False
        self.transfers_status: int | None = None  # batches are heard and answered so
        self.without_list: set[str] = set()  # blobs whose chunk list is answered with 404
        self.wrong_list: set[str] = set()  # ... with other bytes of the right length
        self.list_status: int | None = None  # any chunk list is answered so
        self.removed: set[str] = set()  # blobs that are answered with 410 by either port
        self.hold_polls = threading.Event()  # set: long polls are not answered, as on a path that has lost the flow
        self.changed = threading.Condition(self.lock)
        self.publish(files)
        self._api: _Server | None = None
        self._bulk: _Server | None = None
        self.api_port = 0
        self.bulk_port = 0
        self._held: list[socket.socket] = []  # its ports, which nobody else gets while it is stopped
        self.stopping = threading.Event()

    # -- what it serves

    def publish(self, files: Mapping[str, bytes], version: int | None = None) -> None:
        with self.lock:
            self.blobs = {hashlib.sha256(data).hexdigest(): data for data in files.values()}
            names = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
            entries = {
                sha256: BlobEntry(len(data), hashlib.sha256(chunks_of(data)).hexdigest())
                for sha256, data in self.blobs.items()
            }
            self.version = version or self.version + 1
            self.body = catalogue.encode(catalogue.build("fake", self.version, entries, names))
            self.signature = self.key.sign_catalogue(self.body)
            self.changed.notify_all()

    def chunk_list(self, sha256: str) -> bytes | None:
        data = self.blobs.get(sha256)
        return None if data is None else chunks_of(data)

    # -- life

    def __enter__(self) -> FakeRegion:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for held in self._held:
            held.close()
        self._held.clear()

    def start(self) -> None:
        """Starts, or starts again on the ports it had."""
        self.stopping.clear()
        if not self._held:
            self._held = [_held(), _held()]
            self.api_port, self.bulk_port = (held.getsockname()[1] for held in self._held)
        self._api = self._serve(_Api, self.api_port)
        self._bulk = self._serve(_Bulk, self.bulk_port)

    def stop(self) -> None:
        """Gone: listeners closed, connections cut."""
        self.stopping.set()
        with self.changed:
            self.changed.notify_all()
        for server in (self._api, self._bulk):
            if server is not None:
                server.shutdown()
                server.server_close()
                server.cut()
        self._api = self._bulk = None

    def _serve(self, handler: type[BaseHTTPRequestHandler], port: int) -> _Server:
        server = _Server(("127.0.0.1", port), handler)
        server.region = self
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def bulk(self) -> str:
        return f"127.0.0.1:{self.bulk_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    @property
    def region(self) -> FakeRegion:
        return self.server.region

    def log_message(self, format: str, *args: object) -> None:
        """Tests read counters, not a log."""

    def parse_request(self) -> bool:
        alive = super().parse_request()
        if self.region.stopping.is_set():
            self.close_connection = True
            return False
        if alive:
            with self.region.lock:
                self.region.requests.append((self.command, self.path))
        return alive

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


class _Api(_Handler):
    def do_GET(self) -> None:
        region = self.region
        parts = urlsplit(self.path)
        if parts.path.startswith(("/MAAS/", "/api/")):
            self.proxied()
        elif region.api_status is not None:
            self.answer(region.api_status, b"as told")
        elif self.headers.get("Authorization") != f"Bearer {region.token.secret}":
            self.answer(401, b"who are you")
        elif parts.path == "/rack/v1/catalogue":
            self.catalogue()
        elif parts.path.startswith("/rack/v1/chunks/"):
            sha256 = parts.path.rpartition("/")[2]
            digests = None if sha256 in region.without_list else region.chunk_list(sha256)
            if sha256 in region.removed:
                self.answer(410, b"removed")
            elif region.list_status is not None:
                self.answer(region.list_status, b"as told")
            elif digests is None:
                self.answer(404)
            else:
                self.answer(200, digests[:: -1 if sha256 in region.wrong_list else 1])
        elif parts.path == "/rack/v1/boot":
            self.boot({name: values[0] for name, values in parse_qs(parts.query).items()})
        else:
            self.answer(404)

    def do_POST(self) -> None:
        if self.path.startswith(("/MAAS/", "/api/")):
            self.proxied()
        elif self.region.api_status is not None:
            self.body()
            self.answer(self.region.api_status, b"as told")
        elif self.path == "/rack/v1/transfers":
            batch = transfers.decode_batch(self.body())
            with self.region.changed:
                self.region.batches.append(batch)
                self.region.changed.notify_all()
            told = {"taken": len(batch.transfers), "refused": len(batch.refused), "sentences": batch.refused}
            self.answer(self.region.transfers_status or 200, json.dumps(told).encode())
        else:
            beat = json.loads(self.body())
            with self.region.lock:
                self.region.beats.append(beat)
            told: dict[str, Any] = {"bulk": [self.region.bulk]}
            if self.region.settings is not None:
                told["settings"] = self.region.settings
            self.answer(200, json.dumps(told).encode())

    do_PUT = do_DELETE = do_PATCH = do_POST

    def catalogue(self) -> None:
        region = self.region
        wait = float(self.headers.get("Prefer", "wait=0").partition("=")[2])
        have = self.headers.get("If-None-Match")
        with region.changed:
            region.hasty += wait == 0
            region.changed.wait_for(lambda: have != f'"{region.version}"' or region.stopping.is_set(), timeout=wait)
            version, body, signature = region.version, region.body, region.signature
        while wait and region.hold_polls.is_set() and not region.stopping.wait(0.01):
            pass
        if region.stopping.is_set():
            self.close_connection = True
            return
        headers = {"ETag": f'"{version}"', "Bootplane-Bulk": region.bulk}
        if signature is not None:
            headers["Bootplane-Signature"] = signature
        if have == f'"{version}"':
            self.answer(304, b"", headers)
        else:
            self.answer(200, body, headers)

    def boot(self, query: dict[str, str]) -> None:
        region = self.region
        with region.lock:
            region.boots.append(query)
        text = region.texts.get(query["name"])
        if text is None:
            self.answer(404)
        elif region.unsigned_boot:
            self.answer(200, text)
        else:
            self.answer(200, text, {"Bootplane-Signature": region.key.sign_boot(query["name"], text)})

    def proxied(self) -> None:
        body = self.body()
        fields = {name: ", ".join(self.headers.get_all(name, [])) for name in self.headers}
        with self.region.lock:
            self.region.proxied.append((self.command, self.path, fields, body))
        if self.path.startswith("/MAAS/chunked"):
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (b"one ", b"two ", b"three"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if self.path.endswith("cut"):
                self.close_connection = True
            else:
                self.wfile.write(b"0\r\n\r\n")
        elif self.path.startswith("/MAAS/cut"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"short")
            self.close_connection = True
        else:
            self.answer(
                200, b"region says hello", {"X-Region": "fake", "Connection": "keep-alive, X-Hop", "X-Hop": "1"}
            )


class _Bulk(_Handler):
    def do_GET(self) -> None:
        region = self.region
        sha256 = self.path.removeprefix("/blob/")
        data = region.blobs.get(sha256)
        if region.bulk_status is not None:
            self.answer(region.bulk_status, b"as told")
        elif sha256 in region.removed:
            self.answer(410, b"removed")
        elif data is None:
            self.answer(404)
        else:
            self.blob(sha256, data)

    def blob(self, sha256: str, data: bytes) -> None:
        region = self.region
        first, last = 0, len(data) - 1
        wanted = self.headers.get("Range")
        if wanted and not region.ignore_range:
            first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
            total = len(data) + region.lie_about_length
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first + region.lie_about_start}-{last}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(last + 1 - first + region.lie_about_body))
        self.end_headers()
        while region.stall.is_set() and not region.stopping.wait(0.01):
            pass
        sent = 0
        for at in range(first, last + 1, PIECE):
            if region.stopping.is_set():
                self.close_connection = True
                return
            piece = data[at : min(at + PIECE, last + 1)]
            if region.link is not None:
                region.link.take(len(piece))
            with region.lock:
                if region.cut_after is not None and sent + len(piece) > region.cut_after and region.cut_times > 0:
                    region.cut_times -= 1
                    self.close_connection = True
                    return
                chunk, inside = divmod(at, CHUNK)
                if inside == 0 or at == first:
                    region.sent[sha256, chunk] += 1
                    region.begun.append((sha256, chunk))
                    if (sha256, chunk) in region.corrupt and region.corrupt_times != 0:
                        piece = bytes([piece[0] ^ 1]) + piece[1:]
                        if region.corrupt_times is not None:
                            region.corrupt_times -= 1
                region.bulk_bytes += len(piece)
            self.wfile.write(piece)
            sent += len(piece)
