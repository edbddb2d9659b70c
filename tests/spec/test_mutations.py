"""The table of mutations.py names what is there: each place once, each test, and README.md shows it."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from tests.spec.mutations import MUTATIONS, ROOT, Mutation, source, table

README = pathlib.Path(__file__).parent / "README.md"


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule)
def test_the_place_of_a_rule_stands_once_in_the_code(mutation: Mutation) -> None:
    assert source(mutation).read_text().count(mutation.before) == 1
    assert mutation.after != mutation.before


def test_every_test_of_the_table_is_there() -> None:
    files = sorted({f"tests/spec/{mutation.test.partition('::')[0]}" for mutation in MUTATIONS})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found = {line.removeprefix("tests/spec/") for line in done.stdout.splitlines() if "::" in line}
    plain = {re.sub(r"\[.*", "", line) for line in found}
    assert {mutation.test for mutation in MUTATIONS} <= found | plain


def test_the_readme_shows_the_table() -> None:
    assert table() in README.read_text()
