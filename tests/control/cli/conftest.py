"""A region made of fixed answers, on a socket of its own: what the command line meets, without the server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bootplane.control.cli.main import app
from tests.fakes import documents

TOKEN = "c0ffee" * 8
SYNC = documents.sync(documents.sync_file("noble/amd64/1/boot-kernel", 2048, sha256="a" * 64))
IMAGE = {
    "name": "ubuntu/noble/amd64/ga-24.04",
    "os": "ubuntu",
    "release": "noble",
    "title": "24.04 LTS",
    "arch": "amd64",
    "subarch": "ga-24.04",
    "kflavor": "generic",
    "label": "stable",
    "version": "20261120",
    "complete": True,
    "served": "20261120",
    "size": 2048,
    "source": "images",
    "files": [
        {
            "name": "boot-kernel",
            "ftype": "boot-kernel",
            "sha256": "a" * 64,
            "size": 2048,
            "names": ["images/aaaaaaaaaaaaaaaa/ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"],
            "packages": False,
        }
    ],
}
CACHE = {
    "rack": "rack1", "name": "a07", "heard": "2026-11-21T10:00:00Z", "age_s": 3.4, "up_s": 7269.2,
    "limit_bytes": 4 << 30, "charged_bytes": 3328599654, "condemned_bytes": 0, "segments": 812,
    "open_segments": 812, "reopened_segments": 0,
    "protected_bytes": 4 << 20, "reused_bytes": 1 << 30, "made_segments": 812, "ghost_double_segments": 0,
    "ghost_quadruple_segments": 0, "evicted_room_segments": 0, "evicted_limit_segments": 0, "evicted_disk_segments": 0,
    "kept_segments": 0, "misfit_segments": 0, "rechecked_chunks": 0, "rotten_chunks": 0, "throttled_s": 0.0,
    "scrub_passes": 0, "scrub_chunks": 0, "scrub_damaged": 0, "scrub_last_pass_s": 0.0,
    "evicted_segments": 0, "evicted_bytes": 0, "filled_bytes": 404 << 20, "refused_chunks": 0,
    "present_bytes": 404 << 20, "upstream_bytes": 404 << 20, "served_bytes": 64 * (404 << 20),
    "transfers": 1204, "hits": 1168, "misses": 30, "coalesced": 6, "in_place_files": 0,
    "upstream_limit_bytes_s": 0, "disk_bytes": 50 << 30, "disk_free_bytes": 20 << 30,
    "files": [
        {"name": "ubuntu/noble/amd64/ga-24.04/squashfs", "sha256": "a" * 64, "size": 500 << 20,
         "present_bytes": 403 << 20, "percent": 80},
        {"name": "", "sha256": "b" * 64, "size": 1 << 20, "present_bytes": 1 << 20, "percent": 100},
    ],
    "files_total": 2, "files_age_s": 0.0, "evictions": [], "refusals": [],
}  # fmt: skip
FORECAST = {
    "rack": "rack1", "name": "a07", "heard": "2026-11-21T10:00:00Z", "age_s": 3.4,
    "image": "ubuntu/noble/amd64/ga-24.04", "version": "20261120", "limit_bytes": 4 << 30, "charged_bytes": 4 << 30,
    "size": 512 << 20, "present_bytes": 12 << 20, "in_place_bytes": 0, "needed_bytes": 500 << 20,
    "free_bytes": 100 << 20, "evicted_bytes": 400 << 20, "short_bytes": 0,
    "files": [{"name": "squashfs", "sha256": "a" * 64, "size": 512 << 20, "bytes": 12 << 20}],
    "evicted": [
        {"name": "centos/8/amd64/generic/root-tgz", "sha256": "c" * 64, "size": 300 << 20, "bytes": 300 << 20},
        {"name": "", "sha256": "", "size": 0, "bytes": 100 << 20},
    ],
}  # fmt: skip


@dataclass
class Call:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeRegion:
    """Answers ``answers["GET /status"]``: a document, or (status, content type, bytes), or a list used up in order."""

    answers: dict[str, Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    address: str = ""

    def problem(self, key: str, status: int, detail: str) -> None:
        body = {"type": "about:blank", "title": "Refused", "status": status, "detail": detail}
        self.answers[key] = (status, "application/problem+json", json.dumps(body).encode())

    def answer(self, key: str) -> tuple[int, str, bytes]:
        found = self.answers.get(key)
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if found is None:
            body = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": f"nothing at {key}"}
            return 404, "application/problem+json", json.dumps(body).encode()
        if isinstance(found, tuple):
            return found
        return 200, "application/json", json.dumps(found).encode()


def items(*documents: Any) -> dict[str, Any]:
    return {"items": list(documents), "next": None}


def _handler(region: FakeRegion) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.removeprefix("/api/v1")
            region.calls.append(Call(self.command, path, dict(self.headers), json.loads(raw) if raw else None))
            status, kind, body = region.answer(f"{self.command} {path}")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                status, kind, body = 401, "application/problem+json", b'{"type": "urn:bootplane:unauthorised"}'
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = _serve

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def region() -> Iterator[FakeRegion]:
    fake = FakeRegion(
        answers={
            "GET /status": documents.status(sync=SYNC),
            "GET /sync": SYNC,
            "POST /sync": SYNC,
            "GET /sources": items(documents.source()),
            "GET /selections": items(documents.selection(id=7)),
            "GET /images": items(IMAGE),
            f"GET /images/{IMAGE['name']}": IMAGE,
            "GET /racks": items(documents.rack()),
            "GET /racks/rack1": documents.rack(),
            "PATCH /racks/rack1": documents.rack(),
            "GET /racks/rack1/cache": CACHE,
            "GET /racks/rack1/forecast?image=ubuntu%2Fnoble%2Famd64%2Fga-24.04": FORECAST,
            "GET /machines": items(),
        }
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    fake.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def data(tmp_path: Path, region: FakeRegion) -> Path:
    """A data directory whose run.json names the fake region."""
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "run.json").write_text(json.dumps({"region": region.address}))
    (directory / "admin-token").write_text(TOKEN + "\n")
    return directory


Bootplane = Callable[..., Result]


@pytest.fixture
def bootplane(data: Path, monkeypatch: pytest.MonkeyPatch) -> Bootplane:
    """Runs a command line against the fake region: ``bootplane("source", "list")``."""
    for name in ("BOOTPLANE_URL", "BOOTPLANE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BOOTPLANE_DATA", str(data))
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
