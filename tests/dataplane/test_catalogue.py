from __future__ import annotations

import hashlib
import json

import pytest
import zstandard

from bootplane.dataplane import catalogue
from bootplane.dataplane.catalogue import BlobEntry, CatalogueError, PinnedKey, SigningKey

A, B = "a" * 64, "b" * 64
KEY = SigningKey(bytes(range(32)))
PIN = PinnedKey(KEY.public_hex)


def document(**changes: object) -> bytes:
    whole: dict[str, object] = {
        "format": "bootplane-catalogue:1",
        "region": "r1",
        "version": 7,
        "created": "2026-11-21T21:00:00+00:00",
        "blobs": {A: [3, B]},
        "names": {"bootx64.efi": A},
    }
    whole.update(changes)
    return zstandard.compress(json.dumps(whole).encode())


def test_a_catalogue_survives_its_own_journey() -> None:
    sent = catalogue.build("r1", 7, {A: BlobEntry(3, B)}, {"bootx64.efi": A})
    body = catalogue.encode(sent)
    assert catalogue.open_signed(body, KEY.sign_catalogue(body), PIN) == sent


def test_the_body_is_the_documented_json() -> None:
    body = catalogue.encode(catalogue.build("r1", 7, {A: BlobEntry(3, B)}, {"x": A}))
    text = json.loads(zstandard.decompress(body))
    assert text.pop("created").startswith("20")
    assert text == {
        "format": "bootplane-catalogue:1",
        "region": "r1",
        "version": 7,
        "blobs": {A: [3, B]},
        "names": {"x": A},
    }


def test_an_unsigned_catalogue_is_refused() -> None:
    with pytest.raises(CatalogueError, match=r"expected a signature by region key .*, got none"):
        catalogue.open_signed(document(), None, PIN)


@pytest.mark.parametrize("signature", ["00" * 64, "zz", "ab"])
def test_a_wrong_signature_is_refused(signature: str) -> None:
    with pytest.raises(CatalogueError, match="got one that does not match"):
        catalogue.open_signed(document(), signature, PIN)


def test_a_catalogue_signed_by_another_region_is_refused() -> None:
    body = document()
    with pytest.raises(CatalogueError, match="does not match"):
        catalogue.open_signed(body, SigningKey.generate().sign_catalogue(body), PIN)


def test_a_changed_byte_is_refused_before_anything_is_decompressed() -> None:
    body = document()
    signature = KEY.sign_catalogue(body)
    with pytest.raises(CatalogueError, match="does not match"):
        catalogue.open_signed(b"not zstd at all" + body, signature, PIN)


def test_an_older_version_is_refused_and_the_same_one_is_not() -> None:
    body = document(version=7)
    signature = KEY.sign_catalogue(body)
    assert catalogue.open_signed(body, signature, PIN, at_least=7).version == 7
    with pytest.raises(CatalogueError, match="expected version 8 or newer, got 7"):
        catalogue.open_signed(body, signature, PIN, at_least=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "bootplane-catalogue:2"}, "expected format"),
        ({"version": 0}, "version of 1 or more"),
        ({"version": "7"}, "version of 1 or more"),
        ({"version": True}, "version of 1 or more"),
        ({"region": 5}, "as text"),
        ({"blobs": []}, "expected region, version"),
        ({"blobs": {A: [3]}}, "expected region, version"),
        ({"blobs": {A: [-1, B]}}, "size in bytes"),
        ({"blobs": {A: ["3", B]}}, "size in bytes"),
        ({"blobs": {A: [3, "root"]}}, "root of 64 hex digits"),
        ({"blobs": {A: [3, None]}}, "root of 64 hex digits"),
        ({"blobs": {"../../etc/passwd": [3, B]}}, "blob's sha256"),
        ({"names": {"x": B}}, "expected a blob of this catalogue"),
        ({"names": {"": A}}, "name of 1 to 512 bytes"),
        ({"names": {"x" * 513: A}}, "name of 1 to 512 bytes"),
        ({"names": ["x"]}, "names as an object"),
    ],
)
def test_a_malformed_document_is_refused_even_when_signed(changes: dict[str, object], message: str) -> None:
    body = document(**changes)
    with pytest.raises(CatalogueError, match=message):
        catalogue.open_signed(body, KEY.sign_catalogue(body), PIN)


@pytest.mark.parametrize("body", [b"", b"hello", zstandard.compress(b"{"), zstandard.compress(b"[]")])
def test_what_is_not_a_document_is_refused(body: bytes) -> None:
    with pytest.raises(CatalogueError, match="catalogue: expected"):
        catalogue.open_signed(body, KEY.sign_catalogue(body), PIN)


def test_a_boot_text_is_signed_together_with_its_name() -> None:
    signature = KEY.sign_boot("grub/grub.cfg-52:54:00:77:00:01", b"boot")
    PIN.check_boot("grub/grub.cfg-52:54:00:77:00:01", b"boot", signature)
    with pytest.raises(CatalogueError, match="does not match"):
        PIN.check_boot("grub/grub.cfg-52:54:00:77:00:02", b"boot", signature)
    with pytest.raises(CatalogueError, match="does not match"):
        PIN.check_catalogue(b"boot", signature)


def test_a_chunk_list_must_have_the_length_and_root_of_the_catalogue() -> None:
    chunks = hashlib.sha256(b"one").digest() + hashlib.sha256(b"two").digest()
    entry = BlobEntry((1 << 20) + 1, hashlib.sha256(chunks).hexdigest())
    assert catalogue.check_chunks(A, entry, chunks) is chunks
    with pytest.raises(CatalogueError, match="expected 64 bytes, got 32"):
        catalogue.check_chunks(A, entry, chunks[:32])
    with pytest.raises(CatalogueError, match="expected root"):
        catalogue.check_chunks(A, entry, chunks[::-1])


def test_a_pinned_key_that_is_none_is_refused() -> None:
    with pytest.raises(CatalogueError, match="region key: expected 64 hex digits"):
        PinnedKey("abcd")


def test_chunk_arithmetic_covers_the_file_exactly() -> None:
    for size in (0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20):
        count = catalogue.chunk_count(size)
        assert sum(catalogue.chunk_length(size, i) for i in range(count)) == size
