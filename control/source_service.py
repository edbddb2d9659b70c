"""What an operator does with boot sources: add, look, change, remove. Each method answers the document of its REST
endpoint.

Invariant: whatever says where a source is and who signs it (URL, keyring, CA) is stored only after an index was read
and verified with it; a refusal changes nothing. What a source has said before binds it under a new URL and a new
keyring, too. One that is disabled is asked for nothing; images that came from it stay while they are selected.
Left to others: reading and judging (sync.sources), what follows for images (the next sync).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from bootplane.control.domain.images import BootSource
from bootplane.control.errors import CallerError
from bootplane.control.events import Hub
from bootplane.control.simplestreams import keyring as keyrings
from bootplane.control.simplestreams.paths import shown_url, source_url
from bootplane.control.storage.database import document_time
from bootplane.control.storage.sources import SourceRecord, SourceRepository
from bootplane.control.sync.refresh import Refresher
from bootplane.control.sync.sources import SourceKeeper
from bootplane.control.sync.transport import context_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class SourceService:
    """Thread-safe."""

    def __init__(self, sources: SourceRepository, keeper: SourceKeeper, refresher: Refresher, hub: Hub) -> None:
        self._sources, self._keeper, self._refresher, self._hub = sources, keeper, refresher, hub

    def list(self) -> list[dict[str, Any]]:
        return [self._document(record) for record in self._sources.list()]

    def add(
        self,
        url: str,
        keyring: str | None,
        unsigned: bool,
        priority: int | None,
        name: str | None,
        ca: str | None = None,
    ) -> dict[str, Any]:
        """Fetches and verifies the index before anything is stored. Raises Refused in the source's one sentence."""
        url = url.strip()
        host = urlsplit(source_url(url).base).hostname or "local"
        if unsigned and keyring:
            raise CallerError(f"boot source {shown_url(url)}: expected a keyring or `unsigned`, got both")
        if not unsigned and not keyring:
            raise CallerError(
                f"boot source {shown_url(url)}: expected a keyring, or `unsigned` to do without; got neither"
            )
        loaded = keyrings.from_text(keyring) if keyring else None
        if name is not None:
            _check_name(name)
            self._sources.refuse_taken(name=name)
        else:
            taken = {record.source.name for record in self._sources.list()}
            stem = re.sub(r"[^A-Za-z0-9._-]", "-", host)[:48] or "source"
            name = next(n for n in (stem, *(f"{stem}-{i}" for i in range(2, 1000))) if n not in taken)
        if ca:
            context_of([ca])
        candidate = BootSource("0", name, url, loaded.data if loaded else None, unsigned, priority or 0, ca=ca or "")
        reading = self._keeper.read(candidate)
        record = self._sources.add(
            name=name,
            url=url,
            keyring=candidate.keyring,
            unsigned=unsigned,
            priority=priority,
            fingerprints=loaded.fingerprints if loaded else (),
            updated=reading.updated.isoformat() if reading.updated else None,
            ca=candidate.ca,
        )
        self._keeper.remember(record.source, reading)
        return self._changed(record)

    def change(self, key: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """``name``, ``url``, ``keyring``, ``ca`` (null: none of its own), ``priority`` and ``enabled``, those that are
        named. Raises Refused, and has changed nothing then."""
        before = self._sources.find(key)
        if not changes:
            raise CallerError(f"boot source {before.source.name}: expected something to change, got nothing")
        for word in ("name", "url", "keyring", "priority", "enabled"):
            if changes.get(word, "") is None:
                raise CallerError(f"boot source {before.source.name}: {word}: expected a value, got null")
        values = dict(changes)
        if "name" in values:
            _check_name(values["name"])
        if "url" in values:
            values["url"] = values["url"].strip()
            source_url(values["url"])
        if "keyring" in values:
            loaded = keyrings.from_text(values["keyring"])
            values |= {"keyring": loaded.data, "fingerprints": list(loaded.fingerprints), "unsigned": False}
        if values.get("ca"):
            context_of([values["ca"]])
        self._sources.refuse_taken(name=values.get("name"), url=values.get("url"), but=before.source.id)
        if values.keys() & {"url", "keyring", "ca"}:
            record = self._change_trust(before.source, values)
        else:
            record = self._sources.change(before.source.id, values)
        if not record.source.enabled:
            self._keeper.forget(record.source.id)
            record = self._sources.change(record.source.id, {"error": None, "older_since": None})
        return self._changed(record)

    def _change_trust(self, source: BootSource, values: dict[str, Any]) -> SourceRecord:
        fields = {name: values[name] for name in ("url", "keyring", "unsigned", "name", "enabled") if name in values}
        reading = self._keeper.read_changed(replace(source, **fields, ca=values.get("ca", source.ca) or ""))
        self._sources.change(source.id, values)
        self._sources.checked(source.id, updated=reading.updated.isoformat() if reading.updated else "", error=None)
        record = self._sources.find(source.id)
        self._keeper.remember(record.source, reading)
        return record

    def remove(self, key: str) -> dict[str, Any]:
        """Images that came from it stay while they are selected."""
        record = self._sources.remove(key)
        self._keeper.forget(record.source.id)
        return self._changed(record)

    def check(self, key: str, accept_older: bool = False) -> dict[str, Any]:
        """Looks at it now. A refusal stands in the document's ``error``; what was accepted before stays, unless
        *accept_older* takes what is older than that."""
        record = self._sources.find(key)
        self._keeper.look(record.source, patient=False, accept_older=accept_older)
        return self._changed(self._sources.find(record.source.id))

    def _changed(self, record: SourceRecord) -> dict[str, Any]:
        self._hub.publish("sources", {"id": int(record.source.id)})
        return self._document(record)

    def _document(self, record: SourceRecord) -> dict[str, Any]:
        source = record.source
        reading = self._keeper.last(source.id)
        return {
            "id": int(source.id),
            "name": source.name,
            "url": shown_url(source.url),
            "priority": source.priority,
            "enabled": source.enabled,
            "unsigned": source.unsigned,
            "own_ca": bool(source.ca),
            "fingerprints": list(record.fingerprints),
            "last_checked": document_time(record.last_checked),
            "last_updated": document_time(record.last_updated),
            "error": record.error,
            "warnings": list(reading.warnings) if reading else [],
            "passed_over": self._refresher.passed_over(source.id),
        }


def _check_name(name: str) -> None:
    if not NAME.match(name):
        raise CallerError(f"name of a boot source: expected letters, digits and . _ -, got {name!r}")
