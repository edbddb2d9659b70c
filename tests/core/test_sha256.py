"""SHA-256 with and without libcrypto: the same digests, and a stream never changes its backend."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator

import pytest

from bootplane.core import digest, sha256

VECTORS = [  # FIPS 180-4 examples, and lengths around the 64-byte block
    (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
        b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ),
    (b"a" * 1_000_000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
]
NOBODY = ("libnobody-has-this.so.7", "libnor-this.so")


def has_libcrypto() -> bool:
    for name in sha256.LIBCRYPTO:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


@pytest.fixture(params=["libcrypto", "hashlib"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "libcrypto":
        if not has_libcrypto():
            pytest.skip("this machine has no libcrypto")
        assert sha256._load(sha256.LIBCRYPTO) == sha256.backend()
    else:
        assert sha256._load(NOBODY) is None
    yield request.param
    sha256._load(sha256.LIBCRYPTO)


def test_the_system_library_is_found_when_it_is_there() -> None:
    assert sha256.backend() in (sha256.LIBCRYPTO if has_libcrypto() else ("hashlib",))


def test_a_library_without_the_symbols_is_passed_over() -> None:
    try:
        assert sha256._load(("libc.so.6",)) is None
        assert sha256.backend() == "hashlib"
    finally:
        sha256._load(sha256.LIBCRYPTO)


@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_published_vectors_come_out_of_either_backend(backend: str, data: bytes, expected: str) -> None:
    assert digest.sha256_hex(data) == expected


@pytest.mark.parametrize("size", [1, 55, 56, 63, 64, 65, 4096, 16384, 16385, 3 * 1048576 + 17])
def test_a_stream_fed_in_uneven_pieces_equals_hashlib_on_either_backend(backend: str, size: int) -> None:
    data = bytes(i * 7 & 0xFF for i in range(251)) * (size // 251 + 1)
    data = data[:size]
    verifier = digest.Verifier()
    at = 0
    step = 1
    while at < size:
        verifier.update(data[at : at + step])
        at += step
        step = step * 3 + 1
    got = verifier.finish()
    assert got.sha256 == hashlib.sha256(data).hexdigest()
    want = b"".join(hashlib.sha256(data[i : i + 1048576]).digest() for i in range(0, size, 1048576))
    assert got.chunks == want


def test_streams_keep_the_backend_they_began_with() -> None:
    if not has_libcrypto():
        pytest.skip("this machine has no libcrypto")
    data = b"x" * 1_500_000  # crosses a chunk, so the chunk stream is restarted after the change
    try:
        sha256._load(sha256.LIBCRYPTO)
        began_with_libcrypto = digest.Verifier()
        began_with_libcrypto.update(data[:1000])
        sha256._load(NOBODY)
        began_with_hashlib = digest.Verifier()
        began_with_hashlib.update(data[:1000])
        began_with_libcrypto.update(data[1000:])
        sha256._load(sha256.LIBCRYPTO)
        began_with_hashlib.update(data[1000:])
    finally:
        sha256._load(sha256.LIBCRYPTO)
    first, second = began_with_libcrypto.finish(), began_with_hashlib.finish()
    assert first == second
    assert first.sha256 == hashlib.sha256(data).hexdigest()


class Mallinfo2(ctypes.Structure):  # <malloc.h>, glibc 2.33
    _fields_ = [
        (name, ctypes.c_size_t) for name in ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"]
    ] + [(name, ctypes.c_size_t) for name in ("uordblks", "fordblks", "keepcost")]


def allocated_bytes() -> int:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    return int(mallinfo2().uordblks)


def test_abandoned_streams_give_their_memory_back(backend: str) -> None:
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("this C library does not count what is allocated")
    for _ in range(100):
        digest.Verifier().update(b"warm")
    before = allocated_bytes()
    for _ in range(2000):  # two EVP_MD_CTX each, with their states several hundred bytes: a leak would be 1 MB and more
        digest.Verifier().update(b"x")
    assert allocated_bytes() - before < 100_000
