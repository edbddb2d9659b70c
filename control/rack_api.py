"""What racks ask of a region: raw Starlette routes, for they are many and frequent (FastAPI costs three times as much).

    GET  /rack/v1/catalogue        long poll (If-None-Match, Prefer: wait=N) -> signed body, or 304
    GET  /rack/v1/chunks/<sha256>  the chunk list; 404 unknown, 410 removed
    GET  /rack/v1/boot             one machine's boot configuration, signed with its name; 404: nobody's name
    POST /rack/v1/beat             "I live" -> {"bulk": [...], "settings": limits set for this rack}
    POST /rack/v1/transfers        what machines have fetched -> {"taken", "refused", "sentences"}

Invariants: nothing is answered without a rack's secret; a waiting rack holds no thread and no lock; a machine that
waits for its boot configuration does not wait for the timeline.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bootplane.control import bootscript
from bootplane.control.api.problems import of_error
from bootplane.control.catalogue import Publication, Publisher
from bootplane.control.config import join_address, split_address
from bootplane.control.errors import BootplaneError, CallerError, Gone, NotFound, Unauthorised, Unavailable
from bootplane.control.events import Hub
from bootplane.control.racks import RackBook
from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.racks import RackRecord
from bootplane.control.tickets import Tickets
from bootplane.control.timeline import BootEvent, Timeline, machine_key
from bootplane.dataplane import transfers
from bootplane.dataplane.limits import Limits
from bootplane.dataplane.namespace import parse_boot_name
from bootplane.dataplane.store import Store

WAIT_LIMIT_S = 60
BEAT_BYTES = 64 << 10
NAME_BYTES = 512
SENTENCES = 3  # refusals of a batch that are told back
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
_WAIT = re.compile(r"\bwait=(\d{1,4})\b")
_ETAG = re.compile(r'\s*(?:W/)?"(\d{1,18})"\s*\Z')

Handler = Callable[[Request], Awaitable[Response]]
Answer = Callable[[Request, RackRecord], Awaitable[Response]]


class RackApi:
    def __init__(
        self,
        *,
        region_id: str,
        publisher: Publisher,
        racks: RackBook,
        store: Store,
        blobs: BlobRepository,
        hub: Hub,
        bulk: Callable[[], list[str]],
        timeline: Timeline,
        tickets: Tickets | None = None,
    ) -> None:
        self._region_id = region_id
        self._publisher = publisher
        self._racks = racks
        self._store = store
        self._blobs = blobs
        self._hub = hub
        self._bulk = bulk
        self._timeline = timeline
        self._tickets = tickets
        self._chosen: tuple[int, Mapping[str, bootscript.Ephemeral]] = (-1, {})

    def routes(self) -> list[Route]:
        return [
            Route("/rack/v1/catalogue", self._guarded(self.catalogue), methods=["GET"]),
            Route("/rack/v1/chunks/{sha256}", self._guarded(self.chunks), methods=["GET"]),
            Route("/rack/v1/boot", self._guarded(self.boot), methods=["GET"]),
            Route("/rack/v1/beat", self._guarded(self.beat), methods=["POST"]),
            Route("/rack/v1/transfers", self._guarded(self.transfers), methods=["POST"]),
        ]

    def _guarded(self, answer: Answer) -> Handler:
        async def handler(request: Request) -> Response:
            rack = self._racks.authenticate(request.headers.get("authorization"))
            try:
                if rack is None:
                    raise Unauthorised(f"{request.url.path}: expected a rack's secret as Authorization: Bearer")
                return await answer(request, rack)
            except BootplaneError as error:
                return of_error(error)

        return handler

    async def catalogue(self, request: Request, rack: RackRecord) -> Response:
        known = _ETAG.match(request.headers.get("if-none-match", ""))
        wait = _WAIT.search(request.headers.get("prefer", ""))
        version = int(known[1]) if known else -1
        wait_s = min(int(wait[1]), WAIT_LIMIT_S) if wait and known else 0
        if known and self._racks.has_catalogue(rack, version):
            self._hub.publish("racks", {"id": rack.id})
        published = await self._publisher.newer_than(version, wait_s)
        if published is None:
            current = self._publisher.current
            if current is None:
                raise Unavailable("catalogue: nothing is published yet, the region is starting")
            return Response(status_code=304, headers=self._headers(request, current))
        headers = self._headers(request, published) | {"Bootplane-Signature": published.signature}
        return Response(published.body, headers=headers, media_type="application/zstd")

    async def chunks(self, request: Request, _rack: RackRecord) -> Response:
        sha256 = request.path_params["sha256"]
        if not _HEX64.match(sha256):
            raise CallerError(f"chunk list: expected a sha256 of 64 lower-case hex digits, got {sha256[:80]!r}")
        found = await run_in_threadpool(self._chunk_list, sha256)
        return Response(found, media_type="application/octet-stream", headers={"Cache-Control": "max-age=31536000"})

    async def boot(self, request: Request, rack: RackRecord) -> Response:
        name = request.query_params.get("name", "")
        proto = request.query_params.get("proto", "")
        if not name or len(name.encode("utf-8", "replace")) > NAME_BYTES or not name.isprintable():
            raise CallerError(f"boot: expected a name of 1 to {NAME_BYTES} printable bytes, got {name[:80]!r}")
        if proto not in ("http", "tftp"):
            raise CallerError(f"boot: expected http or tftp as proto, got {proto[:80]!r}")
        place = bootscript.Place(
            self._region_id,
            _address(request, "http"),
            _address(request, "tftp"),
            pxelinux_has_http=self._pxelinux_has_http(),
        )
        rendered = bootscript.compose(name, proto, place, self._ephemerals())
        if rendered is None:
            raise NotFound(f"boot configuration {name!r}: nobody's name")
        boot = parse_boot_name(name)
        mac, peer = boot.mac if boot else None, _peer(request)
        if rendered.boots and self._tickets is not None:
            place = dataclasses.replace(place, ticket=self._tickets.issue(mac, rack.id, peer))
            with_ticket = bootscript.compose(name, proto, place, self._ephemerals())
            if with_ticket is not None and with_ticket.boots:  # else it makes a command line too long: boot without
                rendered = with_ticket
        self._timeline.note(_told(name, proto, rendered, mac, rack.id, peer))
        body = rendered.text.encode()
        headers = {"Bootplane-Signature": self._publisher.key.sign_boot(name, body)}
        return Response(body, headers=headers, media_type="text/plain; charset=utf-8")

    async def beat(self, request: Request, rack: RackRecord) -> Response:
        body = await _body(request, BEAT_BYTES, f"beat of rack {rack.id}")
        try:
            report = json.loads(body)
        except (ValueError, RecursionError):
            report = None
        if not isinstance(report, dict):
            raise CallerError(f"beat of rack {rack.id}: expected a JSON object, got something else")
        changed, limits = await run_in_threadpool(self._hear, rack, report)
        if changed:
            self._hub.publish("racks", {"id": rack.id})
        return JSONResponse({"bulk": self._bulk_for(request), "settings": limits._asdict()})

    def _hear(self, rack: RackRecord, report: Mapping[str, Any]) -> tuple[bool, Limits]:
        return self._racks.beat(rack, report), self._racks.limits(rack.id)

    async def transfers(self, request: Request, rack: RackRecord) -> Response:
        body = await _body(request, transfers.MAX_BODY_BYTES, f"transfers of rack {rack.id}")
        return JSONResponse(await run_in_threadpool(self._take, body, rack))

    def _take(self, body: bytes, rack: RackRecord) -> dict[str, object]:
        try:
            batch = transfers.decode_batch(body)
            self._timeline.take(batch, rack.id)
        except transfers.BatchError as error:
            raise CallerError(f"rack {rack.id}: {error}") from None
        except SQLAlchemyError as error:
            reason = getattr(error, "orig", None) or error
            raise Unavailable(f"transfers of rack {rack.id}: the database does not take them: {reason}") from None
        return {
            "taken": len(batch.transfers),
            "refused": len(batch.refused),
            "sentences": list(batch.refused[:SENTENCES]),
        }

    def _pxelinux_has_http(self) -> bool:
        """Whether PXELINUX is lpxelinux.0 here, under whichever name it was loaded."""
        published = self._publisher.current
        names = published.contents.names if published else {}
        return "lpxelinux.0" in names or "pxelinux.0" not in names

    def _ephemerals(self) -> Mapping[str, bootscript.Ephemeral]:
        """What unknown machines boot; chosen once per catalogue version."""
        published = self._publisher.current
        if published is None:
            return {}
        if self._chosen[0] != published.version:
            self._chosen = (published.version, bootscript.choose(published.contents.offered))
        return self._chosen[1]

    def _chunk_list(self, sha256: str) -> bytes:
        if self._blobs.get(sha256) is not None:
            return self._store.chunk_list(sha256)
        if self._blobs.is_removed(sha256):
            raise Gone(f"chunk list of {sha256}: the file has been removed")
        raise NotFound(f"chunk list of {sha256}: there is no such file here")

    def _headers(self, request: Request, published: Publication) -> dict[str, str]:
        return {
            "ETag": f'"{published.version}"',
            "Bootplane-Bulk": ",".join(self._bulk_for(request)),
            "Cache-Control": "no-store",
        }

    def _bulk_for(self, request: Request) -> list[str]:
        """Where blobs are to be had, as this rack can reach it: a wildcard becomes the name it called us by."""
        found = []
        for address in self._bulk():
            host, port = split_address(address)
            if host in ("0.0.0.0", "::"):
                host = request.url.hostname or host
            found.append(join_address(host, port))
        return found


def _address(request: Request, key: str) -> str:
    """The rack's own address as machines reach it; it goes into scripts, so it must be nothing but an address."""
    value = request.query_params.get(key, "")
    try:
        host, port = split_address(value)
    except ValueError as error:
        raise CallerError(f"boot: {key}: {error}") from None
    if not re.fullmatch(r"[A-Za-z0-9.:%-]{1,255}", host):
        raise CallerError(f"boot: {key}: expected HOST:PORT, got {value[:80]!r}")
    return join_address(host, port)


def _peer(request: Request) -> str:
    """The machine's address as its rack sees it; "" when it says none."""
    try:
        return machine_key(request.query_params.get("peer", "")).address
    except CallerError:
        return ""


async def _body(request: Request, limit: int, what: str) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise CallerError(f"{what}: expected at most {limit} bytes, got more")
    return body


def _told(name: str, proto: str, rendered: bootscript.Rendered, mac: str | None, rack: str, peer: str) -> BootEvent:
    """What a configuration makes its machine do: boot, hear why there is nothing, or ask for the next one."""
    detail: dict[str, object] = {"protocol": proto}
    outcome = "next"
    if rendered.boots:
        outcome = "boots"
        detail["boots"] = rendered.boots
    elif rendered.reason:
        outcome = "nothing"
        detail["why"] = rendered.reason
    return BootEvent(time.time(), "config", mac, peer, rack, name, outcome, detail)
