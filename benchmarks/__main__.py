"""Compare snapper with its peers on one real environment in one run: `python -m benchmarks`.

Every round runs every case of a phase once, so that drift of the machine affects all cases alike. The output lists
medians and how each compares with its target.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.bench import Bench, Phase
from benchmarks.cold import COLD
from benchmarks.measure import Measurement
from benchmarks.warm import COMMON, TWICE, WARM
from scripts.maker import make

PHASES = {"cold": COLD, "warm": WARM, "common": COMMON, "twice": TWICE}
MEMORY, DISK = Path("/dev/shm"), Path("/var/tmp")


def machine(*packages: str) -> dict[str, object]:
    """Return what the results depend on, including the versions of these packages."""
    names = ("conda-snapper", "conda-pack", "py-rattler", "zstandard", *packages)
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "processors": os.cpu_count(),
        "processor": processor,
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def run_phase(bench: Bench, phase: Phase, rounds: int) -> dict[str, list[Measurement]]:
    """Run the cases of a phase in alternating rounds; return the measurements by case."""
    bench.empty("home")
    phase.prepare(bench)
    results: dict[str, list[Measurement]] = {case.name: [] for case in phase.cases}
    for number in range(rounds):
        for case in phase.cases:
            os.sync()
            results[case.name].append(case.run(bench))
            print(
                f"{phase.name} {number + 1}/{rounds}: {case.name} {results[case.name][-1].seconds:.2f} s",
                flush=True,
            )
    for leftover in bench.workspace.iterdir():
        if leftover != bench.prefix.parent:
            shutil.rmtree(leftover) if leftover.is_dir() and not leftover.is_symlink() else leftover.unlink()
    return results


def run_phases(directory: Path, recipe: str, phases: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """Run the phases on the file system of `directory`; yield the results so far after each phase."""
    workspace = directory / "snapper-benchmark"
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir(parents=True)
    try:
        bench = Bench(workspace / "origin" / "env", workspace)
        make(recipe, bench.prefix, copy=True)
        files = [path for path in bench.prefix.rglob("*") if path.is_symlink() or not path.is_dir()]
        size = sum(path.lstat().st_size for path in files)
        runs: dict[str, list[Measurement]] = {}
        for name in phases:
            runs |= run_phase(bench, PHASES[name], rounds)
            yield {
                "files": len(files),
                "size": size,
                "figures": bench.figures,
                "runs": {name: [asdict(run) for run in measurements] for name, measurements in runs.items()},
            }
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def write_results(results: dict[str, Any], document: str, file: Path) -> None:
    """Write the results as JSON and as a Markdown document."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    file.with_suffix(".md").write_text(document)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--recipe", default="large", help="environment of scripts.maker (default: large)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument(
        "--places",
        nargs="+",
        type=Path,
        default=[MEMORY, DISK],
        help="file systems (default: a memory and a disk)",
    )
    parser.add_argument(
        "--results", type=Path, help="where to write NAME.json and NAME.md, without the ending"
    )
    options = parser.parse_args()
    places: dict[str, Any] = {}
    for place in options.places:
        for partial in run_phases(place, options.recipe, options.phases, options.rounds):
            places[str(place)] = partial
            if options.results:
                results: dict[str, Any] = {
                    "recipe": options.recipe,
                    "rounds": options.rounds,
                    "machine": machine(),
                }
                results["places"] = places
                write_results(results, report.document(results), options.results)
    for place, result in places.items():
        print(f"\nOn {place}\n\n{report.text(report.targets(result['runs'], result['figures']))}\n")
        print(report.text(report.table(result["runs"])))


if __name__ == "__main__":
    main()
