"""A region whose database fails while it starts says so in one sentence, and no traceback buries it."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from bootplane.control import config
from bootplane.control.app import Region
from bootplane.control.cli.main import app
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


@pytest.fixture
def of_a_newer_version(tmp_path: Path) -> Path:
    """The data directory of a region that a newer version has started once."""
    data = tmp_path / "data"
    Region(settings(data), engine=ThreadEngine()).close()
    with closing(sqlite3.connect(data / "region.sqlite")) as connection:
        connection.execute("update alembic_version set version_num = '9999'")
        connection.commit()
    return data


NEWER = r"expected schema \d{4} or older, got 9999, which a newer version of bootplane made: start that version"


def test_a_database_of_a_newer_version_is_one_sentence(of_a_newer_version: Path) -> None:
    with pytest.raises(StartError, match=NEWER):
        Region(settings(of_a_newer_version), engine=ThreadEngine())


@pytest.mark.parametrize("words", [["backup", "FILE"], ["export-tree", "FILE"], ["migrate-maas", "--give-up"]])
def test_commands_beside_it_say_the_same(words: list[str], of_a_newer_version: Path, tmp_path: Path) -> None:
    words = [str(tmp_path / "file") if word == "FILE" else word for word in words]
    done = CliRunner().invoke(app, [*words, "--data", str(of_a_newer_version)])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert re.search(NEWER, done.stderr)
