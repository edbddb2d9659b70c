"""What templates say figures, times and commands with. Pure; but for ``commands``, Jinja2 escapes the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from bootplane.control.cli import figures


def moment(time: str | None, now: datetime | None = None) -> str:
    """An ISO 8601 time in UTC: ``10:00:09 UTC`` today, ``2026-11-20 10:00 UTC`` before; other text as it is."""
    if not time:
        return "never"
    try:
        parsed = datetime.fromisoformat(time)
    except ValueError:
        return time
    utc = parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    today = (now or datetime.now(UTC)).date()
    return f"{utc:%H:%M:%S} UTC" if utc.date() == today else f"{utc:%Y-%m-%d %H:%M} UTC"


def everything(patterns: Sequence[str]) -> str:
    """A selection's list: ``all`` for ``["*"]``, else its members."""
    return "all" if list(patterns) == ["*"] else ", ".join(patterns)


def commands(text: str | None) -> Markup:
    """*text*, escaped, with what stands in backquotes as code: remedies name commands so, for people at a terminal."""
    parts = (text or "").split("`")
    if len(parts) % 2 == 0:  # one without its fellow is text
        parts[-2:] = ["`".join(parts[-2:])]
    said = (Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts))
    return Markup("").join(said)


FILTERS: dict[str, Callable[[Any], str]] = {
    "size": figures.size,
    "rate": figures.rate,
    "duration": figures.duration,
    "moment": moment,
    "everything": everything,
    "commands": commands,
}
