r"""The corpora: one text file per target, one input a line, in Python's notation for bytes.

    # requests of real firmware, recorded          a remark, kept where it stands
    GET / HTTP/1.1\r\n\r\n
    \x00\x01a\x00octet\x00

Invariant: ``read(write(inputs)) == inputs``. What an input means is its target's; finding new ones is run.py's.
"""

from __future__ import annotations

import ast
import importlib
import pathlib
from collections.abc import Iterable
from typing import Protocol

FOLDER = pathlib.Path(__file__).parent / "corpus"
TARGETS = ("http_head", "http_range", "tftp_packet", "name", "http_exchange", "tftp_transfer")
FOUND = "# found by the fuzzer: each reaches something that none of the others does"


class Target(Protocol):
    """A module of targets/: the longest input worth trying, words that mean something in it, and what must hold."""

    MAX_LEN: int
    WORDS: list[bytes]

    @staticmethod
    def check(data: bytes) -> None: ...


def target(name: str) -> Target:
    return importlib.import_module(f"tests.fuzz.targets.{name}")  # type: ignore[return-value]


def escaped(data: bytes) -> str:
    """*data* as one line: printable ASCII as it is, the rest in escapes. A "#" in front is escaped: it is a remark."""
    text = repr(b'"' + data)[3:-1]  # with a " in it, repr always chooses ' around it
    return "\\x23" + text[1:] if text.startswith("#") else text


def unescaped(line: str) -> bytes:
    data = ast.literal_eval(f"b'{line}'")
    assert isinstance(data, bytes)
    return data


def read(name: str) -> list[bytes]:
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    return [unescaped(line) for line in lines if not line.startswith("#")]


def by_hand(name: str) -> list[bytes]:
    """Those of the corpus that no fuzzer has found."""
    lines = (FOLDER / f"{name}.txt").read_text().partition(FOUND)[0].splitlines()
    return [unescaped(line) for line in lines if not line.startswith("#")]


def write(name: str, inputs: Iterable[bytes]) -> None:
    """Makes the corpus of *name* these inputs. Remarks, and what stands under one, stay; the rest is sorted."""
    path = FOLDER / f"{name}.txt"
    old = path.read_text().splitlines() if path.exists() else []
    found = next((at for at, line in enumerate(old) if line == FOUND), len(old))
    kept = old[:found]
    new = {escaped(data) for data in inputs} - set(kept)
    path.write_text("\n".join([*kept, FOUND, *sorted(new, key=lambda line: (len(line), line))]) + "\n")
