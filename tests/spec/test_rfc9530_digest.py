"""RFC 9530: Repr-Digest, the SHA-256 of the whole file, for clients that want to check what they got.

| section | what is here |
|---|---|
| 2 Content-Digest | never sent: of a whole file it would say the same, and parts are not hashed |
| 3 Repr-Digest | on 200, by GET and HEAD; not on 206 and 304, whose readers would take it for theirs |
| 4 Want-Repr-Digest | a wish for another algorithm changes nothing, as it allows |
| 5 Hash Algorithms | sha-256, as a structured field's dictionary of byte sequences (RFC 8941) |
"""

from __future__ import annotations

import base64
import hashlib

from bootplane.core.blob import Blob
from tests.fakes.http_client import rack

DATA = b"vmlinuz" * 1000


def test_repr_digest_is_the_sha256_of_the_file_as_a_structured_field() -> None:
    with rack({"a": Blob.memory(DATA, dynamic=False), "empty": Blob.memory(b"", dynamic=False)}) as it:
        for name, data in (("a", DATA), ("empty", b"")):
            for method in ("GET", "HEAD"):
                value = it.get(f"/{name}", method=method).headers["Repr-Digest"]
                assert value.startswith("sha-256=:")
                assert value.endswith(":")
                assert base64.b64decode(value[9:-1], validate=True) == hashlib.sha256(data).digest()


def test_a_part_is_not_given_the_digest_of_the_whole_to_be_taken_for_its_own() -> None:
    with rack({"a": Blob.memory(DATA, dynamic=False)}) as it:
        assert "Repr-Digest" not in it.get("/a", "Range: bytes=0-9").headers
        assert "Repr-Digest" not in it.get("/a", f'If-None-Match: "{hashlib.sha256(DATA).hexdigest()}"').headers


def test_a_wish_for_another_digest_changes_nothing() -> None:
    with rack({"a": Blob.memory(DATA, dynamic=False)}) as it:
        got = it.get("/a", "Want-Repr-Digest: sha-512=10, sha-256=0", "Want-Content-Digest: sha-256=1")
        assert got.headers["Repr-Digest"].startswith("sha-256=:")
        assert "Content-Digest" not in got.headers
