from typing import NamedTuple

class Eviction(NamedTuple):
    sha256: str
    segments: int
    bytes: int
    reason: str
    at: float
    idle_s: float
    wanted_by: str
