from typing import NamedTuple

class Found(NamedTuple):
    segments: int
    bytes: int
    clean: bool
    removed: int
    removed_names: tuple[str, ...]
    evicted: int
