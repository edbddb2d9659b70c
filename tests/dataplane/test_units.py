from __future__ import annotations

import pytest

from bootplane.dataplane.units import parse_rate, parse_size, rate


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("512 MiB", 512 << 20), ("20GB", 20 * 10**9), ("1.5GiB", 3 << 29), ("12345", 12345), ("0", 0)],
)
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "bytes_s", "shown"),
    [
        ("250Mbit/s", 31_250_000, "250 Mbit/s"),
        ("2.5 Gbit/s", 312_500_000, "2.5 Gbit/s"),
        ("30 MiB/s", 30 << 20, "251.7 Mbit/s"),
        ("10MB/s", 10**7, "80 Mbit/s"),
        ("900kbit/s", 112_500, "900 kbit/s"),
        ("80 bit/s", 10, "80 bit/s"),
        ("none", 0, "no limit"),
    ],
)
def test_a_rate_is_read_and_said_with_its_unit(text: str, bytes_s: int, shown: str) -> None:
    assert (parse_rate(text), rate(bytes_s)) == (bytes_s, shown)


@pytest.mark.parametrize("text", ["9" * 400 + "GiB", "8388608TiB", "9223372036854775808"])
def test_a_size_that_no_file_system_has_is_refused_in_one_short_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"--x: expected less than 8388608\.0 TiB, got ") as error:
        parse_size(text, "--x")
    assert len(str(error.value)) < 100
    with pytest.raises(ValueError, match=r"--x: expected less than 8388608\.0 TiB, got "):
        parse_rate(f"{'9' * 400} GB/s", "--x")


def test_a_size_is_exact_to_the_byte() -> None:
    assert parse_size("9007199254740993") == 9007199254740993
    assert parse_size("9223372036854775807") == (1 << 63) - 1


@pytest.mark.parametrize("text", ["0Mbit/s", "0.001kbit/s", "7bit/s"])
def test_a_rate_of_nothing_is_not_taken_for_no_limit(text: str) -> None:
    with pytest.raises(ValueError, match="--x: expected none for no limit, or 1 byte a second or more, got "):
        parse_rate(text, "--x")


@pytest.mark.parametrize("text", ["250", "250Mbit", "fast", "-1Mbit/s", "1 Tbit/s", "", "250 Mbit/s x"])
def test_what_is_no_rate_is_one_sentence_that_names_the_units(text: str) -> None:
    with pytest.raises(ValueError, match="--x: expected none, or a number with kbit/s, Mbit/s, Gbit/s, MB/s or MiB/s"):
        parse_rate(text, "--x")
