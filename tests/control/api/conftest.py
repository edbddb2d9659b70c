"""A region without anything, and a client that carries its admin token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from bootplane.control.app import Region
from tests.fakes.regions import running


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
