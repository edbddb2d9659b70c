"""The data directory: one owner, secrets that are secret from the start, refusals in one sentence."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from bootplane.control import datadir
from bootplane.control.errors import StartError


def test_a_second_owner_is_refused_naming_the_first(tmp_path: Path) -> None:
    lock = datadir.Lock(tmp_path / "region.lock", "region")
    with pytest.raises(StartError, match=rf"only region here, got one already: pid {os.getpid()}$"):
        datadir.Lock(tmp_path / "region.lock", "region")
    lock.release()
    datadir.Lock(tmp_path / "region.lock", "region").release()


def test_a_secret_is_made_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    assert datadir.secret(path, lambda: "s3cret") == "s3cret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert datadir.secret(path, lambda: "another") == "s3cret"
    assert [entry.name for entry in tmp_path.iterdir()] == ["admin-token"]


@pytest.mark.parametrize(("content", "words"), [(b"\n", "got an empty file"), (b"\xff\xfe", "not plain text")])
def test_a_spoilt_secret_is_refused_without_showing_it(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "admin-token"
    path.write_bytes(content)
    with pytest.raises(StartError, match=words):
        datadir.secret(path, lambda: "x")
    assert path.read_bytes() == content


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"file/data: expected one that can be written, got: Not a directory"):
        datadir.prepare(tmp_path / "file" / "data")


def test_a_new_directory_is_private_and_left_clean(tmp_path: Path) -> None:
    datadir.prepare(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert list((tmp_path / "data").iterdir()) == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StartError, match="expected one that can be written, got: No space left on device"):
        datadir.prepare(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_new_directory_must_have_room_and_one_in_use_is_started_however_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datadir.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 30, 1 << 30, 4096))
    with pytest.raises(
        StartError, match=rf"{tmp_path}: expected {datadir.NEW_BYTES} free bytes for a new one, got 4096"
    ):
        datadir.prepare(tmp_path)
    (tmp_path / datadir.SYNC_DATABASE).touch()
    datadir.prepare(tmp_path)
