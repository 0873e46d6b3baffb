"""A store at an S3 prefix beside a directory: `python -m benchmarks.s3`.

The server is SeaweedFS on the same machine: it takes its share of the processors, which is shown. Every round runs
every case once. Printed are medians, and how they relate to the directory's at the same number of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.__main__ import machine
from benchmarks.measure import Measured, measure
from scripts.maker import make
from tests.s3server import S3Server, running

JOBS = (1, 2, 8)


@dataclass(frozen=True)
class Run:
    """What a command took, and the seconds of processor that the server took meanwhile."""

    measured: Measured
    server: float


@dataclass(frozen=True)
class Bench:
    """The environment, a scratch directory, and a server."""

    prefix: Path
    place: Path
    server: S3Server

    def snapper(self, store: str, *arguments: object, cache: Path | None = None) -> Run:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.place / "home"),
            "SNAPPER_STORE": store,
            "SNAPPER_CACHE": str(cache or "off"),
            **self.server.variables(),
        }
        command = [sys.executable, "-m", "snapper", *map(str, arguments)]
        before = self.server.processor_seconds()
        measured = measure([command], variables)
        return Run(measured, self.server.processor_seconds() - before)

    def gone(self, name: str) -> Path:
        """A path at which nothing is."""
        shutil.rmtree(self.place / name, ignore_errors=True)
        return self.place / name

    def pack(self, store: str) -> Run:
        shutil.rmtree(self.prefix / ".snapper", ignore_errors=True)
        return self.snapper(store, "pack", "-p", self.prefix, "--name", "bench")

    def restore(self, store: str, jobs: int, cache: Path | None = None) -> Run:
        target = self.gone("restored")
        return self.snapper(store, "restore", "bench", "--prefix", target, "--jobs", jobs, cache=cache)


def one_round(bench: Bench, number: int) -> Iterator[tuple[str, Run]]:
    """Every case once; packs go to new stores, so that nothing is known there."""
    directory, bucket = str(bench.gone("store")), f"s3://{bench.server.bucket}/round{number}"
    yield "pack, directory", bench.pack(directory)
    yield "pack, S3", bench.pack(bucket)
    for jobs in JOBS:
        yield f"restore, directory, {jobs} processes", bench.restore(directory, jobs)
        yield f"restore, S3, {jobs} processes", bench.restore(bucket, jobs)
        cache = bench.gone("cache")
        yield f"restore, S3, new cache, {jobs} processes", bench.restore(bucket, jobs, cache)
        yield f"restore, S3, from the cache, {jobs} processes", bench.restore(bucket, jobs, cache)
    bench.server.empty(f"round{number}/")


def report(results: dict[str, list[Run]]) -> str:
    medians = {
        name: statistics.median(run.measured.seconds for run in runs) for name, runs in results.items()
    }
    lines = [f"{'case':42} {'seconds':>8} {'spread':>12} {'CPU s':>6} {'server':>7} {'MB':>5} {'ratio':>6}"]
    for name, runs in results.items():
        times = [run.measured.seconds for run in runs]
        kind, _, rest = name.partition(", ")
        processes = rest.rpartition(", ")[2] if "processes" in rest else ""
        base = ", ".join(filter(None, (kind, "directory", processes)))
        lines.append(
            f"{name:42} {medians[name]:8.2f} {min(times):5.1f} -{max(times):5.1f} "
            f"{statistics.median(run.measured.cpu for run in runs):6.1f} "
            f"{statistics.median(run.server for run in runs):7.1f} "
            f"{max(run.measured.memory for run in runs) / 1e6:5.0f} {medians[name] / medians[base]:6.2f}"
        )
    lines.append(
        "ratio: the median by that of the directory; server: seconds of processor that the S3 server took"
    )
    return "\n".join(lines)


def earlier(file: Path | None) -> dict[str, list[Run]]:
    """The runs that a file of results has."""
    if not file or not file.exists():
        return {}
    runs = json.loads(file.read_text())["runs"]
    return {
        name: [Run(Measured(**each["measured"]), each["server"]) for each in found]
        for name, found in runs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s3", description=__doc__)
    parser.add_argument("--recipe", default="large", help="environment of scripts.maker (default: large)")
    parser.add_argument("--environment", type=Path, help="an environment that is there, instead")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm"), help="file system to work on")
    parser.add_argument("--json", type=Path, help="file for the results; those in it count, too")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="snapper-s3-", dir=options.place))
    try:
        (place / "home").mkdir()
        environment = options.environment or place / "origin" / "env"
        if not options.environment:
            make(options.recipe, environment, copy=True)
        results = earlier(options.json)
        with running(place) as server:
            bench = Bench(environment, place, server)
            for number in range(options.runs):
                for name, run in one_round(bench, number):
                    results.setdefault(name, []).append(run)
        print(f"{options.recipe}, on {options.place}")
        print(report(results))
        if options.json:
            runs = {name: [asdict(run) for run in each] for name, each in results.items()}
            document = {
                "recipe": options.recipe,
                "place": str(options.place),
                "machine": machine(),
                "runs": runs,
            }
            options.json.write_text(json.dumps(document, indent=1) + "\n")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
