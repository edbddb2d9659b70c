"""``bootplane source``."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from bootplane.control.cli import source

ADDED = {
    "id": 4, "name": "mirror", "url": "http://mirror.test/", "priority": 5, "enabled": True, "unsigned": False,
    "fingerprints": ["AB12"], "last_checked": "2026-11-21T10:00:00Z", "last_updated": None, "error": None,
}  # fmt: skip


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "keys.gpg"
    path.write_bytes(b"\x99\x01binary keys")
    return path


def test_the_keyring_is_read_here_and_sent_base64(bootplane, region, keyring) -> None:
    region.answers["POST /sources"] = ADDED
    result = bootplane("source", "add", ADDED["url"], "--keyring", keyring, "--priority", 5, "--name", "mirror")
    assert result.stdout == "Added source mirror (4): http://mirror.test/, signed by AB12.\n"
    assert region.calls[-1].body == {
        "url": "http://mirror.test/",
        "keyring": base64.b64encode(b"\x99\x01binary keys").decode(),
        "unsigned": False,
        "priority": 5,
        "name": "mirror",
    }


def test_a_refused_source_is_the_regions_sentence_and_exit_1(bootplane, region, keyring) -> None:
    region.problem("POST /sources", 422, "http://mirror.test/ index.sjson: expected a key of the keyring, got 0xBAD.")
    result = bootplane("source", "add", ADDED["url"], "--keyring", keyring)
    assert result.exit_code == 1
    assert result.stderr == "bootplane: http://mirror.test/ index.sjson: expected a key of the keyring, got 0xBAD.\n"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "cannot be read: No such file or directory."),
        (lambda path: path.mkdir(), "cannot be read: Is a directory."),
        (lambda path: path.write_bytes(b""), "is empty: expected OpenPGP keys, binary or armored."),
        (lambda path: path.write_bytes(bytes(5 << 20)), "is larger than 4.0 MiB: that is no keyring."),
    ],
)
def test_a_keyring_that_is_none_is_refused_before_any_call(bootplane, region, tmp_path, make, sentence) -> None:
    path = tmp_path / "given"
    make(path)
    result = bootplane("source", "add", ADDED["url"], "--keyring", path)
    assert (result.exit_code, result.stderr) == (1, f"bootplane: Keyring {path} {sentence}\n")
    assert region.calls == []


def test_a_source_of_ones_own_needs_a_keyring_or_unsigned(bootplane, region) -> None:
    result = bootplane("source", "add", "http://mirror.test/")
    assert result.exit_code == 1
    assert "--keyring FILE, or --unsigned" in result.stderr
    assert region.calls == []


def test_the_default_source_without_its_keyring_names_the_package(bootplane, region, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(source, "DEFAULT_KEYRING", tmp_path / "absent.gpg")
    result = bootplane("source", "add")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "ubuntu-cloudimage-keyring" in result.stderr
    assert "--keyring FILE" in result.stderr


def test_the_default_source_takes_the_installed_keyring(bootplane, region, monkeypatch, keyring) -> None:
    monkeypatch.setattr(source, "DEFAULT_KEYRING", keyring)
    region.answers["POST /sources"] = ADDED
    assert bootplane("source", "add").exit_code == 0
    assert region.calls[-1].body["url"] == "http://images.maas.io/ephemeral-v3/stable/"


def test_unsigned_sends_no_keyring_and_says_so(bootplane, region, keyring) -> None:
    region.answers["POST /sources"] = {**ADDED, "unsigned": True, "fingerprints": []}
    result = bootplane("source", "add", ADDED["url"], "--unsigned")
    assert "signed by none (unsigned)" in result.stdout
    assert (region.calls[-1].body["keyring"], region.calls[-1].body["unsigned"]) == (None, True)
    both = bootplane("source", "add", ADDED["url"], "--unsigned", "--keyring", keyring)
    assert both.exit_code == 1 and "contradict" in both.stderr


def test_the_list_shows_state_and_says_errors_on_stderr(bootplane, region) -> None:
    bad = {**ADDED, "name": "bad", "error": "index.sjson: expired signature"}
    region.answers["GET /sources"] = {"items": [ADDED, bad], "next": None}
    result = bootplane("source", "list")
    header, first, second = result.stdout.splitlines()
    assert header.split() == ["ID", "NAME", "PRIORITY", "STATE", "UPDATED", "CHECKED", "URL"]
    assert (first.split()[3], second.split()[3]) == ("verified", "error")
    assert result.stderr == "bad: index.sjson: expired signature\n"


def test_json_is_the_apis_document(bootplane, region) -> None:
    region.answers["GET /sources"] = {"items": [ADDED], "next": None}
    assert json.loads(bootplane("source", "list", "--json").stdout) == {"items": [ADDED], "next": None}


def test_an_empty_list_says_what_to_do_on_stderr_only(bootplane, region) -> None:
    region.answers["GET /sources"] = {"items": [], "next": None}
    result = bootplane("source", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "bootplane source add" in result.stderr


def test_a_name_with_a_slash_stays_one_segment_of_the_path(bootplane, region) -> None:
    region.answers["DELETE /sources/a%2Fb"] = (204, "", b"")
    result = bootplane("source", "remove", "a/b")
    assert (result.exit_code, result.stdout) == (0, "Removed source a/b.\n")


def test_check_exits_1_with_the_sources_error(bootplane, region) -> None:
    region.answers["POST /sources/mirror/check"] = ADDED
    assert "is good" in bootplane("source", "check", "mirror").stdout
    region.answers["POST /sources/mirror/check"] = {**ADDED, "error": "index.sjson: expected JSON, got text/html"}
    result = bootplane("source", "check", "mirror")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "bootplane: Source mirror: index.sjson: expected JSON, got text/html\n"


def test_what_is_given_is_changed_and_nothing_else(bootplane, region, keyring) -> None:
    region.answers["PATCH /sources/mirror"] = ADDED | {"enabled": False}
    result = bootplane("source", "set", "mirror", "--priority", 5, "--disable")
    assert result.stdout == "Source mirror (4): http://mirror.test/, priority 5, disabled; see the next sync.\n"
    assert region.calls[-1].body == {"priority": 5, "enabled": False}
    bootplane("source", "set", "mirror", "--ca", "none", "--keyring", keyring, "--enable")
    key = base64.b64encode(b"\x99\x01binary keys").decode()
    assert region.calls[-1].body == {"ca": None, "keyring": key, "enabled": True}


def test_nothing_given_is_a_misuse_and_no_call(bootplane, region) -> None:
    result = bootplane("source", "set", "mirror")
    assert result.exit_code == 2 and "expected something to change" in result.stderr
    assert region.calls == []
