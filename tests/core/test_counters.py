"""The table of counters is one table: texts, order and sums."""

from __future__ import annotations

import pathlib
import re

from bootplane.core.counters import COUNTERS, CounterBlock, add_up

PXD = pathlib.Path(__file__).parents[2] / "core" / "counters.pxd"


def test_texts_stand_in_the_order_of_the_enum() -> None:
    body = PXD.read_text().split("cdef enum counter_t:")[1].split("C_COUNT")[0]
    names = re.findall(r"^    C_([A-Z_]+)", body, re.MULTILINE)
    assert [counter.name.upper() for counter in COUNTERS] == names


def test_every_counter_has_a_sentence_of_help() -> None:
    assert all(counter.help.endswith(".") and counter.help[0].isupper() for counter in COUNTERS)


def test_blocks_add_up_by_name() -> None:
    zero = CounterBlock().read()
    assert set(zero.values()) == {0}
    assert add_up([{**zero, "hits": 2}, {**zero, "hits": 3, "misses": 1}])["hits"] == 5
