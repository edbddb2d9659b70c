"""Shares as an operator writes them."""

from __future__ import annotations

import pytest

from bootplane.core.shares import Group
from bootplane.dataplane.shares import Plan, parse, remark


def test_every_word_has_its_place() -> None:
    plan = parse(
        "total 9Gbit/s; team-a 10.1.0.0/16,2001:db8:a::/48 weight 3 cap 4Gbit/s;\n"
        " lab 10.9.0.1 pace 50Mbit/s; others weight 2;"
    )
    assert plan == Plan(
        (
            Group("team-a", ("10.1.0.0/16", "2001:db8:a::/48"), 3, 500_000_000, 0),
            Group("lab", ("10.9.0.1/32",), 1, 0, 6_250_000),
            Group("others", (), 2),
        ),
        1_125_000_000,
    )


@pytest.mark.parametrize("words", ["", " ", "none", ";;"])
def test_nothing_is_no_shares(words: str) -> None:
    assert parse(words) == Plan()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("total", "--shares: expected one rate as total, got 'total'"),
        ("total 1Gbit/s; total 2Gbit/s", "--shares: expected one rate as total, got 'total 2Gbit/s'"),
        ("total 5", "--shares: total: expected none, or a number with kbit/s, Mbit/s, Gbit/s, MB/s or MiB/s, got '5'"),
        ("a 10.0.0.0/8 cap 9kbit/s", "--shares: a cap: expected none, or 1Mbit/s or more, got '9kbit/s'"),
        ("a", "--shares: a: expected subnets, got none"),
        ("a 10.0.0.1/8", "--shares: a: expected a subnet such as 10.1.0.0/16, got '10.0.0.1/8'"),
        ("a 10.0.0.0/8 weight", "--shares: a: expected weight N, cap RATE or pace RATE, got 'weight'"),
        ("a 10.0.0.0/8 weight 0", "--shares: a weight: expected 1 to 1000, got '0'"),
        ("a 10.0.0.0/8 wait 3", "--shares: a: expected weight, cap or pace, got 'wait'"),
        ("a/b 10.0.0.0/8", "--shares: expected a name of letters, digits and . _ -, got 'a/b'"),
        ("a 10.0.0.0/8; a 10.1.0.0/16", "--shares: expected each name once"),
        ("x" * 16385, "--shares: expected at most 16384 characters, got 16385"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(words: str, sentence: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse(words, "--shares")
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("words", "is_said"),
    [
        ("a 10.0.0.0/8", True),
        ("a 10.0.0.0/8 weight 3 cap 1Gbit/s", True),
        ("total 9Gbit/s; a 10.0.0.0/8 weight 3", False),
        ("a 10.0.0.0/8 cap 1Gbit/s; others pace 50Mbit/s", False),
        ("total 9Gbit/s", False),
        ("none", False),
    ],
)
def test_weights_without_a_total_are_remarked_on(words: str, is_said: bool) -> None:
    assert remark(parse(words)).startswith("shares: without `total RATE`") is is_said
