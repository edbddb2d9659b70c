"""``bootplane sync``: watching a sync to its end, on a fake clock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bootplane.control.cli import client, sync
from bootplane.control.cli.sync_view import Bars, Lines, Quiet


def state(word: str, done: int = 0, **more: Any) -> dict[str, Any]:
    file = {
        "sha256": "a" * 64,
        "path": "noble/squashfs",
        "size": 1000,
        "done": done,
        "rate": 100,
        "state": "downloading",
    }
    file |= {"error": None, "state": "done" if done == 1000 else "downloading"}
    return {
        "state": word, "files": [file], "bytes_total": 1000, "bytes_done": done, "rate": 100,
        "eta_s": (1000 - done) / 100,
        "started": "2026-11-21T10:00:00Z", "finished": None, "error": None,
    } | more  # fmt: skip


class Script:
    """A region that answers GET /sync from a list; an exception in it is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def get(self, path: str) -> Any:
        assert path == "/sync"
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Recorder(Quiet):
    def __init__(self) -> None:
        self.shown: list[tuple[str, int]] = []
        self.notes: list[str] = []

    def show(self, sync: dict[str, Any]) -> None:
        self.shown.append((sync["state"], sync["bytes_done"]))

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


class Clock:
    now = 0.0

    def pause(self, seconds: float) -> None:
        self.now += seconds


def follow(script: Script, view: Any, first: dict[str, Any]) -> dict[str, Any]:
    clock = Clock()
    return sync.follow(script, first, view, clock.pause, lambda: clock.now)  # type: ignore[arg-type]


def test_a_sync_is_followed_to_its_last_state() -> None:
    view = Recorder()
    script = Script(state("downloading", 500), state("finishing", 1000), state("complete", 1000))
    assert follow(script, view, state("refreshing"))["state"] == "complete"
    assert view.shown == [("refreshing", 0), ("downloading", 500), ("finishing", 1000), ("complete", 1000)]


def test_a_region_that_restarts_in_mid_sync_is_waited_for() -> None:
    view = Recorder()
    gone = client.Unreachable("No region answers.")
    script = Script(state("downloading", 500), gone, gone, state("downloading", 600), state("complete", 1000))
    assert follow(script, view, state("refreshing"))["state"] == "complete"
    assert view.notes == ["No region answers. Still watching.", "The region answers again."]


def test_a_region_that_stays_away_ends_the_watch() -> None:
    with pytest.raises(client.Unreachable):
        follow(Script(client.Unreachable("No region answers.")), Recorder(), state("downloading"))


def test_a_sync_asked_for_during_another_is_the_one_that_is_waited_for() -> None:
    first, second = "2026-11-21T10:00:00Z", "2026-11-21T10:00:05Z"
    script = Script(
        state("complete", 1000, started=first), state("refreshing", started=second), state("failed", started=second)
    )
    clock = Clock()
    last = sync.follow(script, state("downloading", started=first), Quiet(), clock.pause, lambda: clock.now, first)
    assert (last["state"], last["started"]) == ("failed", second)


@pytest.mark.parametrize(("word", "polls"), [("stopped", 1), ("complete", 11)])
def test_a_stopped_sync_has_no_successor_and_a_missing_one_is_not_waited_for_in_vain(word: str, polls: int) -> None:
    clock = Clock()
    document = state(word, 1000)
    last = sync.follow(
        Script(document), state("downloading"), Quiet(), clock.pause, lambda: clock.now, document["started"]
    )
    assert last["state"] == word
    assert clock.now == polls * sync.POLL_S


