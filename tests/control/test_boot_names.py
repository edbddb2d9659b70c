"""docs/reference/boot-names.md is true: each name in its tables means what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bootplane.control.bootscript import Ephemeral, Place, compose
from bootplane.core.table import kind, normalise
from bootplane.dataplane.namespace import WELL_KNOWN, LoaderFile, names_of

PAGE = (Path(__file__).resolve().parents[2] / "docs/reference/boot-names.md").read_text(encoding="utf-8")
FILE, DYNAMIC, EMPTY, CONTROL = range(4)  # name_kind_t
PLACE = Place("kiruna-1", "10.0.0.2:5248", "10.0.0.2:69")
ARCHES = ("amd64", "arm64", "armhf", "ppc64el", "s390x")
IMAGES = {
    arch: Ephemeral("debian", "bookworm", arch, "Debian 12", "images/k", "images/i", "images/r") for arch in ARCHES
}


def rows(first: str) -> list[list[str]]:
    """The rows of the table whose first heading is *first*, in the order of the page."""
    found: list[list[str]] = []
    for table in re.findall(rf"^\| {first} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        found += [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return found


def names(cell: str) -> list[str]:
    return [name.replace("<mac>", mac) for name in re.findall(r"`([^`]+)`", cell) for mac in MACS]


MACS = ("52:54:00:77:00:01", "52-54-00-AB-00-01")
LOADERS = rows("bare name")
NAMES = {name: row[-1] for row in rows("name") if len(row) == 3 for name in names(row[0])}
ANSWERED = [name for name, gets in NAMES.items() if re.match(r"the (loop|same)|boots", gets)]
REFUSED = [name for name, gets in NAMES.items() if "comes next" in gets]


def test_the_bare_names_of_boot_loaders_are_all_on_the_page() -> None:
    files = {"/".join(place) for place in WELL_KNOWN.values()}
    table = names_of([], [LoaderFile(f"{n:016x}{0:048x}", *path.split("/")) for n, path in enumerate(files)])
    told = {f"bootloader/{path}" for path in files}
    for row in LOADERS:
        bare, also = re.findall(r"`([^`]+)`", row[0]), re.findall(r"`([^`]+)`", row[2])
        canonical = re.findall(r"`(bootloader/[^`]+)`", row[1])[0]
        for name in (*bare, *also):
            assert table[name] == table[canonical], name
        told |= {*bare, *also}
    assert set(table) == told


def test_the_page_has_all_kinds_of_names() -> None:
    assert len(ANSWERED) == 15 + 8  # those with a MAC, in both notations
    assert len(REFUSED) == 3


@pytest.mark.parametrize("name", ANSWERED)
def test_a_configuration_of_the_page_is_asked_of_the_region_and_boots_or_leads_on(name: str) -> None:
    for proto in ("tftp", "http"):
        composed = compose(name, proto, PLACE, IMAGES)
        assert normalise(name) == name and kind(name) == DYNAMIC and composed is not None
        assert (composed.boots is None) is NAMES[name].startswith(("the loop", "the same, with names"))


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_is_not_found_on_purpose_is_nobodys(name: str) -> None:
    assert kind(name) == DYNAMIC and compose(name, "tftp", PLACE, IMAGES) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grub/x86_64-efi/command.lst", EMPTY),
        ("grub/x86_64-efi/http.mod", FILE),
        ("revocations_sku.efi", FILE),
        ("MAAS/metadata/latest/", CONTROL),
    ],
)
def test_what_else_is_asked_for_is_what_the_page_says(name: str, expected: int) -> None:
    assert name in NAMES and kind(normalise(name) or "") == expected
    assert compose(name, "tftp", PLACE, IMAGES) is None
