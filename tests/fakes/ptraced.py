"""A forked child that is stopped before and after each of its system calls, to kill it there.

``run(script, stop)`` forks; the child calls *script* and ends. It is killed at its stop number *stop*; None: never.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import traceback
from collections.abc import Callable

TRACEME, CONT, SYSCALL, SETOPTIONS = 0, 7, 24, 0x4200
TRACESYSGOOD, EXITKILL = 1, 0x100000
SYSCALL_STOP = signal.SIGTRAP | 0x80
REFUSED = 77  # exit status of a child that may not be traced


class CannotTraceError(Exception):
    """This machine or this user may not trace a child."""


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    return libc


def _child(libc: ctypes.CDLL, script: Callable[[], None]) -> None:
    status = 1
    try:
        if libc.ptrace(TRACEME, 0, None, None) == 0:
            os.kill(os.getpid(), signal.SIGSTOP)  # the script begins when the parent looks
            script()
            status = 0
        elif ctypes.get_errno() in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            status = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def run(script: Callable[[], None], stop: int | None) -> tuple[int, bool]:
    """(stops seen, whether the script came to its end). Raises CannotTraceError; AssertionError when it failed, or was
    killed by somebody else."""
    libc = _libc()
    pid = os.fork()
    if pid == 0:
        _child(libc, script)
    try:
        return _follow(libc, pid, stop)
    except BaseException:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has ended, and was waited for
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        raise


def _follow(libc: ctypes.CDLL, pid: int, stop: int | None) -> tuple[int, bool]:
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == REFUSED:
        raise CannotTraceError("ptrace is not allowed here")
    assert os.WIFSTOPPED(status), f"the child ended with {os.waitstatus_to_exitcode(status)} before its script"
    assert libc.ptrace(SETOPTIONS, pid, None, TRACESYSGOOD | EXITKILL) == 0, os.strerror(ctypes.get_errno())
    seen, pass_on = 0, 0
    while True:
        libc.ptrace(SYSCALL, pid, None, pass_on)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, f"the script ended with {os.WEXITSTATUS(status)}"
            return seen, True
        if os.WIFSIGNALED(status):
            assert (os.WTERMSIG(status), seen) == (signal.SIGKILL, stop), (
                f"expected a kill at stop {stop}, got signal {os.WTERMSIG(status)} at {seen}"
            )
            return seen, False
        pass_on = os.WSTOPSIG(status)
        if pass_on == SYSCALL_STOP:
            pass_on = 0
            seen += 1
            if seen == stop:
                os.kill(pid, signal.SIGKILL)
