"""The transfer machine on a fake clock: every event in every state, without a socket."""

from __future__ import annotations

import random

import pytest

from bootplane.core.tftp_transfer import TransferProbe


def begun(size: int, **options: int) -> TransferProbe:
    """A transfer whose OACK, if any, has been acknowledged and whose first window is out."""
    probe = TransferProbe(size, **options)
    if probe.send() == ["OACK"]:
        probe.feed("ack", 0)
    return probe


def test_lockstep_from_the_first_block_to_the_empty_last_one() -> None:
    probe = TransferProbe(1024)
    assert probe.send() == [1]
    assert probe.feed("ack", 1) == ("send", [2])
    assert probe.feed("ack", 2) == ("send", [3])
    assert [probe.block_bytes(n) for n in (1, 2, 3)] == [512, 512, 0]
    assert probe.feed("ack", 3) == ("finish", [])


@pytest.mark.parametrize(
    ("size", "blksize", "last", "tail"),
    [(0, 512, 1, 0), (1, 512, 1, 1), (511, 512, 1, 511), (512, 512, 2, 0), (513, 512, 2, 1), (5 * 1428, 1428, 6, 0)],
)
def test_the_last_block_is_short_or_empty(size: int, blksize: int, last: int, tail: int) -> None:
    probe = TransferProbe(size, blksize=blksize)
    assert (probe.last, probe.block_bytes(last)) == (last, tail)


def test_an_oack_waits_for_ack_zero_and_for_nothing_else() -> None:
    probe = TransferProbe(2000, blksize=1000, tsize=True)
    assert probe.send() == ["OACK"]
    assert probe.feed("ack", 1) == ("nothing", [])
    assert probe.feed("ack", 0) == ("send", [1])
    assert probe.feed("ack", 0) == ("nothing", [])


def test_a_window_goes_out_whole_and_its_last_ack_brings_the_next() -> None:
    probe = TransferProbe(10 * 512, blksize=512, windowsize=4)
    probe.send()
    assert probe.feed("ack", 0) == ("send", [1, 2, 3, 4])
    assert probe.feed("ack", 4) == ("send", [5, 6, 7, 8])
    assert probe.feed("ack", 8) == ("send", [9, 10, 11])
    assert probe.feed("ack", 11) == ("finish", [])


def test_an_ack_inside_the_window_moves_and_restarts_from_there() -> None:
    probe = begun(100 * 512, windowsize=4)
    assert probe.feed("ack", 2) == ("send", [3, 4, 5, 6])
    assert probe.feed("ack", 4) == ("send", [5, 6, 7, 8])
    assert probe.feed("ack", 8) == ("send", [9, 10, 11, 12])


def test_a_duplicate_ack_never_sends() -> None:
    probe = begun(100 * 512, windowsize=4)
    probe.feed("ack", 4)
    for _ in range(1000):
        assert probe.feed("ack", 4) == ("nothing", [])
    assert probe.feed("ack", 3) == ("nothing", []), "an older one neither"
    assert probe.feed("ack", 9) == ("nothing", []), "nor one for a block that never was sent"


def test_an_ack_that_the_clients_own_timer_brought_does_not_shift_the_windows() -> None:
    """U-Boot has lost block 8, says ACK 7 after its second, and ACK 8 where its old window ends."""
    probe = begun(1000 * 512, windowsize=8, timeout=1)
    assert probe.feed("ack", 7, now=0.99) == ("send", [8, 9, 10, 11, 12, 13, 14, 15])
    assert probe.feed("ack", 8, now=0.991) == ("send", [16]), "9 to 15 are on their way"
    assert probe.feed("ack", 16, now=0.992) == ("send", list(range(17, 25)))


def test_an_ack_of_a_block_sent_before_a_resend_still_counts() -> None:
    probe = begun(100 * 512, windowsize=4, timeout_s=1)
    probe.room = 1
    assert probe.feed("tick", now=1) == ("send", [1])
    probe.room = None
    assert probe.feed("ack", 4) == ("send", [5, 6, 7, 8])


def test_blocks_roll_over_to_zero_and_go_on() -> None:
    probe = begun(70000 * 8, blksize=8, windowsize=64)
    block = 0
    while probe.acked < probe.last:
        block = min(block + 64, probe.last)
        action, _ = probe.feed("ack", block % 65536)
        assert action == ("finish" if block == probe.last else "send"), block
    assert probe.last == 70001


def test_a_stale_ack_from_before_the_rollover_is_not_taken_for_a_new_one() -> None:
    probe = begun(70000 * 8, blksize=8, windowsize=4)
    for block in range(4, 65541, 4):
        probe.feed("ack", block % 65536)
    assert probe.acked == 65540
    for stale in (65535, 65536 % 65536, 1, 2, 3, 4):
        assert probe.feed("ack", stale) == ("nothing", []), stale


def test_a_late_ack_is_never_taken_for_one_a_whole_round_of_numbers_ahead() -> None:
    """Taken so, the transfer would go on with blocks that have the numbers the client waits for, and other bytes."""
    probe = begun(200_000 * 8, blksize=8, windowsize=65535, max_windowsize=65535)
    window = probe.granted["windowsize"]
    assert probe.feed("ack", window)[0] == "send"
    assert probe.feed("ack", window - 1) == ("nothing", [])
    assert probe.acked == window


