"""A region whose database fails while it starts says so in one sentence, and no traceback buries it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from bootplane.control import config
from bootplane.control.app import Region
from bootplane.control.errors import StartError
from tests.fakes.engine import ThreadEngine

FULL = OperationalError("UPDATE secret", {"token": "x"}, sqlite3.OperationalError("database or disk is full"))


def settings(data: Path) -> config.Settings:
    return config.load(data, listen="127.0.0.1:0", bulk="127.0.0.1:0", sync_interval=0, low_space=0)


def test_a_full_disk_while_the_catalogue_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    region = Region(settings(tmp_path / "data"), engine=ThreadEngine())

    def full(contents: object) -> None:
        raise FULL

    monkeypatch.setattr(region.publisher, "publish", full)
    with TestClient(region.app):
        pass
    assert region.failure == f"{tmp_path / 'data'}: cannot start: the database says: database or disk is full"


def test_a_full_disk_while_the_region_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise FULL

    monkeypatch.setattr("bootplane.control.storage.settings.SettingsRepository.get_or_put", full)
    with pytest.raises(StartError, match=r"cannot start: the database says: database or disk is full$"):
        Region(settings(tmp_path / "data"), engine=ThreadEngine())
    monkeypatch.undo()
    Region(settings(tmp_path / "data"), engine=ThreadEngine()).close()  # nothing is left locked or listening
