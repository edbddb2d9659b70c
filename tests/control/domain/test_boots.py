from __future__ import annotations

import pytest

from bootplane.control.domain.boots import MachineKey, machine_key, since
from bootplane.control.errors import CallerError

NOW = 1_795_000_000.0


@pytest.mark.parametrize(
    "text",
    [
        "52:54:00:77:00:0a",
        "52:54:00:77:00:0A",
        "52-54-00-77-00-0a",
        "01-52-54-00-77-00-0a",
        "5254.0077.000a",
        "52540077000a",
        " 52:54:00:77:00:0a\n",
    ],
)
def test_a_mac_is_read_in_every_notation_people_use(text: str) -> None:
    assert machine_key(text) == MachineKey("52:54:00:77:00:0a", "")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.77.0.9", "10.77.0.9"),
        ("fd77:0:0::9", "fd77::9"),
        ("[fd77::9]", "fd77::9"),
        ("FE80::1%eth0", "fe80::1"),
        ("::ffff:10.77.0.9", "10.77.0.9"),
    ],
)
def test_an_address_is_read_as_racks_tell_it(text: str, address: str) -> None:
    assert machine_key(text) == MachineKey("", address) and str(machine_key(text)) == address


@pytest.mark.parametrize(
    "text", ["", "kiruna", "52:54-00:77:00:0a", "52:54:00:77:00", "10.0.0.256", "5254.0077.000a.1"]
)
def test_what_is_neither_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(CallerError, match="machine: expected a MAC or an IP address, got "):
        machine_key(text)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90s", NOW - 90),
        ("10m", NOW - 600),
        ("2 H", NOW - 7200),
        ("1d", NOW - 86400),
        ("2026-11-18T07:06:40Z", 1_794_985_600),
        ("2026-11-18T07:06:40", 1_794_985_600),
        ("2026-11-18T08:06:40+01:00", 1_794_985_600),
        ("2026-11-18", 1_794_960_000),
    ],
)
def test_since_is_a_time_or_so_long_ago(text: str, at: float) -> None:
    assert since(text, NOW) == at


@pytest.mark.parametrize("text", ["", "10", "m", "yesterday", "-5m", "10w", "2026-13-01"])
def test_a_since_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(CallerError, match="since: expected a time, or 90s, 10m, 2h, 1d; got "):
        since(text, NOW)
