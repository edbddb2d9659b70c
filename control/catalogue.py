"""What the region publishes to its racks: names -> blobs, built from complete sets, signed, numbered.

``contents()`` is pure: sets, derived boot loader files and present blobs in, names and blobs out. The Publisher numbers
and signs it, keeps the newest body in memory, and wakes racks that wait for a newer one.

Invariants: only files of complete sets have names; a name's blob is in the store, or was and is wanted again (a rack
that holds it serves it: what was offered once is not withdrawn for a disk of ours); the version goes up whenever names
or blobs differ from what was published last, over restarts too, and stays when they do not. A set that cannot be named
(two files for one name, a tag that is no name) is left out and reported; it never withholds the others.

Machines that begin get the newest version of which every file they need is here. A whole older one boots everywhere;
the newest, while it lacks a lost file, boots from racks that happen to hold all of it, of which a region cannot be
sure. Who has begun with the newest goes on to find it by content. With no whole version the newest keeps the names.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bootplane.control.domain.images import ARCHIVE, ResourceSet
from bootplane.control.storage.blobs import BlobRecord, DerivedFile
from bootplane.control.storage.images import StoredSet
from bootplane.control.storage.settings import CATALOGUE_DIGEST, CATALOGUE_VERSION, SettingsRepository
from bootplane.dataplane import catalogue
from bootplane.dataplane.namespace import ImageFile, LoaderFile, NameClash, image_name, names_of, wire_names

_LOG = logging.getLogger("bootplane.catalogue")
PXE_ARCH = "i386"


@dataclass(frozen=True, slots=True)
class Contents:
    """Names and blobs of one catalogue, and what machines are offered."""

    names: Mapping[str, str]
    blobs: Mapping[str, BlobRecord]
    offered: tuple[ResourceSet, ...]  # the set of each resource that machines begin with
    left_out: tuple[str, ...]  # one sentence for each set that could not be named


@dataclass(frozen=True, slots=True)
class Publication:
    """One published catalogue. *body* and *signature* are what a rack is sent."""

    version: int
    body: bytes
    signature: str
    contents: Contents


Derived = Mapping[str, Sequence[DerivedFile]]  # archive's sha256 -> its files


def chosen(sets: Iterable[StoredSet], derived: Derived, lost: Collection[str]) -> dict[str, StoredSet]:
    """Resource's name -> the version that machines which begin get: the newest one without a file among *lost*, else
    the newest. An uploaded one that was deleted or replaced is for whoever has begun to fetch it, and nobody else."""
    best: dict[str, StoredSet] = {}
    ranks: dict[str, tuple[object, ...]] = {}
    for stored in sets:
        resource = stored.resource_set.resource
        if not stored.complete or (stored.marked is not None and resource.is_uploaded):
            continue
        rank = (_is_whole(stored.resource_set, derived, lost), stored.resource_set.order)
        if resource.name not in best or rank > ranks[resource.name]:
            best[resource.name], ranks[resource.name] = stored, rank
    return best


def stand_ins(sets: Sequence[StoredSet], derived: Derived, lost: Collection[str]) -> list[StoredSet]:
    """Superseded sets that machines begin with because the newest, which is still wanted, lacks a lost file."""
    newest = chosen(sets, derived, ())
    return [
        stored
        for name, stored in chosen(sets, derived, lost).items()
        if stored.id != newest[name].id and newest[name].marked is None
    ]


def contents(
    sets: Sequence[StoredSet],
    derived: Derived,
    present: Mapping[str, BlobRecord],
    lost: Collection[str] = (),
) -> Contents:
    """The chosen set of each resource under all its names, other complete ones by content only. *present*: those that
    are *lost* included."""
    begun_with = chosen(sets, derived, lost)
    others = [
        stored for stored in sets if stored.complete and begun_with.get(stored.resource_set.resource.name) != stored
    ]
    names: dict[str, str] = {}
    offered: list[ResourceSet] = []
    left_out: list[str] = []
    # Tested labels first, and PXELINUX of i386 before the same of amd64: where two boot loaders claim one bare name
    # with different bytes, the first has it.
    for stored in sorted(begun_with.values(), key=_precedence):
        resource_set = stored.resource_set
        resource = resource_set.resource
        try:
            if resource.is_bootloader:
                arch = loader_arch(resource.bootloader_type, resource.arch)
                added = names_of((), _loader_files(resource_set, arch, derived, present))
            else:
                added = names_of(_image_files(resource_set, present), ())
            clash = next((name for name, sha256 in added.items() if names.get(name, sha256) != sha256), None)
            if clash is not None:
                raise NameClash(f"name {clash!r}: expected one file, got {names[clash]} and {added[clash]}")
        except ValueError as error:
            left_out.append(f"{resource.name} {resource_set.version} is not served: {error}")
            continue
        names.update(added)
        offered.append(resource_set)
    for stored in others:
        names.update(_by_content(stored.resource_set, present, left_out))
    blobs = {sha256: present[sha256] for sha256 in set(names.values())}
    return Contents(names, blobs, tuple(offered), tuple(left_out))


def _is_whole(resource_set: ResourceSet, derived: Derived, lost: Collection[str]) -> bool:
    """Whether every file that a machine needs of a complete set is here."""
    files = resource_set.files
    if resource_set.resource.is_bootloader:  # machines fetch what was unpacked
        return not any(inner.sha256 in lost for file in files for inner in derived.get(file.sha256, ()))
    return resource_set.is_complete(file.sha256 for file in files if file.sha256 not in lost)


def _precedence(stored: StoredSet) -> tuple[bool, bool, str]:
    resource = stored.resource_set.resource
    return not resource.is_tested, loader_arch(resource.bootloader_type, resource.arch) != resource.arch, resource.name


def names_by_file(resource_set: ResourceSet, table: Mapping[str, str]) -> dict[str, list[str]]:
    """File name -> the wire names of *table* that mean this file of the set, the canonical one first."""
    found: dict[str, list[str]] = {}
    for file in _files_of(resource_set):
        try:
            found[file.file] = [name for name in wire_names(file) if table.get(name) == file.sha256]
        except ValueError:
            found[file.file] = []
    return found


def loader_arch(bootloader_type: str, arch: str) -> str:
    """The arch in a boot loader's names: images.maas.io has the one PXELINUX under i386 and amd64."""
    return PXE_ARCH if bootloader_type == "pxe" and arch == "amd64" else arch


