"""An image as the API shows it, and which of the stored sets are shown. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bootplane.control.catalogue import chosen, loader_arch, names_by_file
from bootplane.control.domain.images import ARCHIVE, MANIFESTS
from bootplane.control.storage.blobs import DerivedFile
from bootplane.control.storage.database import document_time
from bootplane.control.storage.images import StoredSet
from bootplane.dataplane.namespace import LoaderFile, wire_names


@dataclass(frozen=True)
class Around:
    """What a set's document says besides the set."""

    sets: Sequence[StoredSet]  # all there are, oldest first within their resource
    lost: Collection[str]  # digests of files that are not here any more
    names: Mapping[str, str]  # published: name on the wire -> digest
    derived: Mapping[str, Sequence[DerivedFile]]  # archive -> what was unpacked from it
    sources: Mapping[str, str]  # id -> name

    @cached_property
    def begun_with(self) -> Mapping[str, StoredSet]:
        """Resource's name -> the version that machines which begin get."""
        return chosen(self.sets, self.derived, self.lost)


def shown(sets: Iterable[StoredSet]) -> list[StoredSet]:
    """For each resource the newest complete set and a newer one that is on its way; uploads until they are deleted."""
    found: dict[tuple[str, bool], StoredSet] = {}
    for stored in sets:
        name = stored.resource_set.resource.name
        if stored.marked is not None and stored.resource_set.resource.is_uploaded:
            continue
        found[name, stored.complete] = stored  # sets come oldest first
    return [
        stored
        for (name, complete), stored in sorted(found.items(), key=lambda item: (item[0][0], not item[0][1]))
        if complete or (name, True) not in found or stored.resource_set.order > found[name, True].resource_set.order
    ]


def document(stored: StoredSet, around: Around) -> dict[str, Any]:
    """The <image> of the reference."""
    resource_set = stored.resource_set
    resource = resource_set.resource
    served = around.begun_with.get(resource.name)
    files = _loader_files(stored, around) if resource.is_bootloader else _files(stored, around)
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
        "complete": stored.complete and not any(file["sha256"] in around.lost for file in files),
        "served": served and served.resource_set.version,
        "size": resource_set.size,
        "source": around.sources.get(stored.source_id or ""),
        "files": files,
        "rtype": resource.rtype,
        "base_image": resource.base_image,
        "versions": [
            {"version": each.resource_set.version, "complete": each.complete, "marked": document_time(each.marked)}
            for each in around.sets
            if each.resource_set.resource.name == resource.name
        ],
    }


def _files(stored: StoredSet, around: Around) -> list[dict[str, Any]]:
    names = names_by_file(stored.resource_set, around.names) if stored.complete else {}
    return [
        _file(each.name, each.ftype, each.sha256, each.size, names.get(each.name, []))
        for each in stored.resource_set.files
    ]


def _loader_files(stored: StoredSet, around: Around) -> list[dict[str, Any]]:
    """A boot loader's files as machines see them: what was unpacked, and the archive itself until then."""
    resource = stored.resource_set.resource
    arch = loader_arch(resource.bootloader_type, resource.arch)
    files = []
    for archive in stored.resource_set.files:
        inner = around.derived.get(archive.sha256, ()) if archive.ftype == ARCHIVE else ()
        if not inner:
            files.append(_file(archive.name, archive.ftype, archive.sha256, archive.size, []))
        for each in inner:
            loader = LoaderFile(each.sha256, resource.bootloader_type, arch, each.name)
            names = [name for name in wire_names(loader) if around.names.get(name) == each.sha256]
            files.append(_file(each.name, "bootloader", each.sha256, each.size, names))
    return files


def _file(name: str, ftype: str, sha256: str, size: int, names: list[str]) -> dict[str, Any]:
    is_list = ftype in MANIFESTS
    return {"name": name, "ftype": ftype, "sha256": sha256, "size": size, "names": names, "packages": is_list}
