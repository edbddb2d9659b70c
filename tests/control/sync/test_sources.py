"""Looking at sources: going back is not believed, at first in silence, after a day aloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bootplane.control.banners import SOURCE_FUTURE, Board
from bootplane.control.simplestreams.signer import Signer
from bootplane.control.storage.banners import BannerRepository
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


def board_of(repository: SourceRepository) -> Board:
    return Board(BannerRepository(repository._database))


def clock(when: datetime) -> Callable[[], datetime]:
    return lambda: when


FUTURE = datetime(2031, 5, 1, tzinfo=UTC)
TODAY = datetime(2026, 2, 3, tzinfo=UTC)


def test_an_index_of_the_future_is_taken_and_said_and_the_next_honest_one_is_not_older(
    tmp_path: Path, repository: SourceRepository, record: SourceRecord, signer: Signer
) -> None:
    board = board_of(repository)
    publish_small(tmp_path / "m", signer, serial="20310501", updated=FUTURE)
    keeper = SourceKeeper(repository, board=board, now=clock(TODAY))
    looked = keeper.look(record.source, patient=True)
    assert looked.error is None and looked.reading is not None and looked.reading.updated == FUTURE
    (banner,) = BannerRepository(repository._database).list()
    assert banner.id == SOURCE_FUTURE.of(record.source.id)
    assert "expected no date after today, 2026-02-03 by this region's clock, got 2031-05-01" in banner.text
    assert keeper.look(record.source, patient=False).error is None  # the same again
    honest = TODAY + timedelta(hours=2)
    publish_small(tmp_path / "m", signer, serial="20260203", updated=honest)
    later = SourceKeeper(repository, board=board, now=clock(honest + timedelta(hours=1)))
    looked = later.look(record.source, patient=False)
    assert looked.error is None and looked.reading is not None and looked.reading.updated == honest
    assert BannerRepository(repository._database).list() == []
    go_back(tmp_path, signer)
    assert later.look(record.source, patient=False).error is not None  # an older one is as it was


def test_a_clock_that_is_behind_stops_nothing_and_opens_no_way_back(
    tmp_path: Path, repository: SourceRepository, record: SourceRecord, signer: Signer
) -> None:
    newer = datetime(2026, 2, 2, tzinfo=UTC)
    publish_small(tmp_path / "m", signer, serial="20260202", updated=newer)
    behind = SourceKeeper(repository, now=clock(datetime(1970, 1, 1, tzinfo=UTC)))
    assert behind.look(record.source, patient=False).error is None
    assert repository.accepted(record.source.id)[""] == NEW.isoformat()
    go_back(tmp_path, signer)
    assert "expected updated 2026-02-01" in str(behind.look(record.source, patient=False).error)
    publish_small(tmp_path / "m", signer, serial="20260202", updated=newer)
    mended = SourceKeeper(repository, now=clock(TODAY))
    assert mended.look(record.source, patient=False).error is None
    assert repository.accepted(record.source.id)[""] == newer.isoformat()


def test_a_source_that_is_added_with_a_date_of_the_future_does_not_freeze(
    tmp_path: Path, repository: SourceRepository, signer: Signer
) -> None:
    publish_small(tmp_path / "f", signer, updated=FUTURE)
    keeper = SourceKeeper(repository, now=clock(TODAY))
    given = {"name": "f", "url": (tmp_path / "f").as_uri(), "keyring": signer.public(), "unsigned": False}
    made = repository.add(**given, priority=None, fingerprints=(), updated=None)
    keeper.remember(made.source, keeper.read(made.source))
    assert set(repository.accepted(made.source.id).values()) == {TODAY.isoformat()}
