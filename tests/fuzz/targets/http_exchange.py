"""One connection's machine: the same bytes get the same replies however they are cut, and every end owes nothing.

Input: one byte for the kind of port, one for where to cut, then the bytes of the connection.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from bootplane.core.blob import Blob
from bootplane.core.http_exchange_alone import Exchange
from bootplane.core.table import Table
from tests.fuzz.targets import http_head

MAX_LEN = 700
WORDS = [
    *http_head.WORDS, b"/kernel", b"/empty", b"/grub/grub.cfg", b"/api/", b" HTTP/1.1\r\nHost: r\r\n\r\n",
    b"User-Agent: GRUB\r\n", b"Content-Length: 3\r\n", b"Range: bytes=2-3\r\n", b"If-None-Match: *\r\n",
]  # fmt: skip
KERNEL = Blob.memory(b"0123456789", dynamic=False)
EMPTY = Blob.memory(b"", dynamic=False)
TABLE = Table({"kernel": KERNEL, "empty": EMPTY}, 1)
LATER = Table({"kernel": EMPTY}, 2, ["empty"])
ST_TIMEOUT, ST_UNKNOWN, ST_GONE = 9, 10, 12
STEPS = 400  # more than the longest input has requests
Step = tuple[str, bytes, tuple[int, int] | None]


def pieces(stream: bytes, seed: int) -> Iterator[bytes]:
    """The stream in pieces; seed 0: in one, 1: byte by byte."""
    rng, at = random.Random(seed), 0
    while at < len(stream):
        size = {0: len(stream), 1: 1}.get(seed) or rng.choice((1, 2, 3, 7, 20, 64))
        yield stream[at : at + size]
        at += size


def play(x: Exchange, cut: list[bytes]) -> tuple[list[Step], bytes]:
    """What is answered when nothing has to be waited for, and the bytes nobody answered."""
    answered: list[Step] = []
    action, rest = "read", iter(cut)
    for _ in range(STEPS + 2 * len(cut)):
        if action == "read":
            action = x.feed()  # what is left of a pipeline
            while action == "read":
                piece = next(rest, None)
                if piece is None:
                    return answered, x.left
                action = x.feed(piece)
        if action == "text":
            answered.append((action, x.reply, None))
            action = x.text_sent()
        elif action == "send":
            owed = x.owed
            assert owed is not None and 0 <= owed[0] < owed[1] <= 10, owed
            answered.append((action, x.head(), owed))
            action = x.sent(owed[1] - owed[0])
        elif action == "ask":
            answered.append((action, x.name, None))
            action = x.answer(KERNEL)
        elif action != "read":
            answered.append((action, b"", None))
            return answered, (x.left + b"".join(rest) if action == "hand over" else b"")
    raise AssertionError(f"no end after {len(answered)} answers")


def disturb(x: Exchange, cut: list[bytes], rng: random.Random) -> None:
    """The same with waits, failures and ends in between."""
    action, rest = "read", iter(cut)
    for _ in range(STEPS):
        if action == "read":
            piece = next(rest, None)
            action = x.expire(rng.choice(("head", "idle"))) if piece is None else x.feed(piece)
        elif action == "text":
            assert x.reply.startswith(b"HTTP/1.1 "), x.reply
            action = x.text_sent()
        elif action == "send":
            owed = x.owed
            assert owed is not None and 0 <= owed[0] < owed[1] <= 10, owed
            what = rng.randrange(8)
            if what == 0:
                action = x.absent()
            elif what == 1:
                action = x.damaged()
            elif what == 2:
                action = x.cut()
            elif what == 3:
                action = x.expire("send")
            else:
                x.head()
                action = x.sent(rng.randint(1, owed[1] - owed[0]))
        elif action in ("park", "mend"):
            kept = rng.choice((b"", b"GET /kernel HTTP/1.1\r\nHost: rack\r\n\r\n"))
            action = x.wake(rng.choice((0, 0, ST_TIMEOUT, ST_GONE)), kept=kept, table=rng.choice((None, TABLE, LATER)))
        elif action == "ask":
            action = x.answer(rng.choice((KERNEL, EMPTY, None)), rng.choice((ST_UNKNOWN, ST_TIMEOUT)))
        else:
            assert x.owed is None, f"{action}, and it still holds its file"
            return
        if rng.randrange(20) == 0:
            x.drain()
    x.drop()


def check(data: bytes) -> None:
    if len(data) < 2:
        return
    table, control, seed = TABLE if data[0] & 1 else None, bool(data[0] & 2), data[1]
    stream = data[2:] + b"\r\n\r\n"  # a fault in a line may be told at its end only
    before = KERNEL.references, EMPTY.references
    whole = play(Exchange(table, control=control), list(pieces(stream, 0)))
    for each in {1, seed}:
        got = play(Exchange(table, control=control), list(pieces(stream, each)))
        assert got == whole, f"in one piece {whole}, in pieces by {each} {got}"
    x = Exchange(table, control=control)
    disturb(x, list(pieces(stream, seed)), random.Random(data))
    counts = x.counts()
    kinds = ("names_found", "names_dynamic", "names_unknown")
    assert counts.get("lookups", 0) == sum(counts.get(name, 0) for name in kinds), counts
    del x
    assert (KERNEL.references, EMPTY.references) == before
