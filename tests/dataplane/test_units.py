from __future__ import annotations

import pytest

from bootplane.dataplane.units import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("512 MiB", 512 << 20), ("20GB", 20 * 10**9), ("1.5GiB", 3 << 29), ("12345", 12345), ("0", 0)],
)
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size
