"""Settings: command line over environment over bootplane.toml over defaults; every mistake is one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bootplane.control import config
from bootplane.control.config import join_address, load, split_address
from bootplane.control.errors import StartError


def write(tmp_path: Path, text: str) -> Path:
    (tmp_path / config.TOML_NAME).write_text(text)
    return tmp_path


def test_defaults_are_loopback_and_the_documented_ports(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.listen, settings.bulk) == ("127.0.0.1:5240", "127.0.0.1:5241")
    assert (settings.http, settings.tftp) == ("127.0.0.1:5248", "127.0.0.1:69")
    assert settings.cache_bytes == 4 << 30 and settings.share
    assert settings.database_url == f"sqlite:///{tmp_path / 'region.sqlite'}"


def test_command_line_wins_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 'cache_size = "1GiB"\nlisten = "127.0.0.1:1"\nbulk = "127.0.0.1:2"\n')
    monkeypatch.setenv("BOOTPLANE_CACHE_SIZE", "2 GiB")
    monkeypatch.setenv("BOOTPLANE_LISTEN", "127.0.0.1:3")
    settings = load(tmp_path, listen="127.0.0.1:4", bulk=None)
    assert (settings.cache_bytes, settings.listen, settings.bulk) == (2 << 30, "127.0.0.1:4", "127.0.0.1:2")


def test_no_tftp_is_an_empty_address_and_no_other_may_be_empty(tmp_path: Path) -> None:
    assert load(tmp_path, tftp="").tftp == ""
    with pytest.raises(StartError, match="expected HOST:PORT, got ''"):
        load(tmp_path, http="")


def test_variables_of_the_command_line_are_not_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BOOTPLANE_URL", "BOOTPLANE_TOKEN", "BOOTPLANE_KVM"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("BOOTPLANE_DATA", "/nowhere")
    assert load(tmp_path).data == tmp_path


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("cache_size = ", {}, ["bootplane.toml", "not valid TOML"]),
        ('cash_size = "1GiB"', {}, ["cash_size", "bootplane.toml"]),
        ('data = "/x"', {}, ["`data` cannot be set here"]),
        ('cache_size = "many"', {}, ["cache_size", "bootplane.toml", "got 'many'"]),
        ("", {"listen": "5240"}, ["listen", "--listen", "expected HOST:PORT, got '5240'"]),
        ("", {"tftp": "::1:69"}, ["--tftp", "brackets"]),
        ("", {"http": "127.0.0.1:70000"}, ["--http", "expected HOST:PORT"]),
    ],
)
def test_a_mistake_names_setting_origin_and_what_was_got(
    tmp_path: Path, text: str, options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(StartError) as caught:
        load(write(tmp_path, text), **options)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / config.TOML_NAME).mkdir()
    with pytest.raises(StartError, match=r"bootplane\.toml: cannot be read: Is a directory"):
        load(tmp_path)


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path).listen = "127.0.0.1:1"  # type: ignore[misc]


@pytest.mark.parametrize(("text", "pair"), [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:69", ("::1", 69))])
def test_an_address_goes_both_ways(text: str, pair: tuple[str, int]) -> None:
    assert split_address(text) == pair and join_address(*pair) == text
