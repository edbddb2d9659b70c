"""``make bench-api``: a region under requests of operators and racks, by locust. Fails on an error, never on a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.meter import Server

USERS, SECONDS = 20, 10
ANY = "127.0.0.1:0"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bootplane-bench-") as folder:
        data = Path(folder) / "data"
        options = [part for name in ("listen", "bulk", "http", "tftp") for part in (f"--{name}", ANY)]
        with Server("up", [sys.executable, "-m", "bootplane", "up", "--data", str(data), *options], cpu=0) as up:
            out = up.process.stdout
            ready = out.readline().decode().split() if out else []
            if not ready or ready[0] != "ready":
                raise SystemExit("bench: bootplane up did not come up")
            region = dict(word.split("=") for word in ready[1:])["region"]
            env = {
                **os.environ,
                "BENCH_TOKEN": (data / "admin-token").read_text().strip(),
                "BENCH_RACK_SECRET": (data / "rack-token").read_text().split(".")[2],
            }
            locust = [
                sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py")), "--headless",
                "-u", str(USERS), "-r", str(USERS), "-t", f"{SECONDS}s", "--host", f"http://{region}", "--only-summary",
            ]  # fmt: skip
            before = up.cpu_s()
            status = subprocess.run(locust, env=env, check=False).returncode
            print(f"CPU of region and rack: {up.cpu_s() - before:.2f} s in {SECONDS} s")
            return status


if __name__ == "__main__":
    sys.exit(main())
