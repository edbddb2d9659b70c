"""What the lab's machines boot: Debian's signed loaders and kernels, iPXE, a GRUB of our own, and an initrd of ours.

Packages are fetched as the demo fetches them, into a cache that is kept between runs and holds only what is used. Per
run are made: the initrds and a root image of random bytes, which no machine can have from anywhere but this run's
region. ``publish`` lays all of it out as a signed boot source, by the same code that publishes any other.

Left to others: serving the source, and what the region makes of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bootplane.control.demo import content as demo
from bootplane.control.demo import packages
from bootplane.control.mirror_publish import PublishProduct, bootloader, centos, image, pack, publish
from bootplane.control.simplestreams.signer import Signer
from tests.vm import initrd

HERE = Path(__file__).resolve().parent
OS, RELEASE = "debian", "bookworm"
CONSOLE = {"amd64": "console=ttyS0", "arm64": "console=ttyAMA0"}
INSTALLER_ARM64 = (
    "debian-installer-12-netboot-arm64"  # arch "all": shim, GRUB and kernel without a foreign architecture
)
KERNEL_META = "linux-image-amd64"
PACKAGES = (*demo.LOADER_PACKAGES, INSTALLER_ARM64, "ipxe", "busybox-static", "grub-efi-amd64-bin")
NEEDED_BYTES = 2_500_000_000  # packages and their trees, for as long as they are taken apart; 150 MB stay
FORGET_S = 7 * 24 * 3600  # a cache that another version of this file has made, unused
ROOT_BYTES = 3 * (1 << 20) + 4321  # of the root image: more than one chunk, and no whole number of them

_NETBOOT_ARM64 = "usr/lib/debian-installer/images/12/arm64/text/debian-installer/arm64"
_IPXE = "usr/lib/ipxe"
_LOADERS = {role: path for role, path in demo.FILES.items() if not role.startswith("boot-")} | {
    "bootaa64.efi": f"{_NETBOOT_ARM64}/bootnetaa64.efi",
    "grubaa64.efi": f"{_NETBOOT_ARM64}/grubaa64.efi",
    "snponly.efi": f"{_IPXE}/snponly.efi",
    "ipxe.efi": "boot/ipxe.efi",  # the one beside snponly.efi is a link to /boot of the machine it is installed on
    "undionly.kpxe": f"{_IPXE}/undionly.kpxe",
}
_SYSLINUX = ("pxelinux.0", "ldlinux.c32", "libcom32.c32", "libutil.c32", "chain.c32", "ifcpu64.c32")
_ARCHIVES = {
    "shim-signed-amd64": ("bootx64.efi", "mmx64.efi"),
    "grub2-signed-amd64": ("grubx64.efi",),
    "grub-http-amd64": ("grubhttpx64.efi",),
    "shim-signed-arm64": ("bootaa64.efi",),
    "grub2-signed-arm64": ("grubaa64.efi",),
    "syslinux": ("lpxelinux.0", *_SYSLINUX),
    "syslinux-old": _SYSLINUX,  # without lpxelinux.0, which has HTTP
    "ipxe": ("snponly.efi", "ipxe.efi", "undionly.kpxe"),
}
# In the order in which they load; what a kernel has built in is not there and not missed.
_MODULES = (
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover",
    "net_failover", "virtio_net",
)  # fmt: skip
_EFI_MODULES = ("efivarfs",)  # loaded where there is EFI
# Debian's installer has no static busybox and a wget of its own; these are all they load.
_ARM64_FILES = (
    "bin/busybox", "usr/bin/wget", "lib/ld-linux-aarch64.so.1", "lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
    "lib/aarch64-linux-gnu/libc.so.6",
)  # fmt: skip
_ARM64_LIBRARIES = ("libpcre2-8.so.0", "libuuid.so.1", "libssl.so.3", "libcrypto.so.3", "libz.so.1")
_APPLETS = (
    "sh", "mount", "cat", "echo", "insmod", "dd", "od", "tr", "uname", "ip", "udhcpc", "wget", "sha256sum", "cut",
    "sed", "head", "date", "sync", "poweroff", "ls", "sleep",
)  # fmt: skip
# GRUB of our own: what Debian's signed one has, and http. Its prefix is wherever it was loaded from.
_GRUB_MODULES = (
    "http", "tftp", "efinet", "net", "normal", "configfile", "linux", "boot", "echo", "sleep", "test", "true",
    "reboot", "halt", "minicmd", "all_video", "gfxterm", "search", "chain", "part_gpt", "fat",
)  # fmt: skip


@dataclass(frozen=True)
class Content:
    """``files``: role -> file that stays the same between runs; ``archives``: packed boot loaders."""

    files: Mapping[str, Path]
    archives: Mapping[str, Path]


@dataclass(frozen=True)
class Source:
    """A signed boot source. ``root_sha256``: of this run's root image; ``sizes``: bytes of "kernel-amd64" and so on."""

    root: Path
    keyring: Path
    root_sha256: str
    sizes: Mapping[str, int]


