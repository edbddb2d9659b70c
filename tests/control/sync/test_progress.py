"""Progress: totals that never run backwards, rates over a window, on a fake clock."""

from __future__ import annotations

from bootplane.control.sync.progress import RATE_WINDOW_S, Progress, Rate


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_of_the_last_seconds_only() -> None:
    clock = Clock()
    rate = Rate(clock)
    assert rate.value() == 0.0
    for _ in range(10):
        rate.add(1000)
        clock.now += 1.0
    assert 900 <= rate.value() <= 1100
    clock.now += RATE_WINDOW_S + 1
    assert rate.value() == 0.0


def test_a_document_adds_up() -> None:
    clock = Clock()
    progress = Progress(clock)
    assert progress.document() == {"files": [], "bytes_total": 0, "bytes_done": 0, "rate": 0, "eta_s": 0.0}
    progress.begin([("a", "path/a", 1000), ("b", "path/b", 500)])
    progress.at("a", 400)  # resumed
    progress.received("a", 100)
    clock.now += 1.0
    document = progress.document()
    assert (document["bytes_total"], document["bytes_done"], document["rate"]) == (1500, 500, 100)
    assert document["eta_s"] == 10.0
    assert [(file["state"], file["done"]) for file in document["files"]] == [("downloading", 500), ("waiting", 0)]


def test_the_end_of_a_file_is_kept_with_its_reason() -> None:
    progress = Progress(Clock())
    progress.begin([("a", "path/a", 1000), ("b", "path/b", 500)])
    progress.end("a", "done")
    progress.end("b", "failed", "no such file")
    files = {file["sha256"]: file for file in progress.document()["files"]}
    assert files["a"]["done"] == 1000 and files["b"]["error"] == "no such file"


def test_files_of_an_earlier_sync_are_not_counted() -> None:
    progress = Progress(Clock())
    progress.begin([("a", "path/a", 1000)])
    for call in (lambda: progress.received("z", 5), lambda: progress.at("z", 5), lambda: progress.end("z", "done")):
        call()
    assert progress.document()["bytes_done"] == 0
