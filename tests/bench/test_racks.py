"""The rack that is measured: what it is filled with, and that its cache is full of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bench.racks import FILLER_BYTES, Region, digest_of, fillers, full_rack, source
from bootplane.core import http_load
from tests.fakes.region import chunks_of

MIB = 1 << 20
CPU = max(os.sched_getaffinity(0))


def test_a_file_is_described_by_its_digests(tmp_path: Path) -> None:
    data = os.urandom(2 * MIB + 5)
    (tmp_path / "file").write_bytes(data)
    file = digest_of(tmp_path, "file")
    assert (file.size, file.sha256, file.chunks) == (len(data), hashlib.sha256(data).hexdigest(), chunks_of(data))
    assert file.charge == 2 * MIB + 4096


@pytest.mark.parametrize("total", [MIB, 3 * MIB + 4096])
def test_a_filler_is_a_hole_whose_chunk_list_is_right(tmp_path: Path, total: int) -> None:
    (file,) = fillers(tmp_path / "holes", total)
    path = tmp_path / "holes" / file.sha256
    assert file.chunks == chunks_of(path.read_bytes())
    assert (file.size, file.charge) == (total, total)
    assert path.stat().st_blocks * 512 <= 65536


def test_fillers_add_up_and_none_is_like_another(tmp_path: Path) -> None:
    found = fillers(tmp_path / "holes", 2 * FILLER_BYTES + MIB)
    assert [file.size for file in found] == [FILLER_BYTES, FILLER_BYTES, MIB]
    assert len({file.sha256 for file in found}) == len({file.chunks[:32] for file in found}) == 3


def test_a_region_tells_chunk_lists_of_what_it_has_signed(tmp_path: Path) -> None:
    (file,) = fillers(tmp_path / "holes", MIB)
    region = Region()
    region.sign([file])
    assert region.chunk_list(file.sha256) == file.chunks
    assert region.chunk_list("0" * 64) is None


@pytest.mark.integration
def test_a_full_rack_serves_what_it_has_filled_and_its_cache_is_full(tmp_path: Path) -> None:
    root, work = tmp_path / "root", tmp_path / "work"
    work.mkdir()
    holes = fillers(root / "holes", 12 * MIB)
    (root / "kernel").write_bytes(os.urandom(5 * MIB + 77))
    kernel = digest_of(root, "kernel")
    with source(root, cpu=CPU) as (_, port), full_rack([*holes, kernel], port, work) as rack:
        numbers = rack.numbers()
        limit = numbers["bootplane_cache_limit_bytes"]
        assert numbers["bootplane_cache_charged_bytes"] == limit == 12 * MIB + kernel.charge
        assert numbers["bootplane_cache_evicted_segments_total"] == 0
        got = http_load.load(
            "127.0.0.1", rack.http, "/kernel", connections=1, verify_every=1, sha256=kernel.sha256
        )  # fmt: skip
        assert (got.verified, got.first_error) == (1, "")
        rack.wait_until_reported()
        assert rack.numbers()["bootplane_fill_upstream_bytes_total"] == 12 * MIB + kernel.size
