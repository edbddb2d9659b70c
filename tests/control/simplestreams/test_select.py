"""Selecting: who wants what, which version is complete, which of several products comes first."""

from __future__ import annotations

from typing import Any

import pytest

from bootplane.control.domain.images import (
    BootSource,
    Item,
    Product,
    ResourceFile,
    Selection,
    Version,
    kernel_name,
    lacks,
)
from bootplane.control.simplestreams.select import Selected, select, wanted_items, wants

MAIN, SPARE = (
    BootSource("1", "main", "http://main.invalid/", priority=10),
    BootSource("2", "spare", "http://spare.invalid/"),
)
BOOT = ("boot-kernel", "boot-initrd", "squashfs", "manifest")


def version(name: str, ftypes: tuple[str, ...] = BOOT, place: str = "x") -> Version:
    return Version(
        name, tuple(Item(f, f, f"{place}/{name}/{f}", f"{abs(hash((place, name, f))):064x}"[:64], 7) for f in ftypes)
    )


def ubuntu(**tags: Any) -> Product:
    base: dict[str, Any] = {
        "id": "com.ubuntu.maas.stable:v3:boot:24.04:amd64:ga-24.04",
        "content_id": "c",
        "os": "ubuntu",
        "arch": "amd64",
        "label": "stable",
        "versions": (version("20250709"),),
        "release": "noble",
        "version": "24.04",
        "title": "24.04 LTS",
        "codename": "Noble Numbat",
        "subarch": "ga-24.04",
        "kflavor": "generic",
    }
    return Product(**{**base, **tags})


def loader(os: str, kind: str, arch: str, **tags: Any) -> Product:
    base: dict[str, Any] = {
        "id": f"com.ubuntu.maas.stable:1:{os}:{kind}:{arch}",
        "content_id": "b",
        "os": os,
        "arch": arch,
        "arches": (arch,),
        "label": "stable",
        "bootloader_type": kind,
        "versions": (version("20231004.0", ("archive.tar.xz",), os + arch),),
    }
    return Product(**{**base, **tags})


LOADERS = [
    loader("grub-efi-signed", "uefi", "amd64"),
    loader("grub-efi", "uefi", "arm64"),
    loader("grub-ieee1275", "open-firmware", "ppc64el", arches=("ppc64el", "ppc64")),
    loader("pxelinux", "pxe", "i386"),
    loader("pxelinux", "pxe", "amd64"),
]


def selection(
    release: str = "noble", arches: tuple[str, ...] = ("amd64",), os: str = "ubuntu", **more: Any
) -> Selection:
    return Selection("s", os, release, arches, **more)


def names(selected: Selected) -> list[str]:
    return [choice.resource.name for choice in selected.choices]


@pytest.mark.parametrize("release", ["noble", "Noble", "24.04", "24.04 LTS", "Noble Numbat", "no*", "*"])
def test_a_release_goes_by_name_number_title_or_codename(release: str) -> None:
    assert wants(selection(release), ubuntu())


@pytest.mark.parametrize("release", ["jammy", "24", "nob", "24.10", ""])
def test_another_release_is_not_wanted(release: str) -> None:
    assert not wants(selection(release), ubuntu())


def test_arch_subarch_label_and_os_must_match_and_take_patterns() -> None:
    lowlatency = ubuntu(subarch="hwe-24.04-edge", kflavor="lowlatency")
    assert not wants(selection(arches=("arm64",)), ubuntu())
    assert wants(selection(arches=("arm64", "*")), ubuntu())
    assert not wants(selection(os="centos"), ubuntu())
    assert wants(selection(subarches=("hwe-*",)), lowlatency) and not wants(selection(subarches=("ga-*",)), lowlatency)
    assert wants(selection(subarches=("hwe-24.04-lowlatency-edge",)), lowlatency)
    assert not wants(selection(labels=("candidate",)), ubuntu())


def test_boot_loaders_come_with_every_selection_of_their_arch() -> None:
    assert names(select([(MAIN, [ubuntu(), *LOADERS])], [selection()])) == [
        "grub-efi-signed/uefi/amd64",
        "pxelinux/pxe/amd64",
        "pxelinux/pxe/i386",
        "ubuntu/noble/amd64/ga-24.04",
    ]
    assert names(select([(MAIN, LOADERS)], [selection(arches=("arm64", "ppc64"))])) == [
        "grub-efi/uefi/arm64",
        "grub-ieee1275/open-firmware/ppc64el",
    ]
    assert names(select([(MAIN, LOADERS)], [selection(arches=("i386",))])) == [
        "pxelinux/pxe/amd64",
        "pxelinux/pxe/i386",
    ]
    assert len(select([(MAIN, LOADERS)], [selection(arches=("*",))]).choices) == 5
    assert select([(MAIN, [ubuntu(), *LOADERS])], []).choices == ()


