"""Numbers that stand in core and in dataplane are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bootplane.dataplane import segments

CONTRACT = (Path(__file__).parents[2] / "core" / "segments.pxd").read_text()


@pytest.mark.parametrize(
    ("name", "contract"),
    [
        ("SEGMENT_CHUNKS", "SEGMENT_CHUNKS"),
        ("SEGMENT_BYTES", "SEGMENT_BYTES"),
        ("ABSENT", "CHUNK_ABSENT"),
        ("PRESENT", "CHUNK_PRESENT"),
        ("UNCHECKED", "CHUNK_UNCHECKED"),
        ("CLOSED", "CHUNK_CLOSED"),
    ],
)
def test_a_number_is_that_of_the_contract(name: str, contract: str) -> None:
    found = re.search(rf"\b{contract} = (\d+)", CONTRACT)
    assert found is not None
    assert getattr(segments, name) == int(found[1])
