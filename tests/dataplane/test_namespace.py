from __future__ import annotations

import pytest

from bootplane.dataplane.namespace import (
    BootName,
    ImageFile,
    LoaderFile,
    NameClash,
    image_name,
    mac_of,
    names_of,
    parse_boot_name,
    tree_name,
)

A, B = "a" * 64, "b" * 64


def test_an_image_name_carries_the_first_sixteen_digits_of_the_digest() -> None:
    name = image_name("0123456789abcdef" + "0" * 48, "ubuntu", "amd64", "ga-24.04", "noble", "stable", "boot-kernel")
    assert name == "images/0123456789abcdef/ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"


def test_a_tree_name_says_what_and_not_which_version() -> None:
    assert tree_name("ubuntu", "amd64", "ga-24.04", "noble", "stable", "squashfs") == (
        "ubuntu/amd64/ga-24.04/noble/stable/squashfs"
    )


@pytest.mark.parametrize("bad", ["", ".", "..", "a/b", "a\\b", "a b", "a\0", "-x", "\u00e9"])
def test_a_segment_that_could_leave_its_place_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="name segment"):
        tree_name("ubuntu", "amd64", "generic", bad, "stable", "squashfs")


def test_a_digest_that_is_not_sha256_is_refused() -> None:
    with pytest.raises(ValueError, match="64 lower-case hex"):
        image_name("abc", "ubuntu", "amd64", "generic", "noble", "stable", "squashfs")


def test_the_table_holds_every_name_of_images_and_loaders() -> None:
    image = ImageFile(A, "ubuntu", "amd64", "ga-24.04", "noble", "stable", "boot-kernel")
    arm = ImageFile(A, "ubuntu", "arm64", "ga-24.04", "noble", "stable", "boot-kernel")
    loader = LoaderFile(B, "pxe", "i386", "lpxelinux.0")
    rest = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"
    assert names_of([image, arm], [loader]) == {
        f"images/{'a' * 16}/{rest}": A,
        rest: A,
        f"bios/images/{'a' * 16}/{rest}": A,
        f"bios/{rest}": A,
        f"images/{'a' * 16}/ubuntu/arm64/ga-24.04/noble/stable/boot-kernel": A,
        "ubuntu/arm64/ga-24.04/noble/stable/boot-kernel": A,
        "bootloader/pxe/i386/lpxelinux.0": B,
        "lpxelinux.0": B,
        "syslinux/lpxelinux.0": B,
        "bios/lpxelinux.0": B,
        "pxelinux.0": B,
        "syslinux/pxelinux.0": B,
        "bios/pxelinux.0": B,
    }


@pytest.mark.parametrize(
    ("kind", "arch", "file", "names"),
    [
        ("ipxe", "amd64", "snponly.efi", {"snponly.efi"}),
        ("ipxe", "amd64", "ipxe.efi", {"ipxe.efi"}),
        ("ipxe", "amd64", "undionly.kpxe", {"undionly.kpxe"}),
        ("uefi", "arm64", "bootaa64.efi", {"bootaa64.efi", "images/bootaa64.efi"}),
        ("uefi", "amd64", "grubhttpx64.efi", set()),
        ("open-firmware", "ppc64el", "bootppc64.bin", {"bootppc64.bin"}),
        ("pxe", "i386", "ldlinux.c32", {"ldlinux.c32", "syslinux/ldlinux.c32", "bios/ldlinux.c32"}),
    ],
)
def test_a_boot_loader_is_served_under_the_names_firmware_asks_for(
    kind: str, arch: str, file: str, names: set[str]
) -> None:
    table = names_of([], [LoaderFile(A, kind, arch, file)])
    assert set(table) == names | {f"bootloader/{kind}/{arch}/{file}"}


def test_pxelinux_answers_by_its_own_file_only_where_lpxelinux_is_missing() -> None:
    alone = LoaderFile(A, "pxe", "i386", "pxelinux.0")
    assert names_of([], [alone])["pxelinux.0"] == A
    assert names_of([], [alone, LoaderFile(B, "pxe", "i386", "lpxelinux.0")])["pxelinux.0"] == B


def test_one_name_for_two_digests_is_refused() -> None:
    with pytest.raises(NameClash, match=r"name 'ubuntu/.*expected one file"):
        names_of([ImageFile(s, "ubuntu", "arm64", "g", "noble", "stable", "squashfs") for s in (A, B)], [])


