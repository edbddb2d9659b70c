"""What an operator does with racks: look, limit, ask what a cache holds and what a storm would cost it, let one in.
Each method answers the document of its REST endpoint.

Invariant: what a rack says of its cache is shown with its age, and never from memory older than this process. Left to
others: what racks ask (rack_api), who they are and what they said (racks), what a storm costs (forecast).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from bootplane.control.errors import CallerError, Conflict, NotFound
from bootplane.control.events import Hub
from bootplane.control.forecast import Wanted, forecast
from bootplane.control.racks import Heard, RackBook
from bootplane.control.storage.database import document_time
from bootplane.control.storage.racks import RackRecord
from bootplane.dataplane.cachereport import CacheReport, Evicted, RefusedChunk
from bootplane.dataplane.limits import disk_warning

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class RackService:
    """Thread-safe. *image*: an image's document by its name; *public_key*: the region's, which racks are told."""

    def __init__(self, racks: RackBook, hub: Hub, *, image: Callable[[str], dict[str, Any]], public_key: str) -> None:
        self._racks, self._hub, self._image, self._public_key = racks, hub, image, public_key

    def list(self) -> list[dict[str, Any]]:
        return [self._document(record) for record in self._racks.list()]

    def show(self, key: str) -> dict[str, Any]:
        return self._document(self._racks.find(key))

    def set_limits(self, key: str, changes: Mapping[str, int | str | None]) -> dict[str, Any]:
        """Sets the limits that *changes* names; null leaves one to the rack's own command line. The rack takes them
        with its next beat."""
        rack = self._racks.find(key)
        if not changes:
            raise CallerError(f"rack {rack.name}: expected cache_bytes, upstream_bytes_s or shares to be set, got none")
        self._racks.set_limits(rack, changes)
        self._hub.publish("racks", {"id": rack.id})
        return self._document(rack)

    def cache(self, key: str) -> dict[str, Any]:
        """What the rack's last beat said of its cache. Raises NotFound in a sentence when there is no such thing."""
        rack = self._racks.find(key)
        heard = self._racks.heard(rack.id)
        if heard is not None and heard.report is not None:
            return _cache(rack, heard, heard.report)
        if heard is not None:
            raise NotFound(f"rack {rack.name}: it says nothing of its cache: it runs an older bootplane")
        if rack.last_seen is None:
            raise NotFound(f"rack {rack.name}: never heard of; it joins with the token that was shown for it")
        raise NotFound(
            f"rack {rack.name}: not heard of since {document_time(rack.last_seen)}, and this region has started since; "
            "what a rack says of its cache is not kept over that"
        )

    def forecast(self, key: str, image: str) -> dict[str, Any]:
        """What a storm of *image* would cost the rack, as of its last beat."""
        cache, shown = self.cache(key), self._image(image)
        heard = self._racks.heard(cache["rack"])
        if not shown["complete"]:
            raise Conflict(f"image {image!r}: expected a complete one, got one that is still being fetched")
        assert heard is not None and heard.report is not None  # else cache() has refused
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

    def new_token(self, name: str) -> dict[str, Any]:
        """The token is shown this once."""
        if name and not NAME.match(name):
            raise CallerError(f"name of a rack: expected letters, digits and . _ -, got {name!r}")
        token = self._racks.new_token(name, self._public_key)
        self._hub.publish("racks", {"id": token.rack_id})
        return {"id": token.rack_id, "token": token.line()}

    def _document(self, record: RackRecord) -> dict[str, Any]:
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


def _rack(record: RackRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "http": record.http,
        "tftp": record.tftp,
        "https": record.https,
        "catalogue": record.catalogue_version,
        "cache": dict(record.cache) if record.cache is not None else None,
        "created": document_time(record.created),
        "last_seen": document_time(record.last_seen),
    }


def _cache(rack: RackRecord, heard: Heard, report: CacheReport) -> dict[str, Any]:
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
