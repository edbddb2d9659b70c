from collections.abc import Iterable
from typing import NamedTuple

class Fetch(NamedTuple):
    status: int
    size: int
    sha256: str
    seconds: float
    first_byte_s: float
    headers: str
    body: bytes = b""

class LoadResult(NamedTuple):
    requests: int
    bytes: int
    errors: int
    seconds: float
    cpu_s: float
    p50_s: float
    p99_s: float
    verified: int = 0
    first_error: str = ""
    first_p50_s: float = ...
    first_most_s: float = ...
    lost: int = ...

def quantiles(samples_s: Iterable[float], fractions: Iterable[float]) -> list[float]: ...