def test_an_ambiguous_prefix_is_refused() -> None:
    twin = "a" * 16 + "b" * 48
    with pytest.raises(NameClash, match="share their first 16"):
        names_of([ImageFile(s, "ubuntu", s[-1] + "64", "g", "noble", "stable", "squashfs") for s in (A, twin)], [])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grub/grub.cfg", BootName("grub", is_default=True, is_first=True)),
        ("debian-installer/arm64/grub/grub.cfg", BootName("grub", is_default=True, is_first=True)),
        ("grub/grub.cfg-01-52-54-00-77-00-01", None),
        ("grub/grub.cfg-0A4D00CA", None),
        ("grub/grub.cfg-default-powerpc", BootName("grub", arch="ppc64el", is_default=True)),
        ("grub/grub.cfg-default-arm", BootName("grub", arch="armhf", is_default=True)),
        ("grub/grub.cfg-52:54:00:77:00:01", BootName("grub", mac="52:54:00:77:00:01")),
        ("grub/grub.cfg-52-54-00-AA-00-01", BootName("grub", mac="52:54:00:aa:00:01")),
        ("grub/grub.cfg-default-x86_64", BootName("grub", arch="amd64", is_default=True)),
        ("grub/grub.cfg-default-arm64-xgene", BootName("grub", arch="arm64", is_default=True)),
        ("pxelinux.cfg/01-52-54-00-77-00-01", BootName("pxelinux", mac="52:54:00:77:00:01")),
        ("bios/pxelinux.cfg/01-52-54-00-77-00-01", BootName("pxelinux", mac="52:54:00:77:00:01")),
        (
            "pxelinux.cfg/7e57ab1e-0000-1111-2222-333344445555",
            BootName("pxelinux", uuid="7e57ab1e-0000-1111-2222-333344445555"),
        ),
        ("pxelinux.cfg/0A4D00CA", BootName("pxelinux", address_hex="0a4d00ca")),
        ("pxelinux.cfg/0A", BootName("pxelinux", address_hex="0a")),
        ("pxelinux.cfg/default", BootName("pxelinux", is_default=True)),
        ("pxelinux.cfg/01-52-54-00-77-00-01-after-http-3", BootName("pxelinux", mac="52:54:00:77:00:01")),
        ("pxelinux.cfg/default-after-none-11", BootName("pxelinux", is_default=True)),
        ("pxelinux.cfg/default-arm-sunxi-after-tftp-0", BootName("pxelinux", arch="arm", is_default=True)),
        ("pxelinux.cfg/01-52-54-00-77-00-01-after-luck-3", None),
        ("pxelinux.cfg/01-52-54-00-77-00-01-after-http-", None),
        ("pxelinux.cfg/default.amd64-generic", BootName("pxelinux", arch="amd64", is_default=True)),
        ("pxelinux.cfg/default-arm-bcm283x-rpi", BootName("pxelinux", arch="arm", is_default=True)),
        ("ppc64el/pxelinux.cfg/01-52-54-00-77-00-01", BootName("pxelinux", mac="52:54:00:77:00:01")),
        ("ipxe.cfg", BootName("ipxe", is_default=True, is_first=True)),
        ("ipxe.cfg-52:54:00:77:00:01", BootName("ipxe", mac="52:54:00:77:00:01")),
        ("ipxe.cfg-default-amd64", BootName("ipxe", arch="amd64", is_default=True)),
        ("ubuntu/amd64/ga-24.04/noble/stable/squashfs", None),
        ("grub/grub.cfgx", None),
        ("pxelinux.cfg/hello", None),
        ("a b/grub/grub.cfg", None),
        ('x";reboot;"/grub/grub.cfg', None),
        ("${net0/ip}/pxelinux.cfg/default", None),
    ],
)
def test_a_configuration_name_says_who_asks(name: str, expected: BootName | None) -> None:
    assert parse_boot_name(name) == expected


def test_the_mac_is_found_wherever_a_loader_puts_it() -> None:
    assert mac_of("pxelinux.cfg/01-52-54-00-AB-00-01") == "52:54:00:ab:00:01"
    assert mac_of("grub/grub.cfg") is None
    assert mac_of("bootx64.efi") is None
