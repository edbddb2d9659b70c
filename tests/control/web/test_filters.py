"""How pages say times and lists."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bootplane.control.web.filters import commands, everything, moment

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "text"),
    [
        ("2026-11-21T10:02:03Z", "10:02:03 UTC"),
        ("2026-11-21T10:02:03.456+00:00", "10:02:03 UTC"),
        ("2026-11-21T01:00:00+02:00", "2026-11-20 23:00 UTC"),
        ("2026-11-20T10:02:03", "2026-11-20 10:02 UTC"),
        ("Thu, 20 Nov 2026", "Thu, 20 Nov 2026"),
        (None, "never"),
    ],
)
def test_a_moment_is_utc_short_today_and_with_its_date_before(time: str | None, text: str) -> None:
    assert moment(time, NOW) == text


def test_a_star_is_all_and_a_list_is_its_members() -> None:
    assert (everything(["*"]), everything(["amd64", "arm64"]), everything([])) == ("all", "amd64, arm64", "")


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("Run `bootplane sync <x>` & wait.", "Run <code>bootplane sync &lt;x&gt;</code> &amp; wait."),
        ("`a` or `b`", "<code>a</code> or <code>b</code>"),
        ("one ` alone", "one ` alone"),
        ("`a` and ` alone", "<code>a</code> and ` alone"),
        (None, ""),
    ],
)
def test_a_command_in_a_sentence_is_code_and_everything_is_escaped(text: str | None, page: str) -> None:
    assert commands(text) == page
