"""Reading documents: what is refused as a whole, what is passed over with a warning, what never crashes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootplane.control.domain.images import KEPT_FTYPES, Product
from bootplane.control.simplestreams import documents
from bootplane.control.simplestreams.documents import parse_index, parse_products, parse_time
from bootplane.control.simplestreams.errors import DocumentRefused, HostilePath, SourceError

URL = "http://mirror.invalid/streams/v1/x.sjson"
CONTENT = "com.ubuntu.maas:stable:v3:download"
SHA = "ab" * 32


def item(ftype: str, path: str, **more: Any) -> dict[str, Any]:
    return {"ftype": ftype, "path": path, "sha256": SHA, "size": 5, **more}


def product(items: dict[str, Any], version: str = "20250709", **tags: Any) -> dict[str, Any]:
    base = {"os": "ubuntu", "arch": "amd64", "release": "noble", "label": "stable", "subarch": "ga-24.04"}
    return {**base, **tags, "versions": {version: {"items": items}}}


def listing(products: dict[str, Any], **top: Any) -> bytes:
    base = {"content_id": CONTENT, "datatype": "image-ids", "format": "products:1.0", "updated": "x"}
    return json.dumps({**base, "products": products, **top}).encode()


def read(products: dict[str, Any], **top: Any) -> tuple[tuple[Product, ...], tuple[str, ...]]:
    parsed = parse_products(listing(products, **top), URL, CONTENT)
    return parsed.products, parsed.warnings


def index(**entries: Any) -> bytes:
    return json.dumps({"format": "index:1.0", "index": entries}).encode()


BAD_DOCUMENTS: list[tuple[bytes, str]] = [
    (b"<!DOCTYPE html>\n<html><head><title> Log in </title>", "expected a JSON index, got HTML ('Log in')"),
    (b"  <html>", "got HTML"),
    (b"", "expected a JSON index, got something else at line 1, column 1"),
    (b"not json", "which begins with 'not json'"),
    (b'{"format": "index:1.0",', "got something else at line 1"),
    (b"\xff\xfe{}", "expected a JSON index, got"),
    (b"[]", "expected a JSON index, got a list"),
    (b'"index:1.0"', "expected a JSON index, got a string"),
    (b"null", "expected a JSON index, got nothing"),
    (b"{}", "expected the format index:1.0, got none"),
    (b'{"format": "products:1.0"}', "expected the format index:1.0, got 'products:1.0'"),
    (b'{"format": "index:1.0"}', "expected an object under 'index', got nothing"),
    (b'{"format": "index:1.0", "index": []}', "expected an object under 'index', got a list"),
    (b'{"format": "index:1.0", "index": {"a": 1}}', "expected an object as entry 'a', got a number"),
    (b'{"format": "index:1.0", "format": "index:1.0"}', "the key 'format' twice in one object"),
    (b'{"format": NaN}', "the number NaN"),
    (b'{"format": ' + b"9" * 5000 + b"}", "expected a JSON index, got"),
    (b'{"format": "\\ud800"}', "half a surrogate pair"),
    (b'{"a": ' * 40 + b"1" + b"}" * 40, "at most 16 levels, got more"),
    (b"[" * 100_000, "expected a JSON index"),
    (b'{"a":' * 100_000, "expected a JSON index"),
]


@pytest.mark.parametrize(("data", "words"), BAD_DOCUMENTS)
def test_what_is_no_index_is_refused_in_one_sentence(data: bytes, words: str) -> None:
    with pytest.raises(DocumentRefused) as caught:
        parse_index(data, URL)
    assert str(caught.value).startswith(f"{URL}: expected ") and words in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_a_document_is_bounded_in_bytes_and_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"c{number}": {"format": "products:1.0"} for number in range(300)}
    with pytest.raises(DocumentRefused, match="at most 256 entries in the index, got 300"):
        parse_index(index(**many), URL)
    monkeypatch.setattr(documents, "INDEX_BYTES", 10)
    with pytest.raises(DocumentRefused, match="of at most 10 bytes, got"):
        parse_index(index(), URL)


def test_index_entries_of_other_formats_and_datatypes_are_passed_over() -> None:
    parsed = parse_index(
        index(
            good={"format": "products:1.0", "datatype": "image-downloads", "path": "streams/v1/a.sjson"},
            nested={"format": "index:1.0", "path": "streams/v1/b.sjson"},
            odd={"format": "products:2.0", "datatype": "image-ids", "path": "../x"},
            other={"format": "products:1.0", "datatype": "recipes", "path": "x"},
        ),
        URL,
    )
    assert [(e.content_id, e.path, e.is_index) for e in parsed.entries] == [
        ("good", "streams/v1/a.sjson", False),
        ("nested", "streams/v1/b.sjson", True),
    ]
    assert [words in warning for words, warning in zip(("'products:2.0'", "'recipes'"), parsed.warnings, strict=True)]


def test_a_hostile_path_in_an_index_refuses_it() -> None:
    with pytest.raises(HostilePath, match=r"path '\.\./\.\./x': expected a plain relative path"):
        parse_index(index(a={"format": "products:1.0", "datatype": "image-ids", "path": "../../x"}), URL)
    with pytest.raises(DocumentRefused, match="expected a path in entry 'a', got nothing"):
        parse_index(index(a={"format": "products:1.0", "datatype": "image-ids"}), URL)


def test_another_list_than_the_index_named_is_refused() -> None:
    with pytest.raises(DocumentRefused, match=f"expected the content_id {CONTENT!r} of its index entry, got 'other'"):
        parse_products(listing({}, content_id="other"), URL, CONTENT)
    with pytest.raises(DocumentRefused, match=r"expected the format products:1\.0, got 'index:1\.0'"):
        parse_products(listing({}, format="index:1.0"), URL, CONTENT)
    with pytest.raises(DocumentRefused, match="expected the datatype image-ids or image-downloads, got 'recipes'"):
        parse_products(listing({}, datatype="recipes"), URL, CONTENT)


@pytest.mark.parametrize(
    ("products", "words"),
    [
        ({"p": []}, "as product 'p', got a list"),
        ({"p": {"os": "x"}}, "with 'versions' as product 'p'"),
        ({"p": {"versions": {"1": []}}}, "version '1', got a list"),
        ({"p": {"versions": {"1": {"items": [1]}}}}, "version '1'"),
        ({"p": product({"i": "x"})}, "as item 'i', got a string"),
    ],
)
def test_a_list_that_is_shaped_otherwise_is_refused(products: dict[str, Any], words: str) -> None:
    with pytest.raises(DocumentRefused) as caught:
        read(products)
    assert str(caught.value).startswith(URL) and words in str(caught.value)


def test_a_hostile_item_path_refuses_the_list_and_names_the_item() -> None:
    with pytest.raises(HostilePath) as caught:
        read({"p": product({"squashfs": item("squashfs", "%2e%2e/%2e%2e/etc/passwd")})})
    assert str(caught.value) == (
        f"{URL}: product p, version 20250709, item squashfs: path '%2e%2e/%2e%2e/etc/passwd': "
        "expected a plain relative path, got a '..'"
    )


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"sha256": "abc"}, "expected a sha256 of 64 hex digits, got 'abc'"),
        ({"sha256": None, "md5": "0" * 32}, "expected a sha256"),
        ({"size": None}, "expected a size of 0 to 1099511627776 bytes, got none"),
        ({"size": -1}, "got '-1'"),
        ({"size": True}, "expected a size"),
        ({"size": 1.5}, "got '1.5'"),
        ({"size": 1 << 50}, "expected a size"),
        ({"path": "a/b/.hidden"}, "expected a plain file name, got '.hidden'"),
    ],
)
def test_an_item_of_no_use_is_passed_over_with_a_warning(bad: dict[str, Any], words: str) -> None:
    fields = {k: v for k, v in {**item("boot-kernel", "a/boot-kernel"), **bad}.items() if v is not None}
    products, warnings = read({"p": product({"bad": fields, "good": item("squashfs", "a/squashfs")})})
    assert [i.name for i in products[0].versions[0].items] == ["good"]
    assert len(warnings) == 1 and words in warnings[0] and "item 'bad'" in warnings[0]


def test_sizes_may_be_strings_and_digests_upper_case() -> None:
    products, _ = read({"p": product({"i": item("squashfs", "a/squashfs", sha256=SHA.upper(), size="17")})})
    assert (products[0].versions[0].items[0].sha256, products[0].versions[0].items[0].size) == (SHA, 17)


def test_unknown_ftypes_are_passed_over_and_said_once() -> None:
    items = {f"i{n}": item("uefi-shell", f"a/{n}") for n in range(5)} | {"ok": item("squashfs", "a/squashfs")}
    items["note"] = item("notifications", "a/n")
    products, warnings = read({"p": product(items), "q": product(items)})
    assert [len(p.versions[0].items) for p in products] == [1, 1]
    assert warnings == (f"{URL}: items passed over: nobody here knows the ftype 'uefi-shell'",)


def test_products_that_cannot_be_named_on_the_wire_are_passed_over() -> None:
    good = {"squashfs": item("squashfs", "a/squashfs")}
    products, warnings = read(
        {
            "fine": product(good),
            "no-os": product(good, os=""),
            "slash": product(good, release="../x"),
            "blank": product(good, arch="amd 64"),
            "flavor": product(good, kflavor="a/b"),
            "loader": product(good, **{"bootloader-type": "a/b"}),
            "version": product(good, version="2025/07"),
            "empty": product({}),
            "notification": {"versions": {"1": {"items": {"n": {"ftype": "notifications", "title": "x"}}}}},
        }
    )
    assert [p.id for p in products] == ["fine"]
    assert [w.split("'")[1] for w in warnings] == ["no-os", "slash", "blank", "flavor", "loader", "2025/07"]


def test_warnings_of_one_document_are_bounded() -> None:
    bad = {f"i{n}": item("squashfs", f"a/{n}", sha256="x") for n in range(500)}
    assert len(read({"p": product(bad)})[1]) == documents.WARNINGS


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("Thu, 24 Jul 2025 08:01:49 +0000", datetime(2025, 7, 24, 8, 1, 49, tzinfo=UTC)),
        ("Thu, 24 Jul 2025 10:01:49 +0200", datetime(2025, 7, 24, 8, 1, 49, tzinfo=UTC)),
        ("2025-07-24T08:01:49+00:00", datetime(2025, 7, 24, 8, 1, 49, tzinfo=UTC)),
        ("2025-07-24 08:01:49", datetime(2025, 7, 24, 8, 1, 49, tzinfo=UTC)),
        ("yesterday", None),
        (17, None),
        (None, None),
    ],
)
def test_updated_is_read_in_the_forms_it_is_written_in(text: Any, when: datetime | None) -> None:
    assert parse_time(text) == when


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["os", "arch", "label", "release", "subarch", "versions", "items", "ftype", "path", "sha256", "size", "kflavor"]
shaped = st.recursive(
    json_values | st.sampled_from(["boot-kernel", "squashfs", SHA, "a/b", "archive.tar.xz", "uefi", "1"]),
    lambda inner: st.dictionaries(st.sampled_from([*KEYS, "1", "2"]), inner, max_size=6),
    max_leaves=20,
)


@given(shaped, shaped)
def test_any_json_is_read_or_refused_in_one_sentence(one: Any, other: Any) -> None:
    for products in ({"p": one}, {"p": {"versions": {"1": one}}}, {"p": product({"i": one, "j": other})}, one):
        try:
            found, _ = read(products)
        except SourceError as error:
            assert "\n" not in str(error)
            continue
        for each in found:
            for version in each.versions:
                assert all(len(i.sha256) == 64 and i.size >= 0 and ".." not in i.path.split("/") for i in version.items)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(SourceError) as caught:
        parse_index(data, URL)
    assert "\n" not in str(caught.value)


WORD = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,12}", fullmatch=True)
DIGEST = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
ITEM = st.fixed_dictionaries(
    {
        "ftype": st.sampled_from(sorted(KEPT_FTYPES)),
        "path": st.lists(WORD, min_size=1, max_size=4).map("/".join),
        "sha256": DIGEST,
        "size": st.integers(0, 1 << 40),
    },
    optional={"kpackage": WORD, "src_version": WORD, "md5": WORD, "list": st.lists(WORD, max_size=2)},
)
ITEMS = st.dictionaries(WORD, ITEM, min_size=1, max_size=4)
TAGS = {key: WORD for key in ("os", "arch", "label", "release", "subarch")}


@given(
    st.dictionaries(
        WORD,
        st.tuples(
            st.fixed_dictionaries(TAGS, optional={"kflavor": WORD, "release_title": st.text(max_size=8)}),
            st.dictionaries(WORD, ITEMS, min_size=1, max_size=3),
        ),
        max_size=4,
    )
)
def test_what_is_written_plainly_is_read_as_it_was_written(
    products: dict[str, tuple[dict[str, str], dict[str, dict[str, Any]]]],
) -> None:
    written = {
        name: {**tags, "versions": {version: {"items": items} for version, items in versions.items()}}
        for name, (tags, versions) in products.items()
    }
    found, warnings = read(written)
    assert not warnings
    assert [each.id for each in found] == list(written)
    for each in found:
        tags, versions = products[each.id]
        assert {key: getattr(each, key) for key in TAGS} == {key: tags[key] for key in TAGS}
        assert [version.name for version in each.versions] == sorted(versions, reverse=True)
        for version in each.versions:
            items = {i.name: (i.ftype, i.path, i.sha256, i.size) for i in version.items}
            assert items == {
                name: (i["ftype"], i["path"], i["sha256"], i["size"]) for name, i in versions[version.name].items()
            }
            assert all("list" not in i.tags for i in version.items)  # only strings and numbers flatten
