from collections.abc import Iterable, Mapping
from typing import NamedTuple

class Counter(NamedTuple):
    name: str
    help: str

COUNTERS: tuple[Counter, ...]

class CounterBlock:
    def read(self) -> dict[str, int]: ...

def add_up(blocks: Iterable[Mapping[str, int]]) -> dict[str, int]: ...
