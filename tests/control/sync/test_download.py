"""One file: several places, limits on starts, patience, and what is kept when it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from bootplane.control.storage.blobs import BlobRepository
from bootplane.control.storage.database import Database
from bootplane.control.storage.runs import RunRepository
from bootplane.control.sync import download
from bootplane.control.sync.download import Downloader
from bootplane.control.sync.progress import Progress
from bootplane.core.digest import sha256_hex
from bootplane.dataplane.store import Store
from tests.fakes.mirror import Fault, MirrorServer, serve

DATA = bytes(range(256)) * 8000  # 2 MB
SHA = sha256_hex(DATA)


class Bench:
    def __init__(self, folder: Path, server: MirrorServer) -> None:
        self.database = Database(f"sqlite:///{folder / 'x.sqlite'}")
        self.database.migrate()
        self.store = Store(folder / "store")
        self.blobs = BlobRepository(self.database)
        self.progress = Progress()
        self.server = server
        self.downloader = self.new(attempts=3)
        self.progress.begin([(SHA, "file", len(DATA))])

    def new(self, attempts: int) -> Downloader:
        runs = RunRepository(self.database)
        made = Downloader(self.store, self.blobs, runs, self.progress, attempts=attempts, waits_s=(0.01, 0.01))
        made.open_gate({})
        return made

    def fetch(self, *paths: str, work_id: str = "w") -> dict[str, Any]:
        urls = [self.server.url + path for path in paths or ("file",)]
        job = {"sha256": SHA, "size": len(DATA), "path": "file", "urls": urls}
        return dict(self.downloader(work_id, job))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    root = tmp_path / "m"
    root.mkdir()
    for name in ("file", "copy"):
        (root / name).write_bytes(DATA)
    with serve(root) as server:
        made = Bench(tmp_path, server)
        yield made
        made.database.close()


def test_a_file_is_here_and_known_when_the_outcome_is_ok(bench: Bench) -> None:
    assert bench.fetch() == {"ok": True}
    assert bench.store.path_of(SHA).read_bytes() == DATA
    assert bench.blobs.present()[SHA].size == len(DATA)
    assert bench.progress.document()["bytes_done"] == len(DATA)


def test_a_file_that_is_here_already_is_not_fetched(bench: Bench) -> None:
    bench.fetch()
    bench.blobs.lose([SHA])
    assert bench.fetch(work_id="again") == {"ok": True}
    assert bench.server.requests == ["file"] and SHA in bench.blobs.present()


def test_the_next_place_is_asked_when_the_first_has_it_wrong(bench: Bench) -> None:
    bench.server.faults["file"] = Fault(body=DATA[:-1] + b"!")
    assert bench.fetch("file", "copy") == {"ok": True}
    assert bench.server.requests == ["file", "file", "copy"]  # a wrong one is asked once more: a cache may be to blame


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(body=DATA[:-1] + b"!"), "ContentRefused", "file: sha256 differs: expected " + SHA),
        (Fault(body=DATA[:-1]), "SizeRefused", f"size: expected {len(DATA)} bytes, got {len(DATA) - 1}"),
        (Fault(status=404), "NotFound", "404"),
        (Fault(status=503), "Unreachable", "503"),
    ],
)
def test_an_outcome_says_what_was_wrong_and_nothing_is_left(bench: Bench, fault: Fault, kind: str, words: str) -> None:
    bench.server.faults["file"] = fault
    outcome = bench.fetch()
    assert (outcome["ok"], outcome["kind"]) == (False, kind)
    assert words in outcome["error"] and bench.server.url in outcome["error"]
    assert not bench.store.has(SHA) and bench.store.partials() == []


def test_a_source_that_is_busy_is_asked_again_a_bounded_number_of_times(bench: Bench) -> None:
    bench.server.faults["file"] = Fault(status=503, times=2)
    assert bench.fetch() == {"ok": True}
    assert bench.server.requests == ["file"] * 3


def test_a_line_that_is_cut_again_and_again_still_gets_there(bench: Bench) -> None:
    bench.server.faults["file"] = Fault(cut_after=300_000, times=6)  # more often than the patience for nothing at all
    assert bench.fetch() == {"ok": True}
    assert bench.server.sent["file"] == len(DATA)


def test_a_wrong_partial_file_is_thrown_away_and_fetched_whole(bench: Bench) -> None:
    bench.store.partial_path(SHA).write_bytes(b"something else")
    assert bench.fetch() == {"ok": True}
    assert [head.get("Range") for head in bench.server.heads] == ["bytes=14-", None]


def test_what_somebody_else_brings_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "ELSEWHERE_S", 0.01)
    upload = bench.store.begin(SHA, len(DATA))
    with ThreadPoolExecutor(1) as pool:
        sync = pool.submit(bench.fetch)
        upload.write(DATA)
        assert not wait([sync], 0.1).done
        upload.commit()
        assert sync.result(60) == {"ok": True}
    assert bench.server.requests == [] and SHA in bench.blobs.present()


def test_what_somebody_else_gives_up_is_fetched_from_where_it_stands(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ELSEWHERE_S", 0.01)
    upload = bench.store.begin(SHA, len(DATA))
    with ThreadPoolExecutor(1) as pool:
        sync = pool.submit(bench.fetch)
        upload.write(DATA[:1_500_000])
        upload.suspend()
        assert sync.result(60) == {"ok": True}
    assert bench.server.sent["file"] == len(DATA) - 1_500_000


def test_work_that_kills_its_process_again_and_again_ends_as_an_error(bench: Bench) -> None:
    runs = RunRepository(bench.database)
    for _ in range(3):
        runs.attempt("w")
    outcome = bench.fetch()
    assert outcome["kind"] == "poison" and "given up after 3 starts" in outcome["error"]
    assert bench.server.requests == []


def test_before_the_gate_opens_nothing_is_fetched_and_after_a_stop_neither(bench: Bench) -> None:
    bench.downloader.stop()
    assert bench.fetch()["kind"] == "stopped"
    assert bench.server.requests == []


def test_passwords_in_urls_are_in_no_outcome(bench: Bench) -> None:
    bench.server.faults["file"] = Fault(body=DATA[:-1] + b"!")
    url = bench.server.url.replace("http://", "http://me:s3cret@")
    outcome = bench.downloader("w", {"sha256": SHA, "size": len(DATA), "path": "file", "urls": [url + "file"]})
    assert outcome["kind"] == "ContentRefused" and "s3cret" not in outcome["error"]


def test_a_mirror_without_ranges_costs_one_request_and_the_kept_part_is_written_over(bench: Bench) -> None:
    bench.store.partial_path(SHA).write_bytes(DATA[:500_000])
    bench.server.faults["file"] = Fault(ignore_range=True)
    assert bench.fetch() == {"ok": True}
    assert [head.get("Range") for head in bench.server.heads] == ["bytes=500000-"]
