"""Which name on the wire means which file.

The idea: names are made in one place, by pure functions of what a file is, so that the region that publishes a
catalogue, the scripts it renders and the tests agree by construction. A name outside the table is nobody's.

Invariants: a wire name is already in canonical form (no leading slash, no empty or dot segment); one name means one
digest, and two digests that would share an ``images/<first 16 hex>/`` prefix are refused rather than guessed at.

Left to others: canonical form of what a machine sends (core.table), contents of boot configuration (control).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bootplane.dataplane.retry import split_again

PREFIX_HEX = 16  # of the digest in a name: longer names broke ARM64 boots, and 64 bits do not collide by accident

LOADER_PREFIX = "bootloader/"  # every file of a boot loader has a name under it
BIOS_PREFIX = "bios/"  # PXELINUX glues the directory of its loader before every name, even before a leading slash
BIOS_ARCHES = frozenset({"i386", "amd64"})

# file of a boot loader -> (bootloader type, arch) it comes from, under the bare name firmware and shim ask for
WELL_KNOWN: dict[str, tuple[str, str, str]] = {
    "bootx64.efi": ("uefi", "amd64", "bootx64.efi"),
    "grubx64.efi": ("uefi", "amd64", "grubx64.efi"),
    "mmx64.efi": ("uefi", "amd64", "mmx64.efi"),
    "bootaa64.efi": ("uefi", "arm64", "bootaa64.efi"),
    "grubaa64.efi": ("uefi", "arm64", "grubaa64.efi"),
    "mmaa64.efi": ("uefi", "arm64", "mmaa64.efi"),
    "bootppc64.bin": ("open-firmware", "ppc64el", "bootppc64.bin"),
    "lpxelinux.0": ("pxe", "i386", "lpxelinux.0"),
    "pxelinux.0": ("pxe", "i386", "lpxelinux.0"),  # lpxelinux speaks HTTP too; pxelinux itself only where it is missing
    "ldlinux.c32": ("pxe", "i386", "ldlinux.c32"),
    "libcom32.c32": ("pxe", "i386", "libcom32.c32"),
    "libutil.c32": ("pxe", "i386", "libutil.c32"),
    "chain.c32": ("pxe", "i386", "chain.c32"),
    "ifcpu.c32": ("pxe", "i386", "ifcpu.c32"),
    "ifcpu64.c32": ("pxe", "i386", "ifcpu64.c32"),
    "snponly.efi": ("ipxe", "amd64", "snponly.efi"),  # iPXE on the firmware's own driver: the one to boot by HTTP
    "ipxe.efi": ("ipxe", "amd64", "ipxe.efi"),
    "undionly.kpxe": ("ipxe", "amd64", "undionly.kpxe"),  # of PC firmware
}

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:-]*\Z")  # never "", ".", ".." or anything with a slash
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")


class NameClash(ValueError):
    """Two different files would have one name on the wire."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file of a boot resource. *subarch* carries the kernel flavour where that matters (hwe-24.04-lowlatency)."""

    sha256: str
    os: str
    arch: str
    subarch: str
    release: str
    label: str
    file: str


@dataclass(frozen=True, slots=True)
class LoaderFile:
    """One file of a boot loader: *kind* is the bootloader type of its product (uefi, pxe, open-firmware)."""

    sha256: str
    kind: str
    arch: str
    file: str


def image_name(sha256: str, os: str, arch: str, subarch: str, release: str, label: str, file: str) -> str:
    """The name by content: ``images/<first 16 hex>/<os>/<arch>/<subarch>/<release>/<label>/<file>``."""
    if not _HEX64.match(sha256):
        raise ValueError(f"sha256 of {file!r}: expected 64 lower-case hex digits, got {sha256!r}")
    return "/".join(("images", sha256[:PREFIX_HEX], *_segments(os, arch, subarch, release, label, file)))


def tree_name(os: str, arch: str, subarch: str, release: str, label: str, file: str) -> str:
    """The name by meaning, whatever version is current: ``ubuntu/<arch>/<subarch>/<release>/<label>/<file>``."""
    return "/".join(_segments(os, arch, subarch, release, label, file))


def bootloader_name(kind: str, arch: str, file: str) -> str:
    """``bootloader/<type>/<arch>/<file>``."""
    return LOADER_PREFIX + "/".join(_segments(kind, arch, file))


def wire_names(item: ImageFile | LoaderFile) -> Iterator[str]:
    """Every name one file is served under, the canonical one first. Bare loader names may yield to WELL_KNOWN."""
    if isinstance(item, ImageFile):
        place = (item.os, item.arch, item.subarch, item.release, item.label, item.file)
        own = [image_name(item.sha256, *place), tree_name(*place)]
        yield from own
        if item.arch in BIOS_ARCHES:
            yield from (BIOS_PREFIX + name for name in own)
        return
    yield bootloader_name(item.kind, item.arch, item.file)
    for name, (kind, arch, file) in WELL_KNOWN.items():
        if (kind, arch, file) == (item.kind, item.arch, item.file):
            yield name
            if kind == "pxe":
                yield f"syslinux/{name}"
                yield BIOS_PREFIX + name
            if kind == "uefi":
                yield f"images/{name}"  # where MAAS's DHCP sends UEFI HTTP boot


