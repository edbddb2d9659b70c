"""The boots of the lab as data: firmware, what DHCP says to it, and what the rack must have seen, in that order.

DHCP's rules are those of docs/howto/dhcp.md, read from that page; a scenario adds tags of its own machine at most.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from tests.vm import guests
from tests.vm.guests import Firmware
from tests.vm.net import RACK, Lease

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto" / "dhcp.md"
HTTP_PORT = 5248
GRUB_HTTP = f"http://{RACK}:{HTTP_PORT}/bootloader/uefi/amd64/grubhttpx64.efi"


@dataclass(frozen=True)
class Fetch:
    """A transfer that must stand in the timeline: *name* is a regular expression for the whole name."""

    proto: str
    name: str


@dataclass(frozen=True)
class Scenario:
    letter: str
    title: str
    firmware: Firmware
    lease: Lease
    fetches: tuple[Fetch, ...]  # in this order; others may stand between them
    arch: str = "amd64"
    secure_boot: str = "none"  # as the booted system reads it: "0", "1", or none where firmware knows no such thing

    @property
    def mac(self) -> str:
        return self.lease.mac


def _tftp(*names: str) -> tuple[Fetch, ...]:
    return tuple(Fetch("tftp", name) for name in names)


def _http(*names: str) -> tuple[Fetch, ...]:
    return tuple(Fetch("http", name) for name in names)


def _lease(number: int, *tags: str) -> Lease:
    return Lease(f"52:54:00:77:00:{number:02x}", f"10.77.0.{100 + number}", tags)


def image(arch: str, file: str) -> str:
    return rf"images/[0-9a-f]{{16}}/debian/{arch}/ga-12/bookworm/stable/{file}"


def _grub(mac_number: int, folder: str = "grub") -> tuple[str, str]:
    return rf"{folder}/grub\.cfg", rf"{folder}/grub\.cfg-52:54:00:77:00:{mac_number:02x}"


def _kernel(arch: str = "amd64") -> tuple[str, str]:
    return image(arch, "boot-kernel"), image(arch, "boot-initrd")


_ROOT = _http(image("amd64", "squashfs"))


def uefi_grub(letter: str, number: int, title: str = "OVMF UEFI, shim, Debian's signed GRUB, all by TFTP") -> Scenario:
    fetches = (*_tftp(r"bootx64\.efi", r"grubx64\.efi", *_grub(number), *_kernel()), *_ROOT)
    return Scenario(letter, title, guests.UEFI, _lease(number), fetches, secure_boot="0")


def pxelinux(letter: str, number: int, title: str = "SeaBIOS, iPXE's ROM, lpxelinux.0, kernel by HTTP") -> Scenario:
    config = rf"pxelinux\.cfg/01-52-54-00-77-00-{number:02x}"
    fetches = (*_tftp(r"lpxelinux\.0", r"ldlinux\.c32", config), *_http(*_kernel()), *_ROOT)
    return Scenario(letter, title, guests.BIOS, _lease(number, "pxelinux"), fetches)


def ipxe(letter: str, number: int, title: str = "iPXE's ROM, iPXE's script, all by HTTP") -> Scenario:
    fetches = (*_http(r"ipxe\.cfg", rf"ipxe\.cfg-52:54:00:77:00:{number:02x}", *_kernel()), *_ROOT)
    return Scenario(letter, title, guests.BIOS, _lease(number), fetches)


UEFI_GRUB, PXELINUX, IPXE = uefi_grub("a", 1), pxelinux("c", 3), ipxe("d", 4)
SECURE_BOOT = replace(uefi_grub("b", 2, "the same with Secure Boot"), firmware=guests.SECURE, secure_boot="1")
PXELINUX_TFTP = Scenario(
    "c-tftp", "SeaBIOS, iPXE's ROM, pxelinux.0 without HTTP, all by TFTP", guests.BIOS, _lease(0x14, "old-pxelinux"),
    _tftp(r"pxelinux\.0", r"ldlinux\.c32", r"pxelinux\.cfg/01-52-54-00-77-00-14", *_kernel()) + _ROOT,
)  # fmt: skip
HTTP_BOOT = Scenario(
    "e", "UEFI HTTP boot, snponly.efi, iPXE's script, all by HTTP", guests.UEFI_HTTP, _lease(5),
    _http(r"snponly\.efi", r"ipxe\.cfg", r"ipxe\.cfg-52:54:00:77:00:05", *_kernel()) + _ROOT, secure_boot="0",
)  # fmt: skip
ARM64 = Scenario(
    "f", "AAVMF, shim, GRUB, an arm64 kernel, all by TFTP", guests.ARM64, _lease(6),
    (
        *_tftp(r"bootaa64\.efi", r"grubaa64\.efi", *_grub(6, "debian-installer/arm64/grub"), *_kernel("arm64")),
        *_http(image("arm64", "squashfs")),
    ),
    arch="arm64",
)  # fmt: skip
HTTP_GRUB = Scenario(
    "g", "UEFI HTTP boot, a GRUB of our own with http", guests.UEFI_HTTP, _lease(7, "own-grub"),
    _http(r"bootloader/uefi/amd64/grubhttpx64\.efi", *_grub(7), *_kernel()) + _ROOT, secure_boot="0",
)  # fmt: skip
#: in the order in which they run: those that take longest first
ALL = (ARM64, UEFI_GRUB, SECURE_BOOT, HTTP_BOOT, HTTP_GRUB, PXELINUX, IPXE)
#: with TFTP packets lost on the way
LOSS = (uefi_grub("a-loss", 0x11), pxelinux("c-loss", 0x13))
#: with nothing to boot at first, and no region for a while
RETRY = (uefi_grub("a-retry", 0x21), pxelinux("c-retry", 0x23), ipxe("d-retry", 0x24))
#: many at once
STORM = tuple(_lease(0x30 + number, "pxelinux") for number in range(16))


def dhcp() -> str:
    """dnsmasq's settings of the how-to, all blocks in order, and the lab's own additions."""
    blocks = re.findall(r"^```dnsmasq\n(.*?)^```$", HOWTO.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if len(blocks) < 2:
        raise ValueError(f"{HOWTO}: expected two blocks of dnsmasq settings, got {len(blocks)}")
    return "\n".join(
        [*blocks, f"dhcp-boot=tag:own-grub,{GRUB_HTTP}", f"dhcp-boot=tag:old-pxelinux,pxelinux.0,,{RACK}\n"]
    )


def by_letter(letter: str) -> Scenario:
    return next(scenario for scenario in ALL + LOSS if scenario.letter == letter)
