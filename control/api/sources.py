"""The REST API of boot sources. Handlers are one line each: SourceService does the work."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from bootplane.control.api import schemas
from bootplane.control.api.routes import guarded
from bootplane.control.api.sessions import Sessions
from bootplane.control.source_service import SourceService


def router(sources: SourceService, sessions: Sessions) -> APIRouter:
    api = guarded(sessions)

    @api.get("/sources", response_model=schemas.Sources)
    def list_sources() -> Any:
        return {"items": sources.list(), "next": None}

    @api.post("/sources", response_model=schemas.Source, status_code=201)
    def add_source(body: schemas.SourceIn) -> Any:
        return sources.add(body.url, body.keyring, body.unsigned, body.priority, body.name, body.ca)

    @api.patch("/sources/{key}", response_model=schemas.Source)
    def change_source(key: str, body: schemas.SourceChange) -> Any:
        return sources.change(key, body.model_dump(exclude_unset=True))

    @api.delete("/sources/{key}", response_model=schemas.Source)
    def remove_source(key: str) -> Any:
        return sources.remove(key)

    @api.post("/sources/{key}/check", response_model=schemas.Source)
    def check_source(key: str, accept_older: bool = False) -> Any:
        return sources.check(key, accept_older)

    return api
