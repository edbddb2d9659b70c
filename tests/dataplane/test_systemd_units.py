"""The units of docs/howto/systemd.md are such that systemd takes them, and name options that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from bootplane.control.cli.main import app

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto" / "systemd.md"
UNITS = [text for text in re.findall(r"```ini\n(.*?)```", HOWTO.read_text(), re.DOTALL) if "[Unit]" in text]


@pytest.mark.parametrize(("unit", "command"), [(1, "rack"), (2, "region"), (3, "up")])
def test_the_units_name_options_that_there_are(unit: int, command: str) -> None:
    (line,) = re.findall(rf"^ExecStart=/usr/bin/bootplane {command} (.*)$", UNITS[unit], re.MULTILINE)
    context = get_command(app).commands[command].make_context(command, line.split())  # type: ignore[attr-defined]
    assert context.params["data"] == Path("${STATE_DIRECTORY}")


def test_a_site_that_is_told_to_end_is_told_once() -> None:
    """Told by systemd and by ``up``, the rack would take the second SIGTERM for "now"."""
    assert [text for text in UNITS if "bootplane up " in text and "\nKillMode=mixed\n" in text] == UNITS[3:]


@pytest.mark.integration
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    names = ["bootplane-rack.socket", "bootplane-rack.service", "bootplane-region.service", "bootplane.service"]
    for name, text in zip(names, UNITS, strict=True):
        (tmp_path / name).write_text(text.replace("/usr/bin/bootplane", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    ours = [line for line in done.stderr.splitlines() if "bootplane" in line or str(tmp_path) in line]
    assert ours == [], done.stderr
