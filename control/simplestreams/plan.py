"""Wanted against present: what to download, what to keep, what may go. Pure, and by digest alone.

Digests, not paths: products share a squashfs, kernels of two products can be equal bytes under two paths, and the next
serial often brings the same bytes under a third. Each distinct sha256 is downloaded once, from any (source, path) that
offers it.

Invariants: downloads and kept are disjoint, together they are everything wanted and not refused; nothing wanted is a
candidate for removal. Left to others: space, order in time, retries (sync); the grace time of a removal (sync).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from bootplane.control.domain.images import BootSource, Product
from bootplane.control.simplestreams.select import Choice


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file at one place. *source* is a BootSource's id, *path* relative to it."""

    sha256: str
    size: int
    source: str
    path: str
    required: bool = True  # False: a set is complete without it


@dataclass(frozen=True, slots=True)
class Offer:
    source: str
    path: str


@dataclass(frozen=True, slots=True)
class Download:
    sha256: str
    size: int
    offers: tuple[Offer, ...]  # the preferred one first
    required: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """Digests that contradict each other, and why in one sentence. The rest of the plan stands."""

    sentence: str
    digests: frozenset[str]


@dataclass(frozen=True, slots=True)
class Plan:
    downloads: tuple[Download, ...]
    keep: frozenset[str]
    remove: frozenset[str]
    refused: tuple[Refusal, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(download.size for download in self.downloads)


def plan(
    wanted: Iterable[Wanted],
    present: Collection[str],
    *,
    also_at: Iterable[Wanted] = (),
    retained: Collection[str] = (),
) -> Plan:
    """What makes the store hold *wanted*, given the digests *present* in it.

    *also_at* are further places of the same bytes (``places`` of all sources): alternatives for a download, never a
    reason for one. *retained* digests are no longer offered and yet stay, because they are still selected or pinned.
    """
    wanted = list(wanted)
    refused = [*_paths_with_two_digests(wanted), *_digests_with_two_sizes(wanted)]
    bad = frozenset[str]().union(*(refusal.digests for refusal in refused))
    holders = {(each.source, each.path): each.sha256 for each in wanted}
    sizes = {each.sha256: each.size for each in wanted}
    required = {each.sha256 for each in wanted if each.required}
    held = frozenset(present)
    offers: dict[str, dict[Offer, None]] = {}
    for each in wanted:
        if each.sha256 not in held and each.sha256 not in bad:
            offers.setdefault(each.sha256, {})[Offer(each.source, each.path)] = None
    for each in also_at:
        place = (each.source, each.path)
        if each.sha256 in offers and each.size == sizes[each.sha256] and holders.get(place, each.sha256) == each.sha256:
            offers[each.sha256][Offer(*place)] = None
    downloads = tuple(
        Download(sha256, sizes[sha256], tuple(places), sha256 in required) for sha256, places in offers.items()
    )
    keep = held & (sizes.keys() | frozenset(retained))
    return Plan(downloads, keep, held - keep, tuple(refused))


def wanted_of(choices: Iterable[Choice]) -> list[Wanted]:
    """The files of *choices*, in their order."""
    return [
        Wanted(item.sha256, item.size, choice.source.id, item.path, item.is_required)
        for choice in choices
        for item in choice.items
    ]


def places(offers: Iterable[tuple[BootSource, Collection[Product]]]) -> list[Wanted]:
    """Every place of every file the sources name, those of the highest priority first."""
    return [
        Wanted(item.sha256, item.size, source.id, item.path, item.is_required)
        for source, products in sorted(offers, key=lambda offer: (-offer[0].priority, offer[0].id))
        for product in products
        for version in product.versions
        for item in version.items
    ]


def _paths_with_two_digests(wanted: list[Wanted]) -> list[Refusal]:
    """A path's content never changes, so a source that names two digests for one path is wrong about one of them."""
    digests: dict[Offer, dict[str, None]] = {}
    for each in wanted:
        digests.setdefault(Offer(each.source, each.path), {})[each.sha256] = None
    return [
        Refusal(
            f"source {offer.source}: path {offer.path}: expected one sha256, got {len(found)}: {', '.join(found)}",
            frozenset(found),
        )
        for offer, found in digests.items()
        if len(found) > 1
    ]


def _digests_with_two_sizes(wanted: list[Wanted]) -> list[Refusal]:
    sizes: dict[str, dict[int, Wanted]] = {}
    for each in wanted:
        sizes.setdefault(each.sha256, {}).setdefault(each.size, each)
    return [
        Refusal(
            f"sha256 {sha256}: expected one size, got "
            + ", ".join(f"{size} bytes (source {each.source}, path {each.path})" for size, each in found.items()),
            frozenset({sha256}),
        )
        for sha256, found in sizes.items()
        if len(found) > 1
    ]
