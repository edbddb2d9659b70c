"""The REST API of racks, as an operator sees them. Handlers are one line each: RackService does the work."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from bootplane.control.api import schemas
from bootplane.control.api.routes import guarded
from bootplane.control.api.sessions import Sessions
from bootplane.control.rack_service import RackService

Name = Annotated[str, Query(max_length=256)]


def router(racks: RackService, sessions: Sessions) -> APIRouter:
    api = guarded(sessions)

    @api.get("/racks", response_model=schemas.Racks)
    def list_racks() -> Any:
        return {"items": racks.list(), "next": None}

    @api.get("/racks/{key}", response_model=schemas.Rack)
    def show_rack(key: str) -> Any:
        return racks.show(key)

    @api.patch("/racks/{key}", response_model=schemas.Rack)
    def set_rack(key: str, body: schemas.RackIn) -> Any:
        return racks.set_limits(key, body.model_dump(exclude_unset=True))

    @api.get("/racks/{key}/cache", response_model=schemas.RackCache)
    def rack_cache(key: str) -> Any:
        return racks.cache(key)

    @api.get("/racks/{key}/forecast", response_model=schemas.RackForecast)
    def rack_forecast(key: str, image: Name) -> Any:
        return racks.forecast(key, image)

    @api.post("/rack-tokens", response_model=schemas.RackToken, status_code=201)
    def new_rack_token(body: schemas.RackTokenIn) -> Any:
        return racks.new_token(body.name)

    return api
