"""The index and the product lists of a boot source: verified bytes in, plain data out.

The formats are index:1.0 and products:1.0 (datatypes image-ids and image-downloads). Tags flatten downwards: what an
item is called follows from list + product + version + item, the lower level winning, strings and numbers only.

The documents are signed, which proves who wrote them and not that they are right. What cannot be read as a whole is
refused in one sentence; what is merely odd (a product without os, an item without sha256, an ftype nobody knows) is
passed over with a warning, so that one odd entry does not cost an operator all images. A path that points outside the
source is never merely odd.

Invariant: every Item has a plain path, a sha256 of 64 lower-case hex digits and a size; versions stand newest first.
Left to others: signatures (before), freshness and completeness (after).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from bootplane.control.domain.images import KEPT_FTYPES, PASSED_FTYPES, Item, Product, Tag, Version
from bootplane.control.simplestreams.errors import DocumentRefused, shown
from bootplane.control.simplestreams.paths import item_path

INDEX_BYTES = 16 << 20
PRODUCT_LIST_BYTES = 64 << 20
DEPTH = 16  # levels of nesting; a product list has 7
ENTRIES = 256  # of one index; images.maas.io has 3
ITEM_BYTES = 1 << 40
WARNINGS = 100  # kept of one document, so that a broken one does not fill the log

INDEX_FORMAT = "index:1.0"
PRODUCTS_FORMAT = "products:1.0"
DATATYPES = frozenset({"image-ids", "image-downloads"})

_SHA256 = re.compile(r"[0-9a-fA-F]{64}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:-]{0,127}\Z")  # what dataplane.namespace takes as a segment of a name
_TITLE = re.compile(rb"<title[^>]*>([^<]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A further document the index names."""

    content_id: str
    format: str
    path: str
    updated: datetime | None

    @property
    def is_index(self) -> bool:
        return self.format == INDEX_FORMAT


