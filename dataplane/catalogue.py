"""The signed catalogue: what a region tells its racks, made and checked in one file so that both ends agree.

    body = zstd(JSON)            signature = Ed25519(b"bootplane-catalogue\\0" + body), hex
    JSON = {"format": "bootplane-catalogue:1", "region": str, "version": int, "created": ISO 8601,
            "blobs": {sha256: [size, root]}, "names": {wire name: sha256}}

*root* is the SHA-256 of the blob's chunk list, 32 bytes for each chunk of 1 MiB: with it every chunk a rack fetches
chains to this signature, and this one to the signed index of the boot source.

Invariants: nothing of a body is decompressed or parsed before its signature has matched the pinned key; a catalogue
that names a blob it does not describe is refused whole. A boot text is signed together with its name, so that one
machine's configuration cannot be passed off as another's.

Left to others: transport (region_client), what is in it (control), where it is kept (rack).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import zstandard
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FORMAT = "bootplane-catalogue:1"
CHUNK_BYTES = 1 << 20
DIGEST_BYTES = 32
MAX_DOCUMENT_BYTES = 256 << 20  # decompressed; 150 products are 1 MiB
MAX_NAME_BYTES = 512  # core.table: longer ones are nobody's

_CATALOGUE_DOMAIN = b"bootplane-catalogue\0"
_BOOT_DOMAIN = b"bootplane-boot\0"
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")


class CatalogueError(ValueError):
    """A catalogue, chunk list or boot text is not what the pinned region signed."""


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """What the catalogue says of one blob: bytes, and the hex SHA-256 of its chunk list."""

    size: int
    root: str


@dataclass(frozen=True, slots=True)
class Catalogue:
    region: str
    version: int
    created: str
    blobs: Mapping[str, BlobEntry]
    names: Mapping[str, str]


class SigningKey:
    """A region's Ed25519 key. *secret* is 32 raw bytes; it never appears in messages."""

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public_hex = self._key.public_key().public_bytes_raw().hex()

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    def secret_bytes(self) -> bytes:
        return self._key.private_bytes_raw()

    def sign_catalogue(self, body: bytes) -> str:
        """Hex signature for the Bootplane-Signature header."""
        return self._key.sign(_CATALOGUE_DOMAIN + body).hex()

    def sign_boot(self, name: str, body: bytes) -> str:
        return self._key.sign(_boot_message(name, body)).hex()


class PinnedKey:
    """A region's public key as the rack's token carries it."""

    def __init__(self, public_hex: str) -> None:
        try:
            self._key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex))
        except ValueError as error:
            raise CatalogueError(f"region key: expected 64 hex digits of Ed25519, got {public_hex!r}") from error
        self.public_hex = public_hex

    def check_catalogue(self, body: bytes, signature: str | None) -> None:
        self._check(_CATALOGUE_DOMAIN + body, signature, "catalogue")

    def check_boot(self, name: str, body: bytes, signature: str | None) -> None:
        self._check(_boot_message(name, body), signature, f"boot text {name!r}")

    def _check(self, message: bytes, signature: str | None, what: str) -> None:
        if not signature:
            raise CatalogueError(f"{what}: expected a signature by region key {self.public_hex[:16]}, got none")
        try:
            self._key.verify(bytes.fromhex(signature), message)
        except (ValueError, InvalidSignature) as error:
            raise CatalogueError(
                f"{what}: expected a signature by region key {self.public_hex[:16]}, got one that does not match"
            ) from error


def build(region: str, version: int, blobs: Mapping[str, BlobEntry], names: Mapping[str, str]) -> Catalogue:
    """A new catalogue, checked as a rack will check it. Raises CatalogueError."""
    return _checked(Catalogue(region, version, datetime.now(UTC).isoformat(timespec="seconds"), blobs, names))


def encode(catalogue: Catalogue) -> bytes:
    """The body that is signed and sent."""
    document = {
        "format": FORMAT,
        "region": catalogue.region,
        "version": catalogue.version,
        "created": catalogue.created,
        "blobs": {sha256: [entry.size, entry.root] for sha256, entry in sorted(catalogue.blobs.items())},
        "names": dict(sorted(catalogue.names.items())),
    }
    return zstandard.ZstdCompressor(level=6).compress(json.dumps(document, separators=(",", ":")).encode())


