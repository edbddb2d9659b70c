from __future__ import annotations

from pathlib import Path

import pytest

from bootplane.dataplane import catalogue, kept
from bootplane.dataplane.catalogue import BlobEntry, CatalogueError, PinnedKey, SigningKey

KEY = SigningKey(bytes(range(32)))
PIN = PinnedKey(KEY.public_hex)
BODY = catalogue.encode(catalogue.build("r", 3, {"a" * 64: BlobEntry(1, "b" * 64)}, {"x": "a" * 64}))


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    assert kept.load(tmp_path / "catalogue", PIN) is None
    kept.save(tmp_path / "catalogue", BODY, KEY.sign_catalogue(BODY))
    found = kept.load(tmp_path / "catalogue", PIN)
    assert found is not None
    assert (found.version, found.names) == (3, {"x": "a" * 64})
    assert [path.name for path in tmp_path.iterdir()] == ["catalogue"]


@pytest.mark.parametrize("at", [0, 10, 140, -1])
def test_a_damaged_file_is_refused_with_its_path(tmp_path: Path, at: int) -> None:
    path = tmp_path / "catalogue"
    kept.save(path, BODY, KEY.sign_catalogue(BODY))
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CatalogueError, match=f"{path}: "):
        kept.load(path, PIN)


def test_one_that_the_disk_cannot_read_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "catalogue").mkdir()
    with pytest.raises(CatalogueError, match=f"{tmp_path}/catalogue: expected a file that can be read, got Is a dir"):
        kept.load(tmp_path / "catalogue", PIN)


def test_a_catalogue_of_another_region_is_refused(tmp_path: Path) -> None:
    kept.save(tmp_path / "catalogue", BODY, SigningKey.generate().sign_catalogue(BODY))
    with pytest.raises(CatalogueError, match="does not match"):
        kept.load(tmp_path / "catalogue", PIN)