@dataclass(frozen=True, slots=True)
class Index:
    url: str
    updated: datetime | None
    entries: tuple[IndexEntry, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProductList:
    url: str
    content_id: str
    updated: datetime | None
    products: tuple[Product, ...]
    warnings: tuple[str, ...] = ()


class _Warnings(list[str]):
    def say(self, sentence: str) -> None:
        if len(self) < WARNINGS and sentence not in self:
            self.append(sentence)


def parse_index(data: bytes, url: str) -> Index:
    """Raises DocumentRefused or HostilePath in one sentence that begins with *url*."""
    top = _load(data, url, INDEX_BYTES, "index")
    _check_format(top, url, INDEX_FORMAT)
    raw = top.get("index")
    if not isinstance(raw, dict):
        raise DocumentRefused(f"{url}: expected an object under 'index', got {_kind(raw)}")
    if len(raw) > ENTRIES:
        raise DocumentRefused(f"{url}: expected at most {ENTRIES} entries in the index, got {len(raw)}")
    warnings = _Warnings()
    entries = []
    for content_id, entry in raw.items():
        if not isinstance(entry, dict):
            raise DocumentRefused(f"{url}: expected an object as entry {shown(content_id)!r}, got {_kind(entry)}")
        form, datatype = entry.get("format"), entry.get("datatype")
        if form not in (INDEX_FORMAT, PRODUCTS_FORMAT):
            warnings.say(f"{url}: entry {shown(content_id)!r} passed over: its format is {_value(form)}")
        elif form == PRODUCTS_FORMAT and datatype not in DATATYPES:
            warnings.say(f"{url}: entry {shown(content_id)!r} passed over: its datatype is {_value(datatype)}")
        else:
            path = entry.get("path")
            if not isinstance(path, str):
                raise DocumentRefused(f"{url}: expected a path in entry {shown(content_id)!r}, got {_kind(path)}")
            entries.append(IndexEntry(content_id, form, item_path(path, url), parse_time(entry.get("updated"))))
    return Index(url, parse_time(top.get("updated")), tuple(entries), tuple(warnings))


def parse_products(data: bytes, url: str, content_id: str) -> ProductList:
    """The product list at *url*, which the index calls *content_id*: another validly signed one is refused."""
    top = _load(data, url, PRODUCT_LIST_BYTES, "product list")
    _check_format(top, url, PRODUCTS_FORMAT)
    if top.get("content_id") != content_id:
        raise DocumentRefused(
            f"{url}: expected the content_id {content_id!r} of its index entry, got {_value(top.get('content_id'))}"
        )
    if top.get("datatype") not in DATATYPES:
        raise DocumentRefused(
            f"{url}: expected the datatype image-ids or image-downloads, got {_value(top.get('datatype'))}"
        )
    raw = top.get("products")
    if not isinstance(raw, dict):
        raise DocumentRefused(f"{url}: expected an object under 'products', got {_kind(raw)}")
    warnings = _Warnings()
    own = _tags(top)
    products = tuple(
        product
        for product_id, entry in raw.items()
        if (product := _product(product_id, entry, own, content_id, url, warnings)) is not None
    )
    return ProductList(url, content_id, parse_time(top.get("updated")), products, tuple(warnings))


def _product(
    product_id: str, raw: Any, above: Mapping[str, Tag], content_id: str, url: str, warnings: _Warnings
) -> Product | None:
    if not isinstance(raw, dict) or not isinstance(raw.get("versions"), dict):
        raise DocumentRefused(
            f"{url}: expected an object with 'versions' as product {shown(product_id)!r}, got {_kind(raw)}"
        )
    tags = {**above, **_tags(raw)}
    text = {key: str(value) for key, value in tags.items()}
    names = sorted(raw["versions"], reverse=True)  # the order of code points is C's order of UTF-8
    versions = tuple(
        version
        for name in names
        if (version := _version(name, raw["versions"][name], tags, f"{url}: product {product_id}", warnings)).items
    )
    if not versions:  # notifications, or nothing but ftypes and items already warned about
        return None
    text.setdefault("label", str(_tags(raw["versions"][versions[0].name]).get("label", "")))  # where v2 has it
    product = Product(
        id=product_id,
        content_id=content_id,
        os=text.get("os", ""),
        arch=text.get("arch", ""),
        label=text.get("label", ""),
        versions=versions,
        release=text.get("release", ""),
        version=text.get("version", ""),
        title=text.get("release_title", ""),
        codename=text.get("release_codename", ""),
        subarch=text.get("subarch", "generic"),
        subarches=_listed(text.get("subarches", "")),
        arches=_listed(text.get("arches", "")) or _listed(text.get("arch", "")),
        kflavor=text.get("kflavor", ""),
        bootloader_type=text.get("bootloader-type", ""),
        tags=tags,
    )
    need = ("os", "arch", "label") if product.is_bootloader else ("os", "arch", "label", "release", "subarch")
    for key in need:
        if not _NAME.match(getattr(product, key)):
            got = shown(getattr(product, key))
            warnings.say(
                f"{url}: product {shown(product_id)!r} passed over: expected a plain name as {key}, got {got!r}"
            )
            return None
    if (product.kflavor and not _NAME.match(product.kflavor)) or not _NAME.match(product.bootloader_type or "none"):
        warnings.say(
            f"{url}: product {shown(product_id)!r} passed over: its kflavor or bootloader-type is no plain name"
        )
        return None
    return product


def _version(name: str, raw: Any, above: Mapping[str, Tag], where: str, warnings: _Warnings) -> Version:
    items = raw.get("items") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(items, dict):
        raise DocumentRefused(
            f"{shown(where, 400)}: expected an object with 'items' as version {shown(name)!r}, got {_kind(raw)}"
        )
    place = shown(f"{where}, version {name}", 400)
    if not _NAME.match(name):
        warnings.say(f"{shown(where, 400)}: version {shown(name)!r} passed over: expected a plain name")
        return Version(name, ())
    own = _tags(raw)
    found = (_item(item, entry, above, own, place, warnings) for item, entry in items.items())
    return Version(name, tuple(item for item in found if item is not None))


def _item(
    name: str, raw: Any, above: Mapping[str, Tag], version: Mapping[str, Tag], where: str, warnings: _Warnings
) -> Item | None:
    """One file of a version, or None with a warning when it is of no use. Raises HostilePath."""
    if not isinstance(raw, dict):
        raise DocumentRefused(f"{where}: expected an object as item {shown(name)!r}, got {_kind(raw)}")
    own = {**version, **_tags(raw)}
    tags = {**above, **own}
    path = tags.get("path")
    if path is None:
        return None  # metadata only: notifications carry their text in tags
    plain = item_path(str(path), f"{where}, item {shown(name)}")
    ftype = str(tags.get("ftype", ""))
    if ftype not in KEPT_FTYPES:
        if ftype not in PASSED_FTYPES:
            document = where.partition(": product")[0]
            warnings.say(f"{document}: items passed over: nobody here knows the ftype {shown(ftype)!r}")
        return None
    sha256, size = str(tags.get("sha256", "")), _size(tags.get("size"))
    if not _SHA256.match(sha256):
        warnings.say(
            f"{where}: item {shown(name)!r} passed over: expected a sha256 of 64 hex digits, got {shown(sha256)!r}"
        )
        return None
    if size is None:
        got = _value(tags.get("size"))
        warnings.say(
            f"{where}: item {shown(name)!r} passed over: expected a size of 0 to {ITEM_BYTES} bytes, got {got}"
        )
        return None
    if not _NAME.match(plain.rpartition("/")[2]):
        got = shown(plain.rpartition("/")[2])
        warnings.say(f"{where}: item {shown(name)!r} passed over: expected a plain file name, got {got!r}")
        return None
    return Item(name, ftype, plain, sha256.lower(), size, own)


def _size(raw: Tag | None) -> int | None:
    if isinstance(raw, str) and raw.isascii() and raw.isdecimal() and len(raw) <= 20:
        raw = int(raw)
    return raw if isinstance(raw, int) and 0 <= raw <= ITEM_BYTES else None


def _tags(raw: Mapping[str, Any]) -> dict[str, Tag]:
    """What flattens: strings and numbers (a bool is neither)."""
    return {k: v for k, v in raw.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}


def _listed(text: str) -> tuple[str, ...]:
    """``"amd64, i386"``: commas, with or without blanks."""
    return tuple(part for part in (word.strip() for word in text.split(",")) if part)


def parse_time(raw: Any) -> datetime | None:
    """``updated`` as simplestreams writes it (RFC 2822), or ISO 8601; None when it is neither. Without a zone: UTC."""
    if not isinstance(raw, str):
        return None
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            when = read(raw)
        except (ValueError, TypeError, OverflowError):
            continue
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    return None


def _check_format(top: Mapping[str, Any], url: str, expected: str) -> None:
    if top.get("format") != expected:
        raise DocumentRefused(f"{url}: expected the format {expected}, got {_value(top.get('format'))}")


def refuse_html(data: bytes, url: str, what: str) -> None:
    """Raises DocumentRefused when *data* is a web page: what a portal, a proxy or a wrong URL answers."""
    start = data.lstrip()[:4096]
    if not start.startswith(b"<"):
        return
    title = _TITLE.search(start)
    said = f" ({shown(title[1].strip())!r})" if title and title[1].strip() else ""
    raise DocumentRefused(f"{url}: expected a JSON {what}, got HTML{said}")


def _load(data: bytes, url: str, limit_bytes: int, what: str) -> dict[str, Any]:
    if len(data) > limit_bytes:
        raise DocumentRefused(f"{url}: expected a JSON {what} of at most {limit_bytes} bytes, got {len(data)}")
    refuse_html(data, url, what)
    try:
        top = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise DocumentRefused(f"{url}: expected a JSON {what} of at most {DEPTH} levels, got many more") from None
    except json.JSONDecodeError as error:
        start = f", which begins with {shown(data[:40])!r}" if error.pos == 0 else ""
        raise DocumentRefused(
            f"{url}: expected a JSON {what}, got something else at line {error.lineno}, column {error.colno}{start}"
        ) from None
    except (UnicodeDecodeError, ValueError) as error:  # _unique, _no_constant, or an integer of thousands of digits
        raise DocumentRefused(f"{url}: expected a JSON {what}, got {shown(str(error), 160)}") from None
    if not isinstance(top, dict):
        raise DocumentRefused(f"{url}: expected a JSON {what}, got {_kind(top)}")
    if b"\\ud" in data or b"\\uD" in data:  # half of a surrogate pair is no text, and no database takes it
        try:
            json.dumps(top, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DocumentRefused(f"{url}: expected a JSON {what}, got one with half a surrogate pair in it") from None
    if any(depth > DEPTH for depth in _depths(top)):
        raise DocumentRefused(f"{url}: expected a JSON {what} of at most {DEPTH} levels, got more")
    return top


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two values under one key: readers would disagree about which one was signed."""
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice!r} twice in one object")
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"the number {name}")


def _depths(top: Any) -> Iterator[int]:
    """The depth of every container, without recursion."""
    todo: list[tuple[Any, int]] = [(top, 1)]
    while todo:
        value, depth = todo.pop()
        yield depth
        below = value.values() if isinstance(value, dict) else value
        todo.extend((child, depth + 1) for child in below if isinstance(child, dict | list))


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", int: "a number", float: "a number", bool: "a boolean"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _value(value: Any) -> str:
    return "none" if value is None else repr(shown(str(value)))
