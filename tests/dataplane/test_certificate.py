"""What is said of a certificate, and when machines refuse it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bootplane.dataplane.certificate import CertificateError, day, read
from tests.fakes.tls import write_pair

DAY_S = 24 * 3600.0


@pytest.mark.parametrize(
    ("days", "names", "words"),
    [
        ((-1, 90), ("10.0.0.2", "2001:db8::2"), ""),
        ((-1, 13), ("10.0.0.2",), "it expires at "),
        ((-9, -1), ("10.0.0.2",), "it has expired at "),
        ((1, 90), ("10.0.0.2",), "it is valid from "),
        ((-1, 90), (), "it has no subjectAltName"),
    ],
)
def test_what_machines_hold_against_it_is_said(
    tmp_path: Path, days: tuple[float, float], names: tuple[str, ...], words: str
) -> None:
    now = time.time()
    found = read(write_pair(tmp_path, days=days, names=names)[0])
    assert found.names == names
    assert found.begins == pytest.approx(now + days[0] * DAY_S, abs=60)
    assert found.ends == pytest.approx(now + days[1] * DAY_S, abs=60)
    complaint = found.complaint(now)
    assert complaint.startswith(words) and bool(complaint) is bool(words)


def test_a_file_that_holds_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"/nowhere: expected a readable file, got No such file or directory$"):
        read("/nowhere")
    path = tmp_path / "key"
    for text in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        path.write_bytes(text)
        with pytest.raises(CertificateError, match="expected a certificate in PEM, got something else"):
            read(path)


def test_a_time_is_told_in_utc_to_the_minute() -> None:
    assert day(1_795_000_000) == "2026-11-18T11:06Z"
