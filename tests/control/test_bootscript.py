"""Boot configuration of an unknown machine: golden files for every boot method, and the choice of what to boot.

``BOOTPLANE_GOLDEN=write`` writes the golden files anew; a reviewer then reads the difference.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bootplane.control.bootscript import (
    COMMAND_LINE_BYTES,
    PXELINUX_NAME_BYTES,
    Ephemeral,
    Place,
    choose,
    compose,
    missing,
    parameters,
    render,
)
from bootplane.control.domain.images import BootResource, ResourceFile, ResourceSet
from bootplane.core.table import kind
from bootplane.dataplane.retry import SWITCH_S, WAITS_S

DYNAMIC = 1  # name_kind_t
GOLDEN = Path(__file__).parent / "golden"
PLACE = Place("kiruna-1", "10.0.0.2:5248", "10.0.0.2:69")
WITHOUT_HTTP = Place("kiruna-1", "10.0.0.2:5248", "10.0.0.2:69", pxelinux_has_http=False)


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

POWER = choose([image_set(arch="ppc64el"), image_set(arch="s390x")])
MAC = "52-54-00-77-00-01"

CASES = {
    "grub.cfg": ("grub/grub.cfg", "tftp", PLACE, UBUNTU),
    "grub-http.cfg": ("grub/grub.cfg", "http", PLACE, UBUNTU),
    "grub-folder.cfg": ("debian-installer/arm64/grub/grub.cfg", "tftp", PLACE, UBUNTU),
    "grub-mac-tftp.cfg": ("grub/grub.cfg-52:54:00:77:00:01", "tftp", PLACE, BOTH),
    "grub-arm64-http.cfg": ("grub/grub.cfg-default-arm64", "http", PLACE, BOTH),
    "grub-ppc64el.cfg": ("grub/grub.cfg-default-powerpc", "tftp", PLACE, POWER),
    "grub-nothing.cfg": ("grub/grub.cfg-default-x86_64", "tftp", PLACE, {}),
    "pxelinux.cfg": (f"pxelinux.cfg/01-{MAC}", "tftp", PLACE, UBUNTU),
    "pxelinux-after-http.cfg": (f"pxelinux.cfg/01-{MAC}-after-http-2", "tftp", PLACE, UBUNTU),
    "pxelinux-after-tftp.cfg": (f"bios/pxelinux.cfg/01-{MAC}-after-tftp-5", "tftp", PLACE, UBUNTU),
    "pxelinux-without-http.cfg": ("pxelinux.cfg/default", "tftp", WITHOUT_HTTP, UBUNTU),
    "pxelinux-by-http.cfg": (f"pxelinux.cfg/01-{MAC}", "http", PLACE, UBUNTU),
    "pxelinux-nothing.cfg": (f"pxelinux.cfg/01-{MAC}-after-none-3", "tftp", PLACE, {}),
    "pxelinux-uboot.cfg": (f"pxelinux.cfg/01-{MAC}", "tftp", PLACE, choose([image_set(arch="arm64")])),
    "petitboot.cfg": (f"ppc64el/pxelinux.cfg/01-{MAC}", "tftp", PLACE, POWER),
    "s390x.cfg": (f"s390x/pxelinux.cfg/01-{MAC}", "tftp", PLACE, POWER),
    "ipxe.cfg": ("ipxe.cfg", "http", PLACE, UBUNTU),
    "ipxe-mac.cfg": ("ipxe.cfg-52:54:00:77:00:01", "http", PLACE, BOTH),
    "ipxe-nothing.cfg": ("ipxe.cfg-default-x86_64", "http", PLACE, {}),
}


@pytest.mark.parametrize("golden", CASES)
def test_the_script_is_the_golden_one(golden: str) -> None:
    name, proto, place, ephemerals = CASES[golden]
    text = render(name, proto, place, ephemerals)
    assert text is not None
    if os.environ.get("BOOTPLANE_GOLDEN") == "write":
        (GOLDEN / golden).write_text(text)
    assert text == (GOLDEN / golden).read_text()


def test_there_is_no_golden_file_without_a_case() -> None:
    assert {path.name for path in GOLDEN.glob("*.cfg")} == set(CASES)


@pytest.mark.skipif(shutil.which("grub-script-check") is None, reason="package grub-common is not installed")
@pytest.mark.parametrize("golden", [name for name in CASES if name.startswith("grub")])
def test_grub_itself_can_read_the_script(golden: str) -> None:
    done = subprocess.run(["grub-script-check", str(GOLDEN / golden)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "images/x",
        "grub/x86_64-efi/command.lst",
        "grub.cfg.bak",
        "grub/grub.cfg-01-52-54-00-77-00-01",  # GRUB's own search: grub.cfg follows, and loops
        "grub/grub.cfg-0A4D00CA",
        "pxelinux.cfg/0A4D00CA",
        "pxelinux.cfg/7e57ab1e-1234-4142-8000-525400770001",
        "pxelinux.cfg/7e57ab1e-1234-4142-8000-525400770001-after-http-0",
        "pxelinux.cfg/",
        "pxelinux.cfg/01-52-54-00-77-00-01-after-luck-1",
    ],
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
        "panic=60",
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


def again(name: str, ephemerals: dict[str, Ephemeral], place: Place = PLACE) -> tuple[str, int, str]:
    """What PXELINUX does with the configuration *name*: by what it boots, how long it waits, what it asks for next."""
    text = render(name, "tftp", place, ephemerals)
    assert text is not None
    kernel = re.search(r"^LABEL ephemeral\n  LINUX (\S+)", text, re.MULTILINE)
    how = "none" if kernel is None else "http" if kernel[1].startswith("http://") else "tftp"
    wait = re.search(r"^TIMEOUT (\d+)$", text, re.MULTILINE)
    config = re.search(r"^LABEL again\n  CONFIG (\S+)$", text, re.MULTILINE)
    assert wait is not None and config is not None and "ONTIMEOUT again" in text and "ONERROR" not in text
    return how, int(wait[1]) // 10, config[1]


def test_a_pxelinux_without_an_image_waits_longer_each_time_and_for_ever() -> None:
    name, waits = f"pxelinux.cfg/01-{MAC}", []
    for _ in range(len(WAITS_S) + 2):
        how, wait_s, name = again(name, {})
        assert how == "none" and name.startswith(f"pxelinux.cfg/01-{MAC}-after-none-")
        waits.append(wait_s)
    assert waits == [*WAITS_S, WAITS_S[-1], WAITS_S[-1]]
    assert again(name, UBUNTU)[0] == "http"  # and boots when there is one
    for _ in range(250):
        name = again(name, {})[2]


@pytest.mark.parametrize(("place", "first", "second"), [(PLACE, "http", "tftp"), (WITHOUT_HTTP, "tftp", "http")])
def test_a_pxelinux_whose_kernel_is_not_to_be_had_tries_the_other_protocol_and_then_waits(
    place: Place, first: str, second: str
) -> None:
    name, tries = "pxelinux.cfg/default", []
    for _ in range(2 * len(WAITS_S) + 2):
        how, wait_s, name = again(name, UBUNTU, place)
        tries.append((how, wait_s))
    longest = (second, WAITS_S[-1])
    assert tries[1::2] == [*((second, wait) for wait in WAITS_S), longest]
    assert set(tries[::2]) == {(first, SWITCH_S)}


def test_pxelinux_puts_its_own_folder_before_the_next_name_and_so_it_has_none() -> None:
    for folder in ("", "bios/", "syslinux/"):
        assert again(f"{folder}pxelinux.cfg/01-{MAC}", {})[2] == f"pxelinux.cfg/01-{MAC}-after-none-1"


def test_every_name_that_a_script_leads_to_is_somebodys() -> None:
    for name, proto, place, ephemerals in CASES.values():
        text = render(name, proto, place, ephemerals) or ""
        folder = name[: name.rindex("pxelinux.cfg/")] if "pxelinux.cfg/" in name else ""
        led = [folder + found for found in re.findall(r"^ +CONFIG (\S+)$", text, re.MULTILINE)]
        led += re.findall(r"^ *source (?:\(http,[^)]+\))?/(\S+)$", text, re.MULTILINE)
        led += re.findall(r"^chain --autofree http://[^/]+/(\S+)", text, re.MULTILINE)
        assert led
        for found in led:
            plain = found.replace("${net_default_mac}", "52:54:00:77:00:01").replace("${grub_cpu}", "x86_64")
            plain = plain.replace("${netX/mac}", "52:54:00:77:00:01").replace("${buildarch}", "i386")
            assert kind(plain) == DYNAMIC and render(plain, proto, place, ephemerals)


def test_a_machine_that_cannot_boot_is_told_what_is_missing_and_whom_to_ask() -> None:
    sentence = missing("arm64", PLACE)
    assert all(word in sentence for word in ("arm64", "kiruna-1", "10.0.0.2:5248")) and "\n" not in sentence
    for name in ("grub/grub.cfg-default-arm64", "ipxe.cfg-default-arm64"):
        assert sentence in (render(name, "http", PLACE, UBUNTU) or "")


def test_text_from_a_product_list_cannot_leave_its_quotes_in_grub() -> None:
    hostile = Ephemeral("ubuntu", "x", "amd64", 'a"; reboot; echo "$b', "images/k", "images/i", "images/r", 'x"y`z')
    text = render("grub/grub.cfg-default-x86_64", "tftp", PLACE, {"amd64": hostile})
    assert text is not None
    assert r'"bootplane: booting a\"; reboot; echo \"\$b (amd64) by TFTP"' in text and r'"x\"y`z"' in text


@pytest.mark.parametrize(
    ("name", "proto"),
    [
        ("grub/grub.cfg-52:54:00:77:00:01", "tftp"),
        ("grub/grub.cfg-default-x86_64", "http"),
        ("pxelinux.cfg/01-52-54-00-77-00-01", "tftp"),
        ("pxelinux.cfg/default-after-http-2", "tftp"),
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


def test_what_a_script_boots_or_why_it_does_not_is_told_to_the_timeline() -> None:
    boots = compose(f"pxelinux.cfg/01-{MAC}", "tftp", PLACE, UBUNTU)
    assert boots is not None and (boots.boots, boots.reason) == ("Ubuntu 24.04 LTS (amd64)", None)
    both = compose("grub/grub.cfg-52:54:00:77:00:01", "tftp", PLACE, BOTH)
    assert both is not None and both.boots == "Ubuntu 24.04 LTS (amd64) or Debian 12 (arm64)"
    for name in ("grub/grub.cfg-default-x86_64", "ipxe.cfg-default-x86_64", "pxelinux.cfg/default"):
        nothing = compose(name, "tftp", PLACE, {})
        assert nothing is not None and (nothing.boots, nothing.reason) == (None, missing("amd64", PLACE))
        assert nothing.reason in nothing.text
    uboot = compose(f"pxelinux.cfg/01-{MAC}", "tftp", PLACE, {"arm64": BOTH["arm64"]})
    assert uboot is not None and uboot.boots == "Debian 12 (arm64) in u-boot alone"
    assert uboot.reason == missing("amd64", PLACE)
    for name in ("grub/grub.cfg", "ipxe.cfg"):
        leads = compose(name, "tftp", PLACE, UBUNTU)
        assert leads is not None and (leads.boots, leads.reason) == (None, None)


def loaded(name: str, text: str) -> list[str]:
    """The kernel command lines that the loader makes of *text*, as it was seen to make them."""
    lines = []
    mac = "01-52-54-00-77-00-01"
    if "grub" in name:
        for kernel, words in re.findall(r"^ *if linux (\S+) (.*); then$", text, re.MULTILINE):
            said = re.sub(r'"((?:[^"\\]|\\.)*)"', lambda quoted: re.sub(r"\\(.)", r"\1", quoted[1]), words)
            lines.append(f"BOOT_IMAGE={kernel} {said}".replace("01-${net_default_mac}", mac))
    elif "ipxe" in name:
        for words in re.findall(r"^kernel \S+ (.*) \|\| goto failed$", text, re.MULTILINE):
            lines.append(f"boot-kernel {words}".replace("01-${netX/mac:hexhyp}", mac))
    else:
        for kernel, initrd, words in re.findall(r"^  LINUX (\S+)\n  INITRD (\S+)\n  APPEND (.*)$", text, re.MULTILINE):
            lines.append(f"BOOT_IMAGE={kernel} {words} initrd={initrd} BOOTIF={mac}")
    return lines


LOADERS = ("grub/grub.cfg-52:54:00:77:00:01", "ipxe.cfg-52:54:00:77:00:01", f"pxelinux.cfg/01-{MAC}")
LONG = Place("kiruna-1", "[2001:db8:1111:2222:3333:4444:5555:6666]:65535", "x:69", ticket="t" * 43)


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("title", ["20.04 LTS", "24.04 LTS"])
def test_the_longest_command_line_of_ours_leaves_half_of_it_to_the_image(name: str, title: str) -> None:
    image = image_set(release="noble" * 4, title=title, subarch="hwe-24.04-lowlatency-edge", label="candidate")
    text = render(name, "tftp", LONG, choose([image]))
    lines = loaded(name, text or "")
    assert lines and max(map(len, lines)) < COMMAND_LINE_BYTES / 2


@pytest.mark.parametrize("name", LOADERS)
def test_a_command_line_that_a_kernel_would_cut_is_not_booted_and_says_so(name: str) -> None:
    booted = []
    for length in range(1100, 1500, 7):
        image = choose([image_set(kparams="x" * length)])
        composed = compose(name, "tftp", PLACE, image)
        assert composed is not None
        lines = loaded(name, composed.text)
        booted.append(bool(lines))
        if lines:
            assert len(lines[0]) < COMMAND_LINE_BYTES and composed.reason is None
        else:
            assert "expected a kernel command line of 2047 bytes at most, got 2" in (composed.reason or "")
            assert composed.boots is None and (composed.reason or "") in composed.text
    assert booted == sorted(booted, reverse=True) and set(booted) == {True, False}


def test_a_kernel_of_armhf_reads_half_as_much() -> None:
    image = choose([image_set(arch="armhf", kparams="x" * 700)])
    composed = compose("grub/grub.cfg-default-arm", "tftp", PLACE, image)
    assert composed is not None and "1023 bytes at most" in (composed.reason or "")


def test_a_name_that_pxelinux_would_cut_is_not_asked_for() -> None:
    for length, fits in ((20, True), (120, True), (200, False), (250, False)):
        composed = compose("pxelinux.cfg/default", "tftp", PLACE, choose([image_set(subarch="s" * length)]))
        assert composed is not None
        names = re.findall(r"^  (?:LINUX|INITRD) (\S+)$", composed.text, re.MULTILINE)
        assert all(len(name) <= PXELINUX_NAME_BYTES for name in names) and bool(names) is fits
        assert fits or "PXELINUX reads names of 255 bytes" in (composed.reason or "")


@pytest.mark.parametrize("word", ["||", "&&", "#x", "a=${mac}"])
def test_a_word_that_ipxe_would_take_for_its_own_is_not_given_to_it(word: str) -> None:
    composed = compose("ipxe.cfg-default-i386", "http", PLACE, choose([image_set(kparams=word)]))
    assert (
        composed is not None
        and "iPXE would take a word" in (composed.reason or "")
        and "\nkernel " not in composed.text
    )
    assert compose("ipxe.cfg-default-i386", "http", PLACE, choose([image_set(kparams="a=#x b|c $d")]))


@pytest.mark.parametrize("name", ["grub/grub.cfg", "grub/grub.cfg-default-x86_64"])
def test_grub_is_asked_for_nothing_that_a_signed_one_has_not_built_in(name: str) -> None:
    built_in = {"set", "source", "echo", "sleep", "linux", "initrd", "boot", "reboot", "["}
    grammar = {"if", "elif", "else", "fi", "then", "while", "do", "done"}
    text = render(name, "tftp", PLACE, BOTH) or ""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "S", "\n".join(line for line in text.splitlines() if "#" not in line[:5]))
    used = set()
    for command in re.split(r"[;\n]", bare):
        words = command.split()
        while words and words[0] in grammar:
            words.pop(0)
        used |= set(words[:1])
    assert used <= built_in and {"sleep", "["} <= used


def test_grub_keeps_a_kernel_whose_initrd_it_lacks_for_a_second_one_would_reset_the_machine() -> None:
    text = render("grub/grub.cfg-default-x86_64", "tftp", PLACE, UBUNTU) or ""
    kernel = UBUNTU["amd64"].kernel
    guard, load, keep = (
        text.index('if [ "${bootplane_kernel}" = "" ]; then\n        if linux'),
        text.index(f"linux /{kernel}"),
        text.index(f"set bootplane_kernel={kernel}"),
    )
    assert guard < load < keep < text.index("        if initrd ")
    other = f'"${{bootplane_kernel}}" != "" -a "${{bootplane_kernel}}" != "{kernel}"'
    assert text.index(other) < text.index("        reboot\n") < guard


def test_ipxe_forgets_what_an_earlier_try_has_left_before_it_loads_a_kernel() -> None:
    text = render("ipxe.cfg-default-i386", "http", PLACE, UBUNTU) or ""
    assert text.index("\nimgfree\n") < text.index("\nkernel ")
