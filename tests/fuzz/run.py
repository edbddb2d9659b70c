"""Fuzzing with libFuzzer, led by coverage, under AddressSanitizer and UndefinedBehaviorSanitizer.

    python -m tests.fuzz.run                            every target, RUNS[target] inputs each: `make fuzz-smoke`
    python -m tests.fuzz.run --seconds 600 http_head    this one, so long
    python -m tests.fuzz.run --keep                     and what is found is added to the corpus, minimised

Idea: the tree is copied to build/fuzz/ and what is fuzzed (INSTRUMENTED) is built there by clang with its counters;
the other extensions stay plain. libFuzzer comes from clang's library as a shared object, preloaded before ASan's, so
that the counters of every extension are its own. driver.pyx calls its loop; targets/ say what must hold of any input.

An input that makes a check fail, a sanitizer report or the process stand still is printed as a line for the corpus: put
there, it is a test of every quick run from then on (test_corpus.py), without clang.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from tests.fakes import processgroup
from tests.fuzz import corpus
from tests.sanitizers import run as sanitizers

TREE = sanitizers.ROOT / "build" / "fuzz"
CLANGS = ("clang", *(f"clang-{version}" for version in range(22, 13, -1)))
INSTRUMENTED = ("http_head", "http_range", "http_exchange", "tftp_packet", "tftp_transfer", "table")
#: inputs of one smoke; each about 6 s of one CPU
RUNS = {
    "http_head": 100_000,
    "http_range": 200_000,
    "tftp_packet": 150_000,
    "name": 150_000,
    "http_exchange": 30_000,
    "tftp_transfer": 12_000,
}
REPORT_LINES = 60


class Result(NamedTuple):
    """*status* 0: nothing was found; else *text* says what, and *inputs* make it happen again."""

    status: int
    text: str
    inputs: list[bytes]


def clang() -> str | None:
    """The clang that has a libFuzzer; None when none is installed."""
    for name in CLANGS:
        if (path := shutil.which(name)) and library(path, "fuzzer_no_main", "a").exists():
            return path
    return None


def library(compiler: str, name: str, suffix: str) -> pathlib.Path:
    command = [compiler, "-print-resource-dir"]
    folder = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return pathlib.Path(folder, "lib", "linux", f"libclang_rt.{name}-{os.uname().machine}.{suffix}")


def build(tree: pathlib.Path, compiler: str, only: Sequence[str] = INSTRUMENTED) -> None:
    """Builds the instrumented extensions of *tree*, libFuzzer and the driver."""
    cc = f"ccache {compiler}" if shutil.which("ccache") else compiler
    environment = os.environ | {
        "CC": cc, "BOOTPLANE_SANITIZE": "fuzzer", "BOOTPLANE_ONLY": " ".join(only), "PYTHONPATH": str(tree),
    }  # fmt: skip
    engine = [compiler, "-shared", "-o", str(tree / "libfuzzer.so"), "-Wl,--whole-archive"]
    engine += [str(library(compiler, "fuzzer_no_main", "a")), "-Wl,--no-whole-archive", "-lstdc++", "-lpthread", "-lm"]
    here = tree / "tests" / "fuzz"
    driver = [compiler, "-O1", "-g1", "-fPIC", "-shared", "-w", "-D_GNU_SOURCE", "-I", sysconfig.get_path("include")]
    driver += ["-o", str(here / f"driver{sysconfig.get_config_var('EXT_SUFFIX')}"), str(here / "driver.c")]
    for command in (
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        engine,
        [sys.executable, "-m", "cython", "-3", "-I", str(tree), str(here / "driver.pyx")],
        driver,
    ):
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"fuzz: {' '.join(command)}\n{done.stdout}\n{done.stderr}")


def prepared(compiler: str) -> pathlib.Path:
    """The copy of the tree as it stands, built for fuzzing."""
    sanitizers.copied(TREE)
    for source in (sanitizers.ROOT / "core").glob("*.so"):
        target = TREE / "core" / source.name
        is_plain = source.name.partition(".")[0] not in INSTRUMENTED
        if is_plain and not (target.exists() and target.stat().st_mtime >= source.stat().st_mtime):
            shutil.copy2(source, target)
    build(TREE, compiler)
    return TREE


def fuzz(tree: pathlib.Path, compiler: str, name: str, folder: pathlib.Path, *arguments: str) -> Result:
    """libFuzzer on one target with *arguments*, in a process of its own. New inputs go to *folder*."""
    target, found = corpus.target(name), folder.with_name(f"{folder.name}-found")
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir(parents=True)
    words = folder.with_name(f"{folder.name}.words")
    words.write_text("".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.WORDS))
    asan = library(compiler, "asan", "so")
    environment = os.environ | {
        "LD_PRELOAD": f"{tree / 'libfuzzer.so'} {asan}",
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.fuzz.one", name, f"-artifact_prefix={found}/", f"-max_len={target.MAX_LEN}"]
    command += [f"-dict={words}", "-timeout=20", "-print_final_stats=1", *arguments]
    done = processgroup.run(command, cwd=tree, env=environment, preexec_fn=sanitizers.fixed_addresses)
    inputs = [path.read_bytes() for path in sorted(found.iterdir())]
    return Result(done.returncode, done.stderr, inputs)


def unpacked(inputs: Sequence[bytes], folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir(parents=True)
    for at, data in enumerate(inputs):
        (folder / f"{at:04}").write_bytes(data)
    return folder


def merged(tree: pathlib.Path, compiler: str, name: str, folder: pathlib.Path) -> list[bytes]:
    """Of all inputs in *folder*, those that reach something more than shorter ones."""
    small = folder.with_name(f"{folder.name}-small")
    small.mkdir()
    result = fuzz(tree, compiler, name, folder, "-merge=1", str(small), str(folder))
    if result.status:
        raise SystemExit(result.text)
    return [path.read_bytes() for path in small.iterdir()]


def statistics(text: str) -> str:
    numbers = dict(line.split()[-2:] for line in text.splitlines() if line.startswith("stat::"))
    cover = [line for line in text.splitlines() if " cov: " in line][-1].partition(" cov: ")[2].split()[0]
    ran, seconds = numbers["stat::number_of_executed_units:"], numbers["stat::average_exec_per_sec:"]
    return f"{ran} inputs, {seconds} a second, {cover} places reached"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(corpus.TARGETS)}; all")
    parser.add_argument("--seconds", type=int, help="how long each runs; else a fixed number of inputs")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations; 0: another each time")
    parser.add_argument("--keep", action="store_true", help="add what is found to the corpora, minimised")
    parsed = parser.parse_args()
    if unknown := set(parsed.targets) - set(corpus.TARGETS):
        parser.error(f"expected targets of {', '.join(corpus.TARGETS)}, got {', '.join(sorted(unknown))}")
    compiler = clang()
    if compiler is None:
        sentence = "fuzz: expected clang with its libFuzzer, found none: apt-get install clang libclang-rt-dev"
        if "CI" in os.environ or parsed.seconds:
            raise SystemExit(sentence)
        print(f"{sentence}; left out, only the corpora are replayed by the tests")
        return 0
    tree, failed = prepared(compiler), 0
    for name in parsed.targets or corpus.TARGETS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = unpacked(corpus.read(name), pathlib.Path(scratch, name))
            length = f"-max_total_time={parsed.seconds}" if parsed.seconds else f"-runs={RUNS[name]}"
            result = fuzz(tree, compiler, name, folder, length, f"-seed={parsed.seed}", str(folder))
            if result.status == 0:
                print(f"fuzz: {name}: {statistics(result.text)}", flush=True)
                if parsed.keep:
                    corpus.write(name, merged(tree, compiler, name, folder))
                continue
        failed += 1
        print("\n".join(result.text.splitlines()[-REPORT_LINES:]))
        for data in result.inputs:
            print(f"fuzz: {name}: put this line into tests/fuzz/corpus/{name}.txt:\n{corpus.escaped(data)}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
