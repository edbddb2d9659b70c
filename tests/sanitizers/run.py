"""The tests under AddressSanitizer (with UndefinedBehaviorSanitizer) or under ThreadSanitizer.

    python -m tests.sanitizers.run address            what `make sanitize` runs: core's and dataplane's quick tests
    python -m tests.sanitizers.run thread             the same for data races
    python -m tests.sanitizers.run thread --full      and those that take minutes or start processes
    python -m tests.sanitizers.run thread tests/core/test_lru.py -k close      or these, as pytest is told

Idea: no plain Python can load an instrumented extension, so the tree is copied to build/sanitize-NAME/ and built there;
the build in place stays as it is. Python itself is not instrumented: the sanitizer's library comes first by LD_PRELOAD.
Its malloc, mutexes and threads are the library's then, and our own loads and stores are in our extensions: enough.

A report anywhere fails the run, also one of a child process that a test does not look at: every process writes its
reports to files, and these are counted at the end. (Undefined behaviour ends the process instead, which its test sees.)
What is wrongly reported stands in thread.supp, with the reason.

Left to others: seeing that each of them finds a planted mistake (test_planted.py).
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tests.fakes import processgroup

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
ADDR_NO_RANDOMIZE = 0x0040000  # <sys/personality.h>
#: what the tests read of the tree
COPIED = (
    ".ci",
    "Makefile",
    "README.md",
    "bootplane",
    "control",
    "core",
    "dataplane",
    "docs",
    "pyproject.toml",
    "setup.py",
    "tests",
)
LIBRARIES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
TESTS = ("tests/core", "tests/dataplane", "tests/fuzz")
QUICK = "not integration and not vm and not soak and not sanitize"
REPORT_LINES = 60  # of each report that are shown


def options(sanitizer: str, reports: pathlib.Path) -> dict[str, str]:
    """The environment of every process that runs under *sanitizer*; reports go to files *reports*/PID."""
    log = f"log_path={reports}/{sanitizer}"
    if sanitizer == "address":
        return {
            # Python frees little of what it has when it ends: what our own code leaks is seen by counts() in the tests.
            "ASAN_OPTIONS": f"{log}:detect_leaks=0:detect_stack_use_after_return=1:strict_init_order=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONMALLOC": "malloc",  # or a read beyond a bytes object would be one inside an arena
        }
    return {"TSAN_OPTIONS": f"{log}:suppressions={HERE}/thread.supp:exitcode=66:history_size=4:atexit_sleep_ms=100"}


def library(name: str) -> str:
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not pathlib.Path(found).is_absolute():
        raise SystemExit(f"sanitizers: expected gcc to have {name}, it has not: install libgcc-<version>-dev")
    return os.path.realpath(found)


def copied(tree: pathlib.Path) -> None:
    """Makes *tree* a copy of the checkout. File times stay, so only what changed is built again."""
    tree.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        source, target = ROOT / name, tree / name
        if not source.is_dir():
            shutil.copy2(source, target)
            continue
        for old in sorted(target.rglob("*"), reverse=True) if target.exists() else ():
            is_gone = not (ROOT / old.relative_to(tree)).exists() and old.suffix not in (".so", ".c") and old.is_file()
            if is_gone or old.is_symlink():
                old.unlink()
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.html")
        shutil.copytree(source, target, symlinks=True, ignore=ignored, copy_function=copy_newer, dirs_exist_ok=True)
    for built in (tree / "core").glob("*.so"):
        if not (ROOT / "core" / f"{built.name.partition('.')[0]}.pyx").exists():
            built.unlink()


def copy_newer(source: str, target: str) -> None:
    """Of a generated C file, the newer one stays."""
    old = pathlib.Path(target)
    if not (source.endswith(".c") and old.exists() and old.stat().st_mtime >= pathlib.Path(source).stat().st_mtime):
        shutil.copy2(source, target)


def build(tree: pathlib.Path, sanitizer: str, only: str = "") -> None:
    environment = os.environ | {"BOOTPLANE_SANITIZE": sanitizer, "BOOTPLANE_ONLY": only, "PYTHONPATH": str(tree)}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j", str(len(os.sched_getaffinity(0)))]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"sanitizers: the extensions cannot be built for {sanitizer}:\n{done.stdout}\n{done.stderr}")


def prepared(sanitizer: str) -> pathlib.Path:
    """The copy of the tree as it stands, built for *sanitizer*."""
    tree = ROOT / "build" / f"sanitize-{sanitizer}"
    made_by = f"{sys.version} {sys.executable} {library(LIBRARIES[sanitizer][0])} {(ROOT / 'setup.py').read_text()}"
    stamp, made_by = tree / "made-by", hashlib.sha256(made_by.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != made_by:
        shutil.rmtree(tree, ignore_errors=True)
    copied(tree)
    build(tree, sanitizer)
    stamp.write_text(made_by)
    return tree


def python(tree: pathlib.Path, sanitizer: str, reports: pathlib.Path) -> pathlib.Path:
    """A command that is Python under *sanitizer*. python/sitecustomize.py makes it sys.executable, so that the children
    of a test are watched, too, and takes LD_PRELOAD away: other programs need not work with it (`uptime` hangs)."""
    command = tree / f"python-{sanitizer}"
    settings = options(sanitizer, reports) | {
        "LD_PRELOAD": " ".join(library(name) for name in LIBRARIES[sanitizer]),
        "PYTHONPATH": f"{HERE}/python:{tree}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "BOOTPLANE_SANITIZED_PYTHON": str(command),
    }
    exports = "".join(f"export {name}='{value}'\n" for name, value in settings.items())
    command.write_text(f'#!/bin/sh\n{exports}exec "{sys.executable}" "$@"\n')
    command.chmod(0o755)
    return command


def fixed_addresses() -> None:
    """The sanitizers of gcc 12 cannot start where the kernel scatters mappings widely (vm.mmap_rnd_bits above 28).
    Where this is refused, as in some containers, they are tried as it is."""
    ctypes.CDLL(None).personality(ctypes.c_ulong(ADDR_NO_RANDOMIZE))


def run(tree: pathlib.Path, sanitizer: str, arguments: Sequence[str]) -> tuple[int, list[str]]:
    """pytest with *arguments* in *tree*: its exit status, and the reports of all processes."""
    reports = tree / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    # UndefinedBehaviorSanitizer has no log_path when it comes with the other one: it ends the process, and says why on
    # descriptor 2, which pytest must leave alone for that.
    command = [str(python(tree, sanitizer, reports)), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys"]
    # A test that stands still in our code, or leaves a thread there, ends the run and not only itself.
    command += ["--timeout=300", "-o", "timeout_method=thread", *arguments]
    done = processgroup.run(command, cwd=tree, preexec_fn=fixed_addresses, is_shown=True)
    sys.stderr.write(done.stderr)
    found = [path.read_text(errors="replace") for path in sorted(reports.iterdir())]
    return done.returncode, found + [done.stderr] * ("runtime error:" in done.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sanitizers.run")
    parser.add_argument("sanitizer", choices=LIBRARIES)
    parser.add_argument("--full", action="store_true", help="all of core's and dataplane's tests")
    parsed, arguments = parser.parse_known_args()
    if parsed.full:
        arguments = [*TESTS, "-m", "not vm and not soak and not sanitize", *arguments]
    elif not any(argument.startswith("tests/") for argument in arguments):  # options only, or nothing
        arguments = [*TESTS, "-m", QUICK, *arguments]
    status, reports = run(prepared(parsed.sanitizer), parsed.sanitizer, arguments)
    for report in reports:
        print("\n".join(report.splitlines()[:REPORT_LINES]))
    if reports:
        print(f"sanitizers: {len(reports)} processes were reported by the {parsed.sanitizer} sanitizer")
    return status or bool(reports)


if __name__ == "__main__":
    sys.exit(main())