def cache_dir() -> Path:
    return demo.cache_dir().with_name("vm")


def prepare(cache: Path, say: Callable[[str], None]) -> Content:
    """Fetches what is missing; another version of this file has another cache. Raises packages.ContentUnavailable."""
    mine = cache / hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    mine.mkdir(parents=True, exist_ok=True)
    done = mine / "complete"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.is_file():
            _fetch(mine, say)
        done.touch()
        for other in cache.glob("*/complete"):
            if other.stat().st_mtime < time.time() - FORGET_S:
                shutil.rmtree(other.parent)
    files = {path.name: path for path in (mine / "files").iterdir()}
    return Content(files, {name: mine / f"{name}.tar.xz" for name in _ARCHIVES})


def _fetch(target: Path, say: Callable[[str], None]) -> None:
    packages.check_space(target, NEEDED_BYTES)
    say("fetching Debian's kernel, arm64 installer, shim, GRUB, PXELINUX and iPXE packages (210 MB, once)")
    options = packages.apt_options(target, INSTALLER_ARM64, say)
    kernel = packages.kernel_package(KERNEL_META, options)
    with tempfile.TemporaryDirectory(dir=target) as folder:
        scratch = Path(folder)
        for deb in packages.download(scratch / "debs", [*PACKAGES, kernel], options):
            packages.unpack(deb, scratch / "tree")
            deb.unlink()
        say("taking them apart")
        _take(scratch / "tree", target / "files")
    for name, roles in _ARCHIVES.items():
        pack({role: target / "files" / role for role in roles}, target / f"{name}.tar.xz")


def _take(tree: Path, files: Path) -> None:
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    for role, path in _LOADERS.items():
        if not (tree / path).resolve().is_relative_to(tree.resolve()):
            raise packages.ContentUnavailable(f"{path}: expected a file of its package, got a link out of it")
        shutil.copyfile(tree / path, files / role)
    (vmlinuz,) = (tree / "boot").glob("vmlinuz-*")
    shutil.copyfile(vmlinuz, files / "kernel-amd64")
    shutil.copyfile(tree / _NETBOOT_ARM64 / "linux", files / "kernel-arm64")
    _base_amd64(tree, files / "base-amd64")
    _base_arm64((tree / _NETBOOT_ARM64 / "initrd.gz").read_bytes(), files / "base-arm64")
    _grub_http(tree, files / "grubhttpx64.efi")


def _base_amd64(tree: Path, target: Path) -> None:
    entries = {"bin/busybox": initrd.file((tree / "bin/busybox").read_bytes())}
    modules = {
        path.stem: path.read_bytes()
        for path in tree.glob("lib/modules/*/kernel/**/*.ko")
        if path.stem in _MODULES + _EFI_MODULES
    }
    target.write_bytes(initrd.pack(entries | _links() | _modules(modules)))


def _base_arm64(installer: bytes, target: Path) -> None:
    there = dict(initrd.read(installer))
    modules = {
        name.rpartition("/")[2].removesuffix(".ko"): entry.data
        for name, entry in there.items()
        if name.startswith("lib/modules/") and name.endswith(".ko")
    }
    entries = {name: there[name] for name in _ARM64_FILES}
    for library in _ARM64_LIBRARIES:
        name = next(name for name in there if name.startswith("usr/lib/") and name.endswith(f"/{library}"))
        real = name
        while there[real].mode >> 12 == 0o12:  # a link beside it
            real = f"{real.rpartition('/')[0]}/{there[real].data.decode()}"
        entries[f"lib/aarch64-linux-gnu/{library}"] = there[real]
    applets = {name: entry for name, entry in _links().items() if name != "bin/wget"}
    target.write_bytes(initrd.pack(applets | entries | _modules(modules)))


