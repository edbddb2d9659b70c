"""RFC 9110 section 13: conditional requests. The entity tag is the file's SHA-256: strong, and all there is.

| section | what is here |
|---|---|
| 8.8.3 ETag, 8.8.3.2 Comparison | the tag; weak for If-None-Match, strong for If-Match and If-Range |
| 13.1.1 If-Match | 412 |
| 13.1.2 If-None-Match | 304, for GET and HEAD |
| 13.1.3, 13.1.4 dates | passed over: there is no Last-Modified |
| 13.1.5 If-Range | the part of the same file only |
| 13.2.1 When to Evaluate | a file that is not there is 404 whatever the conditions |
| 13.2.2 Precedence | the order |
| 15.4.5 304 | its fields, and no content |
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from bootplane.core.blob import Blob
from bootplane.core.http_range import evaluate
from tests.fakes.http_client import Rack, curl, rack

DATA = b"0123456789"
BLOB = Blob.memory(DATA, dynamic=False)
TAG = f'"{BLOB.sha256}"'
OTHER = '"0000"'


@pytest.fixture(scope="module")
def served() -> Iterator[Rack]:
    with rack({"file": BLOB}) as it:
        yield it


def test_the_entity_tag_is_the_digest_in_quotes(served: Rack) -> None:
    for method in ("GET", "HEAD"):
        assert served.get("/file", method=method).headers["ETag"] == TAG
    assert served.get("/file", "Range: bytes=0-1").headers["ETag"] == TAG


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("value", "status"),
    [
        (TAG, 304),
        ("*", 304),
        (f"W/{TAG}", 304),
        (f"{OTHER}, {TAG}", 304),
        (f'"a,b" ,\t{TAG}', 304),
        (f",{TAG},", 304),
        (OTHER, 200),
        (TAG.strip('"'), 200),
        (f"w/{TAG}", 200),
        (TAG[:-1], 200),
        (f"{TAG[:-1]}x\"", 200),
        (f"x {TAG}", 200),
        (f"{OTHER} {TAG}", 200),
        ("", 200),
    ],
)  # fmt: skip
def test_if_none_match_is_304_when_the_client_has_it(served: Rack, method: str, value: str, status: int) -> None:
    response = served.get("/file", f"If-None-Match: {value}", method=method)
    assert response.status == status
    assert response.headers["ETag"] == TAG


def test_a_304_carries_no_content_and_the_connection_goes_on(served: Rack) -> None:
    with served.client() as client:
        first = client.get("/file", f"If-None-Match: {TAG}")
        assert (first.status, sorted(first.headers)) == (304, ["Date", "ETag"])
        assert client.get("/file").body == DATA


def test_if_none_match_may_be_spread_over_lines(served: Rack) -> None:
    assert served.get("/file", f"If-None-Match: {OTHER}", f"If-None-Match: {TAG}").status == 304
    assert served.get("/file", f"If-None-Match: {OTHER}", f"If-None-Match: {OTHER}").status == 200


@pytest.mark.parametrize(
    ("value", "status"),
    [(TAG, 200), ("*", 200), (f"{OTHER}, {TAG}", 200), (OTHER, 412), (f"W/{TAG}", 412), ("", 412), ("x", 412)],
)
def test_if_match_is_412_for_another_file(served: Rack, value: str, status: int) -> None:
    response = served.get("/file", f"If-Match: {value}")
    assert response.status == status
    if status == 412:
        assert response.body == b"412 Precondition Failed: file: the file is not the one that If-Match names\n"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (TAG, 206),
        (OTHER, 200),
        (f"W/{TAG}", 200),  # a weak tag never proves that the bytes are the same (13.1.5)
        (f"{OTHER}, {TAG}", 200),
        ("Sat, 21 Nov 2026 20:57:00 GMT", 200),  # there is no Last-Modified for it to match
    ],
)
def test_if_range_gives_the_part_only_of_the_same_file(served: Rack, value: str, status: int) -> None:
    response = served.get("/file", "Range: bytes=2-4", f"If-Range: {value}")
    assert (response.status, response.body) == (status, DATA[2:5] if status == 206 else DATA)


def test_of_two_if_ranges_neither_is_believed(served: Rack) -> None:
    for lines in ((TAG, OTHER), (OTHER, TAG), (TAG, TAG)):
        asked = [f"If-Range: {value}" for value in lines]
        assert served.get("/file", "Range: bytes=2-4", *asked).status == 200


def test_if_range_without_a_range_means_nothing(served: Rack) -> None:
    assert served.get("/file", f"If-Range: {OTHER}").status == 200


def test_if_range_for_another_file_makes_even_a_wrong_range_a_200(served: Rack) -> None:
    assert served.get("/file", "Range: bytes=99-", f"If-Range: {OTHER}").status == 200
    assert served.get("/file", "Range: bytes=99-", f"If-Range: {TAG}").status == 416


def test_a_condition_does_not_hide_that_there_is_no_such_file(served: Rack) -> None:
    """Section 13.2.1: conditions count where the answer would be 2xx without them."""
    for line in ("If-Match: *", f"If-Match: {TAG}", "If-None-Match: *", "Range: bytes=99-"):
        assert served.get("/nobody", line).status == 404


def test_a_412_to_head_ends_with_its_head(served: Rack) -> None:
    with served.client() as client:
        response = client.get("/file", f"If-Match: {OTHER}", method="HEAD")
        assert (response.status, response.headers["Content-Length"] != "0") == (412, True)
        assert client.get("/file").body == DATA


def test_conditions_on_dates_are_passed_over(served: Rack) -> None:
    assert served.get("/file", "If-Modified-Since: Sat, 21 Nov 2026 20:57:00 GMT").status == 200
    assert served.get("/file", "If-Unmodified-Since: Sat, 21 Nov 1970 20:57:00 GMT").status == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([f"If-Match: {OTHER}", f"If-None-Match: {TAG}"], 412),
        ([f"If-Match: {TAG}", f"If-None-Match: {TAG}"], 304),
        ([f"If-None-Match: {TAG}", "Range: bytes=0-1"], 304),
        ([f"If-None-Match: {OTHER}", "Range: bytes=0-1"], 206),
        ([f"If-Match: {OTHER}", "Range: bytes=99-"], 412),
        ([f"If-Match: {TAG}", "Range: bytes=99-"], 416),
    ],
)
def test_conditions_are_looked_at_in_the_order_of_section_13_2_2(lines: list[str], status: int) -> None:
    head = "\r\n".join(["GET /file HTTP/1.1", "Host: rack", *lines, "", ""]).encode()
    assert evaluate(head, TAG.encode(), 10)[0] == status


def test_curl_asks_again_only_for_what_has_changed(served: Rack, tmp_path: pathlib.Path) -> None:
    url = f"http://127.0.0.1:{served.port}/file"
    tag, out = tmp_path / "tag", tmp_path / "out"
    ask = ("--etag-save", str(tag), "--etag-compare", str(tag), "-w", "%{http_code}", "-o", str(out), url)
    tag.touch()
    assert curl(*ask).stdout == b"200"
    assert out.read_bytes() == DATA
    assert tag.read_text().strip() == TAG
    assert curl(*ask).stdout == b"304"
