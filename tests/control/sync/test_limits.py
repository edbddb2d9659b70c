"""How fast and when a sync fetches: the window's arithmetic, the shared rate, and what a window does to a sync."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from bootplane.control.errors import CallerError
from bootplane.control.simplestreams.signer import Signer
from bootplane.control.storage.database import Database
from bootplane.control.storage.settings import SettingsRepository
from bootplane.control.sync import coordinator
from bootplane.control.sync.limits import SyncLimits, Throttle, Window
from tests.fakes.mirror import Fault
from tests.fakes.operator import ENDS_S, INDEX, Operator, operator

NEVER = threading.Event()
NOON, NIGHT = datetime(2026, 11, 22, 12, 0), datetime(2026, 11, 22, 23, 30)


@pytest.mark.parametrize(
    ("window", "opens", "closed"),
    [
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "21:59"]),
        ("01:30-04:00", ["01:30", "03:59"], ["00:00", "01:29", "04:00", "23:59"]),
        ("00:00-23:59", ["00:00", "23:58"], ["23:59"]),
        ("23:59-00:00", ["23:59"], ["00:00", "23:58"]),
    ],
)
def test_a_window_is_open_from_its_begin_to_before_its_end(window: str, opens: list[str], closed: list[str]) -> None:
    parsed = Window.parse(window)
    assert str(parsed) == window
    for text in opens + closed:
        hour, minute = map(int, text.split(":"))
        assert parsed.is_open(datetime(2026, 3, 29, hour, minute, 30)) == (text in opens), text


@pytest.mark.parametrize(
    "text", ["", "22-6", "24:00-06:00", "22:00-06:60", "22:00", "22:00-22:00", "x" * 99, "9:00-10:00"]
)
def test_what_is_no_window_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(CallerError, match=r"^sync window: expected "):
        Window.parse(text)


def test_all_downloads_together_keep_to_the_limit() -> None:
    now = [0.0]
    throttle = Throttle(1_000_000, clock=lambda: now[0])
    sent, waits = 0, 0

    class Tick(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal waits
            assert timeout is not None and 0 < timeout <= 1.0
            now[0] += timeout
            waits += 1
            return False

    tick = Tick()
    while now[0] < 10.0:  # as if some threads came one after another
        sent += throttle.take(256 << 10, tick)
    assert 9_500_000 <= sent <= 10_500_000 and waits > 10


def test_what_did_not_come_is_given_back_and_no_limit_costs_no_wait() -> None:
    throttle = Throttle(1000, clock=lambda: 0.0)
    taken = throttle.take(1 << 20, NEVER)
    assert taken == 250  # a quarter of a second's
    throttle.give_back(taken)
    assert throttle.take(1 << 20, NEVER) == 250
    throttle.change(0)
    assert throttle.take(1 << 20, NEVER) == 1 << 20


def test_a_limit_that_is_lifted_or_a_stop_ends_the_wait() -> None:
    throttle = Throttle(1, clock=lambda: 0.0)
    stopping = threading.Event()
    throttle.take(1, stopping)
    stopping.set()
    assert throttle.take(10, stopping) == 10


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[SettingsRepository]:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    database.migrate()
    yield SettingsRepository(database)
    database.close()


def test_limits_outlive_the_process_and_a_refused_change_changes_nothing(settings: SettingsRepository) -> None:
    limits = SyncLimits(settings, lambda: NOON)
    assert limits.document() == {"limit_bytes_s": None, "window": None, "window_open": True}
    limits.change({"limit_bytes_s": 25_000_000, "window": "22:00-06:00"})
    for changes, words in (
        ({}, "got none"),
        ({"limit_bytes_s": 100}, r"64 kbit/s\) or more, got 100"),
        ({"limit_bytes_s": 9000, "window": "never"}, "HH:MM-HH:MM"),
    ):
        with pytest.raises(CallerError, match=words):
            limits.change(changes)
    again = SyncLimits(settings, lambda: NIGHT)
    assert again.document() == {"limit_bytes_s": 25_000_000, "window": "22:00-06:00", "window_open": True}
    again.change({"window": None})
    assert again.document() == {"limit_bytes_s": 25_000_000, "window": None, "window_open": True}
    again.change({"limit_bytes_s": None})
    assert SyncLimits(settings).document()["limit_bytes_s"] is None


# -- whole syncs


@pytest.fixture
def site(tmp_path: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    monkeypatch.setattr(coordinator, "WINDOW_CHECK_S", 0.02)
    with operator(tmp_path, signer, monkeypatch) as made:
        made.add()
        yield made


def at(site: Operator, when: datetime) -> None:
    site.region.coordinator.limits._local_now = lambda: when


def closes(site: Operator) -> None:
    """While the kernel is fetched the window closes; its rest comes so slowly that the sync is not done before."""
    site.mirror.faults[site.kernel()] = [Fault(cut_after=12_000, first=lambda: at(site, NOON)), Fault(drip_s=0.05)]


def until_paused(site: Operator) -> None:
    """Nothing drips from then on: the window may have closed before the second answer of ``closes`` was asked for."""
    until(site, "paused")
    site.mirror.faults.clear()


def until(site: Operator, state: str) -> None:
    tick = threading.Event()
    for _ in range(int(ENDS_S / 0.02)):
        if site.json("sync", "status")["state"] == state:
            return
        tick.wait(0.02)
    raise AssertionError(site.json("sync", "status"))


def test_an_operators_sync_outside_the_window_says_so_and_runs(site: Operator) -> None:
    at(site, NOON)
    said = site.run("sync", "set", "--window", "22:00-06:00", "--limit", "100Mbit/s")
    assert said.stdout == (
        "Limit of syncs: 100 Mbit/s. They run by themselves from 22:00 to 06:00, closed now; `bootplane sync` runs at "
        "once all the same.\n"
    )
    done = site.run("sync", "--wait")
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [
        "It is outside the sync window 22:00-06:00: this sync runs at once, because you ask for it."
    ]
    assert site.item_bytes() > 0


def test_a_sync_that_begins_by_itself_waits_for_its_window(site: Operator) -> None:
    at(site, NOON)
    site.run("sync", "set", "--window", "22:00-06:00")
    region = site.region.coordinator
    region._interval_s = 0.001
    assert not region._is_due()
    at(site, NIGHT)
    region._run = None
    with region._wake:
        region._wake.notify_all()
    until(site, "complete")


def test_the_windows_end_pauses_a_sync_and_the_next_window_brings_the_rest(site: Operator) -> None:
    at(site, NIGHT)
    site.run("sync", "set", "--window", "22:00-06:00")
    kernel = site.kernel()
    closes(site)
    site.region.coordinator.request(by_hand=False)
    until_paused(site)
    assert site.run("sync", "status").stdout.splitlines()[0].endswith("the rest waits for the window 22:00-06:00")
    assert site.mirror.requests.count(INDEX) == 2  # for `source add`, and for this sync
    at(site, NIGHT)
    until(site, "complete")
    spans = [span for path, span in site.asked() if path == kernel]
    assert spans[0] is None and spans[1] == "bytes=12000-" and spans[-1] >= spans[1]  # each from where it had stopped
    assert site.mirror.requests.count(INDEX) == 2
    site.is_sound()


def test_a_paused_sync_leaves_its_room_to_others_and_asks_for_it_anew(
    site: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "SPACE_CHECK_S", 0.05)
    at(site, NIGHT)
    site.run("sync", "set", "--window", "22:00-06:00")
    closes(site)
    store, room = site.region.store, site.region.coordinator._room
    site.region.coordinator.request(by_hand=False)
    until_paused(site)
    assert room.reservations == {} and store._reserved == 0
    free = 1000  # an operator's upload has taken the rest meanwhile
    monkeypatch.setattr(store, "free_bytes", lambda: free)
    at(site, NIGHT)
    until(site, "stopped")
    assert "bytes free for this sync, got 1000" in site.banners()["disk-full"]
    free = 1 << 40
    until(site, "complete")
    assert "disk-full" not in site.banners()
    site.is_sound()


def test_a_paused_sync_goes_on_when_an_operator_asks_and_ends_when_one_stops_it(site: Operator) -> None:
    for words, state in ((("sync", "stop"), "stopped"), (("sync",), "complete")):
        at(site, NIGHT)
        site.run("sync", "set", "--window", "22:00-06:00")
        closes(site)
        site.region.coordinator.request(by_hand=False)
        until_paused(site)
        assert site.run(*words).exit_code == 0
        until(site, state)


def test_a_running_sync_follows_a_limit_at_once(site: Operator) -> None:
    site.run("sync", "set", "--limit", "64kbit/s")
    assert site.run("sync").exit_code == 0
    until(site, "downloading")
    assert site.json("sync", "set", "--limit", "none")["limit_bytes_s"] is None
    until(site, "complete")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--limit", "fast"), "--limit: expected none, or a number with kbit/s"),
        (("--limit", "1kbit/s"), "expected 8000 bytes/s (64 kbit/s) or more, got 125"),
        (("--window", "22-6"), "expected HH:MM-HH:MM like 22:00-06:00, got '22-6'"),
    ],
)
def test_a_limit_that_makes_no_sense_is_one_sentence(site: Operator, options: tuple[str, ...], words: str) -> None:
    assert words in site.refused("sync", "set", *options)
