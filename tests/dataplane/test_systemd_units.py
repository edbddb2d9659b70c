"""The units of docs/howto/systemd.md are such that systemd takes them, and name options that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOWTO = Path(__file__).resolve().parents[2] / "docs" / "howto" / "systemd.md"
UNITS = [text for text in re.findall(r"```ini\n(.*?)```", HOWTO.read_text(), re.DOTALL) if "[Unit]" in text]


def test_the_rack_unit_names_options_that_there_are() -> None:
    from bootplane.dataplane.rack import _options

    (line,) = re.findall(r"^ExecStart=/usr/bin/bootplane rack (.*)$", UNITS[1], re.MULTILINE)
    assert _options(line.split()).region == "http://REGION:5240"


@pytest.mark.integration
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    names = ["bootplane-rack.socket", "bootplane-rack.service", "bootplane-region.service"]
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
