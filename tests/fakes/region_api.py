"""A region process's REST API as a script calls it: JSON in, JSON out, with the token of its data directory."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

ANSWER_S = 60.0


class RegionApi:
    """*address*: HOST:PORT, as the region's ready line says it. *data*: its directory."""

    def __init__(self, address: str, data: Path) -> None:
        self._base = f"http://{address}/api/v1"
        self._token = (data / "admin-token").read_text().strip()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The document that answers. Raises urllib.error.HTTPError for a problem."""
        request = urllib.request.Request(
            self._base + path,
            json.dumps(body).encode() if body is not None else None,
            {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return json.load(answer)
