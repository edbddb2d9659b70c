"""Which products, and which version of each, the selections want. Pure.

Boot loaders are nobody's selection: without them nothing boots, so those of the selected arches are always wanted, and
pxelinux (published under i386, amd64 or both, and the same 32-bit program either way) whenever either is selected. Nor
is a commissioning release (commissioning).

Where several products would have one name for machines, one is chosen: of the source with the highest priority, then
the tested one, then the newest. The newest *complete* version is offered; an incomplete one is passed over with a note.

Invariant: no two choices answer to one resource name, and no choice has two files of one name.
Left to others: bytes (plan, sync), when an older version goes (sync).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bootplane.control.domain.images import (
    KEPT_FTYPES,
    ROOT_IMAGE,
    SQUASHFS,
    BootResource,
    BootSource,
    Item,
    Product,
    ResourceFile,
    ResourceSet,
    Selection,
    Tags,
    Told,
    Version,
    lacks,
)
from bootplane.control.simplestreams.commissioning import also_wanted

_OF_DOCUMENTS = frozenset({"content_id", "datatype", "format", "updated", "products", "versions", "items"})
_OF_FILES = frozenset({"path", "ftype", "sha256", "size", "md5", "sha512"})  # ours to say, or what nobody has checked
TAG_CHARACTERS = 4096
PXELINUX_ARCHES = frozenset({"i386", "amd64"})


@dataclass(frozen=True, slots=True)
class Choice:
    """One version of one product of one source, and the files of it that are wanted."""

    source: BootSource
    product: Product
    version: Version
    items: tuple[Item, ...]

    @property
    def resource(self) -> BootResource:
        return self.product.resource

    def told(self) -> Told:
        return Told(
            self.product.id,
            self.product.content_id,
            _kept(self.product.tags, _OF_DOCUMENTS),
            {item.file_name: (item.name, _kept(item.tags, _OF_FILES)) for item in self.items},
        )

    def resource_set(self) -> ResourceSet:
        return ResourceSet(
            self.resource,
            self.version.name,
            tuple(
                ResourceFile(
                    name=item.file_name,
                    ftype=item.ftype,
                    sha256=item.sha256,
                    size=item.size,
                    kparams=str(item.tags.get("kparams") or self.product.tags.get("kparams") or ""),
                )
                for item in self.items
            ),
        )


@dataclass(frozen=True, slots=True)
class PassedOver:
    """A product that a source offers and that comes from another, whose priority is higher."""

    source_id: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Selected:
    choices: tuple[Choice, ...]
    passed_over: tuple[PassedOver, ...] = ()
    notes: tuple[str, ...] = ()  # what was passed over and why, a sentence each
    unmatched: tuple[Selection, ...] = ()  # selections that no source offers anything for


def select(offers: Iterable[tuple[BootSource, Sequence[Product]]], selections: Sequence[Selection]) -> Selected:
    """The choices for *selections* out of what the sources offer, in the order of their resource names."""
    ordered = [
        (source, product)
        for source, products in sorted(offers, key=lambda offer: (-offer[0].priority, offer[0].id))
        for product in products
    ]
    wanted: list[tuple[BootSource, Product]] = []
    matched: set[str] = set()
    for source, product in ordered:
        wanting = [selection.id for selection in selections if wants(selection, product)]
        if wanting:
            wanted.append((source, product))
        if not product.is_bootloader:
            matched.update(wanting)
    unasked = {_identity(each) for each in also_wanted([each for _, each in ordered], [each for _, each in wanted])}
    wanted += [(source, product) for source, product in ordered if _identity(product) in unasked]
    groups: dict[tuple[str, ...], list[tuple[BootSource, Product]]] = {}
    for source, product in wanted:
        groups.setdefault(_identity(product), []).append((source, product))
    notes: list[str] = []
    passed: list[PassedOver] = []
    choices = [choice for group in groups.values() if (choice := _best(group, notes, passed)) is not None]
    choices.sort(key=lambda choice: choice.resource.name)
    unmatched = tuple(selection for selection in selections if selection.id not in matched)
    return Selected(tuple(choices), tuple(passed), tuple(dict.fromkeys(notes)), unmatched)


def wants(selection: Selection, product: Product) -> bool:
    """Whether *product* is among what *selection* asks for."""
    if not _any_match(selection.labels, (product.label,)):
        return False
    if product.is_bootloader:
        arches = {product.arch, *product.arches}
        if product.bootloader_type == "pxe" and arches & PXELINUX_ARCHES:
            arches |= PXELINUX_ARCHES
        return _any_match(selection.arches, arches)
    return (
        fnmatchcase(product.os, selection.os)
        and _any_match((selection.release,), release_names(product))
        and _any_match(selection.arches, (product.arch,))
        and _any_match(selection.subarches, (product.subarch, product.resource.subarch))
    )


def release_names(product: Product) -> tuple[str, ...]:
    """What people call a release: noble, 24.04, "24.04 LTS", "Noble Numbat", Noble. Lower case."""
    names = (product.release, product.version, product.title, product.codename, product.codename.partition(" ")[0])
    return tuple(dict.fromkeys(name.lower() for name in names if name))


def wanted_items(version: Version) -> tuple[Item, ...]:
    """The files of *version* worth having: known ftypes, the squashfs rather than the older image of the same root."""
    has_squashfs = any(item.ftype == SQUASHFS for item in version.items)
    return tuple(
        item
        for item in version.items
        if item.ftype in KEPT_FTYPES and not (has_squashfs and item.ftype in (ROOT_IMAGE, "root-image.manifest"))
    )


def _kept(tags: Tags, but: frozenset[str]) -> Tags:
    """What every database and the next reader can take: no control characters, no infinite number, no book."""
    return {
        key: value
        for key, value in tags.items()
        if key not in but
        and len(words := f"{key}{value}") <= TAG_CHARACTERS
        and words.isprintable()
        and (isinstance(value, str) or math.isfinite(value))
    }


def _any_match(patterns: Iterable[str], names: Iterable[str]) -> bool:
    lowered = [name.lower() for name in names]
    return any(fnmatchcase(name, pattern.lower()) for pattern in patterns for name in lowered)


def _identity(product: Product) -> tuple[str, ...]:
    """What two products must not share, or machines could not tell their files apart by name."""
    if product.is_bootloader:
        return (product.bootloader_type, product.arch)
    resource = product.resource
    return (resource.os, resource.arch, resource.subarch, resource.release, resource.label)


def _best(group: list[tuple[BootSource, Product]], notes: list[str], passed: list[PassedOver]) -> Choice | None:
    """*group* comes by priority of its sources; the first source that has a complete version decides."""
    found: list[Choice] = []
    for source, product in group:
        choice = _newest_complete(source, product, notes)
        if choice is not None:
            found.append(choice)
    if not found:
        return None
    first = found[0].source.id
    best, *others = sorted(
        found,
        key=lambda c: (
            c.source.id == first,
            c.product.resource.is_tested,
            c.product.os.endswith("-signed"),
            c.version.name,
        ),
        reverse=True,
    )
    for other in others:
        if other.source.id != best.source.id:
            passed.append(
                PassedOver(
                    other.source.id,
                    f"{other.resource.name} {other.version.name}: "
                    f"{best.version.name} of {best.source.name} comes first",
                )
            )
        notes.append(
            f"{other.resource.name} {other.version.name} of source {other.source.name} passed over: "
            f"{best.resource.name} {best.version.name} of source {best.source.name} comes first"
        )
    return best


def _newest_complete(source: BootSource, product: Product, notes: list[str]) -> Choice | None:
    for version in product.versions:
        items = _one_per_name(source, product, version, notes)
        missing = lacks(item.ftype for item in items)
        if not missing:
            return Choice(source, product, version, items)
        notes.append(
            f"{product.resource.name} {version.name} of source {source.name} passed over: "
            f"it has no {', '.join(missing)}"
        )
    return None


def _one_per_name(source: BootSource, product: Product, version: Version, notes: list[str]) -> tuple[Item, ...]:
    taken: dict[str, Item] = {}
    for item in wanted_items(version):
        first = taken.setdefault(item.file_name, item)
        if first.sha256 != item.sha256:
            notes.append(
                f"{product.resource.name} {version.name} of source {source.name}: item {item.name} passed over: "
                f"item {first.name} has its file name {item.file_name}"
            )
    return tuple(taken.values())