CENTOS = ubuntu(os="centos", release="9", version="9", title="CentOS 9", codename="", subarch="generic", kflavor="")
JAMMY = ubuntu(release="jammy", version="22.04", title="22.04 LTS", codename="", subarch="ga-22.04")
PLUCKY = ubuntu(release="plucky", version="25.04", title="25.04", codename="", subarch="ga-25.04")
NOBLES = [
    ubuntu(),
    ubuntu(subarch="hwe-24.04"),
    ubuntu(kflavor="lowlatency"),
    ubuntu(arch="arm64"),
    ubuntu(release="resolute", title="26.04 LTS", subarch="ga-26.04", label="candidate"),
]


def test_images_without_a_system_of_their_own_bring_the_newest_lts_of_their_arch() -> None:
    offered = [(MAIN, [CENTOS, JAMMY, PLUCKY, *NOBLES, *LOADERS])]
    chosen = [name for name in names(select(offered, [selection("9", os="centos")])) if "/pxe/" not in name]
    assert chosen == ["centos/9/amd64/generic", "grub-efi-signed/uefi/amd64", "ubuntu/noble/amd64/ga-24.04"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (selection("jammy"), ["ubuntu/jammy/amd64/ga-22.04"]),
        (selection("plucky"), ["ubuntu/plucky/amd64/ga-25.04"]),
        (selection(subarches=("hwe-*",)), ["ubuntu/noble/amd64/hwe-24.04"]),
        (selection("resolute"), ["ubuntu/noble/amd64/ga-24.04", "ubuntu/resolute/amd64/ga-26.04/candidate"]),
        (selection("xenial"), []),
    ],
)
def test_a_tested_ubuntu_that_is_asked_for_is_enough(wanted: Selection, expected: list[str]) -> None:
    assert names(select([(MAIN, [JAMMY, PLUCKY, *NOBLES])], [wanted])) == expected


def test_the_commissioning_release_is_had_from_the_source_of_higher_priority() -> None:
    spare = (SPARE, [CENTOS, ubuntu(versions=(version("20270101"),))])
    selected = select([spare, (MAIN, [ubuntu()])], [selection("9", os="centos")])
    assert [(each.resource.os, each.source.id) for each in selected.choices] == [("centos", "2"), ("ubuntu", "1")]
    assert names(select([(MAIN, [CENTOS])], [selection("9", os="centos")])) == ["centos/9/amd64/generic"]


def test_a_selection_nobody_serves_is_told() -> None:
    jammy = selection("jammy")
    selected = select([(MAIN, [ubuntu(), *LOADERS])], [jammy])
    assert selected.unmatched == (jammy,)
    assert "pxelinux/pxe/i386" in names(selected)


@pytest.mark.parametrize(
    ("versions", "newest"),
    [
        (["20250709", "20250812"], "20250812"),
        (["20250709.9", "20250709.10"], "20250709.9"),  # byte order, as the standard says
        (["20250709", "20250709.1"], "20250709.1"),
        (["20991231", "latest"], "latest"),
    ],
)
def test_the_newest_version_is_the_greatest_in_byte_order(versions: list[str], newest: str) -> None:
    ordered = tuple(version(name) for name in sorted(versions, reverse=True))
    selected = select([(MAIN, [ubuntu(versions=ordered)])], [selection()])
    assert [choice.version.name for choice in selected.choices] == [newest]


def test_an_incomplete_newest_version_is_passed_over_with_a_note() -> None:
    product = ubuntu(versions=(version("2", ("boot-kernel", "squashfs")), version("1"), version("0")))
    selected = select([(MAIN, [product])], [selection()])
    assert [choice.version.name for choice in selected.choices] == ["1"]
    assert selected.notes == ("ubuntu/noble/amd64/ga-24.04 2 of source main passed over: it has no boot-initrd",)
    assert select([(MAIN, [ubuntu(versions=(version("2", ("squashfs",)),))])], [selection()]).choices == ()


@pytest.mark.parametrize(
    ("ftypes", "missing"),
    [
        (["boot-kernel", "boot-initrd", "squashfs"], ()),
        (["boot-kernel", "boot-initrd", "root-image.gz"], ()),
        (["root-tgz"], ()),
        (["root-dd.xz", "manifest"], ()),
        (["archive.tar.xz"], ()),
        (["boot-kernel", "squashfs"], ("boot-initrd",)),
        (["boot-kernel", "boot-initrd"], ("squashfs",)),
        (["manifest"], ("boot-kernel", "boot-initrd", "squashfs")),
        ([], ("boot-kernel", "boot-initrd", "squashfs")),
    ],
)
def test_completeness_is_kernel_initrd_root_or_a_whole_root_archive(
    ftypes: list[str], missing: tuple[str, ...]
) -> None:
    assert lacks(ftypes) == missing


