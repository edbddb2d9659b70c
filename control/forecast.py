"""What a storm of one image would cost a rack: what it would fetch, and what would leave its cache for that. Pure.

    needed = the image's files - what is here of them - what is read in the region's own directory
    evicted = needed - free, taken from what would leave, in that order

An estimate, from what the rack told with its last beat: each byte is fetched once however many machines boot, so their
number does not matter. What is here of the image itself is taken to stay, as the storm reads it. What does not fit even
when all that may leave has left pushes out the image's own beginning, and is fetched again by whoever comes late.

A rack that reads a region's store (``up`` without --no-share) has each file of its catalogue either there or in its
cache. So, where it told all files of its cache, those of the image that are not among them are read in place.
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
    in_place_bytes: int
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
    has_store = report.in_place_files > 0 and len(report.files) == report.files_total
    in_place = {share.sha256 for share in shares if has_store and share.sha256 not in there}
    lacking = [share.size - share.bytes for share in shares if share.sha256 not in in_place]
    short = max(0, sum(-(-size // PAGE) * PAGE for size in lacking) - free)
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
        in_place_bytes=sum(share.size for share in shares if share.sha256 in in_place),
        needed_bytes=sum(lacking),
        free_bytes=free,
        evicted=tuple(
            Share(names.get(sha256, ("", 0))[0], sha256, names.get(sha256, ("", 0))[1], bytes_)
            for sha256, bytes_ in evicted.items()
        ),
        short_bytes=short,
        files=tuple(shares),
    )