def test_a_deadline_resends_from_the_first_block_not_acknowledged() -> None:
    probe = begun(100 * 512, windowsize=4)
    probe.feed("ack", 2, now=0.5)
    assert probe.deadline == 1.5
    assert probe.feed("tick", now=1.49) == ("nothing", [])
    assert probe.feed("tick", now=1.5) == ("send", [3, 4, 5, 6])


def test_nothing_that_arrives_moves_a_deadline() -> None:
    probe = begun(100 * 512)
    for i in range(9):
        probe.feed("ack", 0, now=i / 10)
        probe.feed("ack", 77, now=i / 10)
        probe.feed("repeat", now=i / 10)
        assert probe.deadline == 1.0
    assert probe.feed("tick", now=1.0) == ("send", [1])


def test_deadlines_back_off_to_four_times_and_the_retries_end_the_transfer() -> None:
    probe = begun(100 * 512, retries=8)
    now, waits = 0.0, []
    while True:
        assert probe.deadline is not None
        waits.append(probe.deadline - now)
        now = probe.deadline
        action, sent = probe.feed("tick", now=now)
        if action == "give up":
            break
        assert sent == [1]
    assert waits == [1, 1, 2, 2, 4, 4, 4, 4]
    assert probe.feed("ack", 1) == ("nothing", []), "it is over"


def test_progress_brings_the_first_interval_back() -> None:
    probe = begun(100 * 512)
    for now in (1.0, 2.0, 4.0, 6.0):
        probe.feed("tick", now=now)
    assert probe.deadline == 10.0
    probe.feed("ack", 1, now=7.0)
    assert probe.deadline == 8.0


def acked(probe: TransferProbe, count: int, took: float) -> float:
    """Lets *count* blocks of a lockstep transfer each be acknowledged *took* seconds after they were sent."""
    now = 0.0
    for block in range(1, count + 1):
        now += took
        assert probe.feed("ack", block, now=now) == ("send", [block + 1])
    return now


@pytest.mark.parametrize(("took", "deadline"), [(0.0001, 0.2), (0.05, 0.2), (0.5, 0.5), (3.0, 1.0)])
def test_the_first_deadline_adapts_to_the_client_between_a_fifth_of_a_second_and_the_timeout(
    took: float, deadline: float
) -> None:
    """RFC 1123, 4.2.3.2: "A TFTP implementation MUST use an adaptive timeout"."""
    probe = begun(1000 * 512)
    now = acked(probe, 40, took)
    assert probe.deadline is not None
    assert probe.deadline - now == pytest.approx(deadline, rel=0.01)


def test_after_a_quick_first_deadline_the_others_are_as_long_as_ever() -> None:
    probe = begun(1000 * 512, retries=8)
    now, waits = acked(probe, 40, 0.001), []
    while True:
        assert probe.deadline is not None
        waits.append(round(probe.deadline - now, 3))
        now = probe.deadline
        if probe.feed("tick", now=now)[0] == "give up":
            break
    assert waits == [0.2, 1, 2, 2, 4, 4, 4, 4]


def test_what_was_sent_twice_or_while_parked_measures_nothing() -> None:
    probe = begun(1000 * 512)
    probe.feed("tick", now=1.0)
    probe.feed("ack", 1, now=1.001)  # of which of the two?
    assert probe.deadline == 2.001
    probe.feed("parked")
    probe.feed("ack", 2, now=1.002)
    probe.feed("woken", now=9.0)
    assert probe.deadline == 10.0


def test_the_timeout_a_client_asked_for_is_kept_exactly() -> None:
    probe = TransferProbe(5000, timeout=3, retries=4)
    probe.send(now=10)
    for now in (13, 16, 19):
        assert probe.deadline == now
        assert probe.feed("tick", now=now) == ("send", ["OACK"])
    assert probe.feed("tick", now=22) == ("give up", [])


def test_options_are_granted_up_to_the_caps_and_never_above_what_was_asked() -> None:
    caps = {"max_blksize": 1468, "max_windowsize": 16}
    assert TransferProbe(1, blksize=65464, windowsize=65535, **caps).granted == {"blksize": 1468, "windowsize": 16}
    assert TransferProbe(1, blksize=512, windowsize=4, **caps).granted == {"blksize": 512, "windowsize": 4}
    assert TransferProbe(1, timeout=255, **caps).granted == {"blksize": 512, "windowsize": 1, "timeout": 255}


def test_a_repeated_request_brings_the_oack_again_once_per_deadline() -> None:
    probe = TransferProbe(5000, tsize=True)
    assert probe.send(now=0) == ["OACK"]
    assert probe.feed("repeat", now=0.4) == ("send", ["OACK"])
    assert probe.feed("repeat", now=0.8) == ("nothing", [])
    assert probe.deadline == 1.0
    assert probe.feed("tick", now=1.0) == ("send", ["OACK"])
    assert probe.feed("repeat", now=1.2) == ("send", ["OACK"])


