"""What a machine says of its boot, under /MAAS/metadata/: raw Starlette routes, as for racks.

    GET  /MAAS/metadata/boot/<ticket>   200 the first time, with what the ticket is for; 410 ever after (HEAD: no use)
    POST /MAAS/metadata/boot/<ticket>   one report, JSON in the form of cloud-init's webhook -> 204
    any other name                      404

Both become events of the boot timeline ("ticket", "report"). Refusals are one sentence of plain text, for they are read
by a script in an initrd or by a person at its console.

Invariants: a machine's address is the one its packets come from, as this region's own socket says, or as a rack says
that proves itself with its secret (Bootplane-Rack); nobody else's X-Forwarded-For is believed. Of a report only the
fields named here are kept, cut to size and printable: they end up on an operator's terminal. Files are named and
measured, not kept. 204 means that a report is kept; a ticket's answer waits for no database. A storm of reports leaves
the region's other threads alone.

Left to others: what a ticket is worth (tickets), keeping events (timeline), everything a machine is told (later steps).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bootplane.control.errors import BootplaneError, CallerError, NotFound, Unavailable
from bootplane.control.racks import RackBook
from bootplane.control.storage.racks import RackRecord
from bootplane.control.tickets import Ticket, Tickets
from bootplane.control.timeline import BootEvent, Timeline

REPORT_BYTES = 64 << 10
READ_BYTES = 1 << 20  # as much as a rack forwards is read before it is refused: an answer to half a body may be lost
READ_S = 30.0
WRITERS = 8  # threads that wait for the database at a time
FIELDS = {"name": 255, "description": 1000, "event_type": 32, "origin": 64, "result": 32}  # characters kept
FILES = 16
PATH_CHARACTERS = 255
END_OF_TIME = 1e11  # Unix seconds; beyond, a timestamp is none

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
NO_STORE = {"Cache-Control": "no-store"}

Handler = Callable[[Request], Awaitable[Response]]

_LOG = logging.getLogger("bootplane.metadata")


class MetadataApi:
    def __init__(
        self,
        *,
        region_id: str,
        tickets: Tickets,
        racks: RackBook,
        timeline: Timeline,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._region_id = region_id
        self._tickets = tickets
        self._racks = racks
        self._timeline = timeline
        self._clock = clock
        self._writers = asyncio.Semaphore(WRITERS)

    def routes(self) -> list[Route]:
        return [
            Route("/MAAS/metadata/boot/{ticket}", _told(self.boot), methods=["GET", "POST"]),
            Route("/MAAS/metadata/{name:path}", _told(self.nothing), methods=METHODS),
        ]

    async def boot(self, request: Request) -> Response:
        word = request.path_params["ticket"]
        rack = self._rack(request)
        address = _address(request, rack)
        if request.method == "POST":
            report = await _report(request)
            event = self._event("report", self._tickets.report(word), rack, address, report)
            async with self._writers:
                await run_in_threadpool(self._keep, event)
            return Response(status_code=204, headers=NO_STORE)
        if request.method == "HEAD":
            return self._said(self._tickets.look(word), rack, address)
        ticket = self._tickets.claim(word, address)
        self._timeline.note(self._event("ticket", ticket, rack, address, {"name": "boot", "result": "claimed"}))
        return self._said(ticket, rack, address)

    async def nothing(self, request: Request) -> Response:
        raise NotFound(f"{request.url.path[:255]!r}: there is nothing of this name")

    def _rack(self, request: Request) -> RackRecord | None:
        """The rack that has forwarded the request and proves it."""
        secret = request.headers.get("bootplane-rack")
        return self._racks.authenticate(f"Bearer {secret}") if secret else None

    def _said(self, ticket: Ticket, rack: RackRecord | None, address: str) -> Response:
        facts = {
            "region": self._region_id,
            "rack": rack.id if rack else ticket.rack,
            "mac": ticket.mac or "unknown",
            "address": address,
        }
        return PlainTextResponse("".join(f"{key}: {value}\n" for key, value in facts.items()), headers=NO_STORE)

    def _event(
        self, kind: str, ticket: Ticket, rack: RackRecord | None, address: str, report: Mapping[str, Any]
    ) -> BootEvent:
        detail = {name: value for name, value in report.items() if name not in ("name", "result")}
        detail["boot"] = ticket.id
        if ticket.address not in ("", address):
            detail["boot_loader"] = ticket.address  # another lease than the kernel's
        return BootEvent(
            at=self._clock(),
            kind=kind,
            mac=ticket.mac,
            address=address,
            rack=rack.id if rack else ticket.rack,
            name=report["name"],
            outcome=report.get("result") or report.get("event_type", ""),
            detail=detail,
        )

    def _keep(self, event: BootEvent) -> None:
        try:
            self._timeline.add([event])
        except SQLAlchemyError as error:
            reason = getattr(error, "orig", None) or error
            _LOG.error("a boot report of %s is lost, the database does not take it: %s", event.address, reason)
            raise Unavailable("boot report: expected to be kept, and the region's database does not take it") from None


def _told(answer: Handler) -> Handler:
    async def handler(request: Request) -> Response:
        try:
            return await answer(request)
        except BootplaneError as error:
            return PlainTextResponse(f"{error}\n", error.status, headers=NO_STORE)

    return handler


def _address(request: Request, rack: RackRecord | None) -> str:
    told = request.headers.getlist("x-forwarded-for") if rack else []
    for text in (*(told if len(told) == 1 else ()), request.client.host if request.client else ""):
        try:
            address = ipaddress.ip_address(text.partition("%")[0])  # a zone is this host's own word
        except ValueError:
            continue
        return str(getattr(address, "ipv4_mapped", None) or address)
    return ""


async def _report(request: Request) -> dict[str, Any]:
    """The fields of a report that are kept. Raises CallerError with the status that fits."""
    body = await _body(request)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        said = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        # A JSON body is taken whatever it is called: busybox wget says that everything it posts is a form.
        status = 400 if said in ("", "application/json") else 415
        raise _refusal(
            status, f"boot report: expected a JSON object, got {len(body)} bytes of something else"
        ) from None
    if not isinstance(found, dict):
        raise _refusal(400, f"boot report: expected a JSON object, got {type(found).__name__}")
    report: dict[str, Any]
    report = {name: _text(name, found[name], size) for name, size in FIELDS.items() if found.get(name) is not None}
    if not report.get("name"):
        raise _refusal(400, "boot report: expected a name of what is reported, got none")
    if found.get("timestamp") is not None:
        report["timestamp"] = _timestamp(found["timestamp"])
    if found.get("files") is not None:
        report["files"] = _files(found["files"])
    return report


async def _body(request: Request) -> bytes:
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(READ_S):
            async for part in request.stream():
                size += len(part)
                if size > READ_BYTES:
                    break
                if size <= REPORT_BYTES:
                    body += part
    except TimeoutError:
        raise _refusal(408, f"boot report: expected all of it within {READ_S:.0f} s, got {size} bytes") from None
    except ClientDisconnect:
        raise _refusal(400, f"boot report: expected all of it, got {size} bytes and the end") from None
    if size > REPORT_BYTES:
        raise _refusal(413, f"boot report: expected at most {REPORT_BYTES} bytes, got more")
    return bytes(body)


def _text(name: str, value: object, size: int) -> str:
    if not isinstance(value, str):
        raise _refusal(400, f"boot report: expected a string as {name}, got {type(value).__name__}")
    return "".join(c if c.isprintable() else " " for c in value[:size])


def _timestamp(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < END_OF_TIME:
        raise _refusal(400, "boot report: expected Unix seconds as timestamp, got something else")
    return float(value)


def _files(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or len(value) > FILES or not all(isinstance(each, dict) for each in value):
        raise _refusal(400, f"boot report: expected a list of at most {FILES} objects as files, got something else")
    return [_file(each) for each in value]


def _file(entry: Mapping[str, Any]) -> dict[str, Any]:
    content = entry.get("content") or ""
    if not isinstance(content, str):
        raise _refusal(400, f"boot report: expected a string as content of a file, got {type(content).__name__}")
    path = _text("path of a file", entry.get("path", ""), PATH_CHARACTERS)
    return {"path": path, "content_characters": len(content)}


def _refusal(status: int, text: str) -> CallerError:
    error = CallerError(text)
    error.status = status
    return error
