"""Custom images on their way in: announced, received file by file, whole, an image.

    begin()          what comes: names, digests, sizes. Room on the disk is taken here, before the first byte
    open()           a client goes on at a byte; the store's partial file says which one that is
    Receiving.write  bytes -> the store's ingest, hashed on the way: the same road as a synced file
    Receiving.end    the last byte of the last file makes the set, in one transaction with the end of its elder

Nothing but the announcement is kept in the database and nothing but partial files in the store, so a client or a
region may be killed at any point: the client says the same again and is told where to go on.

Invariants: an image exists when every byte of it has been verified against what its client announced, never before;
bytes that differ are not kept; one blob has one writer, and whoever brings the same content meanwhile waits for it.
Thread-safe; a Receiving is used by one thread at a time. Left to others: names and types (upload_rules, upload_magic),
the connection (api.uploads), what racks see (publish).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bootplane.control import upload_magic, upload_rules
from bootplane.control.banners import UPLOADS_LOST, Board
from bootplane.control.domain.images import BootResource, ResourceFile
from bootplane.control.errors import (
    BootplaneError,
    Busy,
    CallerError,
    Conflict,
    Gone,
    NoSpace,
    NotFound,
    Refused,
    Unavailable,
    WrongOffset,
)
from bootplane.control.events import Hub
from bootplane.control.storage.blobs import BlobRecord, BlobRepository
from bootplane.control.storage.images import ImageRepository
from bootplane.control.storage.selections import SelectionRepository
from bootplane.control.storage.uploads import COMPLETE, RECEIVING, Upload, UploadRepository
from bootplane.control.sync.progress import Rate
from bootplane.core.digest import chunk_root
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.background import Job
from bootplane.dataplane.store import Ingest, InProgress, InsufficientSpace, Reservation, Store, StoreError

KEPT_S = 24 * 3600.0  # without a sign of life
ROOM_KEPT_S = 120.0  # how long room stays reserved for an upload whose client has gone quiet
TURN_S = 30.0
AT_ONCE = 16  # files received at a time
OPEN_UPLOADS = 256  # announced and not complete
TELL_S = 0.5  # between two events about one upload's progress
_LOG = logging.getLogger("bootplane.uploads")


class Uploads:
    """Everything about uploads but their bytes' way through HTTP."""

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
        self._store, self._rows, self._blobs, self._images = store, rows, blobs, images
        self._selections, self._offered, self._publish, self._hub = selections, offered, publish, hub
        self._board = board
        self._kept_s = kept_s
        self._lock = threading.Lock()  # of the dicts below, and taken_bytes
        self._receiving: dict[str, Receiving] = {}  # digest -> who brings it
        self._rooms: dict[str, Reservation] = {}  # upload id -> room for what it lacks
        self._used: dict[str, float] = {}  # upload id -> when its room was last wanted, monotonic
        self._deciding = threading.Lock()  # one announcement or completion at a time
        self._ending = False
        self.taken_bytes = 0  # of all uploads since the start
        self._job = Job("uploads", self._turn, failed_s=TURN_S)

    # -- announcements

    def check(self, name: str, arch: str, title: str, base_image: str | None) -> dict[str, Any]:
        """What an upload of this name would become: the refusals of begin(), before anybody hashes a large file."""
        resource = upload_rules.resource_of(name, arch, title, base_image, self.reserved(), self.default_base())
        return {"image": resource.name, "title": resource.title, "base_image": resource.base_image}

    def begin(
        self, name: str, arch: str, title: str, base_image: str | None, wanted: Sequence[upload_rules.Wanted]
    ) -> dict[str, Any]:
        """The upload of these files, new or gone on with: the same content under the same name is the same upload.

        Complete at once when everything is here. Raises CallerError, Conflict or Refused with the rule, NoSpace.
        """
        resource = upload_rules.resource_of(name, arch, title, base_image, self.reserved(), self.default_base())
        files = upload_rules.files_of(name, wanted)
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
        self._hub.publish("uploads", {"id": upload.id})
        return self._finish_if_whole(upload.id)

    def list(self) -> list[dict[str, Any]]:
        """Those that are not complete, the oldest first."""
        return [self._document(each) for each in self._rows.list() if each.state != COMPLETE]

    def get(self, upload_id: str) -> dict[str, Any]:
        return self._document(self._found(upload_id))

    def cancel(self, upload_id: str) -> dict[str, Any]:
        """Forget it and what has arrived. Whoever sends to it is told at the next piece."""
        upload = self._found(upload_id)
        document = self._document(upload)
        with self._lock:
            for receiving in self._receiving.values():
                if receiving.upload.id == upload.id:
                    receiving.is_cancelled = True
        self._forget(upload)
        return document

    def reserved(self) -> set[tuple[str, str]]:
        """(os, release) that sources offer or that were synced from one: no upload may be called so."""
        synced = {(each.os, each.release) for each in self._resources() if not each.is_uploaded}
        return self._offered() | synced

    def default_base(self) -> str:
        return upload_rules.default_base(self._resources(), self._selections.list())

    def figures(self) -> dict[str, int]:
        """For the metrics: unfinished uploads, files that come in just now, bytes taken since the start."""
        unfinished = sum(each.state != COMPLETE for each in self._rows.list())
        with self._lock:
            return {"uploads": unfinished, "receiving": len(self._receiving), "bytes": self.taken_bytes}

    def digests(self) -> set[str]:
        """Of files that must stay though no image names them yet."""
        return self._rows.digests()

    # -- bytes

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
        where = f"upload {upload_id}: {file.name}"
        if upload.state != RECEIVING:
            raise Conflict(f"{where}: expected an upload that is being received, got one that is {upload.state}")
        receiving = Receiving(self, upload, file)
        with self._lock:
            if self._ending:
                raise Unavailable("the region ends; it goes on with the upload when it is back")
            if file.sha256 in self._receiving:
                raise Busy(f"{where}: somebody else is sending this content just now")
            if len(self._receiving) >= AT_ONCE:
                raise Busy(f"{where}: expected at most {AT_ONCE} files at a time, got one more")
            self._receiving[file.sha256] = receiving
        try:
            here = self._bytes_here(file)
            if here != start:
                raise WrongOffset(f"{where}: expected to go on at byte {here}, got {start}", here)
            room = self._hold_room(upload)
            ingest = self._begin(where, file, room)
            receiving.attach(ingest)
            if ingest.offset != start:
                raise WrongOffset(f"{where}: expected to go on at byte {ingest.offset}, got {start}", ingest.offset)
            self._rows.touch(upload.id)
        except BaseException:  # goes on to the caller, who has nothing to close
            receiving.abandon()
            raise
        return receiving

    def _begin(self, where: str, file: ResourceFile, room: Reservation | None) -> Ingest:
        try:
            return self._store.begin(file.sha256, file.size, where, room)
        except InProgress:
            raise Busy(f"{where}: a sync brings this content just now") from None
        except OSError as error:
            raise disk_failed(where, error) from None

    def start(self) -> None:
        """Uploads whose last byte came just before the process ended become images now."""
        for upload in self._rows.list():
            if upload.state == RECEIVING and all(self._is_here(file) for file in upload.files):
                try:
                    self._finish_if_whole(upload.id)
                except (Refused, Conflict) as error:
                    _LOG.warning("%s", error)
        self._say_lost()
        self._job.start()

    def end(self) -> None:
        """Nobody begins any more; any thread."""
        self._ending = True
        self._job.end()

    def close(self) -> None:
        self.end()
        self._job.stop()

    # -- what a Receiving does here

    def _leave(self, receiving: Receiving) -> None:
        with self._lock:
            if self._receiving.get(receiving.file.sha256) is receiving:
                del self._receiving[receiving.file.sha256]
            self._used[receiving.upload.id] = time.monotonic()

    def _arrived(self, sha256: str, size: int, root: str) -> None:
        self._blobs.record([BlobRecord(sha256, size, root)])

    def _took(self, nbytes: int) -> None:
        with self._lock:
            self.taken_bytes += nbytes

    def _tell(self, upload_id: str) -> None:
        self._hub.publish("uploads", {"id": upload_id})

    def _refuse(self, upload: Upload, sentence: str) -> None:
        """Bytes that differ from what was announced, or are of another kind: said, and kept nowhere."""
        _LOG.warning("upload %s of %s is refused: %s", upload.id, upload.resource.name, sentence)
        self._rows.fail(upload.id, sentence)
        self._drop_room(upload.id)
        self._tell(upload.id)

    def _finish_if_whole(self, upload_id: str) -> dict[str, Any]:
        """Make the image once every file is here. Returns the upload's document."""
        with self._deciding:
            upload = self._found(upload_id)
            is_whole = upload.state == RECEIVING and all(self._is_here(file) for file in upload.files)
            if not is_whole:
                return self._document(upload)
            resource = upload.resource
            for file in upload.files:
                try:
                    with self._store.path_of(file.sha256).open("rb") as data:
                        head = data.read(upload_magic.HEAD_BYTES)
                except FileNotFoundError:  # withdrawn since it was looked for: it is lacking again
                    return self._document(upload)
                try:
                    upload_magic.check(file.ftype, resource.arch, head, f"image {resource.name}: {file.name}")
                except Refused as error:
                    self._refuse(upload, str(error))
                    raise
            version = self._images.add_uploaded(resource, upload.files, datetime.now(UTC).strftime("%Y%m%d"))
            self._rows.complete(upload.id, version)
            self._drop_room(upload.id)
        _LOG.info("image %s %s came in by upload %s, %d bytes", resource.name, version, upload.id, upload.size)
        self._publish()
        self._say_lost()
        self._tell(upload.id)
        return self.get(upload.id)

    # -- room and time

    def _hold_room(self, upload: Upload) -> Reservation | None:
        """Room for all that the upload lacks, taken once and kept while its client is at it. Raises NoSpace."""
        with self._lock:
            self._used[upload.id] = time.monotonic()
            if upload.id in self._rooms:
                return self._rooms[upload.id]
            lacking = {file.sha256: file.size - self._bytes_here(file) for file in upload.files}
            try:
                self._rooms[upload.id] = self._store.reserve(sum(lacking.values()))
            except InsufficientSpace as error:
                raise NoSpace(
                    f"image {upload.resource.name}: {error.path}: expected {error.needed} bytes free for this upload, "
                    f"got {error.free}"
                ) from None
            return self._rooms[upload.id]

    def _drop_room(self, upload_id: str) -> None:
        with self._lock:
            room = self._rooms.pop(upload_id, None)
            self._used.pop(upload_id, None)
        if room is not None:
            room.release()

    def _turn(self) -> float:
        """End what needs no client any more, give back the room of the quiet, forget the dead."""
        for upload in self._rows.list():
            if upload.state == RECEIVING and not self._ending:
                self._end_left(upload)
        now = time.monotonic()
        with self._lock:
            busy = {receiving.upload.id for receiving in self._receiving.values()}
            quiet = [i for i in self._rooms if i not in busy and now - self._used.get(i, now) > ROOM_KEPT_S]
        for upload_id in quiet:
            self._drop_room(upload_id)
        for upload_id in busy:
            self._rows.touch(upload_id)
        before = (datetime.now(UTC) - timedelta(seconds=self._kept_s)).isoformat(timespec="microseconds")
        for upload in self._rows.list():
            if upload.touched < before and upload.id not in busy:
                if upload.state != COMPLETE:
                    _LOG.info(
                        "upload %s of %s: nothing came since %s; what has arrived is removed",
                        upload.id, upload.resource.name, upload.touched,
                    )  # fmt: skip
                self._forget(upload)
        self._say_lost()
        return TURN_S

    def _end_left(self, upload: Upload) -> None:
        """Parts that have all their bytes: the region was killed, or its disk failed, before they were a file."""
        for file in upload.files:
            if not self._is_here(file) and self._bytes_here(file) == file.size:
                try:
                    self.open(upload.id, file.name, file.size, file.size).end()
                except BootplaneError as error:  # a client who asks is told where to go on
                    _LOG.warning("%s", error)

    def _forget(self, upload: Upload) -> None:
        """Its row goes, and what has arrived."""
        self._rows.remove(upload.id)
        self._drop_room(upload.id)
        self._discard_parts(upload)
        self._tell(upload.id)

    def _discard_parts(self, upload: Upload) -> None:
        """The partial files of an upload that is no more, unless somebody else wants them, or sends one just now."""
        wanted = self.digests() | {f.sha256 for each in self._images.sets() for f in each.resource_set.files}
        for file in upload.files:
            if file.sha256 not in wanted:
                self._store.discard_idle_partial(file.sha256)

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

    # -- how far

    def _found(self, upload_id: str) -> Upload:
        upload = self._rows.get(upload_id)
        if upload is None:
            raise NotFound(f"upload {upload_id!r}: there is none with this id; it may have expired or been cancelled")
        return upload

    def _resources(self) -> Sequence[BootResource]:
        return [each.resource_set.resource for each in self._images.sets()]

    def _is_here(self, file: ResourceFile) -> bool:
        if not self._store.has(file.sha256, file.size):
            return False
        if self._blobs.get(file.sha256) is None:
            if self._blobs.is_removed(file.sha256):  # its file is being taken away just now
                return False
            self._arrived(file.sha256, file.size, chunk_root(self._store.chunk_list(file.sha256)))
        return True

    def _bytes_here(self, file: ResourceFile) -> int:
        if self._is_here(file):
            return file.size
        try:
            return min(self._store.partial_path(file.sha256).stat().st_size, file.size)
        except FileNotFoundError:
            return 0

    def _document(self, upload: Upload) -> dict[str, Any]:
        files, rate = [], 0.0
        counted: dict[str, int] = {}
        for file in upload.files:
            with self._lock:
                receiving = self._receiving.get(file.sha256)
            if receiving is not None and receiving.ingest is not None:
                done, state = receiving.ingest.offset, "receiving"
                rate += receiving.rate()
            else:
                done = file.size if upload.state == COMPLETE else self._bytes_here(file)
                state = "done" if done == file.size and self._store.has(file.sha256) else "waiting"
            counted[file.sha256] = done
            files.append(
                {
                    "name": file.name,
                    "ftype": file.ftype,
                    "sha256": file.sha256,
                    "size": file.size,
                    "done": done,
                    "state": state,
                }
            )
        done, left = sum(counted.values()), upload.size - sum(counted.values())
        expires = datetime.fromisoformat(upload.touched) + timedelta(seconds=self._kept_s)
        return {
            "id": upload.id,
            "image": upload.resource.name,
            "title": upload.resource.title,
            "arch": upload.resource.arch,
            "subarch": upload.resource.subarch,
            "base_image": upload.resource.base_image,
            "state": upload.state,
            "version": upload.version,
            "size": upload.size,
            "done": done,
            "rate": round(rate),
            "eta_s": round(left / rate, 1) if rate else None,
            "files": files,
            "created": upload.created[:19] + "Z",
            "expires": expires.isoformat()[:19] + "Z",
            "error": upload.error,
        }


