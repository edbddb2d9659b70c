"""What tests of the control plane share: a signed mirror of the small boot source. Folders below may say otherwise."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.simplestreams.signer import Signer
from tests.fakes import postgres as postgres_server
from tests.fakes.mirror import MirrorServer, publish_small, serve


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
def source(mirror: MirrorServer, signer: Signer) -> dict[str, Any]:
    """The body that adds the mirror to a region."""
    return {"url": mirror.url, "keyring": base64.b64encode(signer.public()).decode(), "name": "mirror"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[postgres_server.Postgres]:
    """A PostgreSQL of this run's own."""
    with postgres_server.running() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: postgres_server.Postgres) -> Iterator[str]:
    """A new, empty database on it."""
    with postgres.database() as url:
        yield url
