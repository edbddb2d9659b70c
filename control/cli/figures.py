"""Figures in words: sizes, rates, durations, counts. Pure text; the command line and the pages say them alike."""

from __future__ import annotations

from bootplane.dataplane.units import size as size


def count(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rate(bytes_s: float | None) -> str:
    return f"{size(bytes_s)}/s" if bytes_s else "-"


def duration(seconds: float | None) -> str:
    """Seconds for people: 42 s, 3:07, 1:02:09."""
    if seconds is None:
        return "-"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    minutes, rest = divmod(total, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
