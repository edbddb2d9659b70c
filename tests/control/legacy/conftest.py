"""A MAAS 3.4 database on a real PostgreSQL, and an empty data directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.legacy import migrate
from bootplane.control.legacy.maas import MaasDatabase
from bootplane.control.legacy.migrate import Report
from bootplane.core.digest import sha256_hex
from tests.fakes.maas import Maas


@pytest.fixture
def maas(postgres_url: str) -> Iterator[Maas]:
    with closing(Maas(postgres_url)) as made:
        yield made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def carry_out(maas: Maas, data: Path) -> Callable[..., Report]:
    """One migration into *data*."""

    def run(**options: Any) -> Report:
        with MaasDatabase(maas.url) as old, migrate.target(data) as region:
            return migrate.migrate(old, region, **options)

    return run


@pytest.fixture
def dry_run(maas: Maas, data: Path) -> Callable[[], Report]:
    def run() -> Report:
        with MaasDatabase(maas.url) as old:
            return migrate.describe(old, *migrate.present_in(data))

    return run


def stored(data: Path) -> dict[str, str]:
    """Name in the store -> sha256 of the file: equal, or it is damaged."""
    return {
        path.name: sha256_hex(path.read_bytes())
        for path in (data / "image-storage").iterdir()
        if path.is_file() and len(path.name) == 64
    }
