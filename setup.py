"""Builds the extensions: one per core/*.pyx.

BOOTPLANE_ONLY="blob lru"      build just these modules (their .pxd must be there, the others may be broken)
BOOTPLANE_DEBUG=1              bounds checks, assertions and reference counts on
BOOTPLANE_SANITIZE=thread      watched by ThreadSanitizer; `address`: by Address- and UndefinedBehaviorSanitizer;
                               `fuzzer`: by these and counted by libFuzzer (clang only). For private copies of the
                               tree (tests/sanitizers/run.py, tests/fuzz/run.py): plain Python cannot load it
BOOTPLANE_ANNOTATE=1           write Cython's annotated HTML beside each module
Uses ccache when it is on PATH.
"""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("BOOTPLANE_DEBUG") == "1"
ONLY = os.environ.get("BOOTPLANE_ONLY", "").split()
JOBS = len(os.sched_getaffinity(0))

if "CC" not in os.environ and shutil.which("ccache"):
    os.environ["CC"] = f"ccache {shlex.split(sysconfig.get_config_var('CC') or 'cc')[0]}"

flags = ["-O1", "-g", "-UNDEBUG", "-DBOOTPLANE_DEBUG=1"] if DEBUG else ["-O2", "-g0"]
link_flags: list[str] = []
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "fuzzer": ["-fsanitize=fuzzer-no-link,address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
if sanitize := os.environ.get("BOOTPLANE_SANITIZE"):
    if sanitize not in SANITIZERS:
        raise SystemExit(f"BOOTPLANE_SANITIZE: expected one of {', '.join(SANITIZERS)}, got {sanitize!r}")
    flags = ["-O1", "-g1", "-fno-omit-frame-pointer", "-DBOOTPLANE_DEBUG=1", *SANITIZERS[sanitize]]
    link_flags = SANITIZERS[sanitize][:1] + ["-shared-libasan"] * (sanitize == "fuzzer")

extensions = [
    Extension(
        f"bootplane.core.{pyx.stem}",
        [f"bootplane/core/{pyx.name}"],
        extra_compile_args=[*flags, "-std=c11", "-D_GNU_SOURCE", "-Wno-unreachable-code"],
        extra_link_args=link_flags,
    )
    for pyx in sorted(pathlib.Path(__file__).parent.joinpath("core").glob("*.pyx"))
    if not ONLY or pyx.stem in ONLY
]

setup(
    ext_modules=cythonize(
        extensions,
        nthreads=0 if ONLY else JOBS,
        annotate=os.environ.get("BOOTPLANE_ANNOTATE") == "1",
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    ),
)
