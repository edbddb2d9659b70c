"""The REST API of images. Handlers are one line each: ImageService does the work."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from bootplane.control.api import schemas
from bootplane.control.api.routes import guarded
from bootplane.control.api.sessions import Sessions
from bootplane.control.image_service import ImageService

Name = Annotated[str, Query(max_length=256)]
Arch = Annotated[str | None, Query(max_length=97)]


def router(images: ImageService, sessions: Sessions) -> APIRouter:
    api = guarded(sessions)

    @api.get("/images", response_model=schemas.Images, response_model_exclude_none=False)
    def list_images() -> Any:
        return {"items": images.list(), "next": None}

    @api.get("/images/{name:path}", response_model=schemas.Image)
    def show_image(name: str, packages: bool = False) -> Any:
        return images.show(name, packages=packages)

    @api.get("/image-diff", response_model=schemas.ImageDiff)
    def diff_images(old: Name, new: Name) -> Any:
        return images.diff(old, new)

    @api.delete("/images/{name:path}", response_model=schemas.ImagesRemoved)
    def delete_image(name: str, arch: Arch = None) -> Any:
        return {"items": images.delete(name, arch), "next": None}

    return api