class Publisher:
    """Holds the newest publication. ``publish`` is called by worker threads, ``newer_than`` by the event loop."""

    def __init__(self, region_id: str, key: catalogue.SigningKey, settings: SettingsRepository) -> None:
        self.key = key
        self._region_id = region_id
        self._settings = settings
        self._lock = threading.Lock()
        self._current: Publication | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._reported: set[str] = set()

    @property
    def current(self) -> Publication | None:
        return self._current

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Waiters live on *loop*."""
        self._loop = loop
        self._changed = asyncio.Event()

    def publish(self, new: Contents) -> Publication:
        """Make *new* the current catalogue; a new version only when it differs from the last."""
        with self._lock:
            digest = digest_of(new)
            version = int(self._settings.get(CATALOGUE_VERSION) or 0)
            if digest != self._settings.get(CATALOGUE_DIGEST) or version == 0:
                version += 1
                self._settings.put({CATALOGUE_VERSION: str(version), CATALOGUE_DIGEST: digest})
            elif self._current is not None:
                return self._current
            entries = {sha256: catalogue.BlobEntry(blob.size, blob.root) for sha256, blob in new.blobs.items()}
            body = catalogue.encode(catalogue.build(self._region_id, version, entries, new.names))
            self._current = Publication(version, body, self.key.sign_catalogue(body), new)
            for sentence in new.left_out:
                if sentence not in self._reported:
                    self._reported.add(sentence)
                    _LOG.warning("%s", sentence)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)
        return self._current

    async def newer_than(self, version: int, wait_s: float) -> Publication | None:
        """The current publication when it is not *version*, waiting up to *wait_s* seconds for one; else None.

        A rack that has a *higher* version than ours (a region restored from a backup) is told at once as well: it
        refuses ours, and says so, which is better than two sides waiting for each other.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            changed = self._changed
            current = self._current
            if current is not None and current.version != version:
                return current
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0 or changed is None:
                return None
            try:
                await asyncio.wait_for(changed.wait(), left_s)
            except TimeoutError:
                return None

    def end_waits(self) -> None:
        """The region ends: whoever waits hears "nothing newer" now. Called on the loop."""
        if self._changed is not None:
            self._changed.set()
        self._changed = None

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = asyncio.Event()


def _image_files(resource_set: ResourceSet, present: Mapping[str, BlobRecord]) -> list[ImageFile]:
    resource = resource_set.resource
    return [
        ImageFile(
            file.sha256, resource.os, resource.arch, resource.subarch, resource.release, resource.label, file.name
        )
        for file in resource_set.files
        if file.sha256 in present and file.ftype != ARCHIVE
    ]


def _loader_files(
    resource_set: ResourceSet,
    arch: str,
    derived: Mapping[str, Sequence[DerivedFile]],
    present: Mapping[str, BlobRecord],
) -> list[LoaderFile]:
    return [
        LoaderFile(inner.sha256, resource_set.resource.bootloader_type, arch, inner.name)
        for file in resource_set.files
        for inner in derived.get(file.sha256, ())
        if inner.sha256 in present
    ]


def _files_of(resource_set: ResourceSet) -> list[ImageFile]:
    resource = resource_set.resource
    if resource.is_bootloader:
        return []
    return [
        ImageFile(f.sha256, resource.os, resource.arch, resource.subarch, resource.release, resource.label, f.name)
        for f in resource_set.files
    ]


def _by_content(resource_set: ResourceSet, present: Mapping[str, BlobRecord], left_out: list[str]) -> dict[str, str]:
    """A set that nobody begins with goes on being served to whoever has, until it is removed."""
    found: dict[str, str] = {}
    try:
        for file in _image_files(resource_set, present):
            place = (file.os, file.arch, file.subarch, file.release, file.label, file.file)
            found[image_name(file.sha256, *place)] = file.sha256
    except ValueError as error:
        left_out.append(f"{resource_set.resource.name} {resource_set.version} is not served: {error}")
    return found


def digest_of(new: Contents) -> str:
    """Names and blobs in 64 hex digits: whether two catalogues differ."""
    blobs = {sha256: (blob.size, blob.root) for sha256, blob in new.blobs.items()}
    text = json.dumps([sorted(new.names.items()), sorted(blobs.items())], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
