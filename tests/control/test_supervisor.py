"""The supervisor's decisions, without processes: pauses between restarts, the stand-in for port 69."""

from __future__ import annotations

import errno
import socket

import pytest

from bootplane.control import supervisor
from bootplane.control.supervisor import BACKOFF_S, HEALTHY_S, Child


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(supervisor.time, "monotonic", made.monotonic)
    return made


def test_pauses_grow_and_begin_anew_after_a_healthy_while(clock: Clock) -> None:
    child = Child("rack", lambda: [])
    child._started_at = clock.now
    pauses = [child.plan_restart() for _ in range(len(BACKOFF_S) + 2)]
    assert pauses == [*BACKOFF_S, BACKOFF_S[-1], BACKOFF_S[-1]]
    assert child.due_at == clock.now + BACKOFF_S[-1]
    clock.now += HEALTHY_S
    assert child.plan_restart() == BACKOFF_S[0]


@pytest.mark.parametrize(
    ("error", "address", "used"),
    [
        (errno.EACCES, "10.0.0.2:69", "10.0.0.2:6969"),
        (errno.EPERM, "[::1]:69", "[::1]:6969"),
        (errno.EADDRINUSE, "10.0.0.2:69", "10.0.0.2:69"),
        (errno.EACCES, "10.0.0.2:70", "10.0.0.2:70"),
        (0, "10.0.0.2:69", "10.0.0.2:69"),
    ],
)
def test_without_the_right_to_69_tftp_falls_to_6969_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: int, address: str, used: str
) -> None:
    def bind(_self: socket.socket, _where: object) -> None:
        if error:
            raise OSError(error, "no")

    monkeypatch.setattr(supervisor.socket.socket, "bind", bind)
    assert supervisor._tftp_address(address) == used
    said = capsys.readouterr().err
    assert ("no right to bind port 69" in said and used in said) is (used != address)


@pytest.mark.parametrize(
    ("address", "called"),
    [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.2:1", "10.0.0.2:1")],
)
def test_a_wildcard_is_called_on_loopback(address: str, called: str) -> None:
    assert supervisor._reachable(address) == called
