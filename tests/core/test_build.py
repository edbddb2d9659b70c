"""The reactor's functions make no Python call: read in the C that Cython generated, not believed.

Every nogil function of the modules that run on reactor threads is searched for calls of the CPython API or of Cython's
helpers for it. A hidden ``with gil``, a missing ``noexcept`` or an object in a signature shows up here.
"""

from __future__ import annotations

import functools
import pathlib
import re

import pytest

CORE = pathlib.Path(__file__).parents[2] / "core"
#: modules whose nogil functions run on reactor threads
REACTOR_MODULES = sorted(
    path.stem
    for path in CORE.glob("*.pyx")
    if path.stem in {"loop", "sender", "table", "mailbox", "records"}
    or (
        path.stem.startswith(("tftp_", "http_", "tls"))
        and not path.stem.endswith(("_load", "_fetch", "_client", "_alone"))
    )
)
PYTHON_CALL = re.compile(r"\b(_?Py[A-Z_]\w*|__Pyx_\w+|__pyx_[fp]w_\w+)\s*\(")
#: macros and inlines of Cython that touch no interpreter state
HARMLESS = re.compile(r"^(__Pyx_(?:RefNanny\w*|TraceFrameInit)|Py_UNUSED|__Pyx_C(?:_|Imag|Real)\w*)$")


@functools.cache
def functions(module: str) -> dict[str, str]:
    """name -> body of every C function of *module* whose Cython name is cdef."""
    text = re.sub(r"/\*.*?\*/", "", (CORE / f"{module}.c").read_text(), flags=re.DOTALL)
    found = {}
    head = re.compile(
        rf"^static [^;{{]*?\b(__pyx_f_9bootplane_4core_{len(module)}{module}_\w+)\([^;{{]*\) {{$", re.MULTILINE
    )
    for match in head.finditer(text):
        end = text.index("\n}\n", match.end())
        found[match[1].split(f"{len(module)}{module}_", 1)[1]] = text[match.end() : end]
    return found


def nogil_names(module: str) -> set[str]:
    """cdef functions declared ``noexcept nogil`` in the module's .pyx."""
    text = (CORE / f"{module}.pyx").read_text()
    return set(re.findall(r"^cdef [^\n(=]*?(\w+)\((?:[^()]|\([^()]*\))*\) noexcept nogil:", text, re.MULTILINE))


@pytest.mark.parametrize("module", REACTOR_MODULES)
def test_reactor_functions_make_no_python_call(module: str) -> None:
    bodies, declared = functions(module), nogil_names(module)
    assert declared, f"{module}.pyx declares no noexcept nogil function"
    missing = declared - bodies.keys()
    assert not missing, f"{module}.c has no body of {missing}: is the build older than the source?"
    calls = {
        name: sorted(bad)
        for name in declared
        if (bad := {call for call in PYTHON_CALL.findall(bodies[name]) if not HARMLESS.match(call)})
    }
    assert not calls, f"{module}: Python calls in reactor functions: {calls}"


def test_the_segments_a_reactor_touches_make_no_python_call() -> None:
    bodies = functions("segments")
    for name in ("blob_span", "segment_acquire", "segment_release", "blob_retain", "blob_release"):
        assert not [call for call in PYTHON_CALL.findall(bodies[name]) if not HARMLESS.match(call)], name


def test_the_search_sees_a_python_call() -> None:
    body = functions("status")["check"]
    assert PYTHON_CALL.findall(body), "check() builds exceptions: the search must find Python calls in it"


def test_nothing_is_included_or_imported_by_star() -> None:
    for path in (*CORE.glob("*.pyx"), *CORE.glob("*.pxd")):
        text = path.read_text()
        assert not re.search(r"^\s*include |c?import \*", text, re.MULTILINE), path.name
