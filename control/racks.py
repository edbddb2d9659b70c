"""The racks of a region: who may speak, what each said last, and the limits that are set for it.

Beats come every few seconds from every rack, so the book is in memory; the database gets a rack's state at most every
KEEP_S seconds, and nothing of what a rack explains of its cache: the next beat tells it anew. Limits are in the
database first, because a rack may beat at another region that shares it: each reads them anew every LIMITS_S. A secret
is looked up by its SHA-256: what a guess could learn from timing is a hash of its own making.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from bootplane.control.errors import CallerError, Conflict, NotFound
from bootplane.control.storage.database import now_text
from bootplane.control.storage.racks import RackRecord, RackRepository
from bootplane.dataplane import cachereport, units
from bootplane.dataplane.cachereport import CacheReport
from bootplane.dataplane.limits import LimitError, Limits, checked
from bootplane.dataplane.racktoken import RackToken

KEEP_S = 30.0
LIMITS_S = 5.0  # as a beat
SECRET_BYTES = 32
_CACHE_KEYS = 64  # of what a rack says about its cache
_CACHE_KEY_CHARACTERS = 64
_MAX = (1 << 63) - 1
_LOG = logging.getLogger("bootplane.racks")


class Heard(NamedTuple):
    """What a rack's last beat said of its cache, and when."""

    at: str  # as RackRecord.last_seen
    age_s: float
    report: CacheReport | None  # None: it said nothing of it


