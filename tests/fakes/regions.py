"""A whole region in this process: real database, store and bulk port, threads in place of the durable engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from bootplane.control import config
from bootplane.control.app import Region
from tests.fakes.engine import ThreadEngine

ENDS_S = 60.0


@contextmanager
def running(data: Path, **settings: Any) -> Iterator[tuple[Region, TestClient]]:
    """The region and a client that carries its admin token."""
    options: dict[str, Any] = {"listen": "127.0.0.1:0", "bulk": "127.0.0.1:0", "sync_interval": 0, "low_space": 0}
    engine = settings.pop("engine", None) or ThreadEngine()
    region = Region(config.load(data, **(options | settings)), engine=engine)
    with TestClient(region.app, headers={"Authorization": f"Bearer {region.admin_token}"}) as client:
        yield region, client


def synced(region: Region, client: TestClient) -> dict[str, Any]:
    """Sync and wait for the end; the <sync> document."""
    assert client.post("/api/v1/sync").status_code == 202
    assert region.coordinator.wait_ended(ENDS_S)
    document: dict[str, Any] = client.get("/api/v1/sync").json()
    return document
