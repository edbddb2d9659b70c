"""Which sets come, stay and go: the rules one by one, without a database."""

from __future__ import annotations

import pytest

from bootplane.control.domain.images import BootSource, Item, Product, ResourceFile, ResourceSet, Selection, Version
from bootplane.control.simplestreams.plan import Plan, Refusal
from bootplane.control.simplestreams.select import Choice
from bootplane.control.storage.images import StoredSet
from bootplane.control.sync.decide import decide, fetches, is_selected

SOURCE = BootSource("1", "mirror", "http://mirror.test/", unsigned=True)
NOBLE = Selection("1", "ubuntu", "noble", ("amd64",))
NO_PLAN = Plan((), frozenset(), frozenset())


def sha(name: str) -> str:
    return name.encode().hex().ljust(64, "0")[:64]


def choice(version: str, *, subarch: str = "ga-24.04", loader: str = "", **more: str) -> Choice:
    item = Item("squashfs", "squashfs", f"noble/{version}/squashfs", sha(f"{version}{subarch}{loader}"), 10)
    product = Product(
        id="x",
        content_id="x",
        os=more.get("os", loader or "ubuntu"),
        arch="amd64",
        label="stable",
        versions=(),
        release="" if loader else more.get("release", "noble"),
        title=more.get("title", "24.04 LTS"),
        subarch="" if loader else subarch,
        bootloader_type="uefi" if loader else "",
    )
    return Choice(SOURCE, product, Version(version, (item,)), (item,))


def stored(of: Choice, number: int, *, complete: bool = True, source_id: str | None = "1") -> StoredSet:
    paths = {item.file_name: item.path for item in of.items}
    return StoredSet(number, of.resource_set(), complete, "2026", None, source_id, paths)


def test_a_chosen_version_comes_and_its_complete_elder_stays_until_then() -> None:
    old, new = choice("1"), choice("2")
    made = decide([new], NO_PLAN, [stored(old, 7)], [NOBLE])
    assert [wish.resource_set.version for wish in made.wanted] == ["2"]
    assert (made.dropped, made.marked, made.refused) == ((), (), ())


def test_an_incomplete_elder_goes_at_once() -> None:
    made = decide([choice("2")], NO_PLAN, [stored(choice("1"), 7, complete=False)], [NOBLE])
    assert made.dropped == (7,)


def test_going_back_to_an_older_version_is_not_a_syncs_business() -> None:
    made = decide([choice("1")], NO_PLAN, [stored(choice("2"), 7)], [NOBLE])
    assert (made.wanted, made.dropped, made.marked) == ((), (), ())


def test_what_upstream_dropped_stays_while_it_is_selected_and_is_marked_when_not() -> None:
    held = [stored(choice("1"), 7), stored(choice("1", subarch="hwe-24.04"), 8, complete=False)]
    assert decide([], NO_PLAN, held, [NOBLE]).marked == ()
    assert decide([], NO_PLAN, held, [NOBLE]).dropped == ()
    other = Selection("2", "ubuntu", "jammy", ("amd64",))
    made = decide([], NO_PLAN, held, [other])
    assert (made.marked, made.dropped) == ((7,), (8,))


CENTOS = Selection("3", "centos", "9", ("amd64",))


@pytest.mark.parametrize(
    ("chosen", "is_here", "marked"),
    [
        ((), False, ()),  # its source could not be read, or offers it no more
        (("noble",), True, (8,)),
        (("resolute",), False, ()),  # the next LTS, and not whole yet
        (("resolute",), True, (7,)),
    ],
)
def test_a_commissioning_release_stays_until_another_one_is_whole(
    chosen: tuple[str, ...], is_here: bool, marked: tuple[int, ...]
) -> None:
    centos = choice("1", os="centos", release="9", title="CentOS 9", subarch="generic")
    noble, resolute = choice("1"), choice("1", release="resolute", title="26.04 LTS", subarch="ga-26.04")
    new = {"noble": noble, "resolute": resolute}
    held = [stored(centos, 6), stored(noble, 7), stored(resolute, 8, complete=is_here)]
    made = decide([centos, *(new[name] for name in chosen)], NO_PLAN, held, [CENTOS])
    assert made.marked == marked


def test_without_images_that_need_it_a_commissioning_release_goes() -> None:
    assert decide([], NO_PLAN, [stored(choice("1"), 7)], [CENTOS]).marked == (7,)


def test_an_unfinished_set_whose_source_was_removed_goes() -> None:
    held = [stored(choice("1"), 7, complete=False, source_id=None)]
    assert decide([], NO_PLAN, held, [NOBLE]).dropped == (7,)


def test_of_two_boot_loaders_for_one_kind_of_machine_the_chosen_one_stays() -> None:
    chosen, other = choice("2", loader="grub-efi-signed"), choice("1", loader="grub-efi")
    made = decide([chosen], NO_PLAN, [stored(other, 7), stored(chosen, 8)], [NOBLE])
    assert made.marked == (7,)


def test_a_set_with_contradicting_digests_is_not_taken_and_ours_stays() -> None:
    new = choice("2")
    plan = Plan((), frozenset(), frozenset(), (Refusal("two digests", frozenset({new.items[0].sha256})),))
    made = decide([new], plan, [stored(choice("1"), 7)], [NOBLE])
    assert (made.wanted, made.marked, made.dropped) == ((), (), ())
    assert made.refused == ("ubuntu/noble/amd64/ga-24.04 2 is not taken: two digests",)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (NOBLE, True),
        (Selection("1", "ubuntu", "24.04", ("*",)), True),
        (Selection("1", "*", "*", ("arm64",)), False),
        (Selection("1", "ubuntu", "noble", ("amd64",), ("hwe-*",)), False),
        (Selection("1", "ubuntu", "noble", ("amd64",), ("*",), ("candidate",)), False),
    ],
)
def test_a_stored_resource_is_matched_as_its_product_was(selection: Selection, expected: bool) -> None:
    assert is_selected(choice("1").resource, [selection]) is expected


def test_each_digest_is_fetched_once_from_the_offered_places() -> None:
    one, two = choice("1"), choice("1", subarch="hwe-24.04")
    shared = ResourceFile("squashfs", "squashfs", sha("shared"), 10)
    sets = [
        StoredSet(n, ResourceSet(each.resource, "1", (shared,)), False, "2026", None, "1", {"squashfs": f"p{n}"})
        for n, each in enumerate((one, two))
    ]
    bases = {"1": "http://mirror.test/"}
    [fetch] = fetches(sets, [], bases, {})
    assert fetch.urls == ("http://mirror.test/p0",)
    [fetch] = fetches(sets, [], bases, {sha("shared"): ("http://a/x", "http://b/x")})
    assert fetch.urls == ("http://a/x", "http://b/x")
    assert fetches(sets, [sha("shared")], bases, {}) == []
    assert fetches(sets, [], {}, {}) == []  # its source is gone