class RackBook:
    """Thread-safe."""

    def __init__(self, repository: RackRepository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._racks = {record.id: record for record in repository.list()}
        self._by_secret = {record.secret_sha256: record.id for record in self._racks.values()}
        self._kept_at: dict[str, float] = {}
        self._heard: dict[str, tuple[float, str, CacheReport | None]] = {}  # rack id -> monotonic s, time, report
        self._setting = threading.Lock()  # of the next two; held across a read or a write of the database
        self.refused: Callable[[set[str]], None] = lambda digests: None  # told of blobs of which racks got wrong bytes
        self._limits: dict[str, Limits] = {}
        self._limits_due = 0.0

    def list(self) -> list[RackRecord]:
        with self._lock:
            return sorted(self._racks.values(), key=lambda rack: (rack.created, rack.id))

    def find(self, key: str) -> RackRecord:
        """The rack of this id, or else of this name. Raises NotFound, or Conflict when several have the name."""
        with self._lock:
            if key in self._racks:
                return self._racks[key]
            found = [rack for rack in self._racks.values() if rack.name == key]
        if not found:
            raise NotFound(f"rack {key[:80]!r}: there is none of this id or name")
        if len(found) > 1:
            ids = ", ".join(sorted(rack.id for rack in found))
            raise Conflict(f"rack {key[:80]!r}: expected one of this name, got {len(found)}; ask by id: {ids}")
        return found[0]

    def heard(self, rack_id: str) -> Heard | None:
        """None when nothing was heard of it since this region started."""
        with self._lock:
            found = self._heard.get(rack_id)
        return Heard(found[1], time.monotonic() - found[0], found[2]) if found else None

    def new_token(self, name: str, region_key: str) -> RackToken:
        """A new rack's token. The secret is kept as its SHA-256 only, so this is the one time it can be shown."""
        rack_id = f"r{secrets.token_hex(4)}"
        secret = secrets.token_hex(SECRET_BYTES)
        digest = _digest(secret)
        record = self._repository.add(rack_id, name or rack_id, digest)
        with self._lock:
            self._racks[rack_id] = record
            self._by_secret[digest] = rack_id
        return RackToken(rack_id, secret, region_key)

    def authenticate(self, authorization: str | None) -> RackRecord | None:
        """The rack whose secret stands in the Authorization header, or None."""
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            return None
        with self._lock:
            rack_id = self._by_secret.get(_digest(secret.strip()))
            return self._racks.get(rack_id) if rack_id is not None else None

    def has_catalogue(self, rack: RackRecord, version: int) -> bool:
        """A rack that asks for what comes after *version* has it. True when that is news."""
        with self._lock:
            before = self._racks.get(rack.id, rack)
            if before.catalogue_version == version:
                return False
            self._racks[rack.id] = dataclasses.replace(before, catalogue_version=version, last_seen=now_text())
            return True

    def limits(self, rack_id: str) -> Limits:
        """What is set for a rack. While the database does not answer: what was set last."""
        with self._setting:
            now = time.monotonic()
            if now >= self._limits_due:
                self._limits_due = now + LIMITS_S
                try:
                    self._limits = self._repository.limits()
                except SQLAlchemyError as error:
                    _LOG.warning("limits of racks: the database does not tell them: %s", getattr(error, "orig", error))
            return self._limits.get(rack_id, Limits())

    def set_limits(self, rack: RackRecord, changes: Mapping[str, int | str | None]) -> None:
        """Sets what *changes* names, fields of Limits. The rack hears of it with its next beat. Raises CallerError."""
        try:
            checked(Limits(**changes))  # type: ignore[arg-type]
        except LimitError as error:
            raise CallerError(f"rack {rack.name}: {error}") from None
        with self._setting:
            found = self._repository.set_limits(rack.id, changes)
            self._limits[rack.id] = found
        own = "as its own command line says"
        cache = own if found.cache_bytes is None else units.size(found.cache_bytes)
        upstream = own if found.upstream_bytes_s is None else units.rate(found.upstream_bytes_s)
        shares = own if found.shares is None else found.shares or "none"
        _LOG.info("rack %s: limits are set: cache %s, upstream %s, shares %s", rack.name, cache, upstream, shares)

    def beat(self, rack: RackRecord, report: Mapping[str, Any]) -> bool:
        """Note what *rack* says. True when something a page shows has changed. Raises CallerError on nonsense."""
        new = _merged(rack, report)
        explained = _explained(rack, report)
        with self._lock:
            before = self._racks.get(rack.id, rack)
            self._racks[rack.id] = new
            refused = _news(self._heard.get(rack.id), explained)
            now = time.monotonic()
            self._heard[rack.id] = now, new.last_seen or "", explained
            changed = _told(before) != _told(new) or before.last_seen is None
            keep = changed or now - self._kept_at.get(rack.id, -KEEP_S) >= KEEP_S
            if keep:
                self._kept_at[rack.id] = now
        if keep:
            self._repository.seen(new)
        if refused:
            self.refused(refused)
        return changed


def _news(before: tuple[float, str, CacheReport | None] | None, report: CacheReport | None) -> set[str]:
    """Blobs of refusals that the beat before did not tell."""
    told = before[2].refusals if before and before[2] else ()
    return {each.blob for each in report.refusals if each not in told} if report else set()


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _told(rack: RackRecord) -> tuple[object, ...]:
    return rack.http, rack.tftp, rack.https, rack.catalogue_version, rack.cache


def _merged(rack: RackRecord, report: Mapping[str, Any]) -> RackRecord:
    version, cache = report.get("catalogue"), report.get("cache")
    if version is not None and not (isinstance(version, int) and _is_number(version)):
        raise CallerError(f"beat of rack {rack.id}: expected a number as catalogue, got {str(version)[:40]!r}")
    if cache is not None and (not isinstance(cache, dict) or len(cache) > _CACHE_KEYS):
        raise CallerError(f"beat of rack {rack.id}: expected an object of at most {_CACHE_KEYS} numbers as cache")
    for key, value in (cache or {}).items():  # pages reckon with them
        if not _is_number(value) or len(key) > _CACHE_KEY_CHARACTERS:
            got = f"{str(value)[:40]!r} as {key[:40]!r}"
            raise CallerError(f"beat of rack {rack.id}: expected numbers from 0 to {_MAX} as cache, got {got}")
    if report.get("rack", rack.id) != rack.id:
        raise CallerError(f"beat: expected rack {rack.id}, whose token this is, got {report['rack']!r}")
    return dataclasses.replace(
        rack,
        last_seen=now_text(),
        http=_address(report.get("http")),
        tftp=_address(report.get("tftp")),
        https=_address(report.get("https")),
        catalogue_version=version,
        cache=cache,
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MAX  # NaN is not


def _explained(rack: RackRecord, report: Mapping[str, Any]) -> CacheReport | None:
    try:
        return cachereport.parse(report)
    except cachereport.ReportError as error:
        raise CallerError(f"beat of rack {rack.id}: {error}") from None


def _address(value: object) -> str | None:
    return value[:64] if isinstance(value, str) and value else None
