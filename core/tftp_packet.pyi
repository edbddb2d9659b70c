from typing import NamedTuple

class Request(NamedTuple):
    opcode: int
    name: bytes
    mode: str
    options: dict[str, int]

def parse_request(packet: bytes) -> Request | None: ...
def build_oack(
    *, blksize: int | None = None, timeout: int | None = None, tsize: int | None = None, windowsize: int | None = None
) -> bytes: ...
def build_error(code: int, before: bytes, name: bytes = b"", after: bytes = b"") -> bytes: ...
def build_data_header(block: int) -> bytes: ...
