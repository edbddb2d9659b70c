"""The demo's boot source: a web server over a folder, in a process of its own, that counts the body bytes it sends.

GET and HEAD, one Range, ETag by size and time; ``/-/counters`` tells path -> [requests, body bytes]. It stands for
somebody else's mirror, so it shares no code with what it is there to check.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COUNTERS = "/-/counters"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")


class SourceServer(ThreadingHTTPServer):
    """Serves *root* and counts."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], root: Path) -> None:
        super().__init__(address, _Handler)
        self.root = root.resolve()
        self.lock = threading.Lock()
        self.sent: dict[str, list[int]] = {}

    def count(self, path: str, size: int) -> None:
        with self.lock:
            entry = self.sent.setdefault(path, [0, 0])
            entry[0] += 1
            entry[1] += size


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SourceServer

    def log_message(self, format: str, *args: object) -> None:  # one line per request would bury the demo's own
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if path == COUNTERS:
            with self.server.lock:
                self._text(200, json.dumps(self.server.sent), "application/json")
            return
        file = (self.server.root / path.lstrip("/")).resolve()
        if self.server.root not in file.parents or not file.is_file():
            self._text(404, f"{path}: no such file\n")
            return
        with file.open("rb") as source:
            status = os.fstat(source.fileno())
            tag = f'"{status.st_size:x}-{status.st_mtime_ns:x}"'
            start, end = 0, status.st_size
            asked = _RANGE.match(self.headers.get("Range", ""))
            if asked and self.headers.get("If-Range", tag) == tag:
                start = int(asked[1])
                end = min(end, int(asked[2]) + 1) if asked[2] else end
                if start >= end:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{status.st_size}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(end - start))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", tag)
            self.end_headers()
            if self.command == "GET":
                self._send(path, source.fileno(), start, end)

    def _send(self, path: str, fd: int, start: int, end: int) -> None:
        self.wfile.flush()
        at = start
        try:
            while at < end:
                done = os.sendfile(self.connection.fileno(), fd, at, min(end - at, 1 << 20))
                if done == 0:
                    break
                at += done
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self.server.count(path, at - start)

    def _text(self, status: int, text: str, kind: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def main() -> int:
    """Serves a folder on loopback; prints ``ready H:P`` and ends when its standard input closes."""
    parser = argparse.ArgumentParser(prog="bootplane-demo-source")
    parser.add_argument("root", type=Path)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    server = SourceServer(("127.0.0.1", options.port), options.root)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"ready 127.0.0.1:{server.server_address[1]}", flush=True)
    shutil.copyfileobj(sys.stdin.buffer, open(os.devnull, "wb"))  # noqa: SIM115, PTH123 - until the parent is gone
    server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
