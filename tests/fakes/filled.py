"""A region that holds everything the small boot source offers: what is published, exported and backed up in tests."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from bootplane.control.app import Region
from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import publish_small, serve
from tests.fakes.regions import running, synced

SELECTIONS = (
    {"os": "ubuntu", "release": "noble", "arches": ["amd64", "arm64"]},
    {"os": "centos", "release": "8", "arches": ["amd64"]},
)


def fill(region: Region, client: TestClient, url: str, keyring: bytes) -> None:
    """Add the source, select all it has, and sync."""
    body = {"url": url, "keyring": base64.b64encode(keyring).decode(), "name": "mirror"}
    assert client.post("/api/v1/sources", json=body).status_code == 201
    for selection in SELECTIONS:
        assert client.post("/api/v1/selections", json=selection).status_code == 201
    assert synced(region, client)["state"] == "complete"


@contextmanager
def filled(folder: Path, signer: Signer, **settings: Any) -> Iterator[tuple[Region, TestClient]]:
    """A region in *folder*/data that runs and is complete; its boot source stands beside it."""
    publish_small(folder / "source", signer)
    with serve(folder / "source") as server, running(folder / "data", **settings) as (region, client):
        fill(region, client, server.url, signer.public())
        yield region, client