def test_the_squashfs_is_taken_rather_than_the_older_image() -> None:
    both = version("1", ("boot-kernel", "boot-initrd", "squashfs", "root-image.gz", "manifest", "root-image.manifest"))
    assert [item.ftype for item in wanted_items(both)] == ["boot-kernel", "boot-initrd", "squashfs", "manifest"]
    old = version("1", ("boot-kernel", "boot-initrd", "root-image.gz"))
    assert [item.ftype for item in wanted_items(old)] == ["boot-kernel", "boot-initrd", "root-image.gz"]


def test_of_several_sources_the_higher_priority_wins_even_when_it_is_older() -> None:
    newer = ubuntu(versions=(version("20260101"),))
    for offers in ([(MAIN, [ubuntu()]), (SPARE, [newer])], [(SPARE, [newer]), (MAIN, [ubuntu()])]):
        selected = select(offers, [selection()])
        assert [(c.source.name, c.version.name) for c in selected.choices] == [("main", "20250709")]
        assert selected.notes == (
            "ubuntu/noble/amd64/ga-24.04 20260101 of source spare passed over: "
            "ubuntu/noble/amd64/ga-24.04 20250709 of source main comes first",
        )


def test_a_source_without_a_complete_version_leaves_it_to_the_next() -> None:
    broken = ubuntu(versions=(version("20260101", ("squashfs",)),))
    selected = select([(MAIN, [broken]), (SPARE, [ubuntu()])], [selection()])
    assert [(c.source.name, c.version.name) for c in selected.choices] == [("spare", "20250709")]


def test_two_labels_are_two_images_and_one_boot_loader() -> None:
    candidate = ubuntu(label="candidate", versions=(version("20260101"),))
    shim = loader("grub-efi-signed", "uefi", "amd64", label="candidate", versions=(version("9", ("archive.tar.xz",)),))
    selected = select([(MAIN, [candidate, shim, ubuntu(), LOADERS[0]])], [selection()])
    assert names(selected) == [
        "grub-efi-signed/uefi/amd64",
        "ubuntu/noble/amd64/ga-24.04",
        "ubuntu/noble/amd64/ga-24.04/candidate",
    ]


def test_two_files_of_one_name_leave_one() -> None:
    items = (*version("1").items, Item("other", "boot-kernel", "elsewhere/boot-kernel", "f" * 64, 1))
    selected = select([(MAIN, [ubuntu(versions=(Version("1", items),))])], [selection()])
    assert len(selected.choices[0].items) == 4
    assert "item other passed over: item boot-kernel has its file name boot-kernel" in selected.notes[0]


def test_a_choice_is_a_resource_set_of_ours() -> None:
    kernel, initrd, squashfs, manifest = version("20250709").items
    tagged = Item(kernel.name, kernel.ftype, kernel.path, kernel.sha256, kernel.size, {"kparams": "console=ttyS0"})
    product = ubuntu(versions=(Version("20250709", (tagged, initrd, squashfs, manifest)),), kflavor="lowlatency")
    made = select([(MAIN, [product])], [selection()]).choices[0].resource_set()
    assert (made.resource.name, made.version, made.size) == ("ubuntu/noble/amd64/ga-24.04-lowlatency", "20250709", 28)
    assert made.files[0] == ResourceFile("boot-kernel", "boot-kernel", kernel.sha256, 7, "console=ttyS0")
    needed = {kernel.sha256, initrd.sha256, squashfs.sha256}
    assert made.is_complete(needed) and not made.is_complete(needed - {initrd.sha256})


@pytest.mark.parametrize(
    ("subarch", "kflavor", "name"),
    [
        ("ga-24.04", "generic", "ga-24.04"),
        ("ga-24.04", "lowlatency", "ga-24.04-lowlatency"),
        ("hwe-24.04", "lowlatency", "hwe-24.04-lowlatency"),
        ("hwe-24.04-edge", "generic", "hwe-24.04-edge"),
        ("hwe-24.04-edge", "lowlatency", "hwe-24.04-lowlatency-edge"),
        ("generic", "", "generic"),
        ("xgene-uboot-mustang", "generic", "xgene-uboot-mustang"),
        ("generic-lpae", "generic-lpae", "generic-lpae"),
    ],
)
def test_a_kernel_is_called_as_its_product_id_ends(subarch: str, kflavor: str, name: str) -> None:
    assert kernel_name(subarch, kflavor) == name
