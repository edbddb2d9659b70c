"""Looking at sources: going back is not believed, at first in silence, after a day aloud."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bootplane.control.simplestreams.signer import Signer
from bootplane.control.storage.database import Database
from bootplane.control.storage.sources import SourceRecord, SourceRepository
from bootplane.control.sync import sources
from bootplane.control.sync.sources import SourceKeeper
from tests.fakes.mirror import publish_small

NEW, OLD = datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[SourceRepository]:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    database.migrate()
    yield SourceRepository(database)
    database.close()


@pytest.fixture
def record(tmp_path: Path, repository: SourceRepository, signer: Signer) -> SourceRecord:
    """A mirror on disk, looked at once when its index was NEW."""
    publish_small(tmp_path / "m", signer, updated=NEW)
    made = repository.add(
        name="m",
        url=(tmp_path / "m").as_uri(),
        keyring=signer.public(),
        unsigned=False,
        priority=None,
        fingerprints=(),
        updated=None,
    )
    assert SourceKeeper(repository).look(made.source, patient=False).error is None
    return made


def go_back(tmp_path: Path, signer: Signer) -> None:
    publish_small(tmp_path / "m", signer, serial="20260101", updated=OLD)


def test_an_older_index_is_refused_to_whoever_asks_and_passed_over_by_a_sync(
    tmp_path: Path, repository: SourceRepository, record: SourceRecord, signer: Signer
) -> None:
    go_back(tmp_path, signer)
    keeper = SourceKeeper(repository)
    looked = keeper.look(record.source, patient=False)
    assert looked.reading is None and "expected updated 2026-02-01T00:00:00+00:00 or newer" in str(looked.error)
    assert repository.find("m").error == str(looked.error)
    looked = keeper.look(record.source, patient=True)
    assert (looked.reading, looked.error) == (None, None) and repository.find("m").error is None


def test_a_day_of_it_is_an_error_and_force_takes_it(
    tmp_path: Path, repository: SourceRepository, record: SourceRecord, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_back(tmp_path, signer)
    keeper = SourceKeeper(repository)
    monkeypatch.setattr(sources, "OLDER_PATIENCE_S", 0.0)
    assert keeper.look(record.source, patient=True).error is not None
    assert repository.find("m").error
    forced = keeper.look(record.source, patient=False, accept_older=True)
    assert forced.error is None and forced.reading is not None
    assert keeper.look(record.source, patient=False).error is None  # from now on this one is what we go by


def test_an_unchanged_source_gives_the_same_reading(repository: SourceRepository, record: SourceRecord) -> None:
    keeper = SourceKeeper(repository)
    first = keeper.look(record.source, patient=True).reading
    second = keeper.look(record.source, patient=True).reading
    assert first is not None and second is not None
    assert first.changed and not second.changed and first.products == second.products


def test_a_source_that_is_away_keeps_what_it_said(
    tmp_path: Path, repository: SourceRepository, record: SourceRecord
) -> None:
    (tmp_path / "m").rename(tmp_path / "away")
    looked = SourceKeeper(repository).look(record.source, patient=True)
    assert looked.reading is None and "expected a boot source's index" in str(looked.error)
    assert repository.accepted(record.source.id)[""] == NEW.isoformat()