def decode(body: bytes) -> Catalogue:
    """Parses a body whose signature has been checked. Raises CatalogueError."""
    try:
        if zstandard.frame_content_size(body) > MAX_DOCUMENT_BYTES:
            raise CatalogueError(f"catalogue: expected at most {MAX_DOCUMENT_BYTES} bytes, got more")
        document = json.loads(zstandard.ZstdDecompressor().decompress(body, max_output_size=MAX_DOCUMENT_BYTES))
    except (zstandard.ZstdError, ValueError) as error:
        if isinstance(error, CatalogueError):
            raise
        raise CatalogueError(f"catalogue: expected zstd-compressed JSON, got {error}") from error
    return _checked(_from_document(document))


def open_signed(body: bytes, signature: str | None, key: PinnedKey, at_least: int = 0) -> Catalogue:
    """The rack's way in: signature first, then the document, then its version.

    Raises CatalogueError for a wrong or missing signature, a malformed document, or a version below *at_least*: an
    older one, replayed, would bring back files the region has withdrawn.
    """
    key.check_catalogue(body, signature)
    catalogue = decode(body)
    if catalogue.version < at_least:
        raise CatalogueError(
            f"catalogue of region {catalogue.region}: expected version {at_least} or newer, got {catalogue.version}"
        )
    return catalogue


def check_chunks(sha256: str, entry: BlobEntry, chunks: bytes) -> bytes:
    """Returns *chunks* when it is the chunk list *entry* promises. Raises CatalogueError."""
    wanted = DIGEST_BYTES * chunk_count(entry.size)
    if len(chunks) != wanted:
        raise CatalogueError(f"chunk list of {sha256}: expected {wanted} bytes, got {len(chunks)}")
    root = hashlib.sha256(chunks).hexdigest()
    if root != entry.root:
        raise CatalogueError(f"chunk list of {sha256}: expected root {entry.root}, got {root}")
    return chunks


def chunk_count(size: int) -> int:
    return -(-size // CHUNK_BYTES)


def chunk_length(size: int, chunk: int) -> int:
    """Bytes of chunk number *chunk* of a blob of *size* bytes."""
    return min(CHUNK_BYTES, size - chunk * CHUNK_BYTES)


def _boot_message(name: str, body: bytes) -> bytes:
    return _BOOT_DOMAIN + name.encode() + b"\0" + body


def _from_document(document: Any) -> Catalogue:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        got = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise CatalogueError(f"catalogue: expected format {FORMAT!r}, got {got!r}")
    try:
        blobs = {sha256: BlobEntry(size, root) for sha256, (size, root) in document["blobs"].items()}
        return Catalogue(document["region"], document["version"], document["created"], blobs, document["names"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CatalogueError(f"catalogue: expected region, version, created, blobs and names, got {error!r}") from error


def _checked(catalogue: Catalogue) -> Catalogue:
    if not isinstance(catalogue.region, str) or not isinstance(catalogue.created, str):
        raise CatalogueError("catalogue: expected region and created as text")
    if not isinstance(catalogue.version, int) or isinstance(catalogue.version, bool) or catalogue.version < 1:
        raise CatalogueError(f"catalogue: expected a version of 1 or more, got {catalogue.version!r}")
    for sha256, entry in catalogue.blobs.items():
        if not _HEX64.match(sha256):
            raise CatalogueError(f"catalogue: expected a blob's sha256, got {sha256!r}")
        if not isinstance(entry.size, int) or isinstance(entry.size, bool) or entry.size < 0:
            raise CatalogueError(f"blob {sha256}: expected a size in bytes, got {entry.size!r}")
        if not isinstance(entry.root, str) or not _HEX64.match(entry.root):
            raise CatalogueError(f"blob {sha256}: expected a root of 64 hex digits, got {entry.root!r}")
    if not isinstance(catalogue.names, Mapping):
        raise CatalogueError("catalogue: expected names as an object")
    for name, sha256 in catalogue.names.items():
        if not name or len(name.encode()) > MAX_NAME_BYTES:
            raise CatalogueError(f"catalogue: expected a name of 1 to {MAX_NAME_BYTES} bytes, got {name[:80]!r}")
        if sha256 not in catalogue.blobs:
            raise CatalogueError(f"name {name!r}: expected a blob of this catalogue, got {sha256!r}")
    return catalogue
