"""Makes the pictures of the README: the demo in a terminal, and the page it serves. ``python docs/pictures.py``

Needs Debian's chromium for the page. The demo runs as a user sees it, in a pseudo-terminal; what it last showed is
drawn as SVG by rich.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

FOLDER = Path(__file__).parent / "pictures"
COLUMNS = 128
LIMIT_S = 180.0
CHROMIUM = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
            "--window-size=1200,760", "--timeout=4000")  # fmt: skip


def demo() -> tuple[subprocess.Popen[bytes], str]:
    """Starts ``bootplane demo --keep``; returns it, still serving, and everything it wrote."""
    main, side = pty.openpty()
    env = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "60", "TERM": "xterm-256color"}
    argv = [sys.executable, "-m", "bootplane", "demo", "--keep"]
    process = subprocess.Popen(argv, stdin=side, stdout=side, stderr=side, env=env, start_new_session=True)
    os.close(side)
    seen, deadline = b"", time.monotonic() + LIMIT_S
    while b"login?once=" not in seen or not seen.endswith(b"\n"):
        if time.monotonic() > deadline or process.poll() is not None:
            process.terminate()
            raise SystemExit("pictures: the demo did not come to its end")
        seen += os.read(main, 4096)
    return process, seen.decode(errors="replace")


def screen(written: str) -> list[str]:
    """What a terminal would show: a line that was moved over again is shown as it was last."""
    lines: list[str] = []
    row = 0
    for part in re.split(r"(\r\n|\n|\r|\x1b\[\d*A|\x1b\[2K)", written):
        up = re.fullmatch(r"\x1b\[(\d*)A", part)
        if part in ("\r\n", "\n"):
            row += 1
        elif up:
            row = max(0, row - int(up[1] or 1))
        elif part == "\x1b[2K" and row < len(lines):
            lines[row] = ""
        elif part and part not in ("\r", "\x1b[2K"):
            lines.extend([""] * (row + 1 - len(lines)))
            lines[row] = part if not lines[row] else lines[row] + part
    return [re.sub(r"\x1b\[\?25[lh]", "", line) for line in lines]


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    process, written = demo()
    try:
        lines = [line for line in screen(written) if "login?once=" not in line]
        console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
        console.print(Text.from_ansi("\n".join(lines)))
        console.save_svg(str(FOLDER / "demo.svg"), title="make run")
        found = re.search(r"http://\S+/login\?once=\S+", written)
        if found is None:
            raise SystemExit("pictures: no login link")
        with tempfile.TemporaryDirectory() as profile:
            argv = [*CHROMIUM, f"--user-data-dir={profile}", f"--screenshot={FOLDER / 'overview.png'}", found[0]]
            subprocess.run(argv, check=True, capture_output=True, timeout=60)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
