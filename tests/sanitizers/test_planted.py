"""Each sanitizer reports a planted mistake: one place is changed in a copy of its tree, and one test is run there.

Left to others: that nothing is reported in the code as it stands (run.py).
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.sanitizers import run


def builds_a_tree(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.sanitize(pytest.mark.integration(pytest.mark.timeout(400)(test)))


class Mistake(NamedTuple):
    """*before* stands once in ``core/<module>.pyx``; *report* is what the sanitizer calls it."""

    what: str
    sanitizer: str
    module: str
    before: str
    after: str
    test: str
    report: str


MISTAKES = [
    Mistake(
        "a buffer one byte too short",
        "address",
        "lru_recheck",
        "malloc(n)",
        "malloc(n - 1)",
        "tests/core/test_cache_restart.py::TestUnclean::test_a_wrong_chunk_takes_its_segment_with_it_and_readers_keep_theirs",
        "heap-buffer-overflow",
    ),
    Mistake(
        "a cache that is looked at after its memory was given back",
        "address",
        "lru_steps",
        "    free(c)\n    bp_add_int(&alive, -1)\n",
        "    free(c)\n    bp_add_int(&alive, -1 if c.refs == 0 else 0)\n",
        "tests/core/test_lru.py",
        "heap-use-after-free",
    ),
    Mistake(
        "a shift by more bits than there are",
        "address",
        "tftp_deadlines",
        "at_ns >> TICK_SHIFT",
        "at_ns >> (TICK_SHIFT + 64)",
        "tests/core/test_tftp_deadlines.py",
        "runtime error: shift exponent",
    ),
    Mistake(
        "numbers that are read without the lock under which they are written",
        "thread",
        "lru_steps",
        "    pthread_mutex_lock(&c.lock)\n    out.limit = c.limit\n",
        "    pthread_mutex_lock(&c.lock)\n    pthread_mutex_unlock(&c.lock)\n    out.limit = c.limit\n",
        "tests/core/test_lru_threads.py",
        "data race",
    ),
    Mistake(
        "a chunk that is published by a plain store",
        "thread",
        "lru_steps",
        "bp_store_u8(&seg.state[within], CHUNK_PRESENT)",
        "seg.state[within] = CHUNK_PRESENT",
        "tests/core/test_lru_threads.py",
        "data race",
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_the_place_of_a_mistake_is_there_once(mistake: Mistake) -> None:
    """In the quick tests: whoever changes the place sees it, and not the next run of the sanitizers."""
    assert (run.ROOT / "core" / f"{mistake.module}.pyx").read_text().count(mistake.before) == 1


@builds_a_tree
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_planted_mistake_is_reported(mistake: Mistake, tmp_path: pathlib.Path) -> None:
    built = run.prepared(mistake.sanitizer)
    tree = tmp_path / "tree"
    shutil.copytree(built, tree, symlinks=True, ignore=shutil.ignore_patterns("build", "docs", "reports"))
    source = tree / "core" / f"{mistake.module}.pyx"
    source.write_text(source.read_text().replace(mistake.before, mistake.after))
    run.build(tree, mistake.sanitizer, only=mistake.module)
    status, reports = run.run(tree, mistake.sanitizer, ["-x", mistake.test])
    shown = "\n".join(reports)
    assert mistake.report in shown and f"core/{mistake.module}.c" in shown, (
        shown or f"nothing reported, status {status}"
    )


# Calls of two threads race when one takes the GIL while the other is in memset: a hundred may be over before that.
CHILDS = {
    "address": "memset(malloc(8), 1, 9)",
    "thread": """
buffer, start = malloc(8), threading.Barrier(2)
write = lambda: (start.wait(), [memset(buffer, 1, 8) for _ in range(20_000)])
threads = [threading.Thread(target=write) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
""",
}


@builds_a_tree
@pytest.mark.parametrize("sanitizer", run.LIBRARIES)
def test_what_is_reported_of_a_child_nobody_looks_at_is_counted(sanitizer: str, tmp_path: pathlib.Path) -> None:
    head = "import ctypes, threading\nlibc = ctypes.CDLL(None)\nmalloc, memset = libc.malloc, libc.memset\n"
    head += "malloc.restype = ctypes.c_void_p\nmemset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]\n"
    test = tmp_path / "test_child.py"
    test.write_text(
        "import subprocess, sys\n"
        f"def test_child():\n    subprocess.run([sys.executable, '-c', {head + CHILDS[sanitizer]!r}], check=False)\n"
    )
    tree = run.prepared(sanitizer)
    status, reports = run.run(tree, sanitizer, ["-c", str(tree / "pyproject.toml"), str(test)])
    assert (status, len(reports)) == (0, 1)
    assert "memset" in reports[0]