def disk_failed(name: str, error: OSError) -> NoSpace | Unavailable:
    """*error* of the store's directory, in a sentence."""
    text = f"{name}: {error if isinstance(error, StoreError) else error.strerror}; what has arrived is kept"
    is_full = isinstance(error, InsufficientSpace) or error.errno in (errno.ENOSPC, errno.EDQUOT)
    return NoSpace(text) if is_full else Unavailable(text)


class Receiving:
    """One file that comes in. Used by one thread at a time; ends with end() or abandon(), whatever happened."""

    def __init__(self, desk: Uploads, upload: Upload, file: ResourceFile) -> None:
        self.upload = upload
        self.file = file
        self.ingest: Ingest | None = None
        self.is_cancelled = False
        self._desk = desk
        self._rate = Rate(time.monotonic)
        self._rate_lock = threading.Lock()
        self._told = 0.0
        self._head: bytes | None = None  # the file's beginning, until there is enough of it to judge

    def rate(self) -> float:
        """Bytes per second over the last seconds."""
        with self._rate_lock:
            return self._rate.value()

    def attach(self, ingest: Ingest) -> None:
        """*ingest* has been opened: bytes may come."""
        self.ingest = ingest
        if ingest.offset == 0:
            self._head = b""

    def write(self, data: bytes | bytearray) -> None:
        """Appends. Raises Refused for bytes that cannot be right, NoSpace, Gone when it was cancelled."""
        ingest = self.ingest
        if ingest is None:
            raise Gone(f"upload {self.upload.id}: it has ended")
        self._raise_if_cancelled()
        with self._words(ingest):
            self._judge(data)
            ingest.write(data)
        self._desk._took(len(data))
        with self._rate_lock:
            self._rate.add(len(data))
        now = time.monotonic()
        if now - self._told >= TELL_S:
            self._told = now
            self._desk._tell(self.upload.id)

    def end(self) -> dict[str, Any]:
        """No more bytes come. The whole file is committed, a part is kept for the next time.

        Returns the upload's document; raises Refused when the whole file is not what was announced.
        """
        try:
            self._raise_if_cancelled()
            ingest = self.ingest
            if ingest is not None:
                with self._words(ingest):
                    if ingest.offset < self.file.size:
                        ingest.suspend()
                    else:
                        self._judge(b"", is_all=True)
                        verified = ingest.commit()
                        self._desk._arrived(verified.sha256, verified.size, verified.root)
                self.ingest = None
        finally:
            self._desk._leave(self)
        return self._desk._finish_if_whole(self.upload.id)

    def abandon(self) -> None:
        """As end(), for a client that is gone or was refused: what has arrived is kept, and nobody hears of it."""
        ingest, self.ingest = self.ingest, None
        try:
            if ingest is not None:
                ingest.suspend()
        except StoreError as error:
            _LOG.warning("upload %s: %s", self.upload.id, error)
        finally:
            self._desk._leave(self)
        if self.is_cancelled:
            self._desk._discard_parts(self.upload)

    def _raise_if_cancelled(self) -> None:
        if self.is_cancelled:
            self.abandon()
            raise Gone(f"upload {self.upload.id}: it was cancelled")

    @contextlib.contextmanager
    def _words(self, ingest: Ingest) -> Iterator[None]:
        """Ends the ingest as its error asks for, and says the error in our words."""
        name = f"image {self.upload.resource.name}"
        try:
            yield
        except (DigestMismatch, Refused) as error:
            self._discard(ingest)
            self._desk._refuse(self.upload, str(error))
            raise Refused(str(error)) from None
        except InsufficientSpace as error:
            self.ingest = None
            ingest.__exit__(type(error), error, None)  # as a with block ends it: without writing again
            self._desk._drop_room(self.upload.id)
            raise NoSpace(f"{name}: {error}; what has arrived is kept") from None
        except OSError as error:  # of the disk: also while the whole file is made durable and gets its name
            self.abandon()
            raise disk_failed(name, error) from None

    def _discard(self, ingest: Ingest) -> None:
        self.ingest = None
        ingest.discard()

    def _judge(self, data: bytes | bytearray, *, is_all: bool = False) -> None:
        """Refuses what is plainly not of its type as soon as enough of it is here."""
        if self._head is None:
            return
        self._head += data[: upload_magic.HEAD_BYTES - len(self._head)]
        if is_all or len(self._head) >= upload_magic.HEAD_BYTES:
            head, self._head = self._head, None
            resource = self.upload.resource
            upload_magic.check(self.file.ftype, resource.arch, head, f"image {resource.name}: {self.file.name}")
