"""A reactor thread: how it starts, is spoken to and ends. What its services do stands in tests/spec."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from bootplane.core import blob as blobs
from bootplane.core.blob import Blob
from bootplane.core.reactor import Reactor
from bootplane.core.table import Table


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def settle() -> None:
    while blobs.reap():
        pass


def test_a_reactor_starts_and_ends_and_leaves_nothing() -> None:
    settle()
    before, threads = descriptors(), threading.active_count()
    for _ in range(50):
        reactor = Reactor()
        reactor.start()
        assert reactor.alive
        reactor.stop()
        assert not reactor.alive
        reactor.stop()
        del reactor
    assert descriptors() <= before
    assert threading.active_count() <= threads


def test_a_reactor_that_never_ran_gives_its_descriptors_back() -> None:
    before = descriptors()
    reactor = Reactor()
    assert descriptors() > before
    del reactor
    assert descriptors() <= before


def test_old_snapshots_come_back_and_let_their_blobs_go() -> None:
    settle()
    before = blobs.counts()
    reactor = Reactor()
    reactor.start()
    for version in range(20):
        reactor.publish(Table({f"file-{version}": Blob.memory(b"x" * 100)}, version))
        reactor.take()
    reactor.drain()
    deadline = time.monotonic() + 60
    seen: list[str] = []
    while "drained" not in seen:
        assert time.monotonic() < deadline
        seen += [mail[0] for mail in reactor.take()]
    reactor.stop()
    del reactor
    settle()
    assert blobs.counts() == before


def test_news_of_a_chunk_nobody_waits_for_is_dropped_without_a_leak() -> None:
    settle()
    before = blobs.counts()
    reactor = Reactor()
    reactor.start()
    blob = Blob.memory(b"y" * 10)
    for chunk in range(1000):
        reactor.chunk(blob, chunk)
        reactor.answer(chunk, blob)
        reactor.answer(chunk, None, 10)
    reactor.stop()
    del blob, reactor
    settle()
    assert blobs.counts() == before


def test_mails_that_were_never_read_free_what_they_own() -> None:
    settle()
    before, open_before = blobs.counts(), descriptors()
    reactor = Reactor()
    left, right = socket.socketpair()
    reactor.adopt(left.detach(), b"GET / HTTP/1.1\r\n")
    reactor.answer(1, Blob.memory(b"z"))
    reactor.publish(Table({}, 1))
    del reactor
    assert right.recv(1) == b"", "the adopted connection must be closed"
    right.close()
    settle()
    assert blobs.counts() == before
    assert descriptors() <= open_before


def test_starting_twice_is_refused() -> None:
    reactor = Reactor()
    reactor.start()
    with pytest.raises(ValueError, match="was started before"):
        reactor.start()
    reactor.stop()
