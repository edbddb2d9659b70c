"""RegionService: what an operator may ask of a region, as plain documents. The API's handlers and the pages call this
and nothing else; each method answers the document of its REST endpoint (docs: the API's own OpenAPI).

Invariants: a refusal changes nothing; no secret stands in any document but the one that is meant to show it.
Thread-safe: handlers run in a thread pool. Left to others: carrying out syncs (sync), who may call (api), what racks
ask (rack_api).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bootplane import __version__
from bootplane.control import machines
from bootplane.control.banners import SELECTION_UNOFFERED
from bootplane.control.catalogue import Publisher, loader_arch, names_by_file
from bootplane.control.domain.images import ARCHIVE, MANIFESTS, Selection
from bootplane.control.errors import CallerError, Conflict, NotFound
from bootplane.control.events import Hub
from bootplane.control.forecast import Wanted, forecast
from bootplane.control.image_service import find, packages_of
from bootplane.control.racks import Heard, RackBook
from bootplane.control.source_service import SourceService
from bootplane.control.storage.banners import BannerRepository
from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.database import document_time
from bootplane.control.storage.images import ImageRepository, StoredSet
from bootplane.control.storage.racks import RackRecord
from bootplane.control.storage.selections import SelectionRepository
from bootplane.control.sync.coordinator import Coordinator
from bootplane.control.sync.custody import Custody
from bootplane.control.timeline import Timeline
from bootplane.dataplane.cachereport import CacheReport, Evicted, RefusedChunk
from bootplane.dataplane.limits import disk_warning
from bootplane.dataplane.namespace import LoaderFile, wire_names
from bootplane.dataplane.store import Store

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
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
        images: ImageRepository,
        blobs: BlobRepository,
        banners: BannerRepository,
        racks: RackBook,
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
            "images": len(_shown(self._images.sets())),
            "racks": self.racks(),
            "banners": self.banners(),
        }

    def banners(self) -> list[dict[str, Any]]:
        return [
            {"id": banner.id, "text": banner.text, "since": document_time(banner.since), "remedy": banner.remedy}
            for banner in self._banners.list()
        ]

    # -- boot sources, and what is wanted of them

    def sources(self) -> list[dict[str, Any]]:
        return self._sources.list()

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

    # -- images

    def images(self) -> list[dict[str, Any]]:
        sets, lost = self._images.sets(), self._blobs.lost()
        return [self._image(stored, sets, lost) for stored in _shown(sets)]

    def image(self, name: str, *, packages: bool = False) -> dict[str, Any]:
        """One image by its name; with *packages*, those that its package list names."""
        sets = self._images.sets()
        stored = find(_shown(sets), name)[0]
        document = self._image(stored, sets, self._blobs.lost())
        if packages:
            document["packages"] = packages_of(self._store, stored)
        return document

    # -- machines

    def machines(self, limit: int, after: str | None) -> dict[str, Any]:
        """Machines that racks have seen, the last one first; one page."""
        return machines.listed(self._timeline, limit, after)

    def timeline(self, machine: str, limit: int, since: str | None, after: str | None) -> dict[str, Any]:
        """The newest *limit* events of a machine, oldest first; the next page holds older ones."""
        return machines.boot_timeline(self._timeline, machine, limit, since, after)

    # -- racks, events, ways in

    def racks(self) -> list[dict[str, Any]]:
        return [self._rack(record) for record in self._racks.list()]

    def rack(self, key: str) -> dict[str, Any]:
        return self._rack(self._racks.find(key))

    def set_rack_limits(self, key: str, changes: Mapping[str, int | str | None]) -> dict[str, Any]:
        """Sets the limits that *changes* names; null leaves one to the rack's own command line. The rack takes them
        with its next beat."""
        rack = self._racks.find(key)
        if not changes:
            raise CallerError(f"rack {rack.name}: expected cache_bytes, upstream_bytes_s or shares to be set, got none")
        self._racks.set_limits(rack, changes)
        self._hub.publish("racks", {"id": rack.id})
        return self._rack(rack)

    def rack_cache(self, key: str) -> dict[str, Any]:
        """What the rack's last beat said of its cache. Raises NotFound in a sentence when there is no such thing."""
        rack = self._racks.find(key)
        heard = self._racks.heard(rack.id)
        if heard is not None and heard.report is not None:
            return _rack_cache(rack, heard, heard.report)
        if heard is not None:
            raise NotFound(f"rack {rack.name}: it says nothing of its cache: it runs an older bootplane")
        if rack.last_seen is None:
            raise NotFound(f"rack {rack.name}: never heard of; it joins with the token that was shown for it")
        raise NotFound(
            f"rack {rack.name}: not heard of since {document_time(rack.last_seen)}, and this region has started since; "
            "what a rack says of its cache is not kept over that"
        )

    def rack_forecast(self, key: str, image: str) -> dict[str, Any]:
        """What a storm of *image* would cost the rack, as of its last beat."""
        cache, shown = self.rack_cache(key), self.image(image)
        heard = self._racks.heard(cache["rack"])
        if not shown["complete"]:
            raise Conflict(f"image {image!r}: expected a complete one, got one that is still being fetched")
        assert heard is not None and heard.report is not None  # else rack_cache has refused
        wanted = [Wanted(f["name"], f["sha256"], f["size"]) for f in shown["files"] if not f["packages"]]
        found = forecast(wanted, heard.report)
        told = {key: cache[key] for key in ("rack", "name", "heard", "age_s", "limit_bytes", "charged_bytes")}
        return told | {
            "image": shown["name"],
            "version": shown["version"],
            "size": found.size,
            "present_bytes": found.present_bytes,
            "in_place_bytes": found.in_place_bytes,
            "needed_bytes": found.needed_bytes,
            "free_bytes": found.free_bytes,
            "evicted_bytes": sum(share.bytes for share in found.evicted),
            "short_bytes": found.short_bytes,
            "files": [share._asdict() for share in found.files],
            "evicted": [share._asdict() for share in found.evicted],
        }

    def new_rack_token(self, name: str) -> dict[str, Any]:
        """The token is shown this once."""
        if name and not NAME.match(name):
            raise CallerError(f"name of a rack: expected letters, digits and . _ -, got {name!r}")
        token = self._racks.new_token(name, self._publisher.key.public_hex)
        self._hub.publish("racks", {"id": token.rack_id})
        return {"id": token.rack_id, "token": token.line()}

    def new_login_link(self) -> dict[str, Any]:
        return {"path": self._login_link()}

    # -- how

    def _rack(self, record: RackRecord) -> dict[str, Any]:
        limits = self._racks.limits(record.id)
        heard = self._racks.heard(record.id)
        report = heard.report if heard is not None else None
        document = _rack(record) | {"limits": limits._asdict(), "in_force": None, "warning": None}
        if report is not None:
            cache_bytes = report.numbers["limit_bytes"]
            document["in_force"] = {"cache_bytes": cache_bytes, "upstream_bytes_s": report.upstream_limit_bytes_s}
            wanted = cache_bytes if limits.cache_bytes is None else limits.cache_bytes
            used = report.numbers["charged_bytes"]
            document["warning"] = disk_warning(wanted, used, report.disk_bytes, report.disk_free_bytes) or None
        return document

    def _image(self, stored: StoredSet, sets: Iterable[StoredSet], lost: Collection[str]) -> dict[str, Any]:
        resource_set = stored.resource_set
        resource = resource_set.resource
        published = self._publisher.current
        table = published.contents.names if published else {}
        if resource.is_bootloader:
            files = self._loader_files(stored, table)
        else:
            names = names_by_file(resource_set, table) if stored.complete else {}
            files = [
                {
                    "name": file.name,
                    "ftype": file.ftype,
                    "sha256": file.sha256,
                    "size": file.size,
                    "names": names.get(file.name, []),
                    "packages": file.ftype in MANIFESTS,
                }
                for file in resource_set.files
            ]
        return {
            "name": resource.name,
            "os": resource.os,
            "release": resource.release,
            "title": resource.title,
            "arch": resource.arch,
            "subarch": resource.subarch,
            "kflavor": resource.kflavor,
            "label": resource.label,
            "version": resource_set.version,
            "complete": stored.complete and not any(file["sha256"] in lost for file in files),
            "size": resource_set.size,
            "source": self._source_name(stored),
            "files": files,
            "rtype": resource.rtype,
            "base_image": resource.base_image,
            "versions": [
                {"version": each.resource_set.version, "complete": each.complete, "marked": document_time(each.marked)}
                for each in sets
                if each.resource_set.resource.name == resource.name
            ],
        }

    def _source_name(self, stored: StoredSet) -> str | None:
        return next((each["name"] for each in self._sources.list() if str(each["id"]) == stored.source_id), None)

    def _loader_files(self, stored: StoredSet, table: Any) -> list[dict[str, Any]]:
        """A boot loader's files as machines see them: what was unpacked, and the archive itself until then."""
        resource = stored.resource_set.resource
        derived = self._blobs.derived()
        arch = loader_arch(resource.bootloader_type, resource.arch)
        files = []
        for archive in stored.resource_set.files:
            inner = derived.get(archive.sha256, ()) if archive.ftype == ARCHIVE else ()
            if not inner:
                files.append(_file(archive.name, archive.ftype, archive.sha256, archive.size, []))
            for each in inner:
                loader = LoaderFile(each.sha256, resource.bootloader_type, arch, each.name)
                names = [name for name in wire_names(loader) if table.get(name) == each.sha256]
                files.append(_file(each.name, "bootloader", each.sha256, each.size, names))
        return files


