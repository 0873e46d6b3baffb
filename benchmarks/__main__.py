"""snapper beside its peers, on one genuine environment, in one run: `python -m benchmarks`.

Every round runs every case once, so that a machine that drifts drifts for all. Printed are medians, and how they
relate to snapper's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from benchmarks.measure import Measured, measure
from scripts.maker import make

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Bench:
    """The environment, and a scratch directory for what is made of it."""

    prefix: Path
    place: Path

    @property
    def variables(self) -> dict[str, str]:
        path = f"{BIN}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.place / "home"), "SNAPPER_STORE": str(self.place / "store")}

    def run(self, *commands: list[str], parallel: bool = False) -> Measured:
        return measure(commands, self.variables, parallel=parallel)

    def fresh(self, name: str) -> Path:
        """An empty directory of that name."""
        shutil.rmtree(self.place / name, ignore_errors=True)
        (self.place / name).mkdir()
        return self.place / name

    def gone(self, name: str) -> Path:
        """A path at which nothing is."""
        target = self.place / name
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        return target


def snapper_pack(bench: Bench) -> Measured:
    bench.gone("store")
    return bench.run([sys.executable, "-m", "snapper", "pack", "-p", str(bench.prefix), "--name", "bench"])


def snapper_pack_again(bench: Bench) -> Measured:
    return bench.run([sys.executable, "-m", "snapper", "pack", "-p", str(bench.prefix), "--name", "bench"])


def conda_pack(ending: str) -> Callable[[Bench], Measured]:
    def run(bench: Bench) -> Measured:
        archive = bench.gone(f"conda-pack.{ending}")
        return bench.run(["conda-pack", "-q", "-j", "2", "-p", str(bench.prefix), "-o", str(archive)])

    return run


def zstd_floor(bench: Bench) -> Measured:
    return bench.run(
        ["zstd", "-3", "-T2", "-q", "-f", str(bench.place / "plain.tar"), "-o", str(bench.gone("plain.zst"))]
    )


def snapper_restore(bench: Bench) -> Measured:
    target = bench.gone("restored")
    return bench.run([sys.executable, "-m", "snapper", "restore", "bench", "--prefix", str(target)])


def tar_and_unpack(ending: str) -> Callable[[Bench], Measured]:
    def run(bench: Bench) -> Measured:
        target = bench.fresh("unpacked")
        archive = str(bench.place / f"conda-pack.{ending}")
        return bench.run(
            ["tar", "-xf", archive, "-C", str(target)], [sys.executable, str(target / "bin" / "conda-unpack")]
        )

    return run


def tar_zstd(bench: Bench) -> Measured:
    target = bench.fresh("unpacked")
    return bench.run(["tar", "--zstd", "-xf", str(bench.place / "plain.zst"), "-C", str(target)])


def tar_floor(bench: Bench) -> Measured:
    target = bench.fresh("unpacked")
    halves = [["tar", "-xf", str(bench.place / f"half-{half}.tar"), "-C", str(target)] for half in (0, 1)]
    return bench.run(*halves, parallel=True)


CASES: dict[str, tuple[str, Callable[[Bench], Measured]]] = {
    "snapper pack": ("pack", snapper_pack),
    "snapper pack, nothing changed": ("pack", snapper_pack_again),
    "conda-pack -j 2, .tar.gz": ("pack", conda_pack("tar.gz")),
    "conda-pack -j 2, .tar.zst": ("pack", conda_pack("tar.zst")),
    "floor: zstd -3 -T2 of one tar": ("pack", zstd_floor),
    "snapper restore": ("restore", snapper_restore),
    "tar + conda-unpack, .tar.gz": ("restore", tar_and_unpack("tar.gz")),
    "tar + conda-unpack, .tar.zst": ("restore", tar_and_unpack("tar.zst")),
    "tar --zstd, not relocated": ("restore", tar_zstd),
    "floor: two tar -x, uncompressed": ("restore", tar_floor),
}


def prepare(bench: Bench) -> None:
    """The uncompressed archives that the floors read: all files, and two halves of about the same size."""
    bench.fresh("home")
    subprocess.run(["tar", "-cf", bench.place / "plain.tar", "-C", bench.prefix, "."], check=True)
    sizes = {
        path: path.lstat().st_size
        for path in bench.prefix.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    halves: list[list[str]] = [[], []]
    weights = [0, 0]
    for path, size in sorted(sizes.items(), key=lambda item: -item[1]):
        lighter = weights.index(min(weights))
        halves[lighter].append(str(path.relative_to(bench.prefix)))
        weights[lighter] += size + 20_000
    for number, half in enumerate(halves):
        names = "\0".join(sorted(half)).encode()
        archive = str(bench.place / f"half-{number}.tar")
        command = ["tar", "-cf", archive, "-C", str(bench.prefix), "--null", "-T", "-"]
        subprocess.run(command, input=names, check=True)


def stored(bench: Bench) -> dict[str, int]:
    """What each way of packing takes on disk, in bytes."""
    layers = sum(path.stat().st_size for path in (bench.place / "store").rglob("*") if path.is_file())
    archives = {path.name: path.stat().st_size for path in bench.place.glob("conda-pack.*")}
    return {"snapper store": layers, **archives, "plain.zst": (bench.place / "plain.zst").stat().st_size}


def report(results: dict[str, list[Measured]]) -> str:
    lines = [f"{'case':34} {'seconds':>8} {'spread':>12} {'CPU s':>7} {'MB':>6} {'ratio':>6}"]
    base = {"pack": "snapper pack", "restore": "snapper restore"}
    medians = {name: statistics.median(each.seconds for each in runs) for name, runs in results.items()}
    for name, runs in results.items():
        times = [each.seconds for each in runs]
        ratio = medians[base[CASES[name][0]]] / medians[name]
        lines.append(
            f"{name:34} {medians[name]:8.2f} {min(times):5.1f} -{max(times):5.1f} "
            f"{statistics.median(each.cpu for each in runs):7.1f} {max(each.memory for each in runs) / 1e6:6.0f} "
            f"{ratio:6.2f}"
        )
    lines.append("ratio: snapper's median by this one's (below 1: snapper is quicker)")
    return "\n".join(lines)


def machine() -> dict[str, object]:
    names = ("conda-snapper", "conda-pack", "zstandard")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--recipe", default="large", help="environment of scripts.maker (default: large)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--place", type=Path, default=Path("/dev/shm"), help="file system to work on")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    place = options.place / "snapper-benchmark"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        bench = Bench(place / "origin" / "env", place)
        make(options.recipe, bench.prefix, copy=True)
        prepare(bench)
        results: dict[str, list[Measured]] = {name: [] for name in CASES}
        for _ in range(options.runs):
            for name, (_kind, case) in CASES.items():
                os.sync()
                results[name].append(case(bench))
        files = sum(len(names) for _, _, names in os.walk(bench.prefix))
        sizes = stored(bench)
        print(f"{options.recipe}: {files:,} files, on {options.place}")
        print(report(results))
        print(", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items()))
        if options.json:
            document = {
                "recipe": options.recipe,
                "files": files,
                "place": str(options.place),
                "machine": machine(),
                "stored": sizes,
                "runs": {name: [asdict(each) for each in runs] for name, runs in results.items()},
            }
            options.json.write_text(json.dumps(document, indent=1) + "\n")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
