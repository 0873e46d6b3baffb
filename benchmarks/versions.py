"""Compare this version of snapper with another one, case by case: `python -m benchmarks.versions BASELINE`.

BASELINE is the `snapper` executable of the other version, in a virtual environment of its own. Each version has its
own copy of the environment and its own store. Every round runs every case once per version, in alternating order, so
that drift of the machine affects both alike. The output lists medians and their ratio (this version / baseline).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.__main__ import machine, write_results
from benchmarks.bench import BIN, Bench, Case
from benchmarks.cold import snapper_pack, snapper_restore
from benchmarks.measure import Measurement, measure
from benchmarks.warm import WARM
from scripts.maker import make
from tests.support.s3server import S3Server, running

Runs = dict[str, dict[str, list[Measurement]]]

VERSIONS = ("baseline", "current")


def _s3_variables(bench: Bench, server: S3Server) -> dict[str, str]:
    """Return the environment variables of a bench whose store is a new S3 prefix per pack, without a cache."""
    url = f"s3://{server.bucket}/{bench.workspace.name}{bench.figures.get('S3 packs', 0)}"
    return {**bench.variables, **server.variables(), "SNAPPER_STORE": url, "SNAPPER_CACHE": "off"}


def _pack_to_s3(server: S3Server) -> Callable[[Bench], Measurement]:
    def run(bench: Bench) -> Measurement:
        bench.figures["S3 packs"] = bench.figures.get("S3 packs", 0) + 1
        shutil.rmtree(bench.prefix / ".snapper", ignore_errors=True)
        command = [str(bench.program), "pack", "-p", str(bench.prefix), "--name", "bench"]
        return measure([command], _s3_variables(bench, server), memory=False)

    return run


def _restore_from_s3(server: S3Server) -> Callable[[Bench], Measurement]:
    def run(bench: Bench) -> Measurement:
        command = [str(bench.program), "restore", "bench", "--prefix", str(bench.absent("restored"))]
        return measure([command], _s3_variables(bench, server), memory=False)

    return run


def cold_cases(server: S3Server) -> tuple[Case, ...]:
    """Return the cases that start from nothing."""
    return (
        Case("pack", snapper_pack),
        Case("restore", snapper_restore),
        Case("pack, S3", _pack_to_s3(server)),
        Case("restore, S3", _restore_from_s3(server)),
    )


def run_rounds(benches: dict[str, Bench], cases: tuple[Case, ...], rounds: int, runs: Runs) -> None:
    """Run every case once per version and round; the version that goes first alternates."""
    for number in range(rounds):
        for case in cases:
            for name in VERSIONS if number % 2 == 0 else reversed(VERSIONS):
                measurement = case.run(benches[name])
                runs.setdefault(case.name, {}).setdefault(name, []).append(measurement)
                print(f"{number + 1}/{rounds}: {case.name}, {name} {measurement.seconds:.2f} s", flush=True)


def table(runs: Runs) -> list[str]:
    """Return one Markdown table row per case: medians, their ratio, spread, and the ratio of CPU seconds."""
    lines = [
        "| case | baseline s | current s | ratio | spread of current | CPU ratio |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, versions in runs.items():
        seconds = {each: statistics.median(run.seconds for run in versions[each]) for each in VERSIONS}
        cpu = {each: statistics.median(run.cpu for run in versions[each]) for each in VERSIONS}
        times = [run.seconds for run in versions["current"]]
        lines.append(
            f"| {name} | {seconds['baseline']:.2f} | {seconds['current']:.2f} "
            f"| {seconds['current'] / seconds['baseline']:.2f} | {min(times):.2f} - {max(times):.2f} "
            f"| {cpu['current'] / cpu['baseline']:.2f} |"
        )
    return lines


def document(results: dict[str, Any], lines: list[str]) -> str:
    """Return all results as a Markdown document."""
    about = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    return "\n".join(
        [
            f"# {results['recipe']}: {results['baseline']} (baseline) compared with {results['current']} (current)",
            "",
            f"Made by `python -m benchmarks.versions`, on {results['place']}: medians of {results['rounds']} "
            f"alternating rounds. {about}.",
            "",
            *lines,
            "",
        ]
    )


def _version_of(program: Path) -> str:
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()


def run_all(programs: dict[str, Path], recipe: str, place: Path, rounds: int) -> Runs:
    """Create one environment per version below `place`, and run all cases."""
    top = Path(tempfile.mkdtemp(prefix="snapper-versions-", dir=place))
    runs: Runs = {}
    try:
        benches: dict[str, Bench] = {}
        for name in VERSIONS:
            benches[name] = Bench(top / name / "origin" / "env", top / name, program=programs[name])
            make(recipe, benches[name].prefix, copy=True)
            benches[name].empty("home")
        with running(top) as server:
            run_rounds(benches, cold_cases(server), rounds, runs)
        for bench in benches.values():
            bench.absent("restored")
            bench.absent("store")
            WARM.prepare(bench)
        run_rounds(benches, WARM.cases, rounds, runs)
    finally:
        shutil.rmtree(top, ignore_errors=True)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__)
    parser.add_argument("baseline", type=Path, help="snapper executable of the version to compare with")
    parser.add_argument("--recipe", default="large", help="environment of scripts.maker (default: large)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm"), help="file system to work on")
    parser.add_argument(
        "--results", type=Path, help="where to write NAME.json and NAME.md, without the ending"
    )
    options = parser.parse_args()
    programs = {"baseline": options.baseline.absolute(), "current": BIN / "snapper"}
    runs = run_all(programs, options.recipe, options.place, options.rounds)
    results: dict[str, Any] = {
        "recipe": options.recipe,
        "place": str(options.place),
        "rounds": options.rounds,
        "baseline": _version_of(programs["baseline"]),
        "current": _version_of(programs["current"]),
        "machine": machine("boto3"),
        "runs": {
            case: {version: [asdict(run) for run in repeats] for version, repeats in versions.items()}
            for case, versions in runs.items()
        },
    }
    lines = table(runs)
    print(f"\n{report.text(lines)}")
    if options.results:
        write_results(results, document(results, lines), options.results)


if __name__ == "__main__":
    main()