def _shown(sets: Iterable[StoredSet]) -> list[StoredSet]:
    """For each resource the newest complete set and a newer one that is on its way; uploads until they are deleted."""
    shown: dict[tuple[str, bool], StoredSet] = {}
    for stored in sets:
        name = stored.resource_set.resource.name
        if stored.marked is not None and stored.resource_set.resource.is_uploaded:
            continue
        shown[name, stored.complete] = stored  # sets come oldest first
    return [
        stored
        for (name, complete), stored in sorted(shown.items(), key=lambda item: (item[0][0], not item[0][1]))
        if complete or (name, True) not in shown or stored.resource_set.order > shown[name, True].resource_set.order
    ]


def _file(name: str, ftype: str, sha256: str, size: int, names: list[str]) -> dict[str, Any]:
    return {"name": name, "ftype": ftype, "sha256": sha256, "size": size, "names": names, "packages": False}


def _selection(selection: Selection) -> dict[str, Any]:
    return {
        "id": int(selection.id),
        "os": selection.os,
        "release": selection.release,
        "arches": list(selection.arches),
        "subarches": list(selection.subarches),
        "labels": list(selection.labels),
    }


def _rack(record: RackRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "http": record.http,
        "tftp": record.tftp,
        "catalogue": record.catalogue_version,
        "cache": dict(record.cache) if record.cache is not None else None,
        "created": document_time(record.created),
        "last_seen": document_time(record.last_seen),
    }


