"""One target under libFuzzer: ``python -m tests.fuzz.one TARGET [options] [folders]``, started by run.py."""

from __future__ import annotations

import os
import sys

from tests.fuzz import corpus, driver  # type: ignore[attr-defined]


def main() -> None:
    name = sys.argv[1]
    itself = f"{sys.executable} -m tests.fuzz.one {name}"  # to merge, libFuzzer starts itself, through a shell
    arguments = [os.fsencode(argument) for argument in (itself, *sys.argv[2:])]
    driver.run(name, corpus.target(name).check, arguments)


if __name__ == "__main__":
    main()
