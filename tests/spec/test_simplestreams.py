"""Simplestreams as images.maas.io speaks it, published by us and read back: layout, tags, versions, signatures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.domain.images import BootSource, Product
from bootplane.control.mirror_publish import Published, Signer
from bootplane.control.simplestreams.documents import parse_products
from bootplane.control.simplestreams.fetch import Fetcher
from bootplane.control.simplestreams.paths import url_of
from bootplane.control.simplestreams.reader import read_source
from bootplane.control.simplestreams.signature import unverified_text
from tests.fakes.mirror import CENTOS_LIST, LOADER_LIST, UBUNTU_LIST, publish_small, serve

UPDATED = datetime(2025, 7, 24, 8, 1, 49, tzinfo=UTC)
URL = "http://m.invalid/x.json"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signer]:
    with Signer.generate(tmp_path_factory.mktemp("signer") / "home", algorithm="ed25519") as made:
        yield made


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> tuple[Path, Published]:
    root = tmp_path_factory.mktemp("mirror") / "ephemeral-v3" / "stable"
    root.parent.mkdir()
    return root, publish_small(root, signer, updated=UPDATED)


def clear(path: Path) -> Any:
    return json.loads(unverified_text(path.read_bytes(), str(path)))


def test_the_layout_is_that_of_ephemeral_v3(mirror: tuple[Path, Published]) -> None:
    root, _ = mirror
    for document in ("streams/v1/index", UBUNTU_LIST, LOADER_LIST, CENTOS_LIST):
        assert sorted(p.name for p in root.glob(f"{document}.*")) == [
            f"{Path(document).name}.{suffix}" for suffix in ("json", "json.gpg", "sjson")
        ]
    for path in (
        "noble/amd64/20250709/squashfs",
        "noble/amd64/20250709/squashfs.manifest",
        "noble/amd64/20250709/ga-24.04/generic/boot-kernel",
        "noble/arm64/20250709/hwe-24.04/generic/boot-initrd",
        "bootloaders/uefi/amd64/20231004.0/shim-signed.tar.xz",
        "bootloaders/pxe/i386/20231004.0/syslinux.tar.xz",
        "centos/8/amd64/20211104_01/root-tgz",
    ):
        assert (root / path).is_file(), path
    assert not [p for p in root.rglob("*") if p.name.endswith(".part")]


def test_the_clear_signed_index_is_not_the_plain_one_plus_a_signature(mirror: tuple[Path, Published]) -> None:
    root, _ = mirror
    plain = json.loads((root / "streams/v1/index.json").read_bytes())
    signed = clear(root / "streams/v1/index.sjson")
    for content_id, entry in plain["index"].items():
        assert entry["path"].endswith(".json")
        assert signed["index"][content_id] == {**entry, "path": entry["path"][: -len("json")] + "sjson"}
    assert plain["updated"] == "Thu, 24 Jul 2025 08:01:49 +0000"
    assert json.loads((root / f"{UBUNTU_LIST}.json").read_bytes()) == clear(root / f"{UBUNTU_LIST}.sjson")


def test_documents_are_indented_by_one_with_sorted_keys(mirror: tuple[Path, Published]) -> None:
    root, _ = mirror
    text = (root / "streams/v1/index.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize("scheme", ["http", "file"])
@pytest.mark.parametrize("form", ["sjson", "json"])
def test_a_published_source_reads_back_over_http_and_file(
    mirror: tuple[Path, Published], signer: Signer, scheme: str, form: str
) -> None:
    root, published = mirror
    with serve(root.parent.parent) as server, Fetcher(proxies={}) as fetcher:
        base = server.url if scheme == "http" else root.parent.parent.as_uri() + "/"
        url = f"{base}ephemeral-v3/stable/" + ("" if form == "sjson" else "streams/v1/index.json")
        source = BootSource("1", "test", url, keyring=signer.public(armored=form == "json"))
        reading = read_source(source, fetcher)
        assert reading.base == f"{base}ephemeral-v3/stable/"
        assert reading.index_url.endswith(f"streams/v1/index.{form}")
        assert (reading.updated, reading.changed, reading.warnings) == (UPDATED, True, ())
        assert [s.fingerprint for s in reading.signers] == [signer.fingerprint]
        items = [i for p in reading.products for v in p.versions for i in v.items]
        assert {i.path: (i.sha256, i.size) for i in items} == published.files
        for item in items[:3]:
            body = fetcher.get(url_of(reading.base, item.path), item.size).body
            assert hashlib.sha256(body).hexdigest() == item.sha256
        if scheme == "http" and form == "sjson":
            assert (
                server.requests[:4]
                == [
                    "ephemeral-v3/stable/streams/v1/index.sjson",
                    *(f"ephemeral-v3/stable/{each}.sjson" for each in sorted((UBUNTU_LIST, LOADER_LIST, CENTOS_LIST))),
                ]
                or len(server.requests) == 4 + 3
            )


def test_products_of_the_three_kinds_say_what_they_are(mirror: tuple[Path, Published], signer: Signer) -> None:
    root, _ = mirror
    with Fetcher() as fetcher:
        reading = read_source(BootSource("1", "t", root.as_uri(), keyring=signer.public()), fetcher)
    products = {product.id: product for product in reading.products}
    assert set(products) == {
        "com.ubuntu.maas.stable:v3:boot:24.04:amd64:ga-24.04",
        "com.ubuntu.maas.stable:v3:boot:24.04:amd64:hwe-24.04",
        "com.ubuntu.maas.stable:v3:boot:24.04:arm64:ga-24.04",
        "com.ubuntu.maas.stable:v3:boot:24.04:arm64:hwe-24.04",
        "com.ubuntu.maas.stable:1:grub-efi-signed:uefi:amd64",
        "com.ubuntu.maas.stable:1:grub-efi:uefi:arm64",
        "com.ubuntu.maas.stable:1:pxelinux:pxe:i386",
        "com.ubuntu.maas.stable:1:pxelinux:pxe:amd64",
        "com.ubuntu.maas.stable:centos-bases:8:amd64",
    }
    noble = products["com.ubuntu.maas.stable:v3:boot:24.04:amd64:ga-24.04"]
    assert (noble.os, noble.release, noble.version, noble.title, noble.codename, noble.subarch, noble.kflavor) == (
        "ubuntu", "noble", "24.04", "24.04 LTS", "Noble Numbat", "ga-24.04", "generic",
    )  # fmt: skip
    assert {i.ftype: i.file_name for i in noble.versions[0].items} == {
        "boot-kernel": "boot-kernel",
        "boot-initrd": "boot-initrd",
        "squashfs": "squashfs",
        "manifest": "squashfs.manifest",
    }
    pxe = products["com.ubuntu.maas.stable:1:pxelinux:pxe:i386"]
    assert (pxe.is_bootloader, pxe.bootloader_type, pxe.arches) == (True, "pxe", ("amd64", "i386"))
    centos = products["com.ubuntu.maas.stable:centos-bases:8:amd64"]
    assert centos.resource.name == "centos/8/amd64/generic" and centos.versions[0].items[0].ftype == "root-tgz"


def read(products: dict[str, Any], **top: Any) -> tuple[Product, ...]:
    document = {"content_id": "c", "datatype": "image-ids", "format": "products:1.0", "products": products, **top}
    return parse_products(json.dumps(document).encode(), URL, "c").products


SHA = "0" * 64


def test_tags_flatten_downwards_and_the_lower_one_wins() -> None:
    (product,) = read(
        {
            "p": {
                "release": "noble",
                "os": "not-this",
                "arch": "amd64",
                "rolling": True,
                "supported_platforms": ["a"],
                "versions": {
                    "1": {
                        "label": "from-version",
                        "ftype": "squashfs",
                        "kparams": "from-version",
                        "items": {
                            "i": {"path": "a/squashfs", "size": 1, "kparams": "from-item"},
                            "j": {"path": "a/root-tgz", "ftype": "root-tgz", "size": 2},
                        },
                    }
                },
            }
        },
        sha256=SHA,
        os="from-list",
        subarch="ga-24.04",
    )
    assert (product.os, product.label, product.subarch) == ("not-this", "from-version", "ga-24.04")
    assert "rolling" not in product.tags and "supported_platforms" not in product.tags  # only strings and numbers
    first, second = product.versions[0].items
    assert (first.ftype, first.sha256, first.tags["kparams"]) == ("squashfs", SHA, "from-item")
    assert (second.ftype, second.tags["kparams"]) == ("root-tgz", "from-version")


def test_versions_stand_newest_first_in_byte_order() -> None:
    item = {"i": {"ftype": "root-tgz", "path": "a/root-tgz", "sha256": SHA, "size": 1}}
    order = ["latest", "20250812", "20250709.9", "20250709.10", "20250709"]
    (product,) = read(
        {
            "p": {
                "os": "centos",
                "arch": "amd64",
                "release": "8",
                "label": "stable",
                "versions": {name: {"items": item} for name in sorted(order)},
            }
        }
    )
    assert [version.name for version in product.versions] == order


def one(path: str, ftype: str = "", **more: Any) -> dict[str, Any]:
    return {"ftype": ftype or path.rpartition("/")[2], "path": path, "sha256": SHA, "size": 1, **more}


OTHER_SHAPES: dict[str, dict[str, Any]] = {
    "com.ubuntu.maas:v2:boot:14.04:amd64:hwe-t": {
        "arch": "amd64", "os": "ubuntu", "release": "trusty", "krel": "trusty", "subarch": "hwe-t", "version": "14.04",
        "versions": {"20140410": {"label": "release", "pubname": "x", "items": {
            "boot-kernel": one("t/boot-kernel", md5="0"),
            "boot-initrd": one("t/boot-initrd"),
            "di-kernel": one("t/di-kernel"),
            "root-image.gz": one("t/root-image.gz"),
            "root-image.manifest": one("t/root-image.manifest"),
        }}},
    },
    "com.ubuntu.maas.stable:v3:boot:16.04:arm64:xgene-uboot-mustang": {
        "arch": "arm64", "os": "ubuntu", "release": "xenial", "label": "stable", "subarch": "xgene-uboot-mustang",
        "kflavor": "generic", "version": "16.04", "platform": "xgene", "kparams": "console=ttyS0",
        "versions": {"20200101": {"items": {
            "boot-kernel.xgene-mustang": one("x/boot-kernel.xgene-mustang", "boot-kernel"),
            "boot-initrd.xgene-mustang": one("x/boot-initrd.xgene-mustang", "boot-initrd"),
            "boot-dtb.xgene-mustang": one("x/boot-dtb.xgene-mustang", "boot-dtb"),
            "squashfs": one("x/squashfs"),
        }}},
    },
    "com.ubuntu.maas.stable:v3:boot:12.04:armhf:generic-lpae-generic-lpae": {
        "arch": "armhf", "os": "ubuntu", "release": "precise", "label": "stable", "subarch": "generic-lpae",
        "versions": {"1": {"items": {"s": one("p/squashfs", size="1")}}},
    },
    "com.ubuntu.maas.stable:v4:boot:22:amd64:generic": {
        "arch": "amd64", "os": "ubuntu-core", "os_title": "Ubuntu Core", "release": "22", "label": "stable",
        "subarch": "generic", "gadget_snap": "pc", "gadget_title": "PC", "kernel_snap": "pc-kernel", "rolling": True,
        "maas_supported": "99.0",
        "versions": {"1": {"items": {"root-dd.xz": one("c/root-dd.xz")}}},
    },
    "com.ubuntu.maas:stable:1:maas-notification": {
        "label": "stable",
        "versions": {"1": {"items": {"n1": {"ftype": "notifications", "title": "hello", "path": "n/1.json"}}}},
    },
}  # fmt: skip


def test_other_shapes_of_products_are_read_or_passed_over() -> None:
    products = {product.id.rpartition(":")[2]: product for product in read(OTHER_SHAPES)}
    assert set(products) == {"hwe-t", "xgene-uboot-mustang", "generic-lpae-generic-lpae", "generic"}
    assert products["hwe-t"].label == "release"
    assert [i.ftype for i in products["hwe-t"].versions[0].items] == [
        "boot-kernel", "boot-initrd", "root-image.gz", "root-image.manifest",
    ]  # fmt: skip
    assert "boot-dtb.xgene-mustang" in [i.file_name for i in products["xgene-uboot-mustang"].versions[0].items]
    assert products["generic-lpae-generic-lpae"].kflavor == ""
