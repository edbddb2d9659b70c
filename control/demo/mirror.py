"""The demo's boot source: Debian's boot files laid out and signed as images.maas.io lays out and signs Ubuntu's.

Besides what the demo selects it offers what it does not (a second kernel, a CentOS root archive), so that a sync has
something to leave alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from bootplane.control.demo.content import Content
from bootplane.control.demo.processes import DemoFailed
from bootplane.control.mirror_publish import PublishError, bootloader, centos, image, pack, publish
from bootplane.control.simplestreams.signer import Signer

OS, RELEASE = "debian", "bookworm"
SHIM, GRUB = ("bootx64.efi", "mmx64.efi"), ("grubx64.efi",)
PXE = ("pxelinux.0", "lpxelinux.0", "ldlinux.c32", "libcom32.c32", "libutil.c32", "chain.c32", "ifcpu64.c32")
IMAGE = ("boot-kernel", "boot-initrd", "squashfs")


@dataclass(frozen=True)
class Mirror:
    """``expected``: role -> SHA-256 of the file as it stands in the source. Sizes are in bytes."""

    root: Path
    keyring: Path
    fingerprint: str
    os: str
    release: str
    expected: dict[str, str]
    sizes: dict[str, int]
    item_bytes: int  # everything it offers
    selected_bytes: int  # distinct bytes of what the demo selects, archives as they travel

    def bytes_of(self, *, uefi: bool, bios: bool) -> int:
        """Distinct bytes that UEFI and BIOS machines ask for between them."""
        roles = [
            *IMAGE,
            *(("bootx64.efi", "grubx64.efi") if uefi else ()),
            *(("lpxelinux.0", "ldlinux.c32") if bios else ()),
        ]
        return sum({self.expected[role]: self.sizes[role] for role in roles}.values())


def make(root: Path, content: Content) -> Mirror:
    """Lays the source out under *root* and signs it with a key made for it. Raises DemoFailed."""
    root.mkdir(parents=True, exist_ok=True)
    work = root.with_name(root.name + ".work")
    work.mkdir(exist_ok=True)
    files = content.files
    other = work / "other"
    other.write_bytes(b"a root archive nobody selects\n")
    archives = {
        name: pack({role: files[role] for role in roles}, work / f"{name}.tar.xz")
        for name, roles in (("shim-signed", SHIM), ("grub2-signed", GRUB), ("syslinux", PXE))
    }
    boots = dict(kernel=files["boot-kernel"], initrd=files["boot-initrd"], squashfs=files["squashfs"])
    debian = dict(os=OS, release=RELEASE, version="12", title="12", codename="Bookworm")
    selected = [
        image(serial=content.version, subarch="ga-12", **debian, **boots),  # type: ignore[arg-type]
        bootloader(
            os="grub-efi-signed", kind="uefi", arch="amd64", serial=content.version,
            archives={name: archives[name] for name in ("shim-signed", "grub2-signed")},
        ),
        bootloader(
            os="pxelinux", kind="pxe", arch="i386", serial=content.version, archives={"syslinux": archives["syslinux"]}
        ),
    ]  # fmt: skip
    unselected = [centos(serial=content.version, root_tgz=other)]
    try:
        with Signer.generate(work / "gnupg", algorithm="ed25519") as signer:
            published = publish(root, [*selected, *unselected], signer, link=True)
            keyring = work / "keyring.gpg"
            keyring.write_bytes(signer.public())
    except PublishError as error:
        raise DemoFailed(str(error)) from error
    distinct = {published.files[item.path] for product in selected for item in product.items}
    expected = {role: _digest(path) for role, path in files.items()}
    return Mirror(
        root=root,
        keyring=keyring,
        fingerprint=signer.fingerprint,
        os=OS,
        release=RELEASE,
        expected=expected,
        sizes={role: path.stat().st_size for role, path in files.items()},
        item_bytes=sum(size for _, size in set(published.files.values())),
        selected_bytes=sum(size for _, size in distinct),
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
