from typing import NamedTuple

from typing_extensions import Buffer

class Verified(NamedTuple):
    sha256: str
    size: int
    chunks: bytes
    root: str

class Verifier:
    expected_sha256: str | None
    expected_size: int | None
    name: str
    def __init__(
        self, expected_sha256: str | None = None, expected_size: int | None = None, name: str = ""
    ) -> None: ...
    def update(self, data: Buffer) -> None: ...
    def finish(self) -> Verified: ...

def chunk_root(chunks: bytes) -> str: ...
def sha256_hex(data: Buffer) -> str: ...
