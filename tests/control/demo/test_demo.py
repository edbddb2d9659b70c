"""The demo end to end, small: what ``make run`` promises, and that its verdict can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bootplane.control.demo.machines import BOOTED, FAILED, Board, Machine
from bootplane.control.demo.show import boot_times, human, percentile


def demo(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "bootplane", "demo", "--json", "--data", str(tmp_path / "demo"), *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False)


def group_members(folder: Path) -> list[str]:
    """Command lines of processes that still name *folder*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in line:
                found.append(line)
    return found


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_machines_boot_from_one_copy_and_nothing_is_left_running(tmp_path: Path) -> None:
    result = demo(tmp_path, "--machines", "8")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["booted"], summary["failed"], summary["wrong"]) == (8, 0, 0)
    assert round(summary["copies_from_region"], 6) == 1
    assert round(summary["copies_from_source"], 6) == 1
    assert summary["verification_failures"] == 0
    assert group_members(tmp_path) == []


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_damaged_region_is_refused_by_name_and_no_machine_gets_a_wrong_byte(tmp_path: Path) -> None:
    result = demo(tmp_path, "--machines", "4", "--corrupt")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["booted"], summary["failed"], summary["wrong"]) == (0, 4, 0)
    assert summary["verification_failures"] >= 1
    said = " ".join(result.stderr.split())
    assert "the rack refused chunk 17 of blob " in said
    assert " expected " in said and ", got " in said
    assert group_members(tmp_path) == []


def test_rows_of_the_board_are_read_as_they_were_written(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 3, create=True)
    row = Machine(stage=FAILED, wrong=1, tftp_bytes=2, http_bytes=3, files=4, retries=5, seconds=6.5, message="why")
    board.write(1, row)
    assert list(Board(tmp_path / "board", 3).rows()) == [Machine(), row, Machine()]


def test_sums_are_over_machines_that_booted() -> None:
    rows = [Machine(stage=BOOTED, seconds=s) for s in (1.0, 2.0, 3.0)] + [Machine(stage=FAILED, seconds=99.0)]
    assert boot_times(rows) == (2.0, 3.0)
    assert boot_times([]) == (0.0, 0.0)
    assert percentile(list(range(100)), 0.99) == 99
    assert [human(n) for n in (12, 1500, 2_000_000, 3e12)] == ["12 B", "1.5 kB", "2.0 MB", "3000.0 GB"]
