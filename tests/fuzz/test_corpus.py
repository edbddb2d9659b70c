"""Every input of the corpora does what its target says, on the extensions as they are built: no clang is needed.

Under AddressSanitizer, too: tests/sanitizers/run.py runs this folder.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import corpus


@pytest.mark.parametrize("name", corpus.TARGETS)
def test_every_input_that_was_ever_kept_is_read_as_the_standard_says(name: str) -> None:
    target, inputs = corpus.target(name), corpus.read(name)
    assert inputs, f"tests/fuzz/corpus/{name}.txt is empty"
    for data in inputs:
        try:
            target.check(data)
        except AssertionError as error:
            raise AssertionError(f"{corpus.escaped(data)}: {error}") from error


@pytest.mark.parametrize("name", corpus.TARGETS)
def test_a_corpus_holds_each_input_once_and_stays_small(name: str) -> None:
    inputs = corpus.read(name)
    assert len(inputs) == len(set(inputs))
    assert sum(map(len, inputs)) < 150_000
    assert max(map(len, inputs)) <= corpus.target(name).MAX_LEN, "the fuzzer would cut it"


@given(st.binary(max_size=50))
def test_an_input_is_one_line_and_read_back(data: bytes) -> None:
    line = corpus.escaped(data)
    assert line.isascii() and line.splitlines() in ([line], [])
    assert not line.startswith("#")
    assert corpus.unescaped(line) == data
