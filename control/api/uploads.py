"""The REST API of uploads: announce, send, look, cancel.

Bytes come as the raw body of a PUT with a Content-Range, are handed to a worker thread by the mebibyte, and go to the
store from there. A client that sends nothing, or next to nothing, holds a coroutine and no thread, and one of the few
places there are no longer than PACE_S. Left to others:
what an upload is (control.uploads), who may (sessions; the middleware that bounds other bodies lets this route pass).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect

from bootplane.control.api import schemas
from bootplane.control.api.routes import guarded
from bootplane.control.api.sessions import Sessions
from bootplane.control.errors import CallerError, TooLarge, Unavailable
from bootplane.control.uploads.receiving import Receiving
from bootplane.control.uploads.rules import Wanted
from bootplane.control.uploads.uploads import Uploads

PACE_S, PACE_BYTES = 60.0, 64 << 10  # so many bytes in that time, else the client is gone, or as good as that
BATCH_BYTES = 1 << 20  # to the worker thread in one go
THREADS = 8
ENDS = "the region ends; it goes on with the upload when it is back"

Answer = TypeVar("Answer")
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})\Z")


class Intake:
    """The bodies that come in just now."""

    def __init__(self, uploads: Uploads, pace_s: float = PACE_S) -> None:
        self._uploads = uploads
        self._pace_s = pace_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")
        self._waits: set[asyncio.Timeout] = set()
        self._ending = False

    def end_waits(self) -> None:
        """The region ends: whoever waits for a client hears it now. Called on the loop."""
        self._ending = True
        self._uploads.end()
        for wait in list(self._waits):
            with contextlib.suppress(RuntimeError):  # it is over already
                wait.reschedule(0.0)

    def close(self) -> None:
        """After the loop has nothing left to do."""
        self._threads.shutdown(wait=True)

    async def receive(self, request: Request, upload_id: str, file_name: str) -> dict[str, Any]:
        start, end, total = content_range(request)
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > end - start:
            raise TooLarge(f"{file_name}: expected {end - start} bytes as its Content-Range says, got {announced}")
        opened: list[Receiving] = []  # also when this request is cancelled in the middle of it

        def open_() -> None:
            receiving = self._uploads.open(upload_id, file_name, start, total)
            if self._ending:  # while what was here of the file was hashed again
                receiving.abandon()
                raise Unavailable(ENDS)
            opened.append(receiving)

        try:
            await self._work(open_)
            await self._pump(request, opened[0], end - start)
            return await self._work(opened[0].end)
        except BaseException as error:  # whatever it is, also the end of the process: what has arrived is kept
            for receiving in opened:
                await self._work(receiving.abandon)
            if self._ending and isinstance(error, asyncio.CancelledError):  # it took longer than the server waits
                raise Unavailable(ENDS) from None
            raise

    async def _pump(self, request: Request, receiving: Receiving, limit: int) -> None:
        """The body into the store, batch by batch, *limit* bytes at most. A short one is a client that is gone."""
        loop = asyncio.get_running_loop()
        batch = bytearray()
        seen = paced = 0  # bytes: that came, and of them those that came in time
        try:
            async with asyncio.timeout(self._pace_s) as wait:
                self._waits.add(wait)
                try:
                    async for part in request.stream():
                        if self._ending:
                            raise TimeoutError
                        seen += len(part)
                        if seen > limit:
                            raise TooLarge(f"{receiving.file.name}: expected {limit} bytes, got {seen} or more")
                        batch += part
                        if seen - paced < PACE_BYTES:
                            continue
                        paced = seen
                        if len(batch) >= BATCH_BYTES:
                            wait.reschedule(None)  # the disk's time is not the client's
                            whole, batch = batch, bytearray()
                            await self._work(partial(receiving.write, whole))
                        wait.reschedule(loop.time() + self._pace_s)
                finally:
                    self._waits.discard(wait)
        except (TimeoutError, ClientDisconnect) as error:
            if batch:
                await self._work(partial(receiving.write, batch))
            if isinstance(error, ClientDisconnect):
                raise CallerError(f"{receiving.file.name}: the client has left; what has arrived is kept") from None
            if self._ending:
                raise Unavailable(ENDS) from None
            raise Unavailable(
                f"{receiving.file.name}: expected at least {PACE_BYTES} bytes in {self._pace_s:g} s, "
                f"got {seen - paced}; what has arrived is kept"
            ) from None
        if batch:
            await self._work(partial(receiving.write, batch))

    async def _work(self, work: Callable[[], Answer]) -> Answer:
        """On a thread of ours, to its end: a cancelled request must not leave two threads at one file."""
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError:  # closed: only what is under way is still put in order, in no time
            return work()
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait({future})
            if not future.cancelled():
                future.exception()  # taken: nobody else hears of it
            raise


def content_range(request: Request) -> tuple[int, int, int]:
    """(start, end, total) of the body in its file, end exclusive (RFC 9110, 14.4)."""
    text = request.headers.get("content-range", "")
    found = _RANGE.match(text)
    if found is not None:
        first, last, total = map(int, found.groups())
        if first <= last < total:
            return first, last + 1, total
    raise CallerError(f"Content-Range: expected bytes FIRST-LAST/TOTAL, got {text!r}")


def router(uploads: Uploads, sessions: Sessions, intake: Intake) -> APIRouter:
    api = guarded(sessions)

    @api.get("/uploads", response_model=schemas.Uploads)
    def list_uploads() -> Any:
        return {"items": uploads.list(), "next": None}

    @api.post("/uploads", response_model=schemas.Upload, status_code=201)
    def begin_upload(body: schemas.UploadIn) -> Any:
        wanted = [Wanted(file.ftype, file.sha256, file.size) for file in body.files]
        return uploads.begin(body.name, body.arch, body.title, body.base_image, wanted)

    @api.post("/uploads/check", response_model=schemas.UploadChecked)
    def check_upload(body: schemas.UploadCheckIn) -> Any:
        return uploads.check(body.name, body.arch, body.title, body.base_image)

    @api.get("/uploads/{key}", response_model=schemas.Upload)
    def show_upload(key: str) -> Any:
        return uploads.get(key)

    @api.delete("/uploads/{key}", response_model=schemas.Upload)
    def cancel_upload(key: str) -> Any:
        return uploads.cancel(key)

    @api.put(
        "/uploads/{key}/files/{file}",
        response_model=schemas.Upload,
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/octet-stream": {}}},
            "parameters": [
                {
                    "name": "Content-Range",
                    "in": "header",
                    "required": True,
                    "schema": {"type": "string"},
                    "description": "bytes FIRST-LAST/TOTAL: where in the file the body belongs",
                }
            ],
        },
    )
    async def send_file(key: str, file: str, request: Request) -> Any:
        return await intake.receive(request, key, file)

    return api
