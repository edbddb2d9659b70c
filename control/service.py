"""RegionService: what an operator may ask of a region as a whole: its state, what it is to mirror, its syncs and the
machines it has seen. Each method answers the document of its REST endpoint (docs: the API's own OpenAPI).

Invariants: a refusal changes nothing; no secret stands in any document but the one that is meant to show it.
Thread-safe: handlers run in a thread pool. Left to others: boot sources, images, racks and uploads, which have services
of their own; carrying out syncs (sync), who may call (api), what racks ask (rack_api).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bootplane import __version__
from bootplane.control import machines
from bootplane.control.banners import SELECTION_UNOFFERED
from bootplane.control.catalogue import Publisher
from bootplane.control.domain.images import Selection
from bootplane.control.errors import CallerError
from bootplane.control.events import Hub
from bootplane.control.image_service import ImageService
from bootplane.control.rack_service import RackService
from bootplane.control.source_service import SourceService
from bootplane.control.storage.banners import BannerRepository
from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.database import document_time
from bootplane.control.storage.selections import SelectionRepository
from bootplane.control.sync.coordinator import Coordinator
from bootplane.control.sync.custody import Custody
from bootplane.control.timeline import Timeline
from bootplane.dataplane.store import Store

PATTERN = re.compile(r"[A-Za-z0-9*?.\[\]!][A-Za-z0-9 *?.\[\]!_+~:-]{0,63}\Z")


class RegionService:
    def __init__(
        self,
        *,
        region_id: str,
        started: str,
        listen: Callable[[], str],
        bulk: Callable[[], str],
        store: Store,
        sources: SourceService,
        selections: SelectionRepository,
        images: ImageService,
        blobs: BlobRepository,
        banners: BannerRepository,
        racks: RackService,
        coordinator: Coordinator,
        publisher: Publisher,
        hub: Hub,
        timeline: Timeline,
        login_link: Callable[[], str],
        custody: Custody,
    ) -> None:
        self._region_id, self._started, self._listen, self._bulk = region_id, started, listen, bulk
        self._store, self._sources, self._selections = store, sources, selections
        self._images, self._blobs, self._banners, self._racks = images, blobs, banners, racks
        self._coordinator, self._publisher = coordinator, publisher
        self._hub, self._timeline, self._login_link = hub, timeline, login_link
        self._custody = custody

    # -- the whole

    def status(self) -> dict[str, Any]:
        published = self._publisher.current
        usage = self._blobs.usage()
        return {
            "version": __version__,
            "region": {
                "id": self._region_id,
                "listen": self._listen(),
                "bulk": self._bulk(),
                "started": self._started,
            },
            "store": {
                "path": str(self._store.directory),
                "blobs": usage.blobs,
                "bytes": usage.bytes,
                "free_bytes": max(self._store.free_bytes(), 0),
                **self._custody.document(),
            },
            "catalogue": {
                "version": published.version if published else 0,
                "names": len(published.contents.names) if published else 0,
            },
            "sync": self.sync_status(),
            "sources": len(self._sources.list()),
            "selections": len(self._selections.list()),
            "images": self._images.count(),
            "racks": self.racks(),
            "banners": self.banners(),
        }

    def banners(self) -> list[dict[str, Any]]:
        return [
            {"id": banner.id, "text": banner.text, "since": document_time(banner.since), "remedy": banner.remedy}
            for banner in self._banners.list()
        ]

    # -- what the pages show of the other services

    def sources(self) -> list[dict[str, Any]]:
        return self._sources.list()

    def images(self) -> list[dict[str, Any]]:
        return self._images.list()

    def racks(self) -> list[dict[str, Any]]:
        return self._racks.list()

    # -- what is wanted of boot sources

    def selections(self) -> list[dict[str, Any]]:
        return [_selection(selection) for selection in self._selections.list()]

    def add_selection(
        self, os: str, release: str, arches: Sequence[str], subarches: Sequence[str] = (), labels: Sequence[str] = ()
    ) -> dict[str, Any]:
        if not arches:
            raise CallerError(f"selection {os} {release}: expected at least one arch (or *), got none")
        for what, words in (
            ("os", [os]),
            ("release", [release]),
            ("arch", arches),
            ("subarch", subarches),
            ("label", labels),
        ):
            for word in words:
                if not PATTERN.match(word):
                    raise CallerError(f"selection: expected a name or a pattern with * as {what}, got {word!r}")
        selection = self._selections.add(
            os, release, tuple(arches), tuple(subarches) or ("*",), tuple(labels) or ("*",)
        )
        self._hub.publish("sources", {})
        return _selection(selection)

    def remove_selection(self, selection_id: str) -> dict[str, Any]:
        """Its images go with the next sync, after the grace time."""
        selection = self._selections.remove(selection_id)
        self._banners.end(SELECTION_UNOFFERED.of(selection.id))
        self._coordinator.needs_less()
        self._hub.publish("sources", {})
        return _selection(selection)

    # -- sync

    def sync_status(self) -> dict[str, Any]:
        document = self._coordinator.document()
        return document | {
            "started": document_time(document["started"]),
            "finished": document_time(document["finished"]),
        }

    def start_sync(self) -> dict[str, Any]:
        self._coordinator.request()
        return self.sync_status()

    def set_sync(self, changes: Mapping[str, int | str | None]) -> dict[str, Any]:
        """The limits that *changes* names; null lifts one."""
        self._coordinator.set_limits(changes)
        return self.sync_status()

    def stop_sync(self) -> dict[str, Any]:
        self._coordinator.stop()
        return self.sync_status()

    # -- machines

    def machines(self, limit: int, after: str | None) -> dict[str, Any]:
        """Machines that racks have seen, the last one first; one page."""
        return machines.listed(self._timeline, limit, after)

    def timeline(self, machine: str, limit: int, since: str | None, after: str | None) -> dict[str, Any]:
        """The newest *limit* events of a machine, oldest first; the next page holds older ones."""
        return machines.boot_timeline(self._timeline, machine, limit, since, after)

    # -- ways in

    def new_login_link(self) -> dict[str, Any]:
        return {"path": self._login_link()}


def _selection(selection: Selection) -> dict[str, Any]:
    return {
        "id": int(selection.id),
        "os": selection.os,
        "release": selection.release,
        "arches": list(selection.arches),
        "subarches": list(selection.subarches),
        "labels": list(selection.labels),
    }
