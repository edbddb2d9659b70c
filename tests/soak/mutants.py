"""Planted mistakes: each is built into a private copy of the tree, and the soak must find it, in less than a minute.

    python -m tests.soak.mutants            all of them, one after the other
    python -m tests.soak.mutants fill       those whose name has this word in it

Nothing of the checkout is touched. That the places are there is checked by test_plan.py, in no time.
"""

from __future__ import annotations

import pathlib
import re
import sys
import tempfile
import time
from typing import NamedTuple

from tests.fakes.checkout import Change, Checkout

LIMIT_S = 60
GIVE_UP_S = 600  # quiet points stand the plan's clock still
SEEDS = (4, 5, 6)  # a mistake that one plan does not meet is met by the next


class Mutant(NamedTuple):
    name: str
    changes: tuple[Change, ...]


KEEPS_DESCRIPTORS = """
cdef int kept_fd[4096]
cdef blob_t* kept_blob[4096]
cdef off_t kept_base[4096]
cdef off_t kept_end[4096]


cdef int send_blob(int sock, blob_t* blob, off_t offset, off_t end, off_t budget, int64_t now_ns,
                   pipe_t* pipe, size_t* sent) noexcept nogil:
"""

MUTANTS = [
    Mutant(
        "a fill does not compare the digest",
        (Change("core/lru_steps.pyx", "if status == ST_OK and memcmp(got, expected, 32) != 0:", "if False:"),),
    ),
    Mutant(
        "the file of an evicted segment is used again for the next one, in place",
        (
            Change(
                "core/segment_file.pyx",
                "    int mkdirat(int dirfd, const char* path, unsigned int mode)\n",
                "    int mkdirat(int dirfd, const char* path, unsigned int mode)\n\n"
                'cdef extern from "<stdio.h>" nogil:\n'
                "    int renameat(int olddir, const char* old, int newdir, const char* new)\n",
            ),
            Change(
                "core/segment_file.pyx",
                "        fd = openat(sub, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)\n",
                '        if renameat(dirfd, b"spare", sub, name) == 0:\n'
                "            fd = openat(sub, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC)\n"
                "        else:\n"
                "            fd = openat(sub, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600)\n",
            ),
            Change(
                "core/segment_file.pyx",
                "    if unlinkat(dirfd, path, 0) != 0 and errno != ENOENT:\n",
                '    if renameat(dirfd, path, dirfd, b"spare") != 0 and errno != ENOENT:\n',
            ),
        ),
    ),
    Mutant(
        "a sender drops its reference and keeps the descriptor for its next turn",
        (
            Change(
                "core/sender.pyx",
                "\ncdef int send_blob(int sock, blob_t* blob, off_t offset, off_t end, off_t budget, int64_t now_ns,\n"
                "                   pipe_t* pipe, size_t* sent) noexcept nogil:\n",
                KEEPS_DESCRIPTORS,
            ),
            Change(
                "core/sender.pyx",
                "        status = blob_span(blob, offset, now_ns, &seg, &run)\n        if status != ST_OK:\n",
                "        if sock < 4096 and kept_blob[sock] == blob and kept_base[sock] <= offset < kept_end[sock]:\n"
                "            run = min(kept_end[sock], end) - offset\n"
                "            status = send_file(sock, kept_fd[sock], offset - kept_base[sock], <size_t>run, &n)\n"
                "            sent[0] += n\n"
                "            offset += <off_t>n\n"
                "            if status != ST_OK:\n"
                "                return status\n"
                "            continue\n"
                "        status = blob_span(blob, offset, now_ns, &seg, &run)\n"
                "        if status == ST_OK and sock < 4096 and seg.fd >= 0:\n"
                "            kept_blob[sock], kept_fd[sock] = blob, seg.fd\n"
                "            kept_base[sock], kept_end[sock] = seg.base, offset + run\n"
                "        if status != ST_OK:\n",
            ),
        ),
    ),
    Mutant(
        "what an earlier run left unchecked counts as present",
        (
            Change(
                "core/segments.pyx",
                "        while end < found.length and bp_load_u8(&found.state[chunk]) == CHUNK_PRESENT:\n",
                "        while end < found.length and bp_load_u8(&found.state[chunk]) in (CHUNK_PRESENT, 3):\n",
            ),
        ),
    ),
    Mutant(
        "a body that cannot go on ends cleanly",
        (
            Change(
                "core/http_exchange.pyx",
                "    exchange_record(x, scene, OUTCOME_CUT)\n    let_go(x, scene)\n"
                "    x.state = EXCHANGE_ENDED\n    return DO_RESET\n",
                "    exchange_record(x, scene, OUTCOME_CUT)\n    let_go(x, scene)\n"
                "    x.state = EXCHANGE_ENDED\n    return DO_CLOSE\n",
            ),
        ),
    ),
    Mutant(
        "a file that somebody touched while the rack was down is trusted after a clean end",
        (Change("core/kept_segments.pyx", "    ctime_ns = record.ctime_ns\n", "    ctime_ns = status.st_ctime_ns\n"),),
    ),
    Mutant(
        "a chunk that was given back counts as present",
        (
            Change(
                "core/lru_steps.pyx",
                "        bp_store_u8(&seg.state[within], CHUNK_ABSENT)\n        c.refused_chunks",
                "        bp_store_u8(&seg.state[within], CHUNK_PRESENT)\n        c.refused_chunks",
            ),
        ),
    ),
    Mutant(
        "a sender that the kernel stops keeps its reference (a leaked pin)",
        (
            Change(
                "core/sender.pyx",
                "        segment_release(seg)         # taken by blob_span\n",
                "        if status != ST_AGAIN:\n            segment_release(seg)\n",
            ),
        ),
    ),
    Mutant(
        "a closed segment stays condemned",
        (Change("core/lru_steps.pyx", "    c.condemned -= seg.charge\n", "    pass\n"),),
    ),
    Mutant(
        "what is evicted no longer counts while it is open",
        (
            Change("core/lru_steps.pyx", "    c.condemned -= seg.charge\n", "    pass\n"),
            Change("core/lru_steps.pyx", "    c.condemned += seg.charge\n", ""),
            Change("core/segments.pyx", "            close(seg.fd)\n", "            pass\n"),
        ),
    ),
    Mutant(
        "an eviction forgets to unlink",
        (
            Change(
                "core/segment_file.pyx",
                "    if unlinkat(dirfd, path, 0) != 0 and errno != ENOENT:\n",
                "    if False:\n",
            ),
        ),
    ),
]


