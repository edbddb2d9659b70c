"""What MAAS's rows are in our words: which sets come, which do not, and why. Pure.

A synced resource keeps its place under os, arch, subarch, release and label, so that a sync that finds the same version
at a source has nothing to fetch. An upload becomes a custom image. Of each resource the newest set comes that is whole;
a set with a file that is not finished, damaged or nowhere is passed over for an older one, and said so.

Invariant: every resource ends as one set, or with the reason why there is none; every content of the database is
accounted for. Left to others: reading (maas), bytes (migrate).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from bootplane.control.domain.images import (
    CUSTOM_OS,
    KEPT_FTYPES,
    ROOT_ARCHIVES,
    ROOT_IMAGE,
    SQUASHFS,
    UPLOADED_LABEL,
    BootResource,
    ResourceFile,
    ResourceSet,
    kernel_name,
    lacks,
)
from bootplane.control.domain.images import UPLOADED as OURS_UPLOADED
from bootplane.control.legacy.maas import Content, File, Inventory, Resource, Set

SYNCED, GENERATED, UPLOADED = 0, 1, 2  # MAAS's rtype
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:-]{0,127}\Z")  # what dataplane.namespace takes as a segment of a name
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Remark:
    """Something that does not come over as it is. *damaged*: MAAS held it to be whole, and it is not."""

    what: str
    why: str
    damaged: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A set that comes: ours, with the MAAS content of each of its files by digest."""

    resource_set: ResourceSet
    contents: tuple[Content, ...]
    paths: dict[str, str]


@dataclass(frozen=True, slots=True)
class Migration:
    """What is to be done."""

    wanted: tuple[Wanted, ...]
    remarks: tuple[Remark, ...]

    def contents(self) -> dict[str, Content]:
        """Digest -> where its bytes are; each content once, however many files it has."""
        found: dict[str, Content] = {}
        for each in self.wanted:
            for content in each.contents:
                known = found.setdefault(content.sha256, content)
                if known.object_bytes is None:
                    found[content.sha256] = content
        return found


def plan(inventory: Inventory, present: Collection[str] = (), damaged: Collection[str] = ()) -> Migration:
    """What comes of *inventory*. *present*: digests the store has, wherever they came from; *damaged*: digests whose
    bytes were read and are not what their row says."""
    remarks: list[Remark] = []
    wanted: dict[str, Wanted] = {}
    used: set[int] = set()
    for resource in inventory.resources:
        used.update(f.content_id for s in resource.sets for f in s.files if f.content_id is not None)
        chosen = _choose(resource, inventory, frozenset(present), frozenset(damaged), remarks)
        if chosen is None:
            continue
        name = chosen.resource_set.resource.name
        other = wanted.setdefault(name, chosen)
        if other is not chosen:
            remarks.append(Remark(_title(resource), f"passed over: {name} is the name of another resource, too"))
    for content in inventory.contents.values():
        if content.id not in used:
            remarks.append(Remark(_content_title(content), "left there: no file names it"))
    if inventory.orphans:
        count = len(inventory.orphans)
        what = "1 large object" if count == 1 else f"{count} large objects"
        remarks.append(Remark(what, "left there: no row of MAAS names them"))
    return Migration(tuple(wanted.values()), tuple(remarks))


def _choose(
    resource: Resource, inventory: Inventory, present: frozenset[str], damaged: frozenset[str], remarks: list[Remark]
) -> Wanted | None:
    """The newest set that is whole, or None."""
    title = _title(resource)
    chosen: Wanted | None = None
    for each in sorted(resource.sets, key=lambda each: (each.version, each.id), reverse=True):
        where = f"{title} {each.version}"
        if chosen is not None:
            remarks.append(Remark(where, f"passed over: {chosen.resource_set.version} is newer"))
            continue
        try:
            ours = boot_resource(resource, each.label)
        except ValueError as error:
            remarks.append(Remark(where, f"passed over: {error}"))
            continue
        problems = [p for p in (_problem(file, inventory, present, damaged) for file in each.files) if p is not None]
        if problems:
            remarks += [Remark(f"{where}, {p.what}", p.why, p.damaged) for p in problems]
            continue
        try:
            chosen = _wanted(resource, ours, each, inventory)
        except ValueError as error:
            remarks.append(Remark(where, f"passed over: {error}"))
    if chosen is None and not resource.sets:
        remarks.append(Remark(title, "passed over: it has no version"))
    return chosen


def _problem(file: File, inventory: Inventory, present: frozenset[str], damaged: frozenset[str]) -> Remark | None:
    """Why this file does not come; None when it does."""
    name = file.filename or file.filetype
    content = inventory.contents.get(file.content_id) if file.content_id is not None else None
    if content is None:
        return Remark(name, "passed over: it has no content in the database")
    if not _SHA256.match(content.sha256):
        return Remark(name, f"passed over: expected a sha256 of 64 hex digits, got {content.sha256[:80]!r}")
    if content.sha256 in present:
        return None
    if content.sha256 in damaged:
        return Remark(name, "damaged: its bytes are not those of its sha256", damaged=True)
    if content.total_size < 0:
        return Remark(name, f"passed over: expected a size in bytes, got {content.total_size}")
    if content.size < content.total_size:
        said = "never started" if content.size <= 0 else f"not finished, {content.size} of {content.total_size} bytes"
        return Remark(name, f"passed over: its download was {said}; a sync fetches it")
    if content.object_bytes is None and content.total_size > 0:
        return Remark(name, "damaged: its row is there and its object is not", damaged=True)
    if content.object_bytes is not None and content.object_bytes < content.total_size:
        return Remark(
            name,
            f"damaged: expected {content.total_size} bytes in its object, got {content.object_bytes}",
            damaged=True,
        )
    return None


