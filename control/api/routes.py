"""The REST API as a table, in the order of the manual. Handlers are one line each: RegionService does the work.

Plain functions run in a thread pool, because the service reads a database; only the event stream is a coroutine. Every
route under /api/v1 needs the admin token, or for reading an open session.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.security import HTTPBearer
from starlette.responses import StreamingResponse

from bootplane.control.api import events, schemas
from bootplane.control.api.sessions import Sessions
from bootplane.control.errors import Unauthorised
from bootplane.control.events import Hub
from bootplane.control.service import RegionService

PREFIX = "/api/v1"
Limit = Annotated[int, Query(ge=1, le=1000)]
After = Annotated[str | None, Query(max_length=128)]
Since = Annotated[str | None, Query(max_length=64)]
Name = Annotated[str, Query(max_length=256)]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "content": {"application/problem+json": {}}}
    for status in (400, 401, 404, 409, 422)
}


def guarded(sessions: Sessions) -> APIRouter:
    """A router of this API without a route: its prefix, its problems, and who may call."""

    def authorised(request: Request) -> None:
        if not sessions.is_authorised(request):
            raise Unauthorised(
                f"{request.method} {request.url.path}: expected the region's admin token as Authorization: Bearer"
            )

    return APIRouter(
        prefix=PREFIX,
        dependencies=[Depends(authorised), Depends(HTTPBearer(auto_error=False, description="DIR/admin-token"))],
        responses=_ERRORS,
    )


def router(service: RegionService, sessions: Sessions, hub: Hub) -> APIRouter:
    api = guarded(sessions)

    @api.get("/status", response_model=schemas.Status)
    def status() -> Any:
        return service.status()

    @api.get("/selections", response_model=schemas.Selections)
    def list_selections() -> Any:
        return {"items": service.selections(), "next": None}

    @api.post("/selections", response_model=schemas.Selection, status_code=201)
    def add_selection(body: schemas.SelectionIn) -> Any:
        return service.add_selection(body.os, body.release, body.arches, body.subarches, body.labels)

    @api.delete("/selections/{key}", response_model=schemas.Selection)
    def remove_selection(key: str) -> Any:
        return service.remove_selection(key)

    @api.get("/sync", response_model=schemas.Sync)
    def sync_status() -> Any:
        return service.sync_status()

    @api.post("/sync", response_model=schemas.Sync, status_code=202)
    def start_sync() -> Any:
        return service.start_sync()

    @api.patch("/sync", response_model=schemas.Sync)
    def set_sync(body: schemas.SyncIn) -> Any:
        return service.set_sync(body.model_dump(exclude_unset=True))

    @api.post("/sync/stop", response_model=schemas.Sync)
    def stop_sync() -> Any:
        return service.stop_sync()

    @api.get("/images", response_model=schemas.Images, response_model_exclude_none=False)
    def list_images() -> Any:
        return {"items": service.images(), "next": None}

    @api.get("/images/{name:path}", response_model=schemas.Image)
    def show_image(name: str, packages: bool = False) -> Any:
        return service.image(name, packages=packages)

    @api.get("/machines", response_model=schemas.Machines)
    def list_machines(limit: Limit = 500, after: After = None) -> Any:
        return service.machines(limit, after)

    @api.get("/machines/{key}/timeline", response_model=schemas.BootTimeline)
    def machine_timeline(key: str, limit: Limit = 500, since: Since = None, after: After = None) -> Any:
        return service.timeline(key, limit, since, after)

    @api.get("/racks", response_model=schemas.Racks)
    def list_racks() -> Any:
        return {"items": service.racks(), "next": None}

    @api.get("/racks/{key}", response_model=schemas.Rack)
    def show_rack(key: str) -> Any:
        return service.rack(key)

    @api.patch("/racks/{key}", response_model=schemas.Rack)
    def set_rack(key: str, body: schemas.RackIn) -> Any:
        return service.set_rack_limits(key, body.model_dump(exclude_unset=True))

    @api.get("/racks/{key}/cache", response_model=schemas.RackCache)
    def rack_cache(key: str) -> Any:
        return service.rack_cache(key)

    @api.get("/racks/{key}/forecast", response_model=schemas.RackForecast)
    def rack_forecast(key: str, image: Name) -> Any:
        return service.rack_forecast(key, image)

    @api.post("/rack-tokens", response_model=schemas.RackToken, status_code=201)
    def new_rack_token(body: schemas.RackTokenIn) -> Any:
        return service.new_rack_token(body.name)

    @api.get("/events", response_class=StreamingResponse)
    async def event_stream() -> StreamingResponse:
        return events.stream(hub, service.sync_status)

    @api.post("/login-links", response_model=schemas.LoginLink, status_code=201)
    def new_login_link() -> Any:
        return service.new_login_link()

    return api
