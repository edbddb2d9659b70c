"""A region that holds everything the small boot source offers: what is published, exported and backed up in tests."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from bootplane.control.app import Region
from bootplane.control.mirror_publish import PublishProduct, publish
from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import serve, small_products
from tests.fakes.regions import running, synced

SELECTIONS = (
    {"os": "ubuntu", "release": "noble", "arches": ["amd64", "arm64"]},
    {"os": "centos", "release": "8", "arches": ["amd64"]},
)


def fill(
    region: Region, client: TestClient, url: str, keyring: bytes, selections: Sequence[dict[str, Any]] = SELECTIONS
) -> None:
    """Add the source, select all it has, and sync."""
    body = {"url": url, "keyring": base64.b64encode(keyring).decode(), "name": "mirror"}
    assert client.post("/api/v1/sources", json=body).status_code == 201
    for selection in selections:
        assert client.post("/api/v1/selections", json=selection).status_code == 201
    assert synced(region, client)["state"] == "complete"


@contextmanager
def filled(
    folder: Path,
    signer: Signer,
    *,
    more: Callable[[Path], Sequence[PublishProduct]] = lambda _inputs: (),
    selections: Sequence[dict[str, Any]] = SELECTIONS,
    **settings: Any,
) -> Iterator[tuple[Region, TestClient]]:
    """A region in *folder*/data that runs and is complete; its boot source, with *more* products, stands beside it."""
    inputs = folder / "source.inputs"
    publish(folder / "source", [*small_products(inputs), *more(inputs)], signer)
    with serve(folder / "source") as server, running(folder / "data", **settings) as (region, client):
        fill(region, client, server.url, signer.public(), selections)
        yield region, client
