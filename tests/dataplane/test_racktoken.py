from __future__ import annotations

from pathlib import Path

import pytest

from bootplane.dataplane import racktoken
from bootplane.dataplane.racktoken import RackToken, TokenError

TOKEN = RackToken("rack-1", "5e" * 32, "ab" * 32)


def test_a_token_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN.line() + "\n")
    assert racktoken.read(path) == TOKEN


def test_a_secret_is_in_no_representation() -> None:
    assert "5e" * 32 not in repr(TOKEN)


@pytest.mark.parametrize("line", ["", "bpr1.rack.secret.key", "bpr2.r." + "5e" * 32 + "." + "ab" * 32, "a.b", "\u00e9"])
def test_a_bad_token_is_one_sentence_that_does_not_show_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "token"
    path.write_text(line)
    with pytest.raises(TokenError) as caught:
        racktoken.read(path)
    assert str(caught.value).startswith(f"rack token file {path}: expected ")
    assert "5e5e" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"nothing: expected a readable file, got No such file"):
        racktoken.read(tmp_path / "nothing")