def names_of(images: Iterable[ImageFile], loaders: Iterable[LoaderFile]) -> dict[str, str]:
    """The catalogue's table: wire name -> sha256.

    Raises NameClash when one name would mean two digests, or when two digests share the first 16 hex digits.
    """
    table: dict[str, str] = {}
    prefixes: dict[str, str] = {}
    loaders = list(loaders)
    items: list[ImageFile | LoaderFile] = [*images, *loaders]
    for item in items:
        other = prefixes.setdefault(item.sha256[:PREFIX_HEX], item.sha256)
        if other != item.sha256:
            raise NameClash(f"digests {other} and {item.sha256} share their first {PREFIX_HEX} digits")
        for name in wire_names(item):
            other = table.setdefault(name, item.sha256)
            if other != item.sha256:
                raise NameClash(f"name {name!r}: expected one file, got {other} and {item.sha256}")
    for loader in loaders:  # a set without lpxelinux still answers to pxelinux.0
        if (loader.kind, loader.arch, loader.file) == ("pxe", "i386", "pxelinux.0"):
            for name in ("pxelinux.0", "syslinux/pxelinux.0", "bios/pxelinux.0"):
                table.setdefault(name, loader.sha256)
    return table


@dataclass(frozen=True, slots=True)
class BootName:
    """What a boot loader says about its machine in the name of the configuration it asks for."""

    loader: str  # "grub", "pxelinux" or "ipxe"
    mac: str | None = None  # "52:54:00:77:00:01"
    uuid: str | None = None  # as PXELINUX writes it: SMBIOS's bytes in their order, the first three fields swapped
    address_hex: str | None = None  # PXELINUX's (shortened) IPv4 address
    arch: str | None = None  # of grub.cfg-default-<arch>
    is_default: bool = False  # asked for by name of "default", or by no particular name
    is_first: bool = False  # what GRUB and iPXE load before all: it only leads to the machine's own


# A GRUB without a built-in configuration asks for grub.cfg-01-<mac> and grub.cfg-<address in hex> before grub.cfg:
# those are nobody's, so that each GRUB begins with grub.cfg and asks for the name of its ${net_default_mac}.
_FOLDER = r"(?:[a-z0-9._+/-]*/)?"  # it goes into scripts: nothing that a loader could take for more than a name
_MAC = r"(?P<mac>[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5})"
_DEFAULT = r"default(?:-(?P<arch>[a-z0-9_]+))?(?:-[a-z0-9_.-]+)?"
_GRUB = re.compile(rf"{_FOLDER}grub\.cfg(?:-(?:{_MAC}|{_DEFAULT}))?\Z")
_IPXE = re.compile(rf"{_FOLDER}ipxe\.cfg(?:-(?:{_MAC}|{_DEFAULT}))?\Z")
_PXELINUX = re.compile(
    rf"{_FOLDER}pxelinux\.cfg/(?:01-{_MAC}|(?P<uuid>[0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})"
    r"|(?P<ip>[0-9a-f]{1,8})|default(?:[.-](?P<arch>[a-z0-9_]+))?(?:-[a-z0-9_.-]+)?)\Z"
)
_ARCH_OF_GRUB = {"x86_64": "amd64", "i386": "amd64", "aarch64": "arm64", "arm": "armhf", "powerpc": "ppc64el"}
_ARCH_OF_PXELINUX = {"x86_64": "amd64", "i386": "amd64", "aarch64": "arm64", "powerpc": "ppc64el"}


def parse_boot_name(name: str) -> BootName | None:
    """Reads a canonical dynamic name (``grub/grub.cfg-<mac>``, ``pxelinux.cfg/01-<mac>``, ...) or returns None."""
    lower = name.lower()
    for loader, pattern in (("grub", _GRUB), ("ipxe", _IPXE), ("pxelinux", _PXELINUX)):
        found = pattern.match(split_again(lower)[0] if loader == "pxelinux" else lower)
        if found is None:
            continue
        mac = found["mac"]
        arch = found["arch"]
        uuid = found["uuid"] if loader == "pxelinux" else None
        address = found["ip"] if loader == "pxelinux" else None
        arches = _ARCH_OF_PXELINUX if loader == "pxelinux" else _ARCH_OF_GRUB
        return BootName(
            loader=loader,
            mac=mac.replace("-", ":") if mac else None,
            uuid=uuid,
            address_hex=address,
            arch=arches.get(arch, arch) if arch else None,
            is_default=not (mac or uuid or address),
            is_first=lower.rpartition("/")[2] in ("grub.cfg", "ipxe.cfg"),
        )
    return None


def mac_of(name: str) -> str | None:
    """The MAC in a configuration's name, lower-case with colons, or None."""
    parsed = parse_boot_name(name)
    return parsed.mac if parsed else None


def _segments(*parts: str) -> tuple[str, ...]:
    for part in parts:
        if not _SEGMENT.match(part):
            raise ValueError(f"name segment: expected letters, digits and . _ + ~ : -, got {part!r}")
    return parts
