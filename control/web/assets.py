"""The pages' own files: a closed set, read once, each with its digest as validator.

A request names one of them or gets 404; no name from the wire ever reaches the file system.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from fastapi import HTTPException, Request, Response

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    body: bytes
    kind: str
    etag: str


def load() -> dict[str, Asset]:
    return {
        path.name: Asset(body, _TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        for path in sorted(_FOLDER.iterdir())
        if path.suffix in _TYPES
        for body in [path.read_bytes()]
    }


def answer(assets: dict[str, Asset], name: str, request: Request) -> Response:
    """The asset, 304 when the browser has it already, or 404. Always asked again: a new version shows at once."""
    asset = assets.get(name)
    if asset is None:
        raise HTTPException(404)
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.kind, headers=headers)