def soak(copy: Checkout, seed: int) -> tuple[str, float]:
    """(the sentence, seconds until it was found); "": all was right."""
    profile = ["--profile", "short", "--seed", str(seed), "--seconds", str(LIMIT_S)]
    done = copy.run("-m", "tests.soak", *profile, "--directory", str(copy.root.parent), timeout_s=GIVE_UP_S)
    found = re.search(r"soak: FAILED after ([0-9.]+) s: (.*)", done.stdout)
    if done.returncode != (1 if found else 0):
        raise SystemExit(f"the soak cannot be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return (found[2], float(found[1])) if found else ("", 0.0)


def find(copy: Checkout, mutant: Mutant) -> tuple[str, float, int]:
    """(the sentence or "", seconds, seed) of the mutant."""
    with copy.changed(mutant.changes):
        for seed in SEEDS:
            sentence, seconds = soak(copy, seed)
            if sentence:
                return sentence, seconds, seed
    return "", 0.0, 0


def main(arguments: list[str]) -> int:
    word = arguments[0] if arguments else ""
    chosen = [mutant for mutant in MUTANTS if word in mutant.name]
    found = 0
    with tempfile.TemporaryDirectory(prefix="bootplane-mutants-") as folder:
        copy = Checkout(pathlib.Path(folder))
        for mutant in chosen:
            began = time.monotonic()
            sentence, seconds, seed = find(copy, mutant)
            in_time = bool(sentence) and seconds < LIMIT_S and seed == SEEDS[0]
            found += in_time
            verdict = f"found in {seconds:4.1f} s" if sentence else "NOT FOUND"
            print(f"{verdict}, seed {seed} ({time.monotonic() - began:.0f} s in all): {mutant.name}", flush=True)
            print(f"    {sentence[:200]}", flush=True)
    print(f"{found} of {len(chosen)} mutants found by the first plan in less than {LIMIT_S} s")
    return int(found < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
