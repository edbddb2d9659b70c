"""The idle I/O class belongs to the thread that asked for it, and to no other."""

from __future__ import annotations

import shutil
import subprocess
import threading

import pytest

from bootplane.core.idle_io import make_idle


@pytest.mark.skipif(shutil.which("ionice") is None, reason="needs ionice of util-linux to look with")
def test_only_the_calling_thread_becomes_idle() -> None:
    def io_class(thread: int) -> str:
        return subprocess.run(["ionice", "-p", str(thread)], capture_output=True, text=True, check=True).stdout.strip()

    found: list[str] = []

    def work() -> None:
        assert make_idle() == 0
        found.append(io_class(threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["idle"]
    assert io_class(threading.get_native_id()) != "idle"