def test_without_options_a_repeated_request_brings_the_first_block_again() -> None:
    probe = TransferProbe(5000)
    assert probe.send() == [1]
    assert probe.feed("repeat", now=0.4) == ("send", [1])
    assert probe.feed("repeat", now=0.5) == ("nothing", [])


def test_a_repeated_request_after_progress_is_late_unless_the_client_has_gone_silent() -> None:
    probe = begun(5000)
    probe.feed("ack", 1)
    assert probe.feed("repeat", now=0.4) == ("nothing", [])
    probe.feed("tick", now=1.0)
    assert probe.feed("repeat", now=1.4) == ("restart", [])


def test_a_parked_transfer_has_no_deadline_and_goes_on_when_it_is_woken() -> None:
    probe = TransferProbe(100 * 512, windowsize=4)
    probe.send()
    probe.room = 2
    assert probe.feed("ack", 0) == ("send", [1, 2])
    probe.feed("parked")
    assert probe.deadline is None
    assert probe.feed("tick", now=1000) == ("nothing", [])
    assert probe.feed("ack", 1) == ("send", [2, 3]), "a gap is healed from what is there"
    assert probe.deadline is None, "still parked"
    probe.room = None
    assert probe.feed("woken", now=15.0) == ("send", [4, 5])
    assert probe.deadline == 16.0


def test_while_the_kernel_refuses_packets_a_deadline_does_not_start_the_window_again() -> None:
    probe = TransferProbe(100 * 512, windowsize=4, retries=3)
    probe.send()
    probe.room = 2
    probe.feed("ack", 0)
    assert probe.feed("tick", now=1.0) == ("nothing", [])
    probe.room = None
    assert probe.send(now=1.1) == [3, 4]


@pytest.mark.parametrize("state", ["oack", "data"])
def test_the_clients_error_ends_it_in_every_state(state: str) -> None:
    probe = TransferProbe(5000, tsize=True)
    probe.send()
    if state == "data":
        probe.feed("ack", 0)
    assert probe.feed("gone") == ("abort", [])
    for event in ("ack", "repeat", "tick", "woken", "gone"):
        assert probe.feed(event, now=99) == ("nothing", [])


class StrictClient:
    """A client by RFC 7440 that also answers every stale block, as UEFI firmware does, behind a link that loses."""

    def __init__(self, blocks: int, windowsize: int, loss: float, seed: int) -> None:
        self.blocks, self.windowsize, self.loss, self.rng = blocks, windowsize, loss, random.Random(seed)
        self.have = self.in_window = self.data = self.lost = 0
        self.acks: list[int] = []

    def lose(self) -> bool:
        lost = self.rng.random() < self.loss
        self.lost += lost
        return lost

    def receive(self, packet: int | str) -> None:
        self.data += packet != "OACK"
        if self.lose():
            return
        if packet == "OACK":
            if self.have == 0:
                self.acks.append(0)
            return
        if packet == self.have + 1:
            self.have += 1
            self.in_window += 1
            if self.in_window < self.windowsize and self.have < self.blocks:
                return
        self.in_window = 0
        self.acks.append(self.have)

    def run(self, probe: TransferProbe) -> float:
        """Returns the time it took; the wire itself is instant, so all of it is waiting for deadlines."""
        now = 0.0
        wire: list[int | str] = list(probe.send(now))
        for _ in range(200000):
            if wire:
                self.receive(wire.pop(0))
            elif self.acks:
                ack = self.acks.pop(0)
                if not self.lose():
                    action, sent = probe.feed("ack", ack % 65536, now)
                    wire += sent
                    if action == "finish":
                        return now
            else:
                assert probe.deadline is not None, "a live transfer has a deadline or something to send"
                now = probe.deadline
                action, sent = probe.feed("tick", now=now)
                assert action == "send", (action, self.have)
                wire += sent
        raise AssertionError(f"no end: {self.have} of {self.blocks} blocks after {self.data} DATA")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("windowsize", "loss"), [(1, 0.05), (4, 0.05), (16, 0.05), (64, 0.02), (16, 0.3)])
def test_any_loss_ends_in_a_whole_file_within_the_retries(windowsize: int, loss: float, seed: int) -> None:
    client = StrictClient(300, windowsize, loss, seed)
    client.run(TransferProbe(299 * 512 + 1, blksize=512, windowsize=windowsize, retries=50))
    assert client.have == 300
    assert client.data <= 300 + (client.lost + 2) * windowsize, f"{client.data} DATA, {client.lost} packets lost"


@pytest.mark.parametrize("seed", range(5))
def test_under_the_loss_that_once_made_a_storm_data_stays_below_one_and_a_fifth(seed: int) -> None:
    client = StrictClient(7507, 4, 0.001, seed)
    seconds = client.run(TransferProbe(7507 * 512 - 1, blksize=512, windowsize=4))
    assert client.have == 7507
    assert client.data <= 1.2 * 7507
    assert seconds <= client.lost, "one deadline for a loss at most"