def test_sync_wait_exits_0_and_prints_plain_lines_off_a_terminal(bootplane, region, monkeypatch) -> None:
    monkeypatch.setattr(sync, "POLL_S", 0)
    region.answers["POST /sync"] = state("refreshing", bytes_total=0)
    region.answers["GET /sync"] = [
        state("idle", started=None), state("downloading", 110), state("downloading", 120), state("downloading", 500),
        state("complete", 1000, finished="2026-11-21T10:00:09Z"),
    ]  # fmt: skip
    result = bootplane("sync", "--wait")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "refreshing",
        "downloading: 110 B of 1000 B (11 %) at 100 B/s, 9 s left",
        "downloading: 500 B of 1000 B (50 %) at 100 B/s, 5 s left",
        "Sync complete at 2026-11-21T10:00:09Z: 1000 B in 1 file.",
    ]


@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (state("failed", error="noble/squashfs: sha256 differs."), "The sync failed: noble/squashfs: sha256 differs."),
        (state("stopped"), "The sync was stopped; `bootplane sync` goes on from what has arrived."),
        (state("stopped", error="/srv: 3 bytes missing."), "The sync was stopped: /srv: 3 bytes missing."),
    ],
)
def test_sync_wait_exits_1_with_the_reason_when_it_does_not_complete(bootplane, region, last, sentence) -> None:
    region.answers["POST /sync"] = last
    result = bootplane("sync", "--wait")
    assert (result.exit_code, result.stderr) == (1, f"bootplane: {sentence}\n")


def test_sync_wait_json_prints_the_last_document_only(bootplane, region, monkeypatch) -> None:
    monkeypatch.setattr(sync, "POLL_S", 0)
    region.answers["POST /sync"] = state("refreshing")
    region.answers["GET /sync"] = [state("idle"), state("downloading", 1), state("complete", 1000)]
    result = bootplane("sync", "--wait", "--json")
    assert json.loads(result.stdout) == state("complete", 1000)


def test_ctrl_c_stops_watching_and_says_that_the_sync_goes_on(bootplane, region, monkeypatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sync.time, "sleep", interrupt)
    region.answers["POST /sync"] = state("downloading", 5)
    result = bootplane("sync", "--wait")
    assert result.exit_code == 130
    assert "the sync goes on" in result.stderr and "bootplane sync stop" in result.stderr
    assert all(call.path != "/sync/stop" for call in region.calls)


def test_sync_without_wait_only_starts_it(bootplane, region) -> None:
    region.answers["POST /sync"] = (202, "application/json", json.dumps(state("refreshing")).encode())
    assert "sync status" in bootplane("sync").stdout
    assert [call.method for call in region.calls] == ["POST"]


def test_sync_status_lists_the_files(bootplane, region) -> None:
    region.answers["GET /sync"] = state("downloading", 250)
    lines = bootplane("sync", "status").stdout.splitlines()
    assert lines[0].startswith("downloading: 250 B of 1000 B (25 %)")
    assert lines[2].split() == ["noble/squashfs", "1000", "B", "250", "B", "100", "B/s", "downloading"]


def test_sync_stop_is_one_call(bootplane, region, data) -> None:
    region.answers["POST /sync/stop"] = state("stopped")
    assert bootplane("sync", "--data", data, "stop").exit_code == 0
    assert region.calls[-1].path == "/sync/stop"


def test_bars_show_rate_and_time_left_of_the_whole_and_of_each_file_on_its_way(monkeypatch) -> None:
    import io

    from rich.console import Console

    from bootplane.control.cli import output

    monkeypatch.setenv("TERM", "xterm")  # on a dumb terminal nothing moves
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(output, "console", lambda stderr=False: screen)
    with Bars() as bars:
        bars.show(state("downloading", 250))
        bars._progress.refresh()
        during = screen.file.getvalue()
        bars.show(state("complete", 1000, eta_s=None))
        assert bars._files == {}
    assert "25 %" in during and "250 B / 1000 B" in during and "100 B/s" in during and "8 s" in during
    assert "noble/squashfs" in during


def test_lines_say_each_tenth_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines() as lines:
        for done in (100, 101, 199, 200):
            lines.show(state("downloading", done))
    assert [line.split("(")[1][:4] for line in capsys.readouterr().out.splitlines()] == ["10 %", "20 %"]
