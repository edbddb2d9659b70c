"""Custody of the store: it is taken at start, kept right while the region runs, and left in order.

    take()    whose is it (owner) ─▶ files and rows in step (housekeeping) ─▶ what is in doubt goes to the audit
    findings  rotten, missing: withdrawn, its sets wanted again, a sync asked for; found: taken in, or put aside
    leave()   the next start knows that everything was written

A store whose database is lost, older than it or another's is *strange*: until each of its files has been hashed and a
sync after that has said what is wanted, nothing of it is deleted, and its banner says so.

Left to others: reading (audit), deleting (removal, which asks may_delete()), fetching again (coordinator).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from bootplane.control.banners import STORE_DAMAGED, STORE_EMPTIED, STORE_OWNER, Board
from bootplane.control.errors import StartError
from bootplane.control.storage.blobs import BlobRecord, BlobRepository
from bootplane.control.storage.database import now_text
from bootplane.control.storage.images import ImageRepository
from bootplane.control.storage.runs import RunRepository
from bootplane.control.storage.settings import CATALOGUE_DIGEST, CATALOGUE_VERSION, SYNC_DECIDED, SettingsRepository
from bootplane.control.sync.audit import Auditor, Finding
from bootplane.control.sync.housekeeping import Housekeeper, Reconciled
from bootplane.control.sync.owner import OwnerFile, Verdict, judge
from bootplane.core.digest import Verified
from bootplane.dataplane.store import Store

OPEN_SINCE = "store_open_since"  # setting: "" after a clean end
TELL_S = 2.0  # between two tellings of how far the hashing of a strange store is
_LOG = logging.getLogger("bootplane.store")


class Custody:
    """Any thread; take() before anything else, leave() after everything else."""

    def __init__(
        self,
        *,
        store: Store,
        owner: OwnerFile,
        region_id: str,
        settings: SettingsRepository,
        blobs: BlobRepository,
        images: ImageRepository,
        runs: RunRepository,
        board: Board,
        housekeeper: Housekeeper,
        publish: Callable[[], None],
        request_sync: Callable[[], None],
        grace_s: float,
        audit_interval_s: float,
    ) -> None:
        self._store, self._owner, self._region_id = store, owner, region_id
        self._settings, self._blobs, self._images, self._runs = settings, blobs, images, runs
        self._board, self._housekeeper = board, housekeeper
        self._publish, self._request_sync = publish, request_sync
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._strange = ""  # why, and since when
        self._taken_at = ""
        self._told_at = 0.0
        self._is_open = False
        self.auditor = Auditor(store, blobs, self, interval_s=audit_interval_s)

    # -- start and end

    def take(self) -> Reconciled:
        """Store and database in step; no byte of the store is read. Raises StartError when it must not be touched."""
        claim = self._owner.claim_of(knows_blobs=bool(self._blobs.promised()))
        owner, is_readable = self._owner.read()
        has_files = bool(self._store.inventory().blobs or self._store.found())
        judgement = judge(owner, is_readable, claim, has_files=has_files)
        self._taken_at = now_text()
        self._strange = owner.strange if owner else ""
        if judgement.verdict is Verdict.STRANGE:
            self._strange = f"since {self._taken_at[:19]}Z: {judgement.why}"
            _LOG.error("%s is not as this region left it: %s; nothing of it is deleted", self._store.directory,
                       judgement.why)  # fmt: skip
        self._owner.take(owner, claim, self._region_id, self._strange)
        self._doubt_unclean()
        if not has_files and claim.knows_blobs:
            self._emptied()
        found = self._housekeeper.reconcile(is_strange=bool(self._strange))
        if found.adopted:
            _LOG.warning("adopted %d complete files the database did not know", len(found.adopted))
        if found.doubted:
            _LOG.warning("%d files that the database does not know are hashed before they are used", len(found.doubted))
        if found.cut:
            text = f"Files of {self._store.directory} that were cut: {len(found.cut)}."
            self._board.show(STORE_DAMAGED, text)
        if self._strange:
            self._tell_strange(is_last=False)
        return found

    def leave(self) -> None:
        """Everything is written: the next start has no doubts."""
        if self._is_open:
            self._note_open("", "the end is no clean one")

    def before_publishing(self, *, has_names: bool) -> None:
        """The next version is higher than any that racks may have had of this store: they refuse an older one. Not for
        an empty catalogue of a database that knows nothing: racks serve what they hold meanwhile."""
        if has_names and int(self._settings.get(CATALOGUE_VERSION) or 0) < self._owner.catalogue:
            floor = self._owner.catalogue + 1  # one more may have been published and not noted
            self._settings.put({CATALOGUE_VERSION: str(floor), CATALOGUE_DIGEST: "of another database"})
            _LOG.warning("the catalogue goes on after version %d, which racks may have of this store", floor)

    def published(self, version: int) -> None:
        """A new catalogue is out."""
        self._owner.count(version)

    def doubt(self, digests: set[str]) -> None:
        """Racks got other bytes of these than were promised: they are looked at before their week is over."""
        try:
            count = self._blobs.doubt(sorted(digests))
        except SQLAlchemyError as error:
            _LOG.warning("what racks refused is not looked at, the database says: %s", getattr(error, "orig", error))
            return
        if count:
            _LOG.warning("racks refused chunks of %d files, which are hashed again", count)

    def may_delete(self) -> bool:
        """Whether what nothing names may go. A strange store is settled here: once everything found was hashed, and a
        sync since has ended well with images to show. Banners that are no longer true end."""
        self._end_banners()
        with self._lock:
            if not self._strange:
                return True
            if self._store.found() or not self._has_synced():
                return False
            if not any(each.complete and each.marked is None for each in self._images.sets()):
                return False
            self._strange = ""
            try:
                self._owner.settle()
            except StartError as error:  # the next start finds it strange again, and settles it again
                _LOG.warning("%s", error)
        self._board.end(STORE_OWNER)
        _LOG.info("%s: this region's again, a sync has said what is wanted", self._store.directory)
        return True

    @property
    def is_strange(self) -> bool:
        return bool(self._strange)

    def document(self) -> dict[str, Any]:
        """What is in the status of the store beside its blobs."""
        kept = self._store.aside.kept()
        checks = self._blobs.checks(self.auditor.before())
        found = self._store.found()
        stats = self.auditor.stats
        return {
            "marked_bytes": self._blobs.marked_bytes(),
            "aside": {
                "path": str(self._store.aside.directory),
                "files": len(kept),
                "bytes": sum(each.bytes for each in kept),
                "until": _time(next((each.until for each in kept), None)),
            },
            "audit": {
                "interval_s": self.auditor.interval_s,
                "due": checks.due,
                "oldest": _text(checks.oldest),
                "newest": _text(checks.newest),
                "found": len(found),
                "found_bytes": sum(found.values()),
                "checked": stats.checked,
                "checked_bytes": stats.bytes,
                "rotten": stats.rotten,
            },
        }

    # -- findings of the audit, on its thread

    def is_rotten(self, finding: Finding) -> None:
        self._withdraw(finding.sha256, f"damaged on the disk: expected {finding.expected}, got {finding.got}")

    def is_missing(self, sha256: str) -> None:
        self._withdraw(sha256, "gone from the disk")

    def is_adopted(self, verified: Verified) -> None:
        self._blobs.record([BlobRecord(verified.sha256, verified.size, verified.root)])
        _LOG.info("blob %s: found, and right: adopted, %d bytes", verified.sha256, verified.size)
        self._examined()

    def is_refused(self, finding: Finding) -> None:
        try:
            kept = self._store.aside.put(finding.path, None if self._strange else self._grace_s)
        except FileNotFoundError:
            return
        _LOG.warning(
            "set aside: %s, %d bytes: expected %s, got %s; kept %s",
            kept.path, kept.bytes, finding.expected, finding.got, kept.term,
        )  # fmt: skip
        self._examined()

    def _withdraw(self, sha256: str, why: str) -> None:
        """First it leaves its place, so that nothing can take it for right; then nobody is given it any more, and it is
        fetched again. Killed in between, its row lacks a file, which is found at the next look."""
        kept = self._store.withdraw(sha256, None if self._strange else self._grace_s)
        lost = self._housekeeper.lost([sha256])
        self._publish()
        where = f"; set aside as {kept.path}, kept {kept.term}" if kept else ""
        images = ", ".join(lost.sets) or "no image"
        _LOG.error("blob %s of %s: %s%s; fetching it again", sha256, images, why, where)
        remedy = ""
        if lost.sourceless:
            remedy = f"No boot source has {', '.join(lost.sourceless)}: upload it again. Look at the disk, too."
        self._board.show(STORE_DAMAGED, f"A file of {images} in {self._store.directory} was {why}.", remedy=remedy)
        self._request_sync()

    # -- how

    def _doubt_unclean(self) -> None:
        """After a bad end what was written since the last start is looked at soon: it was synced, but disks lie."""
        since = self._settings.get(OPEN_SINCE)
        if since:
            doubted = self._blobs.doubt_since(since)
            if doubted:
                _LOG.info("the last end was no clean one: %d files written since %s are hashed again", doubted, since)
        self._is_open = self._note_open(self._taken_at, "after a bad end nobody would know since when to look")

    def _note_open(self, since: str, otherwise: str) -> bool:
        """A full disk is only told: a region starts on it all the same, to serve what it holds."""
        try:
            self._settings.put({OPEN_SINCE: since})
        except SQLAlchemyError as error:
            _LOG.warning("%s: the database says: %s", otherwise, getattr(error, "orig", None) or error)
            return False
        return True

    def _emptied(self) -> None:
        text = f"{self._store.directory} holds none of the files that the database knows."
        self._board.show(STORE_EMPTIED, text)
        _LOG.error("%s %s", text, STORE_EMPTIED.remedy)

    def _end_banners(self) -> None:
        """Damage is over once all of the store was seen to be right since; an emptied one once a sync has filled it."""
        damaged = self._board.since(STORE_DAMAGED)
        if damaged and (self._blobs.checks(self.auditor.before()).oldest or "") > damaged:
            self._board.end(STORE_DAMAGED)
        if self._board.since(STORE_EMPTIED) and self._has_synced():
            self._board.end(STORE_EMPTIED)

    def _has_synced(self) -> bool:
        """Whether a sync that began after the store was taken has said what is wanted, and brought what could be had: a
        file that no source has right is named in a banner, and would hold the store up for ever."""
        run = self._runs.last()
        if run is None or run.started < self._taken_at:
            return False
        return run.state == "complete" or (run.state == "failed" and self._settings.get(SYNC_DECIDED) == str(run.id))

    def _examined(self) -> None:
        """One found file less. After the last one a sync may find that it has everything."""
        is_last = not self._store.found()
        now = time.monotonic()
        if is_last or now - self._told_at >= TELL_S:
            self._told_at = now
            if self._strange:
                self._tell_strange(is_last=is_last)
        if is_last:
            stats = self.auditor.stats
            _LOG.info("all files found were hashed: %d adopted, %d set aside", stats.adopted, stats.refused)
            self._publish()
            self._request_sync()

    def _tell_strange(self, *, is_last: bool) -> None:
        found = self._store.found()
        kept = self._store.aside.kept()
        told = f"{len(found)} files ({sum(found.values())} bytes) are still to be hashed"
        if is_last or not found:
            told = f"{self._blobs.usage().blobs} files are taken in, {len(kept)} set aside"
        text = f"{self._store.directory} is not as this region left it ({self._strange}). Nothing is deleted; {told}."
        remedy = f"{STORE_OWNER.remedy} What is in {self._store.aside.directory} is yours to look through."
        self._board.show(STORE_OWNER, text, remedy=remedy)


def _text(time_: str | None) -> str | None:
    return time_[:19] + "Z" if time_ else None


def _time(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19] + "Z" if seconds is not None else None
