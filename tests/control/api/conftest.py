"""A signed mirror and a region that talks to it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bootplane.control.app import Region
from bootplane.control.simplestreams.signer import Signer
from tests.fakes.mirror import MirrorServer, publish_small, serve
from tests.fakes.regions import running


@pytest.fixture(scope="session")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    with Signer.generate(tmp_path_factory.mktemp("gnupg"), algorithm="ed25519") as made:
        yield made


@pytest.fixture
def mirror(tmp_path: Path, signer: Signer) -> Iterator[MirrorServer]:
    publish_small(tmp_path / "mirror", signer)
    with serve(tmp_path / "mirror") as server:
        yield server


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Region, TestClient]]:
    with running(tmp_path / "data") as found:
        yield found


@pytest.fixture
def region(pair: tuple[Region, TestClient]) -> Region:
    return pair[0]


@pytest.fixture
def client(pair: tuple[Region, TestClient]) -> TestClient:
    return pair[1]


@pytest.fixture
def source(mirror: MirrorServer, signer: Signer) -> dict[str, Any]:
    """The body that adds the mirror."""
    return {"url": mirror.url, "keyring": base64.b64encode(signer.public()).decode(), "name": "mirror"}
