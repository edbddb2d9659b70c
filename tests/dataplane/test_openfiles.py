from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bootplane.dataplane.openfiles import mappings_allowed, open_segments


@pytest.mark.parametrize(
    ("files", "mappings", "segments"),
    [
        (20000, 65530, 9968),
        (1024, 65530, 480),
        (256, 65530, 96),
        (1 << 20, 65530, 32765),  # each open one is mapped, too
        (64, 65530, 8),
        (1 << 20, 4, 8),
    ],
)
def test_the_cache_has_half_of_what_is_left_and_the_rest_is_for_connections(
    files: int, mappings: int, segments: int
) -> None:
    assert open_segments(files, mappings) == segments


def test_a_kernel_that_does_not_say_how_many_mappings_it_allows_has_the_usual_number(tmp_path: Path) -> None:
    path = tmp_path / "max_map_count"
    assert mappings_allowed(path) == 65530
    path.write_text("1048576\n")
    assert mappings_allowed(path) == 1048576


def test_the_limit_on_descriptors_is_raised_to_what_is_allowed() -> None:
    program = (
        "import resource; from bootplane.dataplane.openfiles import raise_file_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))\n"
        "print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["300", "300", "300"]
