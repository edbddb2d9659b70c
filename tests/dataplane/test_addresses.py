from __future__ import annotations

import pytest

from bootplane.dataplane import addresses
from bootplane.dataplane.addresses import HostPort


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:80", HostPort("127.0.0.1", 80)),
        ("[::1]:5248", HostPort("::1", 5248)),
        (":69", HostPort("", 69)),
        ("rack.example:0", HostPort("rack.example", 0)),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, expected: HostPort) -> None:
    assert addresses.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "host:x", "host:70000", "::1", "fe80::1:80", "host:-1", "h:\u0663"]
)
def test_what_is_no_address_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"--http: expected HOST:PORT, got"):
        addresses.parse(text, "--http")
