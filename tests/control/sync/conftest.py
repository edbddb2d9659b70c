"""A region that has the mirror as a source and wants noble for amd64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bootplane.control.app import Region
from tests.fakes.regions import running


@pytest.fixture
def pair(tmp_path: Path, source: dict[str, Any]) -> Iterator[tuple[Region, TestClient]]:
    with running(tmp_path / "data") as (region, client):
        assert client.post("/api/v1/sources", json=source).status_code == 201
        body = {"os": "ubuntu", "release": "noble", "arches": ["amd64"]}
        assert client.post("/api/v1/selections", json=body).status_code == 201
        yield region, client


@pytest.fixture
def region(pair: tuple[Region, TestClient]) -> Region:
    return pair[0]


@pytest.fixture
def client(pair: tuple[Region, TestClient]) -> TestClient:
    return pair[1]
