"""A short soak with a fixed seed, as ``make soak`` runs a long one with a new seed each time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fakes import processgroup


@pytest.mark.integration
@pytest.mark.timeout(400)
def test_a_short_soak_finds_nothing_wrong(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.soak", "--profile", "short", "--seed", "4", "--directory", str(tmp_path)]
    done = processgroup.run(command, timeout_s=380)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
