"""What nobody needs goes, in two steps: its names first, its bytes when nobody can ask for them any more.

    set superseded ─▶ marked ──grace, no machine in mid-boot──▶ out of the catalogue ─▶ its blobs marked
    blob marked ──every rack has a catalogue without it──▶ its row says removed ─▶ bulk port: 410 ─▶ its file goes

The grace time runs from the moment a set was marked; a blob that no set ever named has it from its coming. What is
wanted again meanwhile is un-marked. A superseded set that machines begin with, because the newest lacks a lost file,
stays for as long as that is so, and has the grace time from then.

Invariants: one thread calls step(), that of the sync, so that nothing is removed while it is being fetched; a blob goes
only if no set names it in the transaction that takes it away; nothing goes while the store is strange (custody).
Left to others: who uses what (users), what a mark is (storage).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from bootplane.control.catalogue import Publication, stand_ins
from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.images import ImageRepository, StoredSet
from bootplane.control.sync.users import Users
from bootplane.dataplane.store import Store

STEP_S = 60.0  # between two looks while nothing else happens
_LOG = logging.getLogger("bootplane.store")


class Removal:
    """*publish* brings catalogue and bulk table up to date; *published* is the catalogue after that."""

    def __init__(
        self,
        store: Store,
        blobs: BlobRepository,
        images: ImageRepository,
        users: Users,
        *,
        grace_s: float,
        may_delete: Callable[[], bool],
        publish: Callable[[], None],
        published: Callable[[], Publication | None],
    ) -> None:
        self._store, self._blobs, self._images, self._users = store, blobs, images, users
        self._grace_s = grace_s
        self._may_delete = may_delete
        self._publish, self._published = publish, published
        self.arriving: Callable[[], Iterable[str]] = lambda: ()  # digests of uploads: neither blob nor partial goes
        self._next = 0.0
        self._held: set[int] = set()  # ids of sets of which it has been said that a machine holds them

    def step_if_due(self) -> None:
        """At most once in STEP_S."""
        if time.monotonic() >= self._next:
            self.step()

    def step(self) -> list[str]:
        """Marks, un-marks and removes what may go now; publishes when something did. Returns the digests removed."""
        self._next = time.monotonic() + STEP_S
        for kept in self._store.aside.prune():
            _LOG.info("removed after its time: %s, %d bytes", kept.path, kept.bytes)
        is_allowed = self._may_delete()
        if is_allowed and (expired := self._expired()):
            self._images.remove(each.id for each in expired)
            self._publish()
        published = self._published()
        if published is None:
            return []
        partials = self._store.partials()  # first: who begins one after this has said so before
        used = self._used()
        self._blobs.mark(used, published.contents.blobs, published.version)
        return self._remove(used, partials) if is_allowed else []

    def _expired(self) -> list[StoredSet]:
        """Marked sets whose grace time has passed and that no machine is booting."""
        sets = self._images.sets()
        needed = {each.id for each in stand_ins(sets, self._blobs.derived(), self._blobs.lost())}
        if needed:
            self._images.renew_marks(needed)
        before = self._before()
        late = [each for each in sets if each.marked is not None and each.marked < before and each.id not in needed]
        held = self._users.machines_on(late)
        for each in late:
            if each.id in held and each.id not in self._held:
                named = each.resource_set
                _LOG.info("%s %s is kept beyond its time: %s", named.resource.name, named.version, held[each.id])
        self._held = set(held)
        return [each for each in late if each.id not in held]

    def _used(self) -> set[str]:
        """What sets name, what was unpacked from that, and what is being uploaded."""
        named = {file.sha256 for each in self._images.sets() for file in each.resource_set.files}
        derived = self._blobs.derived()
        named |= {file.sha256 for archive, inner in derived.items() if archive in named for file in inner}
        return named.union(self.arriving())

    def _remove(self, used: set[str], partials: Iterable[str]) -> list[str]:
        for sha256 in partials:
            if sha256 not in used:
                self._store.discard_idle_partial(sha256)
        before = self._before()
        old = [each for each in self._blobs.unnamed() if each.created < before]
        bound = self._users.bound(old)
        free = [each.sha256 for each in old if each.sha256 not in bound]
        if not free:
            return []
        gone = self._blobs.take_away(free)
        derived = self._blobs.derived()
        self._blobs.forget_derived([archive for archive in derived if archive in gone])
        if gone:
            try:
                self._publish()  # the bulk port says 410 and lets go of their descriptors
            finally:  # their rows say that they are gone, and nobody would look at the files again
                # an upload may have brought one again while that was published
                freed = sum(self._store.remove(sha256) for sha256 in gone if self._blobs.is_removed(sha256))
            _LOG.info("removed %d files that nothing names any more, %d bytes", len(gone), freed)
        return gone

    def _before(self) -> str:
        return (datetime.now(UTC) - timedelta(seconds=self._grace_s)).isoformat(timespec="microseconds")
