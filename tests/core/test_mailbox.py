"""The ring between Python and a reactor: order, refusal, one wake-up per drain."""

from __future__ import annotations

import select
import threading

from bootplane.core.mailbox import Mailbox


def readable(box: Mailbox) -> bool:
    return bool(select.select([box], [], [], 0)[0])


def test_mails_come_out_in_the_order_they_went_in() -> None:
    box = Mailbox(16)
    for i in range(10):
        assert box.push(7, i - 5, i, 2**64 - 1 - i)
    assert box.take() == [(7, i - 5, i, 2**64 - 1 - i) for i in range(10)]
    assert box.take() == []


def test_a_full_ring_refuses_and_loses_nothing() -> None:
    box = Mailbox(16)
    assert [box.push(1, a=i) for i in range(18)] == [True] * 16 + [False] * 2
    assert box.refused == 2
    assert [mail[2] for mail in box.take()] == list(range(16))
    assert box.push(1, a=99)
    assert [mail[2] for mail in box.take()] == [99]


def test_the_descriptor_is_readable_exactly_while_something_waits() -> None:
    box = Mailbox(16)
    assert not readable(box)
    box.push(1)
    box.push(2)
    assert readable(box)
    box.take()
    assert not readable(box)
    box.push(3)
    assert readable(box)


def test_several_producers_lose_no_mail_and_no_wake_up() -> None:
    box, per_thread, producers = Mailbox(64), 5000, 4

    def produce(who: int) -> None:
        for i in range(per_thread):
            while not box.push(who, a=i):
                pass

    threads = [threading.Thread(target=produce, args=(who,)) for who in range(producers)]
    for thread in threads:
        thread.start()
    seen: dict[int, list[int]] = {who: [] for who in range(producers)}
    while sum(map(len, seen.values())) < per_thread * producers:
        assert select.select([box], [], [], 30)[0], "a wake-up was lost"
        for who, _, a, _ in box.take():
            seen[who].append(a)
    for thread in threads:
        thread.join()
    assert all(got == list(range(per_thread)) for got in seen.values())
