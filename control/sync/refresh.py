"""The first half of a sync: read the sources, choose, plan, and store what was decided. Metadata only, no file yet.

Invariant: the database changes once, at the end, in one transaction; a source that is refused or away keeps what it
had, and the others are gone on with.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from bootplane.control.banners import SELECTION_UNOFFERED, Board
from bootplane.control.domain.images import BootSource
from bootplane.control.simplestreams.paths import source_url, tested_spelling, url_of
from bootplane.control.simplestreams.plan import places, plan, wanted_of
from bootplane.control.simplestreams.reader import SourceReading
from bootplane.control.simplestreams.select import PassedOver, select
from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.images import ImageRepository
from bootplane.control.storage.selections import SelectionRepository
from bootplane.control.storage.sources import SourceRepository
from bootplane.control.sync.decide import Fetch, changes, decide, fetches
from bootplane.control.sync.sources import SourceKeeper

_LOG = logging.getLogger("bootplane.sync")


@dataclass(frozen=True, slots=True)
class Refreshed:
    fetches: tuple[Fetch, ...]
    errors: tuple[str, ...]  # of sources, selections and sets; one sentence each


class Refresher:
    def __init__(
        self,
        sources: SourceRepository,
        selections: SelectionRepository,
        images: ImageRepository,
        blobs: BlobRepository,
        keeper: SourceKeeper,
        board: Board,
    ) -> None:
        self._sources = sources
        self._selections = selections
        self._images = images
        self._blobs = blobs
        self._keeper = keeper
        self._board = board
        self._passed_over: tuple[PassedOver, ...] = ()

    def has_work(self) -> bool:
        return bool(self._selections.list()) and bool(self._sources.list())

    def passed_over(self, source_id: str) -> list[str]:
        """Images that the last refresh took from a source of higher priority instead, one sentence each."""
        return [each.sentence for each in self._passed_over if each.source_id == source_id]

    def decided(self) -> Refreshed:
        """What an earlier refresh decided and is not here yet; asks nobody."""
        return Refreshed(tuple(fetches(self._images.sets(), self._blobs.present(), self._base_urls(()), {})), ())

    def refresh(self) -> Refreshed:
        """Read every enabled source now and decide."""
        errors: list[str] = []
        enabled = [record.source for record in self._sources.list() if record.source.enabled]
        readings = self._read(enabled, errors)
        if not enabled and self._selections.list():
            errors.append("selections: expected an enabled boot source to take them from, got none")
        offers: Mapping[str, tuple[str, ...]] = {}
        bases = self._base_urls(readings)
        if readings:
            offers = self._decide(readings, enabled, bases, errors)
        sets, present = self._images.sets(), self._blobs.present()
        return Refreshed(tuple(fetches(sets, present, bases, offers)), tuple(errors))

    def _read(self, enabled: list[BootSource], errors: list[str]) -> list[tuple[BootSource, SourceReading]]:
        readings = []
        for source in enabled:
            looked = self._keeper.look(source, patient=True)
            if looked.error is not None:
                errors.append(f"source {source.name}: {looked.error}")
            if looked.reading is not None:
                readings.append((source, looked.reading))
                for warning in looked.reading.warnings:
                    _LOG.warning("source %s: %s", source.name, warning)
        return readings

    def _decide(
        self,
        readings: list[tuple[BootSource, SourceReading]],
        enabled: list[BootSource],
        bases: Mapping[str, str],
        errors: list[str],
    ) -> dict[str, tuple[str, ...]]:
        """Choose, plan, store. Returns digest -> URLs, the preferred first."""
        selections = self._selections.list()
        selected = select([(source, reading.products) for source, reading in readings], selections)
        for note in selected.notes:
            _LOG.info("%s", note)
        self._passed_over = selected.passed_over
        read = {source.id for source, _ in readings}
        unread = {source.id: source.priority for source in enabled if source.id not in read}
        made = plan(
            wanted_of(selected.choices),
            self._blobs.present(),
            also_at=places((source, reading.products) for source, reading in readings),
        )
        stored = self._images.sets()
        decision = decide(selected.choices, made, stored, selections, unread)
        errors += decision.refused
        if not unread:  # with one missing, "nobody offers it" would be a guess
            unmatched = {
                selection.id: f"selection {selection.os} {selection.release} for {', '.join(selection.arches)}: "
                "expected a boot source that offers it, got none"
                for selection in selected.unmatched
            }
            errors += unmatched.values()
            self._board.only(
                SELECTION_UNOFFERED, {key: f"{text[:1].upper()}{text[1:]}." for key, text in unmatched.items()}
            )
        news = changes(decision.wanted, stored)
        if news or decision.dropped or decision.marked:
            self._images.decide(news, decision.dropped, decision.marked)
        return {
            download.sha256: tuple(url_of(bases[offer.source], offer.path) for offer in download.offers)
            for download in made.downloads
        }

    def _base_urls(self, readings: list[tuple[BootSource, SourceReading]] | tuple[()]) -> dict[str, str]:
        """Where each enabled source's paths begin: as it was found just now, else as its URL says."""
        bases = {
            record.source.id: tested_spelling(source_url(record.source.url).base)
            for record in self._sources.list()
            if record.source.enabled
        }
        return bases | {source.id: reading.base for source, reading in readings}