def _rack_cache(rack: RackRecord, heard: Heard, report: CacheReport) -> dict[str, Any]:
    return {
        "rack": rack.id,
        "name": rack.name,
        "heard": document_time(heard.at),
        "age_s": round(heard.age_s, 3),
        "up_s": report.up_s,
        **report.numbers,
        "present_bytes": report.present_bytes,
        "upstream_bytes": report.upstream_bytes,
        "served_bytes": report.served_bytes,
        "transfers": report.hits + report.misses + report.coalesced,
        "hits": report.hits,
        "misses": report.misses,
        "coalesced": report.coalesced,
        "in_place_files": report.in_place_files,
        "upstream_limit_bytes_s": report.upstream_limit_bytes_s,
        "throttled_s": report.throttled_s,
        "disk_bytes": report.disk_bytes,
        "disk_free_bytes": report.disk_free_bytes,
        "scrub_passes": report.scrub_passes,
        "scrub_chunks": report.scrub_chunks,
        "scrub_damaged": report.scrub_damaged,
        "scrub_last_pass_s": report.scrub_last_pass_s,
        "files": [
            file._asdict() | {"percent": 100 * file.present_bytes // file.size if file.size else 100}
            for file in report.files
        ],
        "files_total": report.files_total,
        "files_age_s": report.files_age_s,
        "evictions": [_at_rack(each) for each in reversed(report.evictions)],
        "refusals": [_at_rack(each) for each in reversed(report.refusals)],
    }


def _at_rack(event: Evicted | RefusedChunk) -> dict[str, Any]:
    return event._asdict() | {"at": datetime.fromtimestamp(event.at, UTC).isoformat()[:19] + "Z"}
