"""A job in the background: one thread that does a bit of work, waits, and does the next bit, until it is told to end.

Invariants: whatever a turn raises is logged with its traceback and the next turn comes, since nobody looks after such a
thread, and a job that has died is missed weeks later; a turn that hangs in the kernel holds up the end of the process
for STOP_S and no longer: what such a thread touches outlives it.

Left to others: the work, and how long to wait.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

STOP_S = 5.0

log = logging.getLogger("bootplane.background")


class Job:
    """*turn()* returns the seconds to wait before it is called again; *failed_s* are waited when it has raised, and
    *first_s* before the first one. *prepare()* is called once, on the thread."""

    def __init__(
        self,
        name: str,
        turn: Callable[[], float],
        *,
        failed_s: float,
        first_s: float = 0.0,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._name, self._turn, self._prepare = name, turn, prepare
        self._first_s, self._failed_s = first_s, failed_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """No further turn begins. Returns at once; any thread."""
        self._stopping.set()

    def stop(self, timeout_s: float = STOP_S) -> bool:
        """Waits for the turn that runs. False, and a line in the log, when *timeout_s* was not enough for it."""
        self.end()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("%s: expected to end within %g s, left behind", self._name, timeout_s)
            return False
        return True

    def _run(self) -> None:
        pause_s = self._step(self._prepared)
        while not self._stopping.wait(pause_s):
            pause_s = self._step(self._turn)

    def _prepared(self) -> float:
        self._prepare()
        return self._first_s

    def _step(self, work: Callable[[], float]) -> float:
        try:
            return work()
        except Exception:  # everything, for every job: the thread must live, and the log has the traceback
            log.exception("%s failed in a way that was not foreseen; it goes on in %g s", self._name, self._failed_s)
            return self._failed_s
