"""Whatever hinders a command that works on the data directory itself is one sentence."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from bootplane.control.cli.beside import one_sentence
from bootplane.control.cli.failure import CliError
from bootplane.control.errors import StartError
from bootplane.dataplane.store import InsufficientSpace


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (StartError("x: expected a, got b"), "x: expected a, got b."),
        (StartError("it ends by itself."), "it ends by itself."),
        (PermissionError(errno.EACCES, "Permission denied", "/srv/x"), "/srv/x: Permission denied."),
        (InsufficientSpace(Path("/s"), 7, 3), "/s: expected 7 bytes free, got 3."),
        (
            OperationalError("SELECT 1", {}, Exception("server closed the connection\n\tunexpectedly")),
            "The region's database says: server closed the connection.",
        ),
    ],
)
def test_an_error_is_its_sentence(error: Exception, sentence: str) -> None:
    with pytest.raises(CliError) as failed, one_sentence():
        raise error
    assert str(failed.value) == sentence


def test_a_bug_shows_itself() -> None:
    with pytest.raises(KeyError), one_sentence():
        raise KeyError("x")
