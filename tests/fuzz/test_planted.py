"""The fuzzers find planted mistakes: one place is changed in a copy of the tree, and the fuzzer starts from what was
written by hand of its corpus. (What it has found before would show most of them at once.)

Some of them break memory, the others only the meaning. Left to others: that nothing is found in the code as it
stands (run.py).
"""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import NamedTuple

import pytest

from tests.fuzz import corpus, run
from tests.sanitizers.test_planted import builds_a_tree

RUNS = 300_000  # inputs from one seed; most mistakes are found within 50,000 ...
SEEDS = 6  # ... and with bad luck from the next one


class Mistake(NamedTuple):
    """*before* stands once in ``core/<module>.pyx``; *report* is said when it is found."""

    what: str
    target: str
    module: str
    before: str
    after: str
    report: str


MISTAKES = [
    Mistake(
        "one byte behind the head is read",
        "http_head",
        "http_head",
        "while p + 1 < n and data[p] == 13 and data[p + 1] == 10:",
        "while p < n and data[p] == 13 and data[p + 1] == 10:",
        "heap-buffer-overflow",
    ),
    Mistake(
        "both framings are taken when the length is zero",
        "http_head",
        "http_head",
        "(h.content_length >= 0 or h.minor == 0)",
        "(h.content_length > 0 or h.minor == 0)",
        "the grammar refuses it",
    ),
    Mistake(
        "more is waited for where a line is folded by a tab",
        "http_head",
        "http_head",
        'return refuse(h, 400, b"a field is folded over two lines")',
        'return refuse(h, 400, b"a field is folded over two lines") if data[p] == 32 else ST_AGAIN',
        "none can mend it",
    ),
    Mistake(
        "the last no bytes of an empty file are the whole of it",
        "http_range",
        "http_range",
        "        if b == 0:\n",
        "        if b == 0 and size:\n",
        "expected outside",
    ),
    Mistake(
        "a weak tag is taken for a strong one at the end of a list",
        "http_range",
        "http_range",
        "(weak or not is_weak) and",
        "(weak or not is_weak or p == value.n) and",
        "expected (412",
    ),
    Mistake(
        "one byte behind an option without an end is read",
        "tftp_packet",
        "tftp_packet",
        "value_stop = end_of(value, end)",
        "value_stop = end_of(value, end + 1)",
        "heap-buffer-overflow",
    ),
    Mistake(
        "a name may be one byte longer than its room",
        "name",
        "table",
        "if <size_t>written + (written > 0) + length > MAX_NAME:",
        "if <size_t>written + length > MAX_NAME:",
        "heap-buffer-overflow",
    ),
    Mistake(
        "a body that is cut in one place keeps its file",
        "http_exchange",
        "http_exchange",
        "    let_go(x, scene)\n    x.state = EXCHANGE_ENDED\n    return DO_RESET",
        "    if x.offset != 6:\n        let_go(x, scene)\n    x.state = EXCHANGE_ENDED\n    return DO_RESET",
        "still holds its file",
    ),
    Mistake(
        "an ACK for the seventh block from here is believed",
        "tftp_transfer",
        "tftp_transfer",
        "    if moved == 0 or t.acked + moved > t.top:",
        "    if moved == 0 or t.acked + moved > t.top and moved != 7:",
        "AssertionError: ack ",
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_the_place_of_a_mistake_is_there_once(mistake: Mistake) -> None:
    """In the quick tests: whoever changes the place sees it, and not the next run of the fuzzers."""
    assert (run.sanitizers.ROOT / "core" / f"{mistake.module}.pyx").read_text().count(mistake.before) == 1


@builds_a_tree
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_planted_mistake_is_found(mistake: Mistake, tmp_path: pathlib.Path) -> None:
    compiler = run.clang()
    if compiler is None:
        assert "CI" not in os.environ, "clang with its libFuzzer is missing, and CI must have it"
        pytest.skip("no clang with its libFuzzer on this machine")
    tree = tmp_path / "tree"
    shutil.copytree(run.prepared(compiler), tree, symlinks=True, ignore=shutil.ignore_patterns("build", "docs"))
    source = tree / "core" / f"{mistake.module}.pyx"
    source.write_text(source.read_text().replace(mistake.before, mistake.after))
    run.build(tree, compiler, only=[mistake.module])
    folder = run.unpacked(corpus.by_hand(mistake.target), tmp_path / "inputs")
    for seed in range(1, SEEDS + 1):
        result = run.fuzz(tree, compiler, mistake.target, folder, f"-runs={RUNS}", f"-seed={seed}", str(folder))
        if result.status != 0:
            break
    assert result.status != 0, f"{RUNS} inputs from each of {SEEDS} seeds found nothing"
    assert mistake.report in result.text
    assert len(result.inputs) == 1
    assert "INITED" in result.text, "its first inputs show it: what the fuzzer can do is not seen"
