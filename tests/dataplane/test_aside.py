"""What is put aside: kept under its own name for as long as its folder says, and no byte of it is lost."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path

import pytest

from bootplane.dataplane import aside
from bootplane.dataplane.aside import Aside
from bootplane.dataplane.store import Store

HOUR_S = 3600.0
DATA = b"x" * 5000
SHA256 = hashlib.sha256(DATA).hexdigest()


def file(folder: Path, name: str, data: bytes = b"data") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def at(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    monkeypatch.setattr(aside.time, "time", lambda: now)


def test_nothing_is_made_before_the_first_file_comes(tmp_path: Path) -> None:
    made = Aside(tmp_path / ".aside")
    assert made.kept() == made.prune() == [] and not made.directory.exists()


def test_a_file_keeps_name_and_bytes_and_its_folder_says_until_when(tmp_path: Path) -> None:
    made = Aside(tmp_path / ".aside")
    path = file(tmp_path, "notes.iso")
    kept = made.put(path, HOUR_S)
    assert not path.exists() and kept.path.read_bytes() == b"data" and kept.path.name == "notes.iso"
    assert kept.until is not None and abs(kept.until - time.time() - HOUR_S) < 60
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(kept.until))
    assert kept.path.parent.name == f"until-{stamp}" and made.kept() == [kept]
    assert kept.term == f"until {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(kept.until))}"


def test_two_files_of_one_name_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Aside(tmp_path / ".aside")
    at(monkeypatch, 1_800_000_000.0)
    first = made.put(file(tmp_path, "a" * 255, b"1"), HOUR_S)
    second = made.put(file(tmp_path, "a" * 255, b"2"), HOUR_S)
    assert (first.path.read_bytes(), second.path.read_bytes()) == (b"1", b"2")
    assert len(made.kept()) == 2


def test_each_goes_after_its_own_time_and_what_has_none_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Aside(tmp_path / ".aside")
    began = 1_800_000_000.0
    at(monkeypatch, began)
    short, long, ever = (
        made.put(file(tmp_path, name), keep) for name, keep in (("s", 1.0), ("l", HOUR_S), ("e", None))
    )
    assert made.kept() == [short, long, ever] and ever.term == "until you remove it"
    at(monkeypatch, began + 2)
    assert made.prune() == [short] and made.kept() == [long, ever]
    at(monkeypatch, began + 10 * 365 * 86400)
    assert made.prune() == [long] and made.kept() == [ever]
    assert [path.name for path in made.directory.iterdir()] == [ever.path.parent.name]


def test_a_folder_of_another_name_and_what_a_person_puts_into_ours_is_left_alone(tmp_path: Path) -> None:
    made = Aside(tmp_path / ".aside")
    old = made.directory / "until-20200101T000000Z"
    for folder in (made.directory / "mine", old / "inner"):
        folder.mkdir(parents=True)
        file(folder, "precious")
    file(old, "goes")
    assert [kept.path.name for kept in made.prune()] == ["goes"]
    assert (made.directory / "mine" / "precious").exists() and (old / "inner" / "precious").exists()


def put(store: Store) -> None:
    with store.begin(SHA256, len(DATA)) as ingest:
        ingest.write(DATA)
        ingest.commit()


def test_a_blob_that_is_withdrawn_has_no_chunk_list_any_more(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store)
    kept = store.withdraw(SHA256, HOUR_S)
    assert kept is not None and kept.path.name == SHA256 and kept.bytes == len(DATA)
    assert not store.has(SHA256) and store.withdraw(SHA256, HOUR_S) is None
    with pytest.raises(FileNotFoundError):
        store.chunk_list(SHA256)


def test_on_a_full_disk_a_blob_leaves_its_place_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    put(store)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    assert store.withdraw(SHA256, HOUR_S) is None
    assert not store.has(SHA256) and store.found() == {SHA256: len(DATA)}


def test_for_room_damaged_blobs_go_before_their_time_and_nothing_else_does(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store)
    store.withdraw(SHA256, HOUR_S)
    put(store)
    store.withdraw(SHA256, None)
    store.aside.put(file(tmp_path, "notes.iso"), HOUR_S)
    assert store.make_room(1) == len(DATA) and store.make_room(1) == 0
    assert sorted(kept.path.name for kept in store.aside.kept()) == sorted(["notes.iso", SHA256])
