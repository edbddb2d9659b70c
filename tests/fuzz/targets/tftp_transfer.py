"""One TFTP transfer's machine under any order of events. Input: four bytes for file and options, then events, two bytes
each: what, and with which number.

What must hold is in the opening of core/tftp_transfer.pyx and in the comments of its pxd.
"""

from __future__ import annotations

from bootplane.core.tftp_transfer import TransferProbe

MAX_LEN = 400
WORDS: list[bytes] = [b"\0\0", b"\1\0", b"\2\xff", b"\3\0", b"\4\0", b"\5\0", b"\6\0", b"\7\0"]
SIZES = (0, 1, 7, 8, 9, 512, 5000, 70_000 * 8)
WINDOWS = (None, 1, 2, 4, 8, 64, 65535, 3)
WAITS = (0.0, 0.001, 0.1, 0.2, 1.0, 2.0, 4.0, 100.0)


class Watched:
    """A probe whose every step is looked at."""

    def __init__(self, data: bytes) -> None:
        size, window, how = SIZES[data[0] & 7], WINDOWS[data[1] & 7], data[2]
        self.size, self.retries, self.now = size, 1 + (data[3] & 7), 0.0
        options: dict[str, int] = {"blksize": 8} if size > 5000 or how & 1 else {}
        if window is not None:
            options["windowsize"] = window
        if how & 2:
            options["timeout"] = 1 + (how >> 4)
        self.probe = TransferProbe(size, tsize=bool(how & 4), retries=self.retries, **options)
        self.has_oack = bool(options) or bool(how & 4)
        self.window = self.probe.granted["windowsize"]
        self.top = 0
        self.is_over = self.is_parked = self.is_data = False
        self.is_data = not self.has_oack
        self.sent(self.probe.send(self.now))

    def sent(self, packets: list[int | str]) -> None:
        blocks = [packet for packet in packets if isinstance(packet, int)]
        assert packets[: len(packets) - len(blocks)] in ([], ["OACK"]), packets
        assert "OACK" not in packets or (self.has_oack and not blocks), packets
        if blocks:
            assert self.is_data, "DATA before ACK 0"
            assert blocks == list(range(blocks[0], blocks[-1] + 1)), blocks
            acked = self.probe.acked
            assert acked < blocks[0] and blocks[-1] <= min(acked + self.window, self.probe.last), (acked, blocks)
            assert blocks[0] <= self.top + 1, f"{self.top} was the highest, now {blocks}"
            self.top = max(self.top, blocks[-1])

    def feed(self, event: str, arg: int = 0) -> str:
        acked = self.probe.acked
        action, packets = self.probe.feed(event, arg, self.now)
        name = f"{event} {arg} at {acked} of {self.probe.last}: {action} {packets}"
        if self.is_over:
            assert (action, packets) == ("nothing", []), name
            return str(action)
        moved = (arg - acked) & 0xFFFF
        if event == "ack" and self.is_data:
            expected = acked + moved if 0 < moved <= self.top - acked else acked
            assert self.probe.acked == expected, name
            assert expected > acked or (action, packets) == ("nothing", []), f"a duplicate moved something: {name}"
            assert (action == "finish") == (self.probe.acked == self.probe.last), name
        else:
            assert self.probe.acked == acked, name
        if event == "ack" and action == "send":
            self.is_data = True
        assert action != "finish" or self.probe.wire[3] == self.size, name
        assert action not in ("give up", "restart", "abort") or event == {
            "give up": "tick", "restart": "repeat", "abort": "gone",
        }[action], name  # fmt: skip
        self.is_over = action in ("finish", "give up", "abort")
        if event in ("parked", "woken"):
            self.is_parked = event == "parked"
        self.sent(packets)
        self.look(name)
        return str(action)

    def look(self, name: str) -> None:
        """A live transfer has a deadline, or something to send, or is parked."""
        packets, again, _, delivered = self.probe.wire
        assert again <= packets and delivered <= self.size, name
        if not (self.is_over or self.is_parked or self.probe.deadline is not None) and self.probe.room is None:
            more = self.probe.send(self.now)
            assert more, f"neither a deadline nor anything to send after {name}"
            self.sent(more)

    def roll(self) -> None:
        """To where the numbers roll over, unwatched: a thousand windows take a while."""
        self.feed("ack", 0)
        for block in range(64, 65400, 64):
            self.probe.feed("ack", block, self.now)
        self.top = self.probe.acked + self.window

    def finish(self) -> None:
        """From wherever it is, a client that takes everything from now on gets its file."""
        self.probe.room = None
        if self.is_parked:
            self.feed("woken")
        self.sent(self.probe.send(self.now))
        for _ in range(2 * self.probe.last + 20):
            if self.is_over:
                return
            action = self.feed("ack", min(self.top, self.probe.acked + self.window) & 0xFFFF if self.is_data else 0)
            if action == "nothing":
                assert self.probe.deadline is not None, "it waits, without a deadline"
                self.now = max(self.now, self.probe.deadline)
                if self.feed("tick") == "give up":
                    return
        raise AssertionError(f"no end: block {self.probe.acked} of {self.probe.last}")


def check(data: bytes) -> None:
    if len(data) < 4:
        return
    watched = Watched(data)
    if data[3] == 0x87 and watched.probe.last > 65600 and watched.window == 64:
        watched.roll()
    for what, number in zip(data[4::2], data[5::2], strict=False):
        watched.now += WAITS[what >> 5] / 1000 if what & 16 else WAITS[what >> 5]
        event = what & 7
        if event == 0:
            watched.feed("ack", watched.top & 0xFFFF)
        elif event == 1:
            watched.feed("ack", (watched.probe.acked + number - 128) & 0xFFFF)
        elif event == 2:
            watched.feed("tick")
        elif event == 3:
            watched.feed("repeat")
        elif event == 4:
            watched.feed("parked" if number & 1 else "woken")
        elif event == 5:
            watched.probe.room = number & 7 if number < 128 else None
            if not watched.is_over and not watched.is_parked:
                watched.sent(watched.probe.send(watched.now))
        elif event == 6:
            watched.feed("ack", number * 257)
        elif number == 0:
            watched.feed("gone")
    if watched.probe.last - watched.probe.acked < 100:
        watched.finish()