def _links() -> dict[str, initrd.Entry]:
    return {f"bin/{applet}": initrd.link("busybox") for applet in _APPLETS}


def _modules(found: Mapping[str, bytes]) -> dict[str, initrd.Entry]:
    order = [name for name in _MODULES if name in found]
    entries = {
        f"modules/{name}.ko": initrd.file(found[name], 0o644) for name in (*order, *_EFI_MODULES) if name in found
    }
    return entries | {"modules/order": initrd.file("".join(f"{name}\n" for name in order).encode(), 0o644)}


def _grub_http(tree: Path, target: Path) -> None:
    tool = shutil.which("grub-mkimage")
    if tool is None:
        raise packages.ContentUnavailable("grub-mkimage is not on this machine (package grub-common)")
    # Firmware that boots by HTTP has told GRUB the server: /grub becomes (http,10.77.0.2:5248)/grub by itself.
    platform = str(tree / "usr/lib/grub/x86_64-efi")
    packages.run([tool, "-d", platform, "-O", "x86_64-efi", "-p", "/grub", "-o", str(target), *_GRUB_MODULES])


def publish_source(root: Path, content: Content, syslinux: str = "syslinux") -> Source:
    """A boot source under *root*, signed by a key made for it, with initrds and a root image of this run."""
    work = root.with_name(root.name + ".work")
    work.mkdir(parents=True)
    squashfs = work / "squashfs"
    squashfs.write_bytes(os.urandom(ROOT_BYTES))
    own = {
        "init": initrd.file((HERE / "hello.sh").read_bytes()),
        "udhcpc.sh": initrd.file((HERE / "udhcpc.sh").read_bytes()),
        "dev/console": initrd.console(),
        "proc": initrd.folder(),
        "sys": initrd.folder(),
        "run-of": initrd.file(os.urandom(16).hex().encode(), 0o644),  # another initrd each run
    }
    serial = time.strftime("%Y%m%d", time.gmtime())
    products: list[PublishProduct] = []
    sizes: dict[str, int] = {}
    for arch in ("amd64", "arm64"):
        # The kernel unpacks archives that follow one another.
        initrd_file = work / f"initrd-{arch}"
        initrd_file.write_bytes(content.files[f"base-{arch}"].read_bytes() + initrd.pack(own))
        kernel = content.files[f"kernel-{arch}"]
        sizes |= {f"kernel-{arch}": kernel.stat().st_size, f"initrd-{arch}": initrd_file.stat().st_size}
        products.append(
            image(
                os=OS, release=RELEASE, version="12", title="12", codename="Bookworm", arch=arch, subarch="ga-12",
                serial=serial, kernel=kernel, initrd=initrd_file, squashfs=squashfs,
                tags={"kparams": CONSOLE[arch]},
            )
        )  # fmt: skip
    for os_name, kind, arch, archives in (
        ("grub-efi-signed", "uefi", "amd64", ("shim-signed-amd64", "grub2-signed-amd64", "grub-http-amd64")),
        ("grub-efi-signed", "uefi", "arm64", ("shim-signed-arm64", "grub2-signed-arm64")),
        ("pxelinux", "pxe", "i386", (syslinux,)),
        ("ipxe", "ipxe", "amd64", ("ipxe",)),
    ):
        files = {name: content.archives[name] for name in archives}
        products.append(bootloader(os=os_name, kind=kind, arch=arch, serial=serial, archives=files))
    other = work / "root-tgz"
    other.write_bytes(b"a root archive: deployed, never booted\n")
    products.append(centos(serial=serial, root_tgz=other))
    with Signer.generate(work / "gnupg", algorithm="ed25519") as signer:
        publish(root, products, signer, link=True)
        keyring = work / "keyring.gpg"
        keyring.write_bytes(signer.public())
    return Source(root, keyring, hashlib.sha256(squashfs.read_bytes()).hexdigest(), sizes)
