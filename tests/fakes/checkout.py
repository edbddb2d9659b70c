"""A private copy of the checkout in which mistakes are planted, one after the other; the checkout stays as it is."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.fakes import processgroup

ROOT = pathlib.Path(__file__).parents[2]
BUILD_S = 1800.0


class Change(NamedTuple):
    """*before* stands once in *path*."""

    path: str
    before: str
    after: str


class Checkout:
    """What git knows of and does not ignore, with the extensions as they are built, or built here."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.root = folder / "tree"
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True, text=True,
        ).stdout.split("\0")  # fmt: skip
        built = [str(path.relative_to(ROOT)) for kind in ("*.so", "*.c") for path in (ROOT / "core").glob(kind)]
        for name in [*filter(None, names), *built]:
            if (ROOT / name).exists() or (ROOT / name).is_symlink():
                target = self.root / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target, follow_symlinks=False)
        self.build("")

    def run(
        self, *arguments: str, timeout_s: float | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Python with *arguments*, on the modules of the copy. Raises TimeoutExpired."""
        env = os.environ | {"PYTHONPATH": str(self.root)} | environment
        return processgroup.run([sys.executable, *arguments], cwd=self.root, env=env, timeout_s=timeout_s)

    def build(self, only: str) -> None:
        """*only*: the modules, by a space; "": those that have changed."""
        done = self.run("setup.py", "-q", "build_ext", "--inplace", timeout_s=BUILD_S, BOOTPLANE_ONLY=only)
        if done.returncode:
            raise SystemExit(f"{only or 'the copy'} does not build:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    @contextlib.contextmanager
    def changed(self, changes: Sequence[Change]) -> Iterator[None]:
        """Within it the *changes* are made and built."""
        kept: dict[pathlib.Path, bytes] = {}
        try:
            for change in changes:
                path = self.root / change.path
                kept.setdefault(path, path.read_bytes())
                path.write_text(path.read_text().replace(change.before, change.after))
            modules = [path for path in kept if path.suffix == ".pyx"]
            for module in modules:
                for built in module.parent.glob(f"{module.stem}.*.so"):
                    kept[built] = built.read_bytes()
            if modules:
                self.build(" ".join(module.stem for module in modules))
            yield
        finally:
            for path, data in kept.items():
                path.write_bytes(data)
