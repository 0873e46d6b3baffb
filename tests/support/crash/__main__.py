"""`python -m tests.support.crash`: kill commands until enough have been killed; report the seed of a failed run."""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import shutil
import sys
import tempfile
import traceback
from contextlib import ExitStack
from pathlib import Path

from tests.support.crash.engine import COMMANDS, PAIRS, Engine
from tests.support.crash.world import Bucket, Directory, StoreLocation, World
from tests.support.forkserver import import_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="How many commands to kill.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the random number generator.")
    parser.add_argument("--run", type=int, help="Only this run of the seed.")
    parser.add_argument("--pairs", action="store_true", help="Run two commands at a time.")
    parser.add_argument(
        "--place", default="", choices=["mount", "image"], help="Where the environment has to stay."
    )
    parser.add_argument("--only", default="", help="Only these commands, or pairs such as pack+prune.")
    parser.add_argument("--s3", action="store_true", help="Use a real S3 server instead of a directory.")
    parser.add_argument("--endpoint", default="", help="Use this S3 server of the tests; do not start one.")
    options = parser.parse_args()
    import_all()  # not in each command: importing takes most of its time and of its steps
    gc.freeze()
    memory = Path("/dev/shm")
    top = Path(tempfile.mkdtemp(prefix="c", dir=memory if os.access(memory, os.W_OK) else None))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, top, ignore_errors=True)
        world = World(top, _store_location(options, top, stack), place=options.place)
        stack.callback(world.release)
        world.make()
        return _run(world, options)


def _store_location(options: argparse.Namespace, top: Path, stack: ExitStack) -> StoreLocation:
    if not options.s3:
        return Directory(top / "work-store")
    from tests.support.s3server import S3Server, running

    server = S3Server(options.endpoint) if options.endpoint else stack.enter_context(running())
    return Bucket(server.client(), server.bucket, server.variables())


def _run(world: World, options: argparse.Namespace) -> int:
    selected = [name for name in options.only.split(",") if name]
    names = ["+".join(pair) for pair in PAIRS] if options.pairs else list(COMMANDS)
    runs = [name for name in names if not selected or name in selected]
    engine = Engine(world, options.seed)
    for number, name in enumerate(itertools.cycle(runs)):
        if options.run is not None and number < options.run:
            continue
        engine.reseed(options.seed * 1_000_000 + number)
        try:
            first, _, second = name.partition("+")
            if second:
                engine.kill_pair(first, second)
            else:
                engine.kill_one(first)
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
