"""Real boot files for the demo, out of Debian's own signed packages.

Packages are fetched by apt (which checks their signatures) and unpacked with dpkg-deb, without root, into a cache that
is kept between runs. Where that cannot be had (no apt, no network), files of the same sizes are generated, and ``real``
says so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

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


class ContentUnavailable(Exception):
    """Real files cannot be had here; the message says why."""


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
        for tool in ("apt-get", "apt-cache", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise ContentUnavailable(f"{tool} is not on this machine")
        free = shutil.disk_usage(cache).free
        if free < _NEEDED_BYTES:
            raise ContentUnavailable(f"{cache}: expected {_NEEDED_BYTES} free bytes, got {free}")
        say("fetching Debian's netboot installer, shim, GRUB and PXELINUX packages (165 MB, once)")
        options = _apt_options(cache, say)
        packages = [INSTALLER, *LOADER_PACKAGES, _kernel_package(options)]
        if shutil.which("mksquashfs") is None:
            packages.append("squashfs-tools")
        debs = _download(cache / "debs", packages, options)
        for deb in debs:
            if not deb.name.startswith(("linux-image-", "squashfs-tools")):
                _unpack(deb, tree)
        say("making a squashfs of Debian's cloud kernel and modules")
        _make_squashfs(cache, debs, squashfs)
        done.write_text("\n".join(sorted(deb.name for deb in debs)) + "\n")
        shutil.rmtree(cache / "debs")
    files = {role: tree / path for role, path in FILES.items()} | {"squashfs": squashfs}
    return Content(files, real=True, reason="", version=time.strftime("%Y%m%d", time.gmtime(done.stat().st_mtime)))


def _run(argv: list[str], cwd: Path | None = None) -> str:
    # SOURCE_DATE_EPOCH and mksquashfs's own time options exclude one another.
    env = {key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    try:
        result = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=600, env=env)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ContentUnavailable(f"{argv[0]}: {error}") from error
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
        raise ContentUnavailable(f"{' '.join(argv[:2])} ended with {result.returncode}: {last}")
    return result.stdout


def _apt_options(cache: Path, say: Callable[[str], None]) -> list[str]:
    """Options with which apt knows our packages: the machine's own lists or, when those are empty, ours."""
    if _knows([]):
        return []
    state = cache / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    options = [
        "-o", f"Dir::State={state}",
        "-o", f"Dir::State::lists={state}/lists",
        "-o", "Dir::State::status=/var/lib/dpkg/status",
        "-o", f"Dir::Cache={state}/cache",
        "-o", "APT::Sandbox::User=",
    ]  # fmt: skip
    say("fetching the package lists")
    _run(["apt-get", *options, "update"])
    if not _knows(options):
        raise ContentUnavailable(f"apt knows no package {INSTALLER}")
    return options


def _knows(options: list[str]) -> bool:
    try:
        return "Filename:" in _run(["apt-cache", *options, "show", "--no-all-versions", INSTALLER])
    except ContentUnavailable:
        return False


def _kernel_package(options: list[str]) -> str:
    for line in _run(["apt-cache", *options, "depends", KERNEL_META]).splitlines():
        relation, _, name = line.strip().partition(" ")
        if relation == "Depends:" and name.startswith("linux-image-"):
            return name.strip()
    raise ContentUnavailable(f"{KERNEL_META} depends on no linux-image package")


def _download(folder: Path, packages: Iterable[str], options: list[str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", *options, "-o", "APT::Sandbox::User=", "download", *packages], cwd=folder)
    return sorted(folder.glob("*.deb"))


def _unpack(deb: Path, tree: Path) -> None:
    tree.mkdir(parents=True, exist_ok=True)
    _run(["dpkg-deb", "-x", str(deb), str(tree)])


def _make_squashfs(cache: Path, debs: list[Path], target: Path) -> None:
    tool = shutil.which("mksquashfs")
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        root = Path(scratch) / "root"
        for deb in debs:
            if deb.name.startswith("linux-image-"):
                _unpack(deb, root)
            elif deb.name.startswith("squashfs-tools"):
                _unpack(deb, Path(scratch) / "tools")
                tool = str(Path(scratch) / "tools/usr/bin/mksquashfs")
        if tool is None:
            raise ContentUnavailable("mksquashfs is not on this machine (package squashfs-tools)")
        part = Path(scratch) / "squashfs"
        # One timestamp for everything: the same packages make the same bytes.
        _run(
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
