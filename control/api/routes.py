"""The REST API of a region as a whole, as a table. Handlers are one line each: RegionService does the work. Sources,
images, racks and uploads have routers of their own beside this one; what is the same in all of them stands here.

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

    @api.get("/machines", response_model=schemas.Machines)
    def list_machines(limit: Limit = 500, after: After = None) -> Any:
        return service.machines(limit, after)

    @api.get("/machines/{key}/timeline", response_model=schemas.BootTimeline)
    def machine_timeline(key: str, limit: Limit = 500, since: Since = None, after: After = None) -> Any:
        return service.timeline(key, limit, since, after)

    @api.get("/events", response_class=StreamingResponse)
    async def event_stream() -> StreamingResponse:
        return events.stream(hub, service.sync_status)

    @api.post("/login-links", response_model=schemas.LoginLink, status_code=201)
    def new_login_link() -> Any:
        return service.new_login_link()

    return api
