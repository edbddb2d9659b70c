"""Item paths are plain and relative after percent-decoding; URLs are quoted once."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bootplane.control.simplestreams import paths
from bootplane.control.simplestreams.errors import HostilePath, SourceError
from bootplane.control.simplestreams.paths import (
    SourceURL,
    check_url,
    item_path,
    shown_url,
    source_url,
    url_of,
)

REAL = [
    "noble/amd64/20250709/ga-24.04/generic/boot-kernel",
    "noble/amd64/20250709/squashfs.manifest",
    "bootloaders/open-firmware/ppc64el/20231004.0/grub2.tar.xz",
    "centos/centos70/amd64/20211104_01/root-tgz",
    "streams/v1/com.ubuntu.maas:stable:1:bootloader-download.sjson",
    "xenial/arm64/20200101/hwe-16.04/xgene-uboot-mustang/boot-kernel.xgene-mustang",
    "a b/c~d+e@f,g(h)!",
    "größe/火",
    "100%/x",
]
HOSTILE = [
    ("../etc/passwd", "'..'"),
    ("a/../../b", "'..'"),
    ("a/..", "'..'"),
    ("%2e%2e/b", "'..'"),
    ("a/%2E%2e/b", "'..'"),
    ("a%2f..%2fb", "'..'"),
    ("%252e%252e/b", "'..'"),
    ("/etc/passwd", "absolute"),
    ("%2fetc", "absolute"),
    ("//host/x", "absolute"),
    ("a//b", "empty or '.'"),
    ("./a", "empty or '.'"),
    ("a/", "empty or '.'"),
    ("a\\..\\b", "backslash"),
    ("a%5cb", "backslash"),
    ("a\0b", "NUL"),
    ("a%00b", "NUL"),
    ("a%2500b", "NUL"),
    ("http://evil.invalid/x", "URL"),
    ("HTTP%3A//evil.invalid/x", "empty or '.'"),
    ("FiLe%3A/etc/passwd", "URL"),
    ("file:/etc/passwd", "URL"),
    ("a\nb", "control"),
    ("a%0d%0aHost: x", "control"),
    ("a\x7f", "control"),
    ("a\u202eb", "control"),
    ("a\ud800", "control"),
    ("a%ff", "UTF-8"),
    ("", "empty"),
    ("a" * 256, "255 bytes"),
    ("a/" * 600 + "b", "characters"),
    ("%25252525252541", "nested"),
]


@pytest.mark.parametrize("path", REAL)
def test_a_plain_path_passes_unchanged(path: str) -> None:
    assert item_path(path, "URL") == path


@pytest.mark.parametrize(("path", "words"), HOSTILE)
def test_a_hostile_path_is_refused_in_one_sentence(path: str, words: str) -> None:
    with pytest.raises(HostilePath) as caught:
        item_path(path, "http://m.invalid/x.json, item squashfs")
    sentence = str(caught.value)
    assert sentence.startswith("http://m.invalid/x.json, item squashfs: path ") and words in sentence
    assert sentence.isprintable() and len(sentence) < 300


def test_a_path_is_decoded_once_and_quoted_once() -> None:
    assert item_path("streams/v1/a%3Ab%20c", "x") == "streams/v1/a:b c"
    assert url_of("http://h/m/", "streams/v1/a:b c") == "http://h/m/streams/v1/a:b%20c"
    assert url_of("http://h/m/", "a?b#c%d") == "http://h/m/a%3Fb%23c%25d"


@given(st.text(alphabet=st.characters(), max_size=60) | st.text(alphabet="./\\%25eEfF0aA:\0~ ", max_size=40))
@example("..%2f")
@example("%2e%2E%2fx")
@example("a/%252e%252e")
def test_what_passes_stays_inside_the_source_for_every_reader(raw: str) -> None:
    try:
        path = item_path(raw, "x")
    except HostilePath as error:
        assert str(error).isprintable()
        return
    url = urlsplit(url_of("http://host/base/", path))
    assert (url.scheme, url.netloc, url.query, url.fragment) == ("http", "host", "", "")
    assert url.path.isascii() and "\\" not in url.path
    assert unquote(url.path) == "/base/" + path  # what a server sees is what we meant
    for reading in (path, raw, unquote(path), unquote(unquote(path)), url.path, unquote(url.path)):
        base = Path("/base")
        joined = Path(posixpath.normpath(base / reading.removeprefix("/base/")))
        assert base in joined.parents and "\0" not in reading


@given(st.text(alphabet="abcXYZ019._-~:+", min_size=1, max_size=20).filter(lambda s: s.strip(".") and ":/" not in s))
def test_plain_segments_always_pass_and_survive_quoting(segment: str) -> None:
    path = f"x/{segment}/y"
    assert item_path(path, "x") == path
    assert item_path(quote(path), "x") == path


@pytest.mark.parametrize(
    ("given_url", "base", "index"),
    [
        ("http://images.maas.io/ephemeral-v3/stable/", "http://images.maas.io/ephemeral-v3/stable/", ""),
        ("http://images.maas.io/ephemeral-v3/stable", "http://images.maas.io/ephemeral-v3/stable/", ""),
        ("https://h:8443", "https://h:8443/", ""),
        ("http://h/m/streams/v1/index.json", "http://h/m/", "streams/v1/index.json"),
        ("http://h/m/streams/v1/index.sjson", "http://h/m/", "streams/v1/index.sjson"),
        ("http://h/streams/v1/a:b.sjson", "http://h/", "streams/v1/a:b.sjson"),
        ("  http://h/m/ \n", "http://h/m/", ""),
        ("file:///srv/a mirror/", "file:///srv/a%20mirror/", ""),
        ("file://localhost/srv", "file:///srv/", ""),
        ("file:///srv/a%20mirror", "file:///srv/a%20mirror/", ""),
        ("http://[::1]:80/x", "http://[::1]:80/x/", ""),
    ],
)
def test_a_source_is_its_folder_or_an_index_in_it(given_url: str, base: str, index: str) -> None:
    assert source_url(given_url) == SourceURL(base, index)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://h/x", "the scheme 'ftp'"),
        ("images.maas.io/x", "no scheme"),
        ("/srv/mirror", "no scheme"),
        ("http:///x", "no host"),
        ("http://h:0/x", "port 0"),
        ("http://h:99999/x", "malformed"),
        ("http://[::1/x", "malformed"),
        ("http://h/a\\b", "backslash"),
        ("http://h/a\r\nHost: evil", "control"),
        ("http://h/?a=b", "'?' or '#'"),
        ("http://h/#a", "'?' or '#'"),
        ("file://server/share", "the host 'server'"),
        ("http://h/" + "a" * 3000, "characters"),
        ("", "no scheme"),
    ],
)
def test_what_is_no_boot_source_is_refused_in_one_sentence(url: str, words: str) -> None:
    with pytest.raises(SourceError) as caught:
        source_url(url)
    assert words in str(caught.value) and str(caught.value).isprintable()


def test_daily_means_stable_where_it_is_the_last_folder() -> None:
    assert (
        paths.tested_spelling("http://images.maas.io/ephemeral-v3/daily/")
        == "http://images.maas.io/ephemeral-v3/stable/"
    )
    assert paths.tested_spelling("http://h/daily/stuff/") == "http://h/daily/stuff/"
    assert paths.tested_spelling("http://h/candidate/") == "http://h/candidate/"


def test_a_password_in_a_url_is_never_shown() -> None:
    assert shown_url("http://me:secret@h:80/x@y") == "http://h:80/x@y"
    assert shown_url("http://h/x") == "http://h/x"
    with pytest.raises(SourceError) as caught:
        check_url("gopher://me:secret@h/")
    assert "secret" not in str(caught.value)
