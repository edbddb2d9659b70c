"""RFC 9110 section 14: ranges of bytes, and what answers them (15.3.7, 15.5.17).

| section | what is here |
|---|---|
| 14.1.1 Range Specifiers, 14.1.2 Byte Ranges | SATISFIED, UNSATISFIED, IGNORED, by the parser alone and over a socket |
| 14.2 Range | GET alone; another unit, nonsense and several parts are passed over, as it allows |
| 14.3 Accept-Ranges | on every file |
| 14.4 Content-Range, 15.3.7 206 | exactly those bytes, with Date and ETag of the whole |
| 15.5.17 416 | with the size |

Left to others: If-Range (test_rfc9110_conditionals.py), all values at all (tests/fuzz).
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootplane.core.blob import Blob
from bootplane.core.http_range import parse_range
from tests.fakes.http_client import Rack, curl, rack

DATA = bytes(range(100))
BIG = os.urandom(3_000_001)


@pytest.fixture(scope="module")
def served() -> Iterator[Rack]:
    names = {
        "hundred": Blob.memory(DATA, dynamic=False),
        "empty": Blob.memory(b"", dynamic=False),
        "big": Blob.memory(BIG, dynamic=False),
    }
    with rack(names) as it:
        yield it


#: (Range, first, end) of a file of 100 bytes
SATISFIED = [
    ("bytes=0-0", 0, 1),
    ("bytes=0-49", 0, 50),
    ("bytes=50-99", 50, 100),
    ("bytes=99-", 99, 100),
    ("bytes=0-", 0, 100),
    ("bytes=-1", 99, 100),
    ("bytes=-100", 0, 100),
    ("bytes=-101", 0, 100),
    ("bytes=90-100", 90, 100),
    ("bytes=90-99999999999999999999999", 90, 100),
    ("bytes=-99999999999999999999999", 0, 100),
    ("BYTES=1-2", 1, 3),
    ("bytes= 1-2 ", 1, 3),
    ("bytes=,1-2,,", 1, 3),
    ("bytes=007-008", 7, 9),
]
UNSATISFIED = ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999999-"]
IGNORED = [
    "bytes=0-1,3-4",
    "bytes=0-1, -5",
    "bytes=5-4",
    "bytes=",
    "bytes",
    "bytes=-",
    "bytes=a-b",
    "bytes=1",
    "bytes=1-2x",
    "bytes=1-2 3",
    "bytes=1 -2",
    "bytes=--1",
    "bytes=+1-2",
    "bytes:1-2",
    "items=0-1",
    "bytes =0-1",
    ",",
]


@pytest.mark.parametrize(("value", "first", "end"), SATISFIED)
def test_a_single_range_is_answered_with_206_and_exactly_those_bytes(
    served: Rack, value: str, first: int, end: int
) -> None:
    assert parse_range(value.encode(), 100) == (first, end)
    response = served.get("/hundred", f"Range: {value}")
    assert response.status == 206
    assert response.body == DATA[first:end]
    assert response.headers["Content-Range"] == f"bytes {first}-{end - 1}/100"
    assert response.headers["Content-Length"] == str(end - first)


@pytest.mark.parametrize("value", UNSATISFIED)
def test_a_range_outside_of_the_file_is_416_with_its_size(served: Rack, value: str) -> None:
    with pytest.raises(ValueError, match="100 bytes"):
        parse_range(value.encode(), 100)
    response = served.get("/hundred", f"Range: {value}")
    assert (response.status, response.headers["Content-Range"]) == (416, "bytes */100")
    assert response.body == b"416 Range Not Satisfiable: hundred: the range lies outside of the file\n"


@pytest.mark.parametrize("value", IGNORED)
def test_several_parts_another_unit_or_nonsense_get_the_whole_file(served: Rack, value: str) -> None:
    assert parse_range(value.encode(), 100) is None
    response = served.get("/hundred", f"Range: {value}")
    assert (response.status, response.body) == (200, DATA)
    assert "Content-Range" not in response.headers


def test_a_206_carries_what_a_200_would_say_of_the_file(served: Rack) -> None:
    """Section 15.3.7: Date and ETag. What names the whole in other words, as Repr-Digest, is left out."""
    whole, part = served.get("/hundred"), served.get("/hundred", "Range: bytes=1-2")
    assert part.headers["ETag"] == whole.headers["ETag"]
    assert part.headers["Date"]
    assert set(part.headers) - set(whole.headers) == {"Content-Range"}


def test_two_range_fields_get_the_whole_file(served: Rack) -> None:
    assert served.get("/hundred", "Range: bytes=0-1", "Range: bytes=2-3").status == 200


def test_range_is_defined_for_get_alone(served: Rack) -> None:
    response = served.get("/hundred", "Range: bytes=0-1", method="HEAD")
    assert (response.status, response.headers["Content-Length"]) == (200, "100")


def test_an_empty_file_has_no_part(served: Rack) -> None:
    assert served.get("/empty", "Range: bytes=0-").headers["Content-Range"] == "bytes */0"
    whole = served.get("/empty", "Range: bytes=-5")
    assert (whole.status, whole.body) == (200, b"")


def test_ranges_are_offered(served: Rack) -> None:
    assert served.get("/hundred").headers["Accept-Ranges"] == "bytes"
    assert served.get("/hundred", "Range: bytes=1-1").headers["Accept-Ranges"] == "bytes"


@given(st.binary(max_size=30), st.integers(0, 2**40))
def test_any_value_is_a_part_inside_the_file_or_refused_or_ignored(value: bytes, size: int) -> None:
    try:
        part = parse_range(b"bytes=" + value, size)
    except ValueError:
        return
    assert part is None or 0 <= part[0] < part[1] <= size


@given(st.integers(0, 2**64), st.integers(0, 2**64), st.integers(1, 2**50))
def test_numbers_mean_what_they_say_however_large(first: int, last: int, size: int) -> None:
    value = b"bytes=%d-%d" % (first, last)
    if last < first and last < 2**61:  # beyond, both are simply larger than any file
        assert parse_range(value, size) is None
    elif first >= size:
        with pytest.raises(ValueError, match="expected a part"):
            parse_range(value, size)
    else:
        assert parse_range(value, size) == (first, min(last + 1, size))


@pytest.mark.parametrize(
    ("first", "last"), [(0, 65535), (0, 65536), (1, 1 << 20), ((1 << 20) - 1, 1 << 20), (2_999_999, 3_000_000)]
)
def test_parts_small_and_large_are_cut_to_the_byte(served: Rack, first: int, last: int) -> None:
    with served.client() as client:
        for _ in range(2):
            response = client.get("/big", f"Range: bytes={first}-{last}")
            assert (response.status, response.body == BIG[first : last + 1]) == (206, True)


def test_curl_reads_a_part_and_resumes_a_half_finished_file(served: Rack, tmp_path: pathlib.Path) -> None:
    url = f"http://127.0.0.1:{served.port}/big"
    assert curl("-r", "1000-1999", url).stdout == BIG[1000:2000]
    half = tmp_path / "half"
    half.write_bytes(BIG[:1_234_567])
    curl("-C", "-", "-o", str(half), url)
    assert half.read_bytes() == BIG
    done = curl("-C", "-", "-o", str(half), url, check=False)
    assert done.returncode in (0, 22, 33)  # 416: curl versions differ in what they call it
    assert half.read_bytes() == BIG
