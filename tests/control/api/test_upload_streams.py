"""The body of an upload on the wire: a client that stalls or leaves, a region that ends, and what stays each time."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bootplane.control.app import Region
from tests.fakes import archives

PIECE = 100_000


class Sender:
    """One PUT as ASGI sees it: *pieces*, then *then* is awaited for the next message."""

    def __init__(self, region: Region, upload: str, data: bytes, pieces: int) -> None:
        self.region, self.upload, self.data = region, upload, data
        self.pieces = [data[i * PIECE : (i + 1) * PIECE] for i in range(pieces)]
        self.answer: list[dict[str, Any]] = []
        self.asked = 0

    async def run(self, then: Callable[[], Awaitable[dict[str, Any]]]) -> tuple[int, dict[str, Any], dict[str, str]]:
        async def receive() -> dict[str, Any]:
            self.asked += 1
            if self.pieces:
                return {"type": "http.request", "body": self.pieces.pop(0), "more_body": True}
            return await then()

        async def send(message: Any) -> None:
            self.answer.append(message)

        size = len(self.data)
        scope = {
            "type": "http", "http_version": "1.1", "method": "PUT", "scheme": "http", "query_string": b"",
            "path": f"/api/v1/uploads/{self.upload}/files/root-tgz", "raw_path": b"", "root_path": "",
            "server": ("127.0.0.1", 1), "client": ("127.0.0.1", 2), "asgi": {"version": "3.0"},
            "headers": [
                (b"authorization", f"Bearer {self.region.admin_token}".encode()),
                (b"content-range", f"bytes 0-{size - 1}/{size}".encode()),
                (b"content-length", str(size).encode()),
            ],
        }  # fmt: skip
        await self.region.app(scope, receive, send)
        start = self.answer[0]
        headers = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], json.loads(self.answer[1]["body"]), headers


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return archives.archive(tmp_path, "tgz").read_bytes() + bytes(5 * PIECE)


@pytest.fixture
def sender(region: Region, client: TestClient, data: bytes) -> Sender:
    listed = {"ftype": "root-tgz", "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    upload = client.post("/api/v1/uploads", json={"name": "web", "arch": "amd64", "files": [listed]}).json()
    return Sender(region, upload["id"], data, 3)


def kept(region: Region) -> int:
    return sum(region.store.partial_path(sha256).stat().st_size for sha256 in region.store.partials())


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


def test_a_client_that_stalls_is_sent_away_holds_no_thread_and_keeps_what_came(region: Region, sender: Sender) -> None:
    region.intake._pace_s = 0.3
    busy: list[int] = []

    async def stalled() -> dict[str, Any]:
        busy.append(sum(thread.name.startswith("upload_") for thread in threading.enumerate()))
        busy.append(region.intake._threads._work_queue.qsize())
        return await never()

    status, problem, headers = asyncio.run(sender.run(stalled))
    assert status == 503 and "expected at least 65536 bytes in 0.3 s, got 0;" in problem["detail"]
    assert headers["connection"] == "close"
    assert kept(region) == 3 * PIECE
    assert region.uploads.figures()["receiving"] == 0 and busy[1] == 0


class Hours(asyncio.SelectorEventLoop):
    """A loop whose clock the test moves on, and nothing else."""

    passed_s = 0.0

    def time(self) -> float:
        return self.passed_s


@pytest.mark.parametrize(("nbytes", "status"), [(1, 503), (60_000, 503), (66_000, 200)])
def test_a_client_that_drips_gives_its_place_up_and_a_slow_one_comes_to_the_end(
    region: Region, sender: Sender, nbytes: int, status: int
) -> None:
    """So many bytes every 59 s: no pause is ever as long as the limit."""
    loop = Hours()
    left = memoryview(sender.data)[len(sender.pieces) * PIECE :]

    async def dripping() -> dict[str, Any]:
        nonlocal left
        loop.passed_s += 59.0
        for _ in range(3):  # turns of the loop, in which what is due happens
            await asyncio.sleep(0)
        drop, left = left[:nbytes], left[nbytes:]
        return {"type": "http.request", "body": bytes(drop), "more_body": bool(left)}

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        got, document, _ = runner.run(sender.run(dripping))
    assert got == status
    if status == 503:
        assert f"expected at least 65536 bytes in 60 s, got {nbytes};" in document["detail"]
        assert 3 * PIECE <= kept(region) <= 3 * PIECE + nbytes
    else:
        assert document["state"] == "complete"
    assert region.uploads.figures()["receiving"] == 0


def test_a_client_that_leaves_keeps_what_came(region: Region, client: TestClient, sender: Sender) -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    status, problem, _ = asyncio.run(sender.run(gone))
    assert status == 400 and "what has arrived is kept" in problem["detail"]
    assert region.uploads.figures()["receiving"] == 0
    shown = client.get(f"/api/v1/uploads/{sender.upload}").json()
    assert shown["done"] == kept(region) == 3 * PIECE


def test_a_region_that_ends_sends_clients_away_at_once_and_keeps_what_came(region: Region, sender: Sender) -> None:
    async def ends() -> dict[str, Any]:
        region.intake.end_waits()
        return await never()

    async def bounded() -> Any:
        return await asyncio.wait_for(sender.run(ends), 20)

    status, problem, _ = asyncio.run(bounded())
    assert status == 503 and "goes on with the upload when it is back" in problem["detail"]
    assert kept(region) == 3 * PIECE


def test_a_region_that_ends_while_it_hashes_a_part_again_leaves_no_traceback_and_nobody_at_the_file(
    region: Region, sender: Sender, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hashing, go_on = threading.Event(), threading.Event()
    real = region.uploads.open

    def slow(*words: Any) -> Any:
        receiving = real(*words)
        hashing.set()
        assert go_on.wait(20)
        return receiving

    monkeypatch.setattr(region.uploads, "open", slow)

    async def ended() -> None:
        task = asyncio.create_task(sender.run(never))
        await asyncio.to_thread(hashing.wait, 20)
        region.intake.end_waits()
        task.cancel()  # the server's patience is over
        closing = asyncio.create_task(asyncio.to_thread(region.intake.close))
        while not region.intake._threads._shutdown:
            await asyncio.sleep(0)
        go_on.set()
        await closing
        status, problem, _ = await task
        assert status == 503 and "goes on with the upload when it is back" in problem["detail"]

    asyncio.run(ended())
    gc.collect()  # a future whose exception nobody took says so when it goes
    assert region.uploads.figures()["receiving"] == 0
    assert [record for record in caplog.records if record.exc_info] == []


def test_a_request_that_is_cancelled_in_the_middle_of_a_write_leaves_one_thread_at_the_file(
    region: Region, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootplane.control.api.uploads.BATCH_BYTES", 1)
    writing, go_on = threading.Event(), threading.Event()
    from bootplane.control.uploads.receiving import Receiving

    real = Receiving.write

    def slow(self: Receiving, data: bytearray) -> None:
        writing.set()
        assert go_on.wait(20)
        real(self, data)

    monkeypatch.setattr(Receiving, "write", slow)

    async def cancelled() -> None:
        task = asyncio.create_task(sender.run(never))
        await asyncio.to_thread(writing.wait, 20)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert kept(region) == PIECE and region.uploads.figures()["receiving"] == 0
