"""perf beside a server: it begins to look when it is told, and says so; commands on one pipe, answers on another."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Sequence

WAIT_S = 30.0


class NoPerf(Exception):
    """perf cannot be used here; one sentence."""


class Perf:
    def __init__(self, process: subprocess.Popen[str], commands: int, answers: int) -> None:
        self._process, self._commands, self._answers = process, commands, answers

    def tell(self, command: str) -> None:
        """*command* is "enable" or "disable"; returns once it is done. Raises NoPerf."""
        os.write(self._commands, f"{command}\n".encode())
        if not select.select([self._answers], [], [], WAIT_S)[0]:
            raise NoPerf("perf: it does not answer")
        os.read(self._answers, 64)

    def end(self) -> str:
        """What it has said on its standard error by its end."""
        self._process.send_signal(signal.SIGINT)
        return self._process.communicate(timeout=WAIT_S)[1]


@contextlib.contextmanager
def perf(*words: str) -> Iterator[Perf]:
    """``perf WORDS`` that looks at nothing until it is told to; leaves nothing behind. Raises NoPerf."""
    command, ours = os.pipe()
    answer, theirs = os.pipe()
    argv: Sequence[str] = ["perf", *words, "--delay=-1", "--control", f"fd:{command},{theirs}"]
    try:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                pass_fds=(command, theirs),
            )  # fmt: skip
        except FileNotFoundError as error:
            raise NoPerf("perf: not on PATH") from error
        try:
            yield Perf(process, ours, answer)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
    finally:
        for fd in (command, ours, answer, theirs):
            os.close(fd)
