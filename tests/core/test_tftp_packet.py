"""TFTP packets and structs: one table for both directions, whole, cut and with trailing bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootplane.core.tftp_packet import build_data_header, build_error, build_oack, parse_request

# packet, (opcode, name, mode, usable options)
REQUESTS = {
    "plain": (b"\0\1kernel\0octet\0", (1, b"kernel", "octet", {})),
    "iPXE": (
        b"\0\1pxelinux.0\0octet\0blksize\x001432\0tsize\x000\0",
        (1, b"pxelinux.0", "octet", {"blksize": 1432, "tsize": True}),
    ),
    "UEFI": (
        b"\0\1bootx64.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0",
        (1, b"bootx64.efi", "octet", {"tsize": True, "blksize": 1468, "windowsize": 4}),
    ),
    "any case": (
        b"\0\1a\0OcTeT\0BLKSIZE\x008\0TimeOut\x00255\0WindowSize\x0065535\0TSIZE\x0017\0",
        (1, b"a", "octet", {"blksize": 8, "timeout": 255, "windowsize": 65535, "tsize": True}),
    ),
    "unknown options": (b"\0\1a\0octet\0multicast\0\0blksize\x00512\0x\0y\0", (1, b"a", "octet", {"blksize": 512})),
    "padded with zeros": (b"\0\1a\0octet\0tsize\x000\0\0\0\0\0", (1, b"a", "octet", {"tsize": True})),
    "netascii": (b"\0\1a\0netascii\0", (1, b"a", "netascii", {})),
    "mail": (b"\0\1a\0mail\0", (1, b"a", "mail", {})),
    "unknown mode": (b"\0\1a\0octets\0", (1, b"a", "other", {})),
    "write request": (b"\0\2a\0octet\0", (2, b"a", "octet", {})),
    "empty name": (b"\0\1\0octet\0", (1, b"", "octet", {})),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_requests_parse_to_what_they_say(case: str) -> None:
    packet, expected = REQUESTS[case]
    assert parse_request(packet) == expected


@pytest.mark.parametrize("case", REQUESTS)
def test_a_cut_request_is_malformed_or_a_shorter_request(case: str) -> None:
    packet, (opcode, name, mode, options) = REQUESTS[case]
    shortest = 2 + len(name) + 1 + packet[3 + len(name) :].index(b"\0") + 1
    for cut in range(len(packet)):
        request = parse_request(packet[:cut])
        if cut < shortest:
            assert request is None, f"{cut} of {len(packet)} bytes"
        elif request is not None:
            assert request[:3] == (opcode, name, mode)
            assert request.options.items() <= options.items()


@pytest.mark.parametrize(
    "packet",
    [b"", b"\0", b"\0\1", b"\0\1a", b"\0\1a\0", b"\0\1a\0octet", b"\0\3a\0octet\0", b"\1\1a\0octet\0",
     b"\0\1a\0octet\0blksize", b"\0\1a\0octet\0blksize\0", b"\0\1a\0octet\0blksize\x00512"],
)  # fmt: skip
def test_malformed_requests_are_refused(packet: bytes) -> None:
    assert parse_request(packet) is None


@pytest.mark.parametrize(
    ("option", "value"),
    [("blksize", "7"), ("blksize", "65465"), ("blksize", "0"), ("blksize", "-8"), ("blksize", "1e3"), ("blksize", ""),
     ("blksize", "99999999999999999999"), ("blksize", "512 "), ("timeout", "0"), ("timeout", "256"),
     ("windowsize", "0"), ("windowsize", "65536"), ("windowsize", "4294967297"), ("tsize", ""), ("tsize", "x")],
)  # fmt: skip
def test_an_option_out_of_its_range_is_ignored(option: str, value: str) -> None:
    packet = f"\0\1a\0octet\0{option}\0{value}\0".encode()
    request = parse_request(packet)
    assert request is not None
    assert request.options == {}


def test_of_a_repeated_option_the_first_counts() -> None:
    request = parse_request(b"\0\1a\0octet\0blksize\x001024\0blksize\x00512\0")
    assert request is not None
    assert request.options == {"blksize": 1024}


@given(st.binary(max_size=200))
def test_no_bytes_at_all_upset_the_parser(packet: bytes) -> None:
    for data in (packet, b"\0\1" + packet, b"\0\1a\0octet\0" + packet):
        request = parse_request(data)
        if request is not None:
            assert request.name == data[2 : 2 + len(request.name)]
            assert b"\0" not in request.name


@given(
    name=st.binary(max_size=60).filter(lambda n: b"\0" not in n),
    options=st.fixed_dictionaries(
        {},
        optional={
            "blksize": st.integers(8, 65464),
            "timeout": st.integers(1, 255),
            "windowsize": st.integers(1, 65535),
        },
    ),
)
def test_a_written_request_reads_back(name: bytes, options: dict[str, int]) -> None:
    packet = b"\0\1" + name + b"\0octet\0" + b"".join(f"{k}\0{v}\0".encode() for k, v in options.items())
    assert parse_request(packet) == (1, name, "octet", options)


def test_an_oack_names_the_options_it_grants_and_no_other() -> None:
    assert build_oack() == b"\0\6"
    assert build_oack(tsize=0) == b"\0\6tsize\x000\0"
    assert build_oack(blksize=1468, windowsize=4) == b"\0\6blksize\x001468\0windowsize\x004\0"
    longest = build_oack(blksize=65464, timeout=255, tsize=2**64 - 1, windowsize=65535)
    assert longest == b"\0\6blksize\x0065464\0timeout\x00255\0tsize\x0018446744073709551615\0windowsize\x0065535\0"
    assert len(longest) <= 96


@pytest.mark.parametrize(
    ("block", "wire"), [(1, b"\0\1"), (65535, b"\xff\xff"), (65536, b"\0\0"), (65537, b"\0\1"), (2**33 + 515, b"\2\3")]
)
def test_block_numbers_roll_over_to_zero(block: int, wire: bytes) -> None:
    assert build_data_header(block) == b"\0\3" + wire


def test_an_error_carries_its_code_and_a_text_that_cannot_steer_a_terminal() -> None:
    assert build_error(1, b"", b"grub/x", b": nobody has it") == b"\0\5\0\1grub/x: nobody has it\0"
    assert build_error(0, b"", b"a\x1b[2J\xff\r\n", b"!") == b"\0\5\0\0a?[2J???!\0"


def test_an_error_text_is_cut_in_the_name_and_never_in_what_it_says() -> None:
    packet = build_error(1, b"", b"n" * 600, b": nobody has it")
    assert len(packet) == 516
    assert packet.endswith(b"n: nobody has it\0")
