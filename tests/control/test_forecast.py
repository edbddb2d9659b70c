from __future__ import annotations

import json
from typing import Any

from bootplane.control.forecast import Forecast, Share, Wanted, forecast
from bootplane.dataplane import cachereport

MIB = 1 << 20
KERNEL, ROOT, OLD, OLDER = (letter * 64 for letter in "abcd")
STORM = [Wanted("boot-kernel", KERNEL, 10 * MIB), Wanted("squashfs", ROOT, 100 * MIB)]


def told(
    limit: int, charged: int, present: dict[str, int], leaving: list[tuple[str, int]], **more: int
) -> cachereport.CacheReport:
    """What a rack says; *present*: bytes of each file, *leaving*: (sha256 or "", bytes), the first to go first."""
    files: list[dict[str, Any]] = [
        {"name": f"name of {sha256[0]}", "sha256": sha256, "size": 200 * MIB, "present_bytes": here}
        for sha256, here in present.items()
    ]
    places = {sha256: place for place, sha256 in enumerate(present)}
    beat = {
        "cache": {"limit_bytes": limit, "charged_bytes": charged},
        "cache_report": {
            "files": files,
            "files_total": len(files),
            "leaving": [[places.get(sha256, -1), size] for sha256, size in leaving],
            **more,
        },
    }
    found = cachereport.parse(json.loads(json.dumps(beat)))
    assert found is not None
    return found


def evicted(found: Forecast) -> list[tuple[str, int]]:
    return [(share.name, share.bytes) for share in found.evicted]


def test_what_is_here_is_not_fetched_and_what_fits_pushes_nothing_out() -> None:
    report = told(500 * MIB, 60 * MIB, {ROOT: 60 * MIB}, [(ROOT, 60 * MIB)])
    found = forecast(STORM, report)
    assert (found.size, found.present_bytes, found.needed_bytes) == (110 * MIB, 60 * MIB, 50 * MIB)
    assert (found.free_bytes, found.evicted, found.short_bytes) == (440 * MIB, (), 0)
    assert found.files == (
        Share("boot-kernel", KERNEL, 10 * MIB, 0),
        Share("squashfs", ROOT, 100 * MIB, 60 * MIB),
    )


def test_an_image_that_is_here_whole_costs_nothing() -> None:
    report = told(120 * MIB, 120 * MIB, {ROOT: 100 * MIB, KERNEL: 10 * MIB}, [(ROOT, 100 * MIB), (KERNEL, 10 * MIB)])
    found = forecast(STORM, report)
    assert (found.needed_bytes, found.evicted, found.short_bytes) == (0, (), 0)


def test_room_is_made_in_the_order_of_eviction_and_the_images_own_files_stay() -> None:
    leaving = [(OLDER, 8 * MIB), (ROOT, 20 * MIB), (OLD, 4 * MIB), (OLDER, 12 * MIB), (OLD, 500 * MIB)]
    report = told(200 * MIB, 170 * MIB, {OLD: 130 * MIB, ROOT: 20 * MIB, OLDER: 20 * MIB}, leaving)
    found = forecast(STORM, report)
    assert found.free_bytes == 30 * MIB and found.needed_bytes == 90 * MIB
    assert evicted(found) == [("name of d", 20 * MIB), ("name of c", 40 * MIB)]
    assert sum(share.bytes for share in found.evicted) == found.needed_bytes - found.free_bytes
    assert found.evicted[0].size == 200 * MIB and found.short_bytes == 0


def test_what_does_not_fit_is_said_and_files_nobody_names_count_as_others() -> None:
    found = forecast(STORM, told(40 * MIB, 40 * MIB, {OLD: 8 * MIB}, [(OLD, 8 * MIB), ("", 16 * MIB)]))
    assert evicted(found) == [("name of c", 8 * MIB), ("", 16 * MIB)]
    assert (found.short_bytes, found.free_bytes) == (110 * MIB - 24 * MIB, 0)


def test_two_names_of_one_file_are_fetched_once() -> None:
    found = forecast([*STORM, Wanted("root", ROOT, 100 * MIB)], told(500 * MIB, 0, {}, []))
    assert found.needed_bytes == 110 * MIB


def test_a_cache_over_its_limit_has_no_room_and_not_less_than_none() -> None:
    assert forecast(STORM, told(8 * MIB, 40 * MIB, {}, [])).free_bytes == 0


def test_a_rack_that_reads_the_regions_store_fetches_only_what_its_cache_has_begun() -> None:
    found = forecast(STORM, told(500 * MIB, 60 * MIB, {ROOT: 60 * MIB}, [], in_place_files=7))
    assert (found.present_bytes, found.in_place_bytes, found.needed_bytes) == (60 * MIB, 10 * MIB, 40 * MIB)
    whole = forecast(STORM, told(0, 0, {}, [], in_place_files=7))
    assert (whole.in_place_bytes, whole.needed_bytes, whole.short_bytes, whole.evicted) == (110 * MIB, 0, 0, ())


def test_a_file_that_was_not_told_is_not_taken_for_one_in_the_store_while_others_were_not_told_either() -> None:
    found = forecast(STORM, told(500 * MIB, 60 * MIB, {ROOT: 60 * MIB}, [], in_place_files=7, files_total=51))
    assert (found.in_place_bytes, found.needed_bytes) == (0, 50 * MIB)
