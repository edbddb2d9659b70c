"""What a storm of one image would cost a rack: what it would fetch, and what would leave its cache for that. Pure.

    needed = the image's files - what is here of them
    evicted = needed - free, taken from what would leave, in that order

An estimate, from what the rack told with its last beat: each byte is fetched once however many machines boot, so their
number does not matter. What is here of the image itself is taken to stay, as the storm reads it. What does not fit even
when all that may leave has left pushes out the image's own beginning, and is fetched again by whoever comes late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bootplane.dataplane.cachereport import CacheReport

PAGE = 4096  # the unit of the disk, in which a cache is charged


class Wanted(NamedTuple):
    """A file that a machine fetches when it boots the image."""

    name: str
    sha256: str
    size: int


class Share(NamedTuple):
    name: str  # "": not among the files the rack told of, or several
    sha256: str
    size: int  # 0: not known
    bytes: int  # that are here (files), or that would leave (evicted)


@dataclass(frozen=True, slots=True)
class Forecast:
    size: int
    present_bytes: int
    needed_bytes: int
    free_bytes: int
    evicted: tuple[Share, ...]  # the first to go first
    short_bytes: int  # that find no room: they push out what came before them
    files: tuple[Share, ...]


def forecast(files: Sequence[Wanted], report: CacheReport) -> Forecast:
    there = {file.sha256: file for file in report.files}
    distinct = {file.sha256: file for file in files}.values()
    shares = [
        Share(file.name, file.sha256, file.size, there[file.sha256].present_bytes if file.sha256 in there else 0)
        for file in distinct
    ]
    numbers = report.numbers
    free = max(0, numbers["limit_bytes"] - numbers["charged_bytes"] - numbers["condemned_bytes"])
    needed = sum(share.size - share.bytes for share in shares)
    short = max(0, sum(-(-(share.size - share.bytes) // PAGE) * PAGE for share in shares) - free)
    evicted: dict[str, int] = {}
    for leaving in report.leaving:
        if short and leaving.sha256 not in {file.sha256 for file in distinct}:
            taken = min(short, leaving.bytes)
            evicted[leaving.sha256] = evicted.get(leaving.sha256, 0) + taken
            short -= taken
    names = {sha256: (file.name, file.size) for sha256, file in there.items()}
    return Forecast(
        size=sum(share.size for share in shares),
        present_bytes=sum(share.bytes for share in shares),
        needed_bytes=needed,
        free_bytes=free,
        evicted=tuple(
            Share(names.get(sha256, ("", 0))[0], sha256, names.get(sha256, ("", 0))[1], bytes_)
            for sha256, bytes_ in evicted.items()
        ),
        short_bytes=short,
        files=tuple(shares),
    )
