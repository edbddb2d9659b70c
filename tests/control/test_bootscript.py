"""Boot configuration of an unknown machine: golden files for every boot method, and the choice of what to boot.

``BOOTPLANE_GOLDEN=write`` writes the golden files anew; a reviewer then reads the difference.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bootplane.control.bootscript import WAITS_S, Ephemeral, Place, choose, missing, parameters, render
from bootplane.control.domain.images import BootResource, ResourceFile, ResourceSet

GOLDEN = Path(__file__).parent / "golden"
PLACE = Place("kiruna-1", "10.0.0.2:5248", "10.0.0.2:69")


def sha(name: str) -> str:
    return name.encode().hex().ljust(64, "0")


def image_set(
    os_name: str = "ubuntu",
    release: str = "noble",
    title: str = "24.04 LTS",
    arch: str = "amd64",
    subarch: str = "ga-24.04",
    label: str = "stable",
    version: str = "20250709",
    kparams: str = "",
    leave_out: str = "",
) -> ResourceSet:
    resource = BootResource(os_name, arch, release, subarch, label, title=title)
    kinds = {"boot-kernel": "boot-kernel", "boot-initrd": "boot-initrd", "squashfs": "squashfs"}
    files = tuple(
        ResourceFile(name, ftype, sha(f"{name[-3:]}{arch}{release}"), 1000, kparams if name == "boot-kernel" else "")
        for name, ftype in kinds.items()
        if name != leave_out
    )
    return ResourceSet(resource, version, files)


UBUNTU = choose([image_set()])
BOTH = choose([image_set(), image_set("debian", "bookworm", "12", "arm64", "generic", kparams="console=ttyAMA0")])

CASES = {
    "grub.cfg": ("grub/grub.cfg", "tftp", UBUNTU),
    "grub-mac-tftp.cfg": ("grub/grub.cfg-52:54:00:77:00:01", "tftp", BOTH),
    "grub-arm64-http.cfg": ("grub/grub.cfg-default-arm64", "http", BOTH),
    "grub-nothing.cfg": ("grub/grub.cfg-default-x86_64", "tftp", {}),
    "pxelinux-http.cfg": ("pxelinux.cfg/01-52-54-00-77-00-01", "http", UBUNTU),
    "pxelinux-tftp.cfg": ("pxelinux.cfg/default", "tftp", UBUNTU),
    "pxelinux-retry.cfg": ("pxelinux.cfg/default-amd64-retry-2", "tftp", UBUNTU),
    "pxelinux-nothing.cfg": ("pxelinux.cfg/default-amd64-wait-3", "tftp", {}),
    "ipxe.cfg": ("ipxe.cfg", "http", UBUNTU),
    "ipxe-mac.cfg": ("ipxe.cfg-52:54:00:77:00:01", "http", BOTH),
    "ipxe-nothing.cfg": ("ipxe.cfg-default-x86_64", "http", {}),
}


@pytest.mark.parametrize("golden", CASES)
def test_the_script_is_the_golden_one(golden: str) -> None:
    name, proto, ephemerals = CASES[golden]
    text = render(name, proto, PLACE, ephemerals)
    assert text is not None
    if os.environ.get("BOOTPLANE_GOLDEN") == "write":
        (GOLDEN / golden).write_text(text)
    assert text == (GOLDEN / golden).read_text()


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="package grub-common is not installed")
@pytest.mark.parametrize("golden", [name for name in CASES if name.startswith("grub")])
def test_grub_itself_can_read_the_script(golden: str) -> None:
    done = subprocess.run(["grub-script-check", str(GOLDEN / golden)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "name", ["", "images/x", "grub/x86_64-efi/command.lst", "grub.cfg.bak", "pxelinux.cfg/0A4D00CA", "pxelinux.cfg/"]
)
def test_a_name_that_is_nobodys_renders_to_nothing(name: str) -> None:
    assert render(name, "tftp", PLACE, UBUNTU) is None


def test_ubuntu_and_debian_get_the_parameters_of_their_own_initrd() -> None:
    ubuntu, debian = BOTH["amd64"], BOTH["arm64"]
    words = parameters(ubuntu, PLACE)
    assert f"root=squash:http://10.0.0.2:5248/{ubuntu.root}" in words
    assert "ip=::::enlist:BOOTIF:dhcp" in words and "overlayroot=tmpfs" in words and "ro" in words
    assert "cc:{'datasource_list':['MAAS']}end_cc" in words
    assert any(word.startswith("cloud-config-url=http://10.0.0.2:5248/MAAS/metadata/") for word in words)
    assert parameters(debian, PLACE) == [
        "boot=live",
        f"fetch=http://10.0.0.2:5248/{debian.root}",
        "ip=dhcp",
        "net.ifnames=0",
        "console=ttyAMA0",
    ]


def test_an_ipv6_rack_gives_ipv6_parameters() -> None:
    words = parameters(UBUNTU["amd64"], Place("kiruna-1", "[fd77::1]:5248", "[fd77::1]:69"))
    assert "ip=off" in words and "ip6=dhcp" in words
    assert any(word.startswith("root=squash:http://[fd77::1]:5248/") for word in words)


@pytest.mark.parametrize(("title", "expected"), [("20.04 LTS", True), ("22.04 LTS", False), ("24.04 LTS", False)])
def test_apparmor_is_off_for_ubuntu_older_than_jammy(title: str, expected: bool) -> None:
    image = choose([image_set(title=title)])["amd64"]
    assert ("apparmor=0" in parameters(image, PLACE)) is expected


def test_what_is_booted_is_the_newest_ubuntu_with_the_plainest_kernel() -> None:
    sets = [
        image_set("debian", "bookworm", "12"),
        image_set(release="jammy", title="22.04 LTS", subarch="ga-22.04"),
        image_set(subarch="hwe-24.04"),
        image_set(),
        image_set(release="plucky", title="25.04", subarch="ga-25.04", label="candidate"),
    ]
    for order in (sets, sets[::-1]):
        assert choose(order)["amd64"].kernel == choose([image_set()])["amd64"].kernel


@pytest.mark.parametrize("lacking", ["boot-kernel", "boot-initrd", "squashfs"])
def test_an_image_without_kernel_initrd_or_root_is_not_booted(lacking: str) -> None:
    assert choose([image_set(leave_out=lacking)]) == {}


def test_waits_grow_and_the_last_one_repeats() -> None:
    assert list(WAITS_S) == sorted(set(WAITS_S))
    waits = []
    name: str = "pxelinux.cfg/default"
    for _ in range(len(WAITS_S) + 2):
        text = render(name, "tftp", PLACE, {})
        assert text is not None
        waits.append(int(text.split("TIMEOUT ")[1].split()[0]) // 10)
        name = text.split("CONFIG /")[1].strip()
    assert waits == [*WAITS_S, WAITS_S[-1], WAITS_S[-1]]


def test_a_machine_that_cannot_boot_is_told_what_is_missing_and_whom_to_ask() -> None:
    sentence = missing("arm64", PLACE)
    assert all(word in sentence for word in ("arm64", "kiruna-1", "10.0.0.2:5248")) and "\n" not in sentence
    for name in ("grub/grub.cfg-default-arm64", "ipxe.cfg-default-arm64"):
        assert sentence in (render(name, "http", PLACE, UBUNTU) or "")


def test_text_from_a_product_list_cannot_leave_its_quotes_in_grub() -> None:
    hostile = Ephemeral("ubuntu", "x", "amd64", 'a"; reboot; echo "$b', "images/k", "images/i", "images/r", 'x"y`z')
    text = render("grub/grub.cfg-default-x86_64", "tftp", PLACE, {"amd64": hostile})
    assert text is not None
    assert r'"bootplane: booting a\"; reboot; echo \"\$b (amd64)"' in text and r'"x\"y`z"' in text


@pytest.mark.parametrize(
    ("name", "proto"),
    [
        ("grub/grub.cfg-52:54:00:77:00:01", "tftp"),
        ("grub/grub.cfg-default-x86_64", "http"),
        ("pxelinux.cfg/01-52-54-00-77-00-01", "tftp"),
        ("pxelinux.cfg/default-amd64-retry-2", "tftp"),
        ("ipxe.cfg-52:54:00:77:00:01", "http"),
    ],
)
def test_every_script_that_boots_something_carries_the_ticket(name: str, proto: str) -> None:
    place = Place(PLACE.region, PLACE.http, PLACE.tftp, ticket="aB3_-x")
    text = render(name, proto, place, UBUNTU)
    assert text is not None
    words = [word.strip('"') for word in text.split()]
    assert words.count("bootplane=http://10.0.0.2:5248/MAAS/metadata/boot/aB3_-x") == 1
    assert "bootplane=" not in (render(name, proto, PLACE, UBUNTU) or "")


@pytest.mark.parametrize("ticket", ["a b", "a/b", "a;b", 'a"b', "x" * 129, "\n"])
def test_a_ticket_that_is_more_than_a_word_is_refused(ticket: str) -> None:
    with pytest.raises(ValueError, match="boot ticket"):
        Place(PLACE.region, PLACE.http, PLACE.tftp, ticket)
