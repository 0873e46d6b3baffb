"""snapper beside its peers, on one genuine environment, in one run: `python -m benchmarks`.

Every round runs every case of a phase once, so that a machine that drifts drifts for all. Printed are medians, and
how far each bar is met.
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
from benchmarks.measure import Measured
from benchmarks.warm import COMMON, TWICE, WARM
from scripts.maker import make

PHASES = {"cold": COLD, "warm": WARM, "common": COMMON, "twice": TWICE}
MEMORY, DISK = Path("/dev/shm"), Path("/var/tmp")


def machine(*packages: str) -> dict[str, object]:
    """What the results depend on, these packages' versions too."""
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


def measured(bench: Bench, phase: Phase, rounds: int) -> dict[str, list[Measured]]:
    """What the cases of a phase took in each round."""
    bench.fresh("home")
    phase.prepare(bench)
    results: dict[str, list[Measured]] = {case.name: [] for case in phase.cases}
    for number in range(rounds):
        for case in phase.cases:
            os.sync()
            results[case.name].append(case.run(bench))
            print(
                f"{phase.name} {number + 1}/{rounds}: {case.name} {results[case.name][-1].seconds:.2f} s",
                flush=True,
            )
    for left in bench.place.iterdir():
        if left != bench.prefix.parent:
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    return results


def at(place: Path, recipe: str, phases: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """The results on one file system, after each phase those that there are."""
    place = place / "snapper-benchmark"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        bench = Bench(place / "origin" / "env", place)
        make(recipe, bench.prefix, copy=True)
        files = [path for path in bench.prefix.rglob("*") if path.is_symlink() or not path.is_dir()]
        size = sum(path.lstat().st_size for path in files)
        runs: dict[str, list[Measured]] = {}
        for name in phases:
            runs |= measured(bench, PHASES[name], rounds)
            yield {
                "files": len(files),
                "size": size,
                "figures": bench.figures,
                "runs": {name: [asdict(each) for each in found] for name, found in runs.items()},
            }
    finally:
        shutil.rmtree(place, ignore_errors=True)


def keep(results: dict[str, Any], document: str, file: Path) -> None:
    """Writes the results as JSON and as a Markdown document."""
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
        for found in at(place, options.recipe, options.phases, options.rounds):
            places[str(place)] = found
            if options.results:
                results: dict[str, Any] = {
                    "recipe": options.recipe,
                    "rounds": options.rounds,
                    "machine": machine(),
                }
                results["places"] = places
                keep(results, report.document(results), options.results)
    for where, found in places.items():
        print(f"\nOn {where}\n\n{report.text(report.bars(found['runs'], found['figures']))}\n")
        print(report.text(report.table(found["runs"])))


if __name__ == "__main__":
    main()
