"""The tree is the architecture: control -> dataplane -> core, and no arrow points back."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
MAY_IMPORT = {"core": {"core"}, "dataplane": {"dataplane", "core"}, "control": {"control", "dataplane", "core"}}
CIMPORT = re.compile(r"^\s*(?:from\s+(bootplane\.[\w.]+)\s+c?import\b|c?import\s+(bootplane\.[\w.]+))", re.MULTILINE)


def python_imports(text: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            found.add("bootplane.relative")
    return found


def imports_of(path: pathlib.Path) -> set[str]:
    text = path.read_text()
    if path.suffix == ".py":
        names = python_imports(text)
    else:
        names = {first or second for first, second in CIMPORT.findall(text)}
    return {name.split(".")[1] for name in names if name.startswith("bootplane.")} - {"__version__"}


def sources(layer: str) -> list[pathlib.Path]:
    return [path for pattern in ("*.py", "*.pyx", "*.pxd") for path in sorted((ROOT / layer).rglob(pattern))]


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_imports_point_one_way(layer: str) -> None:
    files = sources(layer)
    assert files
    wrong = {str(path.relative_to(ROOT)): extra for path in files if (extra := imports_of(path) - MAY_IMPORT[layer])}
    assert not wrong, f"{layer} may import {MAY_IMPORT[layer]}: {wrong}"


def test_the_check_sees_a_wrong_arrow(tmp_path: pathlib.Path) -> None:
    for name, text in {
        "a.py": "def f():\n    from bootplane.control.app import build\n",
        "b.pyx": "from bootplane.dataplane.fill cimport x\n",
        "c.py": "from bootplane import control\n",
    }.items():
        (tmp_path / name).write_text(text)
        assert imports_of(tmp_path / name) - MAY_IMPORT["core"], name


def test_each_layer_refuses_to_be_imported_under_another_name() -> None:
    for layer in MAY_IMPORT:
        assert f'if __name__ != "bootplane.{layer}"' in (ROOT / layer / "__init__.py").read_text()


def test_extensions_link_nothing_but_libc() -> None:
    modules = sorted((ROOT / "core").glob("*.so"))
    assert modules
    allowed = {b"libc.so.6", b"libpthread.so.0", b"libdl.so.2"}
    for module in modules:
        names = set(re.findall(rb"\0(lib[\w+.-]*\.so[\w.]*)(?=\0)", module.read_bytes()))
        linked = {name for name in names if not name.startswith(b"libcrypto")}  # found by dlopen, not linked
        assert linked <= allowed, f"{module.name} names {linked - allowed}"