def boot_resource(resource: Resource, label: str) -> BootResource:
    """Ours for a resource of MAAS. Raises ValueError in words that say what is odd about its name."""
    arch, _, subarch = resource.architecture.partition("/")
    if resource.rtype in (UPLOADED, GENERATED):
        return uploaded_resource(resource, arch, subarch or "generic")
    os, slash, release = resource.name.partition("/")
    if not slash:
        raise ValueError(f"expected a name of os and release, got {resource.name[:80]!r}")
    if resource.bootloader_type:  # "grub-efi-signed/uefi"
        return BootResource(
            os=_plain("os", os), arch=_plain("architecture", arch), release="", subarch="",
            label=_plain("label", label), bootloader_type=_plain("boot loader type", resource.bootloader_type),
            title=os,
        )  # fmt: skip
    kflavor = resource.kflavor
    if kflavor:
        _plain("kernel flavour", kflavor)
    return BootResource(
        os=_plain("os", os),
        arch=_plain("architecture", arch),
        release=_plain("release", release),
        subarch=kernel_name(_plain("subarchitecture", subarch or "generic"), kflavor),
        label=_plain("label", label),
        kflavor=kflavor,
        title=str(resource.extra.get("title") or release)[:256],
    )


def uploaded_resource(resource: Resource, arch: str, subarch: str) -> BootResource:
    """The custom image that an upload to MAAS becomes."""
    os, slash, name = resource.name.removeprefix("custom/").partition("/")
    if not slash:
        os, name = CUSTOM_OS, os
    return BootResource(
        os=_plain("os", os),
        arch=_plain("architecture", arch),
        release=_plain("name", name),
        subarch=_plain("subarchitecture", subarch),
        label=UPLOADED_LABEL,
        title=str(resource.extra.get("title") or name)[:256],
        rtype=OURS_UPLOADED,
        base_image=resource.base_image[:128],
    )


def _wanted(resource: Resource, ours: BootResource, each: Set, inventory: Inventory) -> Wanted:
    files: dict[str, ResourceFile] = {}
    contents: list[Content] = []
    has_squashfs = any(file.filetype == SQUASHFS for file in each.files)
    for file in each.files:
        if file.filetype not in KEPT_FTYPES:
            raise ValueError(f"nobody here knows the file type {file.filetype[:80]!r}")
        if file.filetype == ROOT_IMAGE and has_squashfs:
            continue
        assert file.content_id is not None  # _problem has looked
        content = inventory.contents[file.content_id]
        name = _plain("file name", file.filename or file.filetype)
        if resource.rtype != SYNCED and file.filetype in ROOT_ARCHIVES:
            name = file.filetype  # MAAS 3.5 says root.tgz where 3.4 says root-tgz
        files[name] = ResourceFile(name, file.filetype, content.sha256, content.total_size, _kparams(file.extra))
        contents.append(content)
    missing = lacks(file.ftype for file in files.values())
    if missing:
        raise ValueError(f"it has no {', '.join(missing)}")
    _plain("version", each.version)
    return Wanted(
        ResourceSet(ours, each.version, tuple(files.values())),
        tuple(contents),
        paths={name: _path(ours, each.version, file) for name, file in files.items()},
    )


def _path(resource: BootResource, version: str, file: ResourceFile) -> str:
    """Where images.maas.io has such a file: MAAS does not keep the path itself."""
    if resource.is_bootloader:
        return f"bootloaders/{resource.bootloader_type}/{resource.arch}/{version}/{file.name}"
    place = f"{resource.release}/{resource.arch}/{version}"
    if file.ftype.startswith("boot-"):
        flavour = f"-{resource.kflavor}" if resource.kflavor not in ("", "generic") else ""
        return f"{place}/{resource.subarch.replace(flavour, '', 1)}/{resource.kflavor or 'generic'}/{file.name}"
    return f"{place}/{file.name}" if resource.os == "ubuntu" else f"{resource.os}/{place}/{file.name}"


def selections_of(wanted: Iterable[Wanted]) -> list[tuple[str, str, str, tuple[str, ...], tuple[str, ...]]]:
    """(os, release, arch, subarches, labels) that keep what came: an image nobody selects goes with the next sync."""
    groups: dict[tuple[str, str, str], tuple[set[str], set[str]]] = {}
    for each in wanted:
        resource = each.resource_set.resource
        if resource.is_uploaded or resource.is_bootloader:
            continue
        subarches, labels = groups.setdefault((resource.os, resource.release, resource.arch), (set(), set()))
        subarches.add(resource.subarch)
        labels.add(resource.label)
    return [(*place, tuple(sorted(subs)), tuple(sorted(labels))) for place, (subs, labels) in sorted(groups.items())]


def _plain(what: str, text: str) -> str:
    if not _NAME.match(text):
        raise ValueError(f"expected letters, digits and . _ + ~ : - as {what}, got {text[:80]!a}")
    return text


def _kparams(extra: Any) -> str:
    return str(extra.get("kparams") or "")


def _title(resource: Resource) -> str:
    return f"{resource.name} {resource.architecture}"


def _content_title(content: Content) -> str:
    return f"content {content.sha256[:16]}, {content.total_size} bytes"
