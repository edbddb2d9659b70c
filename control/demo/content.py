"""Real boot files for the demo, out of Debian's own signed packages.

Packages are fetched and unpacked without root (``packages``) into a cache that is kept between runs. Where that cannot
be had (no apt, no network), files of the same sizes are generated, and ``real`` says so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bootplane.control.demo import packages
from bootplane.control.demo.packages import ContentUnavailable

INSTALLER = "debian-installer-12-netboot-amd64"
LOADER_PACKAGES = ("shim-signed", "shim-helpers-amd64-signed", "grub-efi-amd64-signed", "pxelinux", "syslinux-common")
KERNEL_META = "linux-image-cloud-amd64"  # its Depends names the current kernel: the name changes with every update
_NETBOOT = "usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"
_MODULES = "usr/lib/syslinux/modules/bios"

#: role -> path inside the unpacked packages
FILES = {
    "boot-kernel": f"{_NETBOOT}/linux",
    "boot-initrd": f"{_NETBOOT}/initrd.gz",
    "bootx64.efi": "usr/lib/shim/shimx64.efi.signed",
    "mmx64.efi": "usr/lib/shim/mmx64.efi.signed",
    "grubx64.efi": "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
    "pxelinux.0": "usr/lib/PXELINUX/pxelinux.0",
    "lpxelinux.0": "usr/lib/PXELINUX/lpxelinux.0",
    "ldlinux.c32": f"{_MODULES}/ldlinux.c32",
    "libcom32.c32": f"{_MODULES}/libcom32.c32",
    "libutil.c32": f"{_MODULES}/libutil.c32",
    "chain.c32": f"{_MODULES}/chain.c32",
    "ifcpu64.c32": f"{_MODULES}/ifcpu64.c32",
}
#: sizes of the real files, for the generated ones
_GENERATED_BYTES = {
    "boot-kernel": 8_222_656, "boot-initrd": 40_810_276, "squashfs": 35_900_000, "bootx64.efi": 1_048_504,
    "mmx64.efi": 877_992, "grubx64.efi": 3_843_520, "pxelinux.0": 42_430, "lpxelinux.0": 75_072, "ldlinux.c32": 119_524,
    "libcom32.c32": 169_552, "libutil.c32": 23_524, "chain.c32": 25_128, "ifcpu64.c32": 1_808,
}  # fmt: skip
_NEEDED_BYTES = 1_500_000_000  # packages, their trees and the squashfs


@dataclass(frozen=True)
class Content:
    """``files``: role -> path of a boot file. ``real``: False when they are generated, and then ``reason`` says why."""

    files: dict[str, Path]
    real: bool
    reason: str
    version: str  # serial of the product versions: the day the packages were fetched


def cache_dir() -> Path:
    """Where packages and their trees are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "bootplane" / "demo"


def prepare(cache: Path, say: Callable[[str], None]) -> Content:
    """Returns the boot files, fetched or generated; *say* gets one line per slow step."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        return _real(cache, say)
    except ContentUnavailable as reason:
        say(f"no real boot files: {reason}; generating files of the same sizes")
        return _generated(cache, str(reason))


def _real(cache: Path, say: Callable[[str], None]) -> Content:
    tree = cache / "tree"
    squashfs = cache / "squashfs"
    done = cache / "complete"
    if not (done.is_file() and squashfs.is_file() and all((tree / path).is_file() for path in FILES.values())):
        packages.check_space(cache, _NEEDED_BYTES)
        say("fetching Debian's netboot installer, shim, GRUB and PXELINUX packages (165 MB, once)")
        options = packages.apt_options(cache, INSTALLER, say)
        wanted = [INSTALLER, *LOADER_PACKAGES, packages.kernel_package(KERNEL_META, options)]
        if shutil.which("mksquashfs") is None:
            wanted.append("squashfs-tools")
        debs = packages.download(cache / "debs", wanted, options)
        for deb in debs:
            if not deb.name.startswith(("linux-image-", "squashfs-tools")):
                packages.unpack(deb, tree)
        say("making a squashfs of Debian's cloud kernel and modules")
        _make_squashfs(cache, debs, squashfs)
        done.write_text("\n".join(sorted(deb.name for deb in debs)) + "\n")
        shutil.rmtree(cache / "debs")
    files = {role: tree / path for role, path in FILES.items()} | {"squashfs": squashfs}
    return Content(files, real=True, reason="", version=time.strftime("%Y%m%d", time.gmtime(done.stat().st_mtime)))


def _make_squashfs(cache: Path, debs: list[Path], target: Path) -> None:
    tool = shutil.which("mksquashfs")
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        root = Path(scratch) / "root"
        for deb in debs:
            if deb.name.startswith("linux-image-"):
                packages.unpack(deb, root)
            elif deb.name.startswith("squashfs-tools"):
                packages.unpack(deb, Path(scratch) / "tools")
                tool = str(Path(scratch) / "tools/usr/bin/mksquashfs")
        if tool is None:
            raise ContentUnavailable("mksquashfs is not on this machine (package squashfs-tools)")
        part = Path(scratch) / "squashfs"
        # One timestamp for everything: the same packages make the same bytes.
        packages.run(
            [tool, str(root), str(part), "-noappend", "-no-progress", "-all-root", "-all-time", "0", "-mkfs-time", "0"]
        )
        part.replace(target)


def _generated(cache: Path, reason: str) -> Content:
    folder = cache / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for role, size in _GENERATED_BYTES.items():
        path = files[role] = folder / role
        if path.is_file() and path.stat().st_size == size:
            continue
        block = hashlib.shake_256(role.encode()).digest(1 << 20)  # incompressible, the same on every machine
        with path.open("wb") as out:
            for at in range(0, size, len(block)):
                out.write((at.to_bytes(8, "big") + block[8:])[: size - at])
    return Content(files, real=False, reason=reason, version="20260101")
