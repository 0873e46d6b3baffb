"""`python -m tests.support.crash`: kills commands until so many have been killed; says which seed failed, and how."""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
import traceback
from contextlib import ExitStack
from pathlib import Path

from tests.support.crash.engine import ACTS, PAIRS, Engine
from tests.support.crash.world import Bucket, Directory, Shelf, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="How many commands are to be killed.")
    parser.add_argument("--seed", type=int, default=0, help="What the lot is drawn by.")
    parser.add_argument("--run", type=int, help="This run alone, of those that the seed stands for.")
    parser.add_argument("--pairs", action="store_true", help="Two commands at a time, rather than one.")
    parser.add_argument("--only", default="", help="Acts, or pairs such as pack+prune, and no others.")
    parser.add_argument("--s3", action="store_true", help="On a genuine S3 server, rather than a directory.")
    options = parser.parse_args()
    memory = Path("/dev/shm")
    top = Path(tempfile.mkdtemp(prefix="c", dir=memory if os.access(memory, os.W_OK) else None))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, top, ignore_errors=True)
        world = World(top, _shelf(options.s3, top, stack))
        world.make()
        return _run(world, options)


def _shelf(s3: bool, top: Path, stack: ExitStack) -> Shelf:
    if not s3:
        return Directory(top / "work-store")
    from tests.support.s3server import running

    server = stack.enter_context(running())
    return Bucket(server.client(), server.bucket, server.variables())


def _run(world: World, options: argparse.Namespace) -> int:
    wanted = [each for each in options.only.split(",") if each]
    every = ["+".join(pair) for pair in PAIRS] if options.pairs else list(ACTS)
    runs = [each for each in every if not wanted or each in wanted]
    engine = Engine(world, options.seed)
    for number, name in enumerate(itertools.cycle(runs)):
        if options.run is not None and number < options.run:
            continue
        engine.again(options.seed * 1_000_000 + number)
        try:
            one, _, other = name.partition("+")
            if other:
                engine.pair(one, other)
            else:
                engine.alone(one)
        except Exception:
            traceback.print_exc()
            print(f"failed: {name}, run {number} of seed {options.seed}", file=sys.stderr)
            return 1
        if sum(engine.killed.values()) >= options.kills or options.run is not None:
            break
    print(f"killed {sum(engine.killed.values())}: {dict(engine.killed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
