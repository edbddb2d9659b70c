"""``python -m tests.soak [--seed N] [--seconds S] [--profile full|short] [--plan]``: see README.md of the tests.

Exits 0 with a summary, or 1 with one sentence, what was done last, and the command that does it again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.soak import plan
from tests.soak.world import World, digest_of


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak", description="Readers, faults and kill -9 against a rack."
    )
    parser.add_argument("--seed", type=int, help="default: a new one, printed")
    parser.add_argument("--seconds", type=float, help="default: the profile's")
    parser.add_argument("--profile", choices=plan.PROFILES, default="full")
    parser.add_argument("--directory", type=Path, help="where the cache lies; default: a temporary one")
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    options = parser.parse_args(arguments)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    profile = plan.PROFILES[options.profile]
    seconds = options.seconds or profile.seconds
    actions = plan.actions(seed, seconds, profile)
    again = f"python -m tests.soak --seed {seed} --seconds {seconds:g} --profile {profile.name}"
    if options.plan:
        print("\n".join(map(str, actions)))
        return 0
    print(f"soak: seed {seed}, {seconds:g} s, profile {profile.name}, plan {digest_of(actions)}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="bootplane-soak-", dir=options.directory))
    began = time.monotonic()
    world = World(seed, seconds, profile, directory)
    failure = "it did not come to an end"
    try:
        failure = world.run()
    finally:
        if failure:
            print("what was done last:", *world.tally.done, sep="\n  ")
            logs = sorted((directory / "rack").glob("log-*"), key=lambda path: path.stat().st_mtime)
            for log in logs[-2:]:
                print(f"{log.name}:", *log.read_text().splitlines()[-15:], sep="\n  ")
        shutil.rmtree(directory, ignore_errors=True)
    print(world.tally.summary())
    if failure:
        print(f"soak: FAILED after {time.monotonic() - began:.1f} s: {failure}\nagain: {again}", flush=True)
        return 1
    print(f"soak: all right after {time.monotonic() - began:.1f} s; again: {again}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
