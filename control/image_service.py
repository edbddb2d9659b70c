"""What an operator does with images that are here: look, find one by a short name, compare, delete.

Invariant: a delete takes an upload's names from machines that begin now, never bytes from one that has begun: those go
after the grace time, as everything does. A synced image is its selections' to remove.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bootplane.control import packages
from bootplane.control.catalogue import Publication
from bootplane.control.domain.images import CUSTOM_OS, MANIFESTS
from bootplane.control.errors import Conflict, NotFound
from bootplane.control.image_documents import Around, document, shown
from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.images import ImageRepository, StoredSet
from bootplane.control.storage.selections import SelectionRepository
from bootplane.control.storage.sources import SourceRepository
from bootplane.control.sync.decide import is_selected
from bootplane.dataplane.store import Store

MANIFEST_BYTES = 4 << 20
Documents = list[dict[str, Any]]  # beside a method called list


class ImageService:
    """Thread-safe. *published*: the catalogue that racks have now."""

    def __init__(
        self,
        *,
        images: ImageRepository,
        blobs: BlobRepository,
        sources: SourceRepository,
        selections: SelectionRepository,
        store: Store,
        published: Callable[[], Publication | None],
        publish: Callable[[], None],
    ) -> None:
        self._images, self._blobs, self._sources, self._selections = images, blobs, sources, selections
        self._store, self._published, self._publish = store, published, publish

    def list(self) -> list[dict[str, Any]]:
        around = self._around()
        return [document(stored, around) for stored in shown(around.sets)]

    def count(self) -> int:
        """How many list() has."""
        return len(shown(self._images.sets()))

    def show(self, name: str, *, packages: bool = False) -> dict[str, Any]:
        """One image by its name; with *packages*, those that its package list names."""
        around = self._around()
        stored = find(shown(around.sets), name)[0]
        found = document(stored, around)
        if packages:
            found["packages"] = packages_of(self._store, stored)
        return found

    def delete(self, name: str, arch: str | None) -> Documents:
        """Take an upload away, of every arch or of one. Raises Conflict for a synced image."""
        sets = [each for each in self._images.sets() if each.marked is None]
        found = [each for each in sets if each.resource_set.resource.is_uploaded and _is_called(each, name)]
        if arch is not None:
            found = [each for each in found if arch in (each.resource_set.resource.arch, _arch(each))]
        if not found:
            synced = next((each for each in sets if each.resource_set.resource.name == name), None)
            if synced is None:
                raise NotFound(f"image {name!r}{f' for {arch}' if arch else ''}: there is no uploaded one of this name")
            raise Conflict(f"image {name!r}: expected an uploaded one, got one that is synced: {self._way_out(synced)}")
        removed = []
        for resource_name in dict.fromkeys(each.resource_set.resource.name for each in found):
            of_it = [each for each in found if each.resource_set.resource.name == resource_name]
            self._images.retire(resource_name)
            removed.append(
                {
                    "name": resource_name,
                    "arch": of_it[-1].resource_set.resource.arch,
                    "versions": [each.resource_set.version for each in of_it],
                    "size": of_it[-1].resource_set.size,
                }
            )
        self._publish()
        return removed

    def diff(self, old: str, new: str) -> dict[str, Any]:
        """What of the packages differs; both are NAME or NAME@VERSION."""
        sets = self._images.sets()
        first, second = _of_version(sets, old), _of_version(sets, new)
        return {
            "old": _called(first),
            "new": _called(second),
            **packages.difference(self._packages(first), self._packages(second)),
        }

    def _around(self) -> Around:
        published = self._published()
        return Around(
            sets=self._images.sets(),
            lost=self._blobs.lost(),
            names=published.contents.names if published else {},
            derived=self._blobs.derived(),
            sources={record.source.id: record.source.name for record in self._sources.list()},
        )

    def _packages(self, stored: StoredSet) -> Documents:
        found = packages_of(self._store, stored)
        if not found:
            resource_set = stored.resource_set
            raise NotFound(
                f"image {resource_set.resource.name} {resource_set.version}: it came without a package manifest, or "
                "the manifest is not here yet"
            )
        return found

    def _way_out(self, stored: StoredSet) -> str:
        ids = [each.id for each in self._selections.list() if is_selected(stored.resource_set.resource, [each])]
        if not ids:
            return "nothing selects it any more, the next sync removes it"
        return "remove its selection: " + ", ".join(f"`bootplane select remove {each}`" for each in ids)


def find(sets: Iterable[StoredSet], name: str) -> list[StoredSet]:
    """Those of the image *name*, oldest first: its whole name, or an upload's without arch and ``custom/``.

    Raises NotFound, and Conflict when a short name means several.
    """
    sets = list(sets)
    found = [each for each in sets if each.resource_set.resource.name == name]
    if not found:
        found = [each for each in sets if each.resource_set.resource.is_uploaded and _is_called(each, name)]
        names = sorted({each.resource_set.resource.name for each in found})
        if len(names) > 1:
            raise Conflict(f"image {name!r}: expected the name of one, got {', '.join(names)}")
    if not found:
        raise NotFound(f"image {name!r}: there is none of this name")
    return found


def packages_of(store: Store, stored: StoredSet) -> list[dict[str, str]]:
    """What the set's manifest lists; empty without one."""
    for file in stored.resource_set.files:
        if file.ftype in MANIFESTS and file.size <= MANIFEST_BYTES and store.has(file.sha256, file.size):
            return packages.parse(store.path_of(file.sha256).read_text(encoding="utf-8", errors="replace"))
    return []


def _of_version(sets: Sequence[StoredSet], text: str) -> StoredSet:
    name, at, version = text.partition("@")
    found = [each for each in find(sets, name) if each.complete]
    if at:
        chosen = [each for each in found if each.resource_set.version == version]
        if not chosen:
            there = ", ".join(each.resource_set.version for each in found) or "none"
            raise NotFound(f"image {name!r}: expected a version that is here ({there}), got {version!r}")
        return chosen[-1]
    newest = [each for each in found if each.marked is None] or found
    if not newest:
        raise NotFound(f"image {name!r}: no version of it is complete")
    return newest[-1]


def _called(stored: StoredSet) -> dict[str, str]:
    return {"name": stored.resource_set.resource.name, "version": stored.resource_set.version}


def _is_called(stored: StoredSet, name: str) -> bool:
    resource = stored.resource_set.resource
    short = f"{resource.os}/{resource.release}"
    names = {resource.name, short, f"{short}/{resource.arch}"}
    return name in names or (resource.os == CUSTOM_OS and name == resource.release)


def _arch(stored: StoredSet) -> str:
    resource = stored.resource_set.resource
    return f"{resource.arch}/{resource.subarch}"
