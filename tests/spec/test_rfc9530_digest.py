"""RFC 9530: Repr-Digest, the SHA-256 of the whole file, for clients that want to check what they got."""

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
