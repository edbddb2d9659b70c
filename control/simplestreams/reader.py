"""A whole boot source: its index, its product lists, and who signed them.

The order of attempts: ``index.sjson`` (one clear-signed file cannot be caught half-updated), else ``index.json`` with
its ``.gpg``. In ``index.sjson`` the paths of the product lists end in ``.sjson``, in ``index.json`` they end in
``.json``; a path's own ending says how that document is signed. No ending ever means "unsigned": only the source does.

Nothing new costs one request: with the reading before at hand, the index is asked for conditionally, and a list that is
no older than its entry in an unchanged index is not asked for at all (a mirror that was caught between the two is).

Invariant: a reading is whole. If one document cannot be had or proved, there is no reading, and the caller keeps what
it has. Left to others: rollback and freeze rules (they need what was accepted before), choosing, downloading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar, cast

from bootplane.control.domain.images import BootSource, Product
from bootplane.control.simplestreams import keyring as keyrings
from bootplane.control.simplestreams.documents import (
    INDEX_BYTES,
    PRODUCT_LIST_BYTES,
    Index,
    IndexEntry,
    ProductList,
    parse_index,
    parse_products,
    refuse_html,
)
from bootplane.control.simplestreams.errors import (
    BadSignature,
    DocumentRefused,
    MissingSignature,
    NotAKeyring,
    NotFound,
)
from bootplane.control.simplestreams.fetch import Fetcher
from bootplane.control.simplestreams.keyring import Keyring
from bootplane.control.simplestreams.paths import (
    INDEX_PATH,
    UNSIGNED_INDEX_PATH,
    shown_url,
    source_url,
    tested_spelling,
    url_of,
)
from bootplane.control.simplestreams.signature import (
    SIGNATURE_BYTES,
    Signer,
    Verified,
    unverified_text,
    verify_clearsigned,
    verify_detached,
)

Content = TypeVar("Content", Index, ProductList)

DOCUMENTS = 64  # of one source, indexes in indexes included


@dataclass(frozen=True, slots=True)
class Document:
    """One verified document, kept so that an unchanged one is neither sent nor verified nor parsed again."""

    etag: str
    content: Index | ProductList
    signers: tuple[Signer, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SourceReading:
    """Everything a boot source says now."""

    base: str  # item paths are relative to it; ends in a slash
    index_url: str
    updated: datetime | None  # of the index
    lists: tuple[ProductList, ...]
    signers: tuple[Signer, ...]  # distinct keys that signed any of it; empty when unsigned
    unknown_signers: tuple[str, ...]  # further ones, unknown to the keyring
    warnings: tuple[str, ...]
    changed: bool  # False: word for word the reading before
    keyring: Keyring | None = field(repr=False)  # None: unsigned, because the source says so
    documents: dict[str, Document] = field(repr=False, hash=False)

    @property
    def products(self) -> tuple[Product, ...]:
        return tuple(product for each in self.lists for product in each.products)


def read_source(source: BootSource, fetcher: Fetcher, previous: SourceReading | None = None) -> SourceReading:
    """Fetch, verify and parse all of *source*. Raises SourceError in one sentence.

    *previous* is an earlier reading of the same source; it is of no use, and ignored, under another keyring.
    """
    url = source_url(source.url)
    keyring = None
    if not source.unsigned:
        if not source.keyring:
            raise NotAKeyring(f"{shown_url(source.url)}: expected a keyring or an explicit 'unsigned', got neither")
        keyring = keyrings.load(source.keyring, f"keyring of {shown_url(source.url)}")
    known = previous.documents if previous and previous.keyring == keyring else {}
    bases = dict.fromkeys((tested_spelling(url.base), url.base))
    missing: list[str] = []
    for base in bases:
        reader = _Reader(base, keyring, fetcher, known)
        try:
            return reader.read(url.index)
        except NoIndex as error:
            missing += error.tried
    raise NoIndex(missing)


class NoIndex(NotFound):
    """Nothing at the URLs an index can have."""

    def __init__(self, tried: list[str]) -> None:
        more = f" (nor at {', '.join(shown_url(url) for url in tried[1:])})" if tried[1:] else ""
        super().__init__(f"{shown_url(tried[0])}: expected a boot source's index, got 404{more}")
        self.tried = tried


class _Reader:
    def __init__(self, base: str, keyring: Keyring | None, fetcher: Fetcher, known: dict[str, Document]) -> None:
        self._base = base
        self._keyring = keyring
        self._fetcher = fetcher
        self._known = known
        self._read: dict[str, Document] = {}

    def read(self, named: str) -> SourceReading:
        url, index = self._index(named)
        lists: list[ProductList] = []
        warnings: list[str] = []
        todo = [(index, url)]
        while todo:
            index, of = todo.pop(0)
            warnings += index.warnings
            still = self._read[of] is self._known.get(of)
            for entry in index.entries:
                at = url_of(self._base, entry.path)
                if at in self._read:
                    warnings.append(f"{shown_url(of)}: {shown_url(at)} is named twice; read once")
                    continue
                if len(self._read) >= DOCUMENTS:
                    raise DocumentRefused(f"{shown_url(of)}: expected at most {DOCUMENTS} documents, got more")
                if entry.is_index:
                    todo.append((self._document(at, INDEX_BYTES, "index", parse_index), at))
                    continue
                lists.append(self._list(at, entry, still))
                warnings += lists[-1].warnings
        warnings += _claimed_twice(lists)
        return self._reading(url, lists, warnings)

    def _reading(self, url: str, lists: list[ProductList], warnings: list[str]) -> SourceReading:
        read = self._read.values()
        signers = {signer.fingerprint: signer for document in read for signer in document.signers}
        unknown = dict.fromkeys(key for document in read for key in document.unknown)
        for key in unknown:
            warnings.append(f"{shown_url(url)}: also signed by {key}, which is not in the keyring (a new key?)")
        index = self._read[url].content
        return SourceReading(
            base=self._base,
            index_url=url,
            updated=index.updated,
            lists=tuple(lists),
            signers=tuple(signers.values()),
            unknown_signers=tuple(unknown),
            warnings=tuple(warnings),
            changed=any(document is not self._known.get(at) for at, document in self._read.items()),
            keyring=self._keyring,
            documents=self._read,
        )

    def _index(self, named: str) -> tuple[str, Index]:
        both = (INDEX_PATH, UNSIGNED_INDEX_PATH) if self._keyring else (UNSIGNED_INDEX_PATH, INDEX_PATH)
        tried = []
        for path in (named,) if named else both:
            url = url_of(self._base, path)
            try:
                return url, self._document(url, INDEX_BYTES, "index", parse_index)
            except NotFound:
                tried.append(url)
        raise NoIndex(tried)

    def _list(self, url: str, entry: IndexEntry, index_unchanged: bool) -> ProductList:
        known = self._known.get(url)
        content = known.content if known and index_unchanged else None
        if known and isinstance(content, ProductList) and _no_older(content.updated, entry.updated):
            self._read[url] = known
            return content
        try:
            return self._document(
                url, PRODUCT_LIST_BYTES, "product list", lambda data, at: parse_products(data, at, entry.content_id)
            )
        except NotFound:
            raise DocumentRefused(
                f"{shown_url(url)}: expected the product list that the index names, got 404"
            ) from None

    def _document(self, url: str, limit_bytes: int, what: str, parse: Callable[[bytes, str], Content]) -> Content:
        known = self._known.get(url)
        fetched = self._fetcher.get(url, limit_bytes, etag=known.etag if known else "")
        if known and not fetched.changed:
            self._read[url] = known
            return cast(Content, known.content)  # one URL is always asked for as the same kind
        verified = self._verified(url, fetched.body, limit_bytes, what)
        content = parse(verified.data, shown_url(url))
        self._read[url] = Document(fetched.etag, content, verified.signers, verified.unknown)
        return content

    def _verified(self, url: str, body: bytes, limit_bytes: int, what: str) -> Verified:
        where = shown_url(url)
        refuse_html(body, where, what)  # a portal's page deserves a better word than "no signature"
        clear = url.endswith(".sjson")
        if self._keyring is None:
            plain = not clear or body.lstrip()[:1] == b"{"
            return Verified(body if plain else unverified_text(body, where), ())
        if clear:
            return verify_clearsigned(body, self._keyring, where)
        try:
            return verify_detached(body, self._signature(url), self._keyring, where)
        except BadSignature:  # two files are never fetched at one instant: once more, in case they moved between
            body = self._fetcher.get(url, limit_bytes).body
            return verify_detached(body, self._signature(url), self._keyring, where)

    def _signature(self, url: str) -> bytes:
        try:
            return self._fetcher.get(url + ".gpg", SIGNATURE_BYTES).body
        except NotFound:
            raise MissingSignature(
                f"{shown_url(url)}: expected a signature beside it ({shown_url(url)}.gpg), got 404"
            ) from None


def _no_older(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and other is not None and one >= other


def _claimed_twice(lists: list[ProductList]) -> list[str]:
    seen: dict[str, str] = {}
    warnings = []
    for each in lists:
        for product in each.products:
            first = seen.setdefault(product.id, each.content_id)
            if first != each.content_id:
                warnings.append(f"{each.url}: product {product.id} is in {first} already")
    return warnings
