from typing import NamedTuple

class Head(NamedTuple):
    size: int
    method: bytes
    target: bytes
    minor: int
    close: bool
    keep_alive: bool
    transfer: bool
    content_length: int
    fields: dict[str, list[bytes]]

class Refused(NamedTuple):
    status: int
    why: str

def parse_head(data: bytes) -> Head | Refused | None: ...
def decode_target(target: bytes, room: int = 2048) -> bytes | None: ...
