"""Publishing a boot source: files laid out and signed as images.maas.io does it, for any simplestreams reader.

The layout is that of ``ephemeral-v3/stable``: item files under paths that carry their serial, one product list per
content id and the index under ``streams/v1``, each document three times: plain (``.json``), with a detached signature
beside it (``.json.gpg``) and clear-signed (``.sjson``). The clear-signed index is not the plain one plus a signature:
its paths end in ``.sjson``.

Invariant: a reader that comes in the middle sees the old index or the new one; every file the index leads to is in
place before it, and each appears under its name only when it is whole. A path's content never changes: another content
under a published path is refused.
Left to others: which products there are; who serves the folder; keeping the signing key.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from bootplane.control.domain.images import ARCHIVE, INITRD, KERNEL, SQUASHFS, Tag, kernel_name
from bootplane.control.placing import FOR_ALL, make_folders, write_whole
from bootplane.control.simplestreams.errors import HostilePath
from bootplane.control.simplestreams.paths import item_path
from bootplane.control.simplestreams.signer import PublishError, Signer

__all__ = [
    "PublishError",
    "PublishItem",
    "PublishProduct",
    "Published",
    "Signer",
    "bootloader",
    "centos",
    "image",
    "pack",
    "publish",
    "write_lists",
]

STREAMS = "streams/v1"
COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PublishItem:
    name: str  # the item's key in its version: "boot-kernel", "shim-signed"
    ftype: str
    path: str  # relative to the boot source
    source: Path  # the file that is published there
    tags: Mapping[str, Tag] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublishProduct:
    """One version of one product; several versions are several of these with one *id*, whose tags must agree."""

    content_id: str  # names the product list it stands in
    id: str
    version: str
    tags: Mapping[str, Tag]
    items: tuple[PublishItem, ...]


@dataclass(frozen=True, slots=True)
class Published:
    index: Path  # the clear-signed index, or the plain one of an unsigned source
    files: Mapping[str, tuple[str, int]]  # item path -> sha256, size
    updated: datetime


def publish(
    root: Path,
    products: Iterable[PublishProduct],
    signer: Signer | None,
    *,
    updated: datetime | None = None,
    link: bool = False,
) -> Published:
    """Lay *products* out under *root* and sign them; ``signer=None`` makes an unsigned source.

    *link* makes hard links instead of copies where the file system allows it: for sources that nobody writes to again.
    Raises PublishError in one sentence.
    """
    products = list(products)
    updated = (updated or datetime.now(UTC)).replace(microsecond=0)
    files: dict[str, tuple[str, int]] = {}
    origins: dict[str, Path] = {}
    for item in (item for product in products for item in product.items):
        if origins.setdefault(item.path, item.source) != item.source:
            raise PublishError(f"{item.path}: expected one file, got {origins[item.path]} and {item.source}")
        if item.path not in files:
            files[item.path] = _place(root, item, link)
    return Published(write_lists(root, products, files, signer, updated)[-1], files, updated)


def write_lists(
    root: Path,
    products: Iterable[PublishProduct],
    files: Mapping[str, tuple[str, int]],
    signer: Signer | None,
    updated: datetime,
    *,
    list_name: Callable[[str], str] = str,
) -> list[Path]:
    """The product lists and then the index over *files* (item path -> sha256, size), which stand under *root* already.

    *list_name*: content id -> what its list is called; by itself as images.maas.io does it. Returns every document
    written, the index that readers begin with last. Raises PublishError.
    """
    lists = _product_lists(list(products), files, updated)
    written: list[Path] = []
    for content_id, document in lists.items():
        written += _write_document(root / STREAMS / f"{list_name(content_id)}.json", document, document, signer)
    plain, clear = (_index(lists, updated, suffix, list_name) for suffix in (".json", ".sjson"))
    return written + _write_document(root / STREAMS / "index.json", plain, clear, signer)


def _place(root: Path, item: PublishItem, link: bool) -> tuple[str, int]:
    """Put an item's file under its path; (sha256, size) of it."""
    try:
        target = root / item_path(item.path, f"item {item.name}")
    except HostilePath as error:
        raise PublishError(str(error)) from None
    part = target.with_name(f".{target.name}.part")
    try:
        make_folders(target.parent)
        part.unlink(missing_ok=True)
        digest, size = _copy(item.source, part, link)
        if target.exists():
            with target.open("rb") as file:
                there = hashlib.file_digest(file, "sha256").hexdigest()
            if there != digest:
                raise PublishError(
                    f"{target}: expected the published content {there}, got {digest}: use another serial"
                )
        part.replace(target)
    except OSError as error:
        raise PublishError(f"{item.source} as {target}: cannot be published: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):  # gone after the rename; what a full disk left goes with the next try
            part.unlink(missing_ok=True)
    return digest, size


def _copy(source: Path, target: Path, link: bool) -> tuple[str, int]:
    hasher, size = hashlib.sha256(), 0
    linked = False
    if link:
        with contextlib.suppress(OSError):  # another file system, or one without links: copy then
            target.hardlink_to(source.resolve())
            linked = True
    with source.open("rb") as file, open(os.devnull if linked else target, "wb") as out:  # noqa: PTH123
        while block := file.read(COPY_BYTES):
            hasher.update(block)
            size += len(block)
            out.write(block)
    return hasher.hexdigest(), size


def _product_lists(
    products: list[PublishProduct], files: Mapping[str, tuple[str, int]], updated: datetime
) -> dict[str, dict[str, Any]]:
    lists: dict[str, dict[str, Any]] = {}
    for product in products:
        document = lists.setdefault(
            product.content_id,
            {
                "content_id": product.content_id,
                "datatype": "image-ids",
                "format": "products:1.0",
                "products": {},
                "updated": format_datetime(updated),
            },
        )
        entry = document["products"].setdefault(product.id, {**product.tags, "versions": {}})
        if {key: value for key, value in entry.items() if key != "versions"} != dict(product.tags):
            raise PublishError(f"product {product.id}: expected the same tags for every version, got different ones")
        if product.version in entry["versions"]:
            raise PublishError(f"product {product.id}: expected version {product.version} once, got it twice")
        entry["versions"][product.version] = {
            "items": {
                item.name: {
                    **item.tags,
                    "ftype": item.ftype,
                    "path": item.path,
                    "sha256": files[item.path][0],
                    "size": files[item.path][1],
                }
                for item in product.items
            }
        }
    return lists


def _index(
    lists: Mapping[str, dict[str, Any]], updated: datetime, suffix: str, list_name: Callable[[str], str]
) -> dict[str, Any]:
    return {
        "format": "index:1.0",
        "index": {
            content_id: {
                "datatype": document["datatype"],
                "format": document["format"],
                "path": f"{STREAMS}/{list_name(content_id)}{suffix}",
                "products": sorted(document["products"]),
                "updated": document["updated"],
            }
            for content_id, document in lists.items()
        },
        "updated": format_datetime(updated),
    }


def _write_document(path: Path, plain: dict[str, Any], clear: dict[str, Any], signer: Signer | None) -> list[Path]:
    """*path* (.json), its .gpg, and the .sjson; without a signer the signed forms of an earlier time go.

    Returns what stands there now, the form that readers prefer last.
    """
    signed, detached = path.with_suffix(".sjson"), path.with_name(path.name + ".gpg")
    try:  # an index of zeros after a power cut would be a half mirror: each is on stable storage before it has its name
        make_folders(path.parent)
        if signer is None:
            signed.unlink(missing_ok=True)
            detached.unlink(missing_ok=True)
            write_whole(path, _encode(plain), FOR_ALL)
            return [path]
        write_whole(detached, signer.detach(_encode(plain)), FOR_ALL)
        write_whole(path, _encode(plain), FOR_ALL)
        write_whole(signed, signer.clearsign(_encode(clear)), FOR_ALL)
        return [detached, path, signed]
    except OSError as error:
        raise PublishError(f"{path}: cannot be written: {error.strerror}") from None


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def image(
    *,
    serial: str,
    kernel: Path,
    initrd: Path,
    squashfs: Path,
    manifest: Path | None = None,
    os: str = "ubuntu",
    release: str = "noble",
    version: str = "24.04",
    title: str = "24.04 LTS",
    codename: str = "Noble Numbat",
    arch: str = "amd64",
    subarch: str = "ga-24.04",
    kflavor: str = "generic",
    label: str = "stable",
    tags: Mapping[str, Tag] | None = None,
) -> PublishProduct:
    """An image that boots: kernel, initrd and squashfs, by the paths and tags of the Ubuntu stream."""
    place = f"{release}/{arch}/{serial}"
    boot = f"{place}/{subarch}/{kflavor}"
    items = [
        PublishItem(KERNEL, KERNEL, f"{boot}/{KERNEL}", kernel),
        PublishItem(INITRD, INITRD, f"{boot}/{INITRD}", initrd),
        PublishItem(SQUASHFS, SQUASHFS, f"{place}/{SQUASHFS}", squashfs),
    ]
    if manifest is not None:
        items.append(PublishItem("manifest", "manifest", f"{place}/squashfs.manifest", manifest))
    name = kernel_name(subarch, kflavor)
    return PublishProduct(
        content_id=f"com.ubuntu.maas:{label}:v3:download",
        id=f"com.ubuntu.maas.{label}:v3:boot:{version}:{arch}:{name}",
        version=serial,
        tags={
            "arch": arch,
            "kflavor": kflavor,
            "krel": release,
            "label": label,
            "os": os,
            "release": release,
            "release_codename": codename,
            "release_title": title,
            "subarch": subarch,
            "subarches": f"generic,{subarch}",
            "version": version,
            **(tags or {}),
        },
        items=tuple(items),
    )


def bootloader(
    *,
    os: str,
    kind: str,
    arch: str,
    serial: str,
    archives: Mapping[str, Path],
    arches: str = "",
    label: str = "stable",
) -> PublishProduct:
    """A boot loader: *kind* is uefi, pxe or open-firmware; *archives*: source package -> its .tar.xz (``pack``)."""
    return PublishProduct(
        content_id=f"com.ubuntu.maas:{label}:1:bootloader-download",
        id=f"com.ubuntu.maas.{label}:1:{os}:{kind}:{arch}",
        version=serial,
        tags={"arch": arch, "arches": arches or arch, "bootloader-type": kind, "label": label, "os": os},
        items=tuple(
            PublishItem(
                package,
                ARCHIVE,
                f"bootloaders/{kind}/{arch}/{serial}/{package}.tar.xz",
                path,
                {"src_package": package},
            )
            for package, path in archives.items()
        ),
    )


def centos(
    *, serial: str, root_tgz: Path, manifest: Path | None = None, release: str = "8", label: str = "stable"
) -> PublishProduct:
    """A root archive that is deployed and not booted, by the paths and tags of the CentOS stream."""
    place = f"centos/{release}/amd64/{serial}"
    items = [PublishItem("root-tgz", "root-tgz", f"{place}/root-tgz", root_tgz)]
    if manifest is not None:
        items.append(PublishItem("manifest", "manifest", f"{place}/root-tgz.manifest", manifest))
    return PublishProduct(
        content_id=f"com.ubuntu.maas:{label}:centos-bases-download",
        id=f"com.ubuntu.maas.{label}:centos-bases:{release}:amd64",
        version=serial,
        tags={
            "arch": "amd64",
            "label": label,
            "os": "centos",
            "release": release,
            "release_title": f"CentOS {release}",
            "subarch": "generic",
            "subarches": "generic",
            "version": release,
        },
        items=tuple(items),
    )


def pack(files: Mapping[str, Path], target: Path) -> Path:
    """A flat ``.tar.xz`` of *files* (name -> file), the same bytes each time."""
    with tarfile.open(target, "w:xz", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in sorted(files.items()):
            data = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return target
