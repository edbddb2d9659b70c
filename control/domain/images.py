"""The nouns of images: what a boot source offers, what an operator selects, what a region holds. Frozen plain data.

Two chains of nouns meet here. Upstream: boot source -> product -> version -> item, as simplestreams says it. Ours:
boot resource -> resource set (one version of it) -> resource file, as machines, racks and the API know it. Rules that
need only these nouns (which ftypes exist, when a set is complete, how a kernel is called) stand here too, so that
sync, catalogue and API cannot disagree about them.

Invariants: every sha256 is 64 lower-case hex digits, every size is in bytes, and every item path is plain and relative
(simplestreams.paths); whoever builds these objects has checked it. Left to others: reading (simplestreams), choosing
(simplestreams.select), bytes (sync, dataplane.store).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Tag = str | int | float  # what simplestreams flattens: strings and numbers, nothing else
Tags = Mapping[str, Tag]

KERNEL = "boot-kernel"
INITRD = "boot-initrd"
DTB = "boot-dtb"
SQUASHFS = "squashfs"
ROOT_IMAGE = "root-image.gz"
ARCHIVE = "archive.tar.xz"  # a boot loader's files, unpacked by control.bootloaders
ROOT_ARCHIVES = frozenset(
    [
        *("root-tgz", "root-tbz", "root-txz"),
        *("root-dd", "root-dd.raw", "root-dd.bz2", "root-dd.gz", "root-dd.xz"),
        *("root-dd.tar", "root-dd.tar.bz2", "root-dd.tar.xz"),
    ]
)  # one of them is a whole operating system
MANIFESTS = frozenset({"manifest", "root-image.manifest"})  # package lists: shown to people, no machine boots them
KEPT_FTYPES = ROOT_ARCHIVES | MANIFESTS | {KERNEL, INITRD, DTB, SQUASHFS, ROOT_IMAGE, ARCHIVE}
PASSED_FTYPES = frozenset({"notifications", "di-kernel", "di-initrd"})  # known, and of no use to a rack

SYNCED, UPLOADED = "synced", "uploaded"  # where a resource comes from (MAAS's rtype)
CUSTOM_OS = "custom"  # of uploads that name no other
UPLOADED_LABEL = "uploaded"

_LTS = re.compile(r"(\d{1,4}(?:\.\d{1,4})+)\s+LTS\b")

TESTED_LABELS = frozenset({"stable", "release"})  # any other label is shown as what it is: not tested


@dataclass(frozen=True, slots=True)
class BootSource:
    """Where images come from. *keyring* is what the operator gave, binary or armored; None only when *unsigned*."""

    id: str
    name: str
    url: str
    keyring: bytes | None = None
    unsigned: bool = False
    priority: int = 0  # the higher one wins where two offer the same product
    enabled: bool = True
    ca: str = ""  # certificates in PEM that vouch for its host, beside those this system trusts


@dataclass(frozen=True, slots=True)
class Selection:
    """What an operator wants. Every field but *id* may hold shell patterns; an empty tuple means the default ``*``."""

    id: str
    os: str
    release: str
    arches: tuple[str, ...]
    subarches: tuple[str, ...] = ("*",)
    labels: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class Item:
    """One file a product version offers. *tags* are its own and its version's; the product has the rest."""

    name: str  # the key in the product list: "boot-kernel", "grub2-signed"
    ftype: str
    path: str  # relative to the boot source, percent-decoded
    sha256: str
    size: int
    tags: Tags = field(default_factory=dict, hash=False)

    @property
    def file_name(self) -> str:
        """What the file is called on the wire: the last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def is_required(self) -> bool:
        """False for what no machine needs: its absence does not make a set incomplete."""
        return self.ftype not in MANIFESTS


@dataclass(frozen=True, slots=True)
class Version:
    """One build of a product. Newer means greater in byte order: "20250709.10" is older than "20250709.9"."""

    name: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """What a boot source offers under one product id, versions newest first."""

    id: str
    content_id: str
    os: str
    arch: str
    label: str
    versions: tuple[Version, ...]
    release: str = ""  # "noble"; empty for boot loaders
    version: str = ""  # the release's number: "24.04"
    title: str = ""  # "24.04 LTS"
    codename: str = ""  # "Noble Numbat"
    subarch: str = ""
    subarches: tuple[str, ...] = ()  # hardware this kernel also runs: "hwe-p", "ga-16.04", ...
    arches: tuple[str, ...] = ()  # machines a boot loader starts: grub-ieee1275 serves ppc64el and ppc64
    kflavor: str = ""
    bootloader_type: str = ""  # "uefi", "pxe", "open-firmware"; empty for images
    tags: Tags = field(default_factory=dict, hash=False)

    @property
    def is_bootloader(self) -> bool:
        return bool(self.bootloader_type)

    @property
    def resource(self) -> BootResource:
        """Our name for what this product offers."""
        return BootResource(
            os=self.os,
            arch=self.arch,
            release=self.release,
            subarch="" if self.is_bootloader else kernel_name(self.subarch, self.kflavor),
            kflavor=self.kflavor,
            label=self.label,
            title=self.title or self.version or self.release or self.os,
            codename=self.codename,
            bootloader_type=self.bootloader_type,
        )


@dataclass(frozen=True, slots=True)
class BootResource:
    """Something machines can boot, whatever version of it is current."""

    os: str
    arch: str
    release: str
    subarch: str  # with the kernel flavour: "hwe-24.04-lowlatency-edge"
    label: str
    kflavor: str = ""
    title: str = ""
    codename: str = ""
    bootloader_type: str = ""
    rtype: str = SYNCED
    base_image: str = ""  # of an upload: the os/series it was made from

    @property
    def is_bootloader(self) -> bool:
        return bool(self.bootloader_type)

    @property
    def is_uploaded(self) -> bool:
        """An operator's, not a source's: no sync changes or drops it, and no machine is enlisted with it."""
        return self.rtype == UPLOADED

    @property
    def is_tested(self) -> bool:
        return self.label in TESTED_LABELS

    @property
    def lts(self) -> tuple[int, ...] | None:
        """The number of a release that is supported for long, by its title: (24, 4); None for any other."""
        found = _LTS.match(self.title)
        return tuple(int(part) for part in found[1].split(".")) if found else None

    @property
    def name(self) -> str:
        """``ubuntu/noble/amd64/ga-24.04``, ``grub-efi-signed/uefi/amd64``, ``custom/web/amd64/generic``; a source's
        untested label stands at the end."""
        parts = (
            (self.os, self.bootloader_type, self.arch)
            if self.is_bootloader
            else (self.os, self.release, self.arch, self.subarch)
        )
        return "/".join(parts if self.is_tested or self.is_uploaded else (*parts, self.label))


@dataclass(frozen=True, slots=True)
class ResourceFile:
    """One file of a resource set. *kparams* are kernel parameters its item asks for."""

    name: str
    ftype: str
    sha256: str
    size: int
    kparams: str = ""

    @property
    def is_required(self) -> bool:
        return self.ftype not in MANIFESTS


@dataclass(frozen=True, slots=True)
class ResourceSet:
    """One version of a boot resource."""

    resource: BootResource
    version: str
    files: tuple[ResourceFile, ...]

    @property
    def order(self) -> str:
        """What versions of one resource are compared by, byte by byte: a source's as they are, uploads of one day
        (20261122, 20261122.1, ..., 20261122.10) by their number."""
        if not self.resource.is_uploaded:
            return self.version
        day, _, number = self.version.partition(".")
        return f"{day}.{number.zfill(6)}"

    @property
    def size(self) -> int:
        """Bytes of the distinct files."""
        return sum({file.sha256: file.size for file in self.files}.values())

    def is_complete(self, present: Iterable[str]) -> bool:
        """Whether every file a machine needs is among the digests *present*."""
        held = frozenset(present)
        return all(file.sha256 in held for file in self.files if file.is_required) and not lacks(
            file.ftype for file in self.files if file.sha256 in held
        )


@dataclass(frozen=True, slots=True)
class Told:
    """What a source says of a set beside what machines need: kept for whoever we publish it to (support_eol, older
    subarches, kpackage), and never believed. *items*: file name -> the item's name, its own and its version's tags."""

    product_id: str
    content_id: str
    tags: Tags = field(default_factory=dict, hash=False)  # the product's and its list's
    items: Mapping[str, tuple[str, Tags]] = field(default_factory=dict, hash=False)


def lacks(ftypes: Iterable[str]) -> tuple[str, ...]:
    """What a set with these *ftypes* still lacks to be complete: empty when it is.

    Complete is kernel + initrd + squashfs (or root-image.gz), or any root archive alone, or a boot loader's archive.
    """
    have = frozenset(ftypes)
    if ARCHIVE in have or have & ROOT_ARCHIVES:
        return ()
    missing = [ftype for ftype in (KERNEL, INITRD) if ftype not in have]
    if not have & {SQUASHFS, ROOT_IMAGE}:
        missing.append(SQUASHFS)
    return tuple(missing)


def kernel_name(subarch: str, kflavor: str) -> str:
    """The subarch machines are given: the flavour joins ga and hwe kernels, before ``-edge`` where there is one.

    >>> kernel_name("hwe-24.04-edge", "lowlatency")
    'hwe-24.04-lowlatency-edge'
    """
    if kflavor in ("", "generic") or kflavor in subarch or not ("hwe-" in subarch or "ga-" in subarch):
        return subarch
    stem = subarch.removesuffix("-edge")
    return f"{stem}-{kflavor}{subarch[len(stem) :]}"
