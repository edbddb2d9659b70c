"""Uploads and their states: what is announced becomes an image, or is refused, cancelled or forgotten.

    begin()                     what comes: names, digests, sizes. Room on the disk is taken here, before the first byte
    open() -> Receiving         a client goes on at a byte; the store's partial file says which one that is
    finish_if_whole()           the last byte of the last file makes the set, in one transaction with its elder's end
    cancel(), refuse(), _turn() the other ends

Nothing but the announcement is kept in the database and nothing but partial files in the store, so a client or a
region may be killed at any point: the client says the same again and is told where to go on.

Invariant: an image exists when every byte of it has been verified against what its client announced, never before.
Thread-safe.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bootplane.control.banners import UPLOADS_LOST, Board
from bootplane.control.domain.images import BootResource
from bootplane.control.errors import (
    BootplaneError,
    CallerError,
    Conflict,
    NoSpace,
    NotFound,
    Refused,
    Unavailable,
    WrongOffset,
)
from bootplane.control.events import Hub
from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.images import ImageRepository
from bootplane.control.storage.selections import SelectionRepository
from bootplane.control.storage.uploads import COMPLETE, RECEIVING, Upload, UploadRepository
from bootplane.control.uploads import magic, rules
from bootplane.control.uploads.documents import document
from bootplane.control.uploads.parts import Parts
from bootplane.control.uploads.receiving import Receiving
from bootplane.control.uploads.rooms import Rooms
from bootplane.core.digest import Verified
from bootplane.dataplane.background import Job
from bootplane.dataplane.store import InsufficientSpace, Reservation, Store

KEPT_S = 24 * 3600.0  # without a sign of life
TURN_S = 30.0
OPEN_UPLOADS = 256  # announced and not complete
_LOG = logging.getLogger("bootplane.uploads")


def today() -> str:
    """What a version that comes in now is called, in UTC."""
    return datetime.now(UTC).strftime("%Y%m%d")


class Uploads:
    def __init__(
        self,
        *,
        store: Store,
        rows: UploadRepository,
        blobs: BlobRepository,
        images: ImageRepository,
        selections: SelectionRepository,
        offered: Callable[[], set[tuple[str, str]]],
        publish: Callable[[], None],
        hub: Hub,
        board: Board,
        kept_s: float = KEPT_S,
    ) -> None:
        self._parts, self._rooms = Parts(store, blobs), Rooms(store)
        self._rows, self._blobs, self._images, self._selections = rows, blobs, images, selections
        self._offered, self._publish, self._hub, self._board = offered, publish, hub, board
        self._kept_s = kept_s
        self._deciding = threading.Lock()  # one announcement or completion at a time
        self._ending = False
        self._job = Job("uploads", self._turn, failed_s=TURN_S)

    # -- announcements

    def check(self, name: str, arch: str, title: str, base_image: str | None) -> dict[str, Any]:
        """What an upload of this name would become: the refusals of begin(), before anybody hashes a large file."""
        resource = self._resource(name, arch, title, base_image)
        return {"image": resource.name, "title": resource.title, "base_image": resource.base_image}

    def begin(
        self, name: str, arch: str, title: str, base_image: str | None, wanted: Sequence[rules.Wanted]
    ) -> dict[str, Any]:
        """The upload of these files, new or gone on with: the same content under the same name is the same upload.

        Complete at once when everything is here. Raises CallerError, Conflict or Refused with the rule, NoSpace.
        """
        resource = self._resource(name, arch, title, base_image)
        files = rules.files_of(name, wanted)
        with self._deciding:
            known = self._rows.list()
            upload = next(
                (u for u in known if u.state != COMPLETE and (u.resource.name, u.files) == (resource.name, files)), None
            )
            is_new = upload is None
            if upload is None:
                if sum(u.state != COMPLETE for u in known) >= OPEN_UPLOADS:
                    raise Unavailable(f"uploads: expected at most {OPEN_UPLOADS} unfinished ones, got one more")
                upload = self._rows.add(resource, files)
            else:
                self._rows.renew(upload.id, resource)
            try:
                self._hold_room(upload)
            except NoSpace:
                if is_new:
                    self._rows.remove(upload.id)
                raise
        self.moved(upload.id)
        return self.finish_if_whole(upload.id)

    def list(self) -> list[dict[str, Any]]:
        """Those that are not complete, the oldest first."""
        return [self._document(each) for each in self._rows.list() if each.state != COMPLETE]

    def get(self, upload_id: str) -> dict[str, Any]:
        return self._document(self._found(upload_id))

    def cancel(self, upload_id: str) -> dict[str, Any]:
        """Forget it and what has arrived. Whoever sends to it is told at the next piece."""
        upload = self._found(upload_id)
        last = self._document(upload)
        self._parts.cancel(upload.id)
        self._forget(upload)
        return last

    def figures(self) -> dict[str, int]:
        """For the metrics: unfinished uploads, files that come in just now, bytes taken since the start."""
        unfinished = sum(each.state != COMPLETE for each in self._rows.list())
        return {"uploads": unfinished, "receiving": self._parts.count(), "bytes": self._parts.taken_bytes}

    def digests(self) -> set[str]:
        """Of files that must stay though no image names them yet."""
        return self._rows.digests()

    def open(self, upload_id: str, file_name: str, start: int, total: int) -> Receiving:
        """Go on with a file at byte *start*. Hashes again what is here of it, which takes a while.

        Raises WrongOffset with the byte to go on at, Busy when somebody brings this content just now, NoSpace.
        """
        upload = self._found(upload_id)
        file = next((each for each in upload.files if each.name == file_name), None)
        if file is None:
            raise NotFound(
                f"upload {upload_id}: expected one of {', '.join(f.name for f in upload.files)}, got {file_name!r}"
            )
        if total != file.size:
            raise CallerError(f"upload {upload_id}: {file.name}: expected {file.size} bytes in all, got {total}")
        receiving = Receiving(self, upload, file)
        where = receiving.where
        if upload.state != RECEIVING:
            raise Conflict(f"{where}: expected an upload that is being received, got one that is {upload.state}")
        self._parts.claim(receiving)
        try:
            here = self._parts.bytes_here(file)
            if here != start:
                raise WrongOffset(f"{where}: expected to go on at byte {here}, got {start}", here)
            ingest = self._parts.begin(where, file, self._hold_room(upload))
            receiving.attach(ingest)
            if ingest.offset != start:
                raise WrongOffset(f"{where}: expected to go on at byte {ingest.offset}, got {start}", ingest.offset)
            self._rows.touch(upload.id)
        except BaseException:  # goes on to the caller, who has nothing to close
            receiving.abandon()
            raise
        return receiving

    def start(self) -> None:
        """Uploads whose last byte came just before the process ended become images now."""
        for upload in self._rows.list():
            if upload.state == RECEIVING and self._parts.are_here(upload.files):
                try:
                    self.finish_if_whole(upload.id)
                except (Refused, Conflict) as error:
                    _LOG.warning("%s", error)
        self._say_lost()
        self._job.start()

    def end(self) -> None:
        """Nobody begins any more; any thread."""
        self._ending = True
        self._parts.end()
        self._job.end()

    def close(self) -> None:
        self.end()
        self._job.stop()

    # -- what a Receiving tells (receiving.Desk)

    def took(self, nbytes: int) -> None:
        self._parts.took(nbytes)

    def moved(self, upload_id: str) -> None:
        self._hub.publish("uploads", {"id": upload_id})

    def arrived(self, verified: Verified) -> None:
        self._parts.arrived(verified)

    def left(self, receiving: Receiving) -> None:
        self._parts.leave(receiving)
        self._rooms.use(receiving.upload.id)
        if receiving.is_cancelled:
            self._discard_parts(receiving.upload)

    def lacks_room(self, upload: Upload) -> None:
        """The disk filled up under it: it asks for room again."""
        self._rooms.drop(upload.id)

    def refuse(self, upload: Upload, sentence: str) -> None:
        """Bytes that differ from what was announced, or are of another kind: said, and kept nowhere."""
        _LOG.warning("upload %s of %s is refused: %s", upload.id, upload.resource.name, sentence)
        self._rows.fail(upload.id, sentence)
        self._rooms.drop(upload.id)
        self.moved(upload.id)

    def finish_if_whole(self, upload_id: str) -> dict[str, Any]:
        """Make the image once every file is here. Returns the upload's document."""
        with self._deciding:
            upload = self._found(upload_id)
            if upload.state != RECEIVING or not self._parts.are_here(upload.files):
                return self._document(upload)
            resource = upload.resource
            for file in upload.files:
                try:
                    head = self._parts.head(file)
                except FileNotFoundError:  # withdrawn since it was looked for: it is lacking again
                    return self._document(upload)
                try:
                    magic.check(file.ftype, resource.arch, head, f"image {resource.name}: {file.name}")
                except Refused as error:
                    self.refuse(upload, str(error))
                    raise
            version = self._images.add_uploaded(resource, upload.files, today())
            self._rows.complete(upload.id, version)
            self._rooms.drop(upload.id)
        _LOG.info("image %s %s came in by upload %s, %d bytes", resource.name, version, upload.id, upload.size)
        self._publish()
        self._say_lost()
        self.moved(upload.id)
        return self.get(upload.id)

    # -- time

    def _turn(self) -> float:
        """End what needs no client any more, give back the room of the quiet, forget the dead."""
        for upload in self._rows.list():
            if upload.state == RECEIVING and not self._ending:
                self._end_left(upload)
        busy = self._parts.busy()
        self._rooms.drop_quiet(busy)
        for upload_id in busy:
            self._rows.touch(upload_id)
        before = (datetime.now(UTC) - timedelta(seconds=self._kept_s)).isoformat(timespec="microseconds")
        for upload in self._rows.list():
            if upload.touched < before and upload.id not in self._parts.busy():  # somebody may have come meanwhile
                if upload.state != COMPLETE:
                    _LOG.info(
                        "upload %s of %s: nothing came since %s; what has arrived is removed",
                        upload.id, upload.resource.name, upload.touched,
                    )  # fmt: skip
                self._forget(upload)
        self._say_lost()
        return TURN_S

    def _end_left(self, upload: Upload) -> None:
        """Parts that have all their bytes and no client who could send one more."""
        for file in upload.files:
            if self._parts.is_unnamed(file):
                try:
                    self.open(upload.id, file.name, file.size, file.size).end()
                except BootplaneError as error:  # a client who asks is told where to go on
                    _LOG.warning("%s", error)

    def _forget(self, upload: Upload) -> None:
        """Its row goes, and what has arrived."""
        self._rows.remove(upload.id)
        self._rooms.drop(upload.id)
        self._discard_parts(upload)
        self.moved(upload.id)

    def _discard_parts(self, upload: Upload) -> None:
        """The partial files of an upload that is no more, unless somebody else wants them, or sends one just now."""
        named = {file.sha256 for each in self._images.sets() for file in each.resource_set.files}
        self._parts.discard(upload.files, self.digests() | named)

    def _say_lost(self) -> None:
        """No source has a further copy of an upload: one whose file is gone has to be sent again."""
        lost = self._blobs.lost()
        names = [
            each.resource_set.resource.name
            for each in self._images.sets()
            if each.resource_set.resource.is_uploaded and each.marked is None
            if any(file.sha256 in lost for file in each.resource_set.files)
        ]
        if not names:
            self._board.end(UPLOADS_LOST)
            return
        text = f"Files of uploaded images are missing or damaged on the disk: {', '.join(names)}."
        self._board.show(UPLOADS_LOST, text)

    # -- how

    def _hold_room(self, upload: Upload) -> Reservation:
        """Room for all that the upload lacks, taken once and kept while its client is at it. Raises NoSpace."""
        try:
            return self._rooms.hold(upload.id, lambda: self._parts.lacking(upload.files))
        except InsufficientSpace as error:
            raise NoSpace(
                f"image {upload.resource.name}: {error.path}: expected {error.needed} bytes free for this upload, "
                f"got {error.free}"
            ) from None

    def _found(self, upload_id: str) -> Upload:
        upload = self._rows.get(upload_id)
        if upload is None:
            raise NotFound(f"upload {upload_id!r}: there is none with this id; it may have expired or been cancelled")
        return upload

    def _resource(self, name: str, arch: str, title: str, base_image: str | None) -> BootResource:
        """No upload may be called like what sources offer, or what was synced from one and may be here still."""
        sets = self._images.sets()
        synced = [each.resource_set.resource for each in sets if not each.resource_set.resource.is_uploaded]
        offered = self._offered() | {(each.os, each.release) for each in synced}
        here = [each.resource_set.resource for each in sets if each.marked is None]
        return rules.resource_of(name, arch, title, base_image, offered, here, self._selections.list())

    def _document(self, upload: Upload) -> dict[str, Any]:
        is_complete = upload.state == COMPLETE
        how_far = [self._parts.progress(file, is_complete=is_complete) for file in upload.files]
        return document(upload, how_far, self._kept_s)
