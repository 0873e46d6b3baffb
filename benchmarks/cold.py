"""Cold cases: pack into an empty store and restore to an empty directory, with snapper and its peers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import Bench, Case, Phase
from benchmarks.measure import Measurement

#: Installs the packages that the records of an environment name: `python -c` with prefix, records and package cache.
_RATTLER = """
import asyncio, os, sys
from pathlib import Path
from rattler import PrefixRecord, install
prefix, records, cache = sys.argv[1:]
locked = [PrefixRecord.from_path(path) for path in Path(records).glob("conda-meta/*.json")]
asyncio.run(install(records=locked, target_prefix=prefix, cache_dir=cache, show_progress=False))
assert len(list(Path(prefix).glob("conda-meta/*.json"))) == len(locked)
os._exit(0)  # it can crash when the interpreter shuts down
"""


def _prepare(bench: Bench) -> None:
    """Create the uncompressed archives that the lower bounds read and a complete package cache.

    One archive has everything; three others have the directories and two halves of about equal size.
    """
    subprocess.run(["tar", "-cf", bench.workspace / "plain.tar", "-C", bench.prefix, "."], check=True)
    paths = {path: path.is_dir() and not path.is_symlink() for path in bench.prefix.rglob("*")}
    sizes = {path: path.lstat().st_size for path, is_directory in paths.items() if not is_directory}
    halves: list[list[str]] = [[], []]
    weights = [0, 0]
    for path, size in sorted(sizes.items(), key=lambda item: -item[1]):
        lighter = weights.index(min(weights))
        halves[lighter].append(str(path.relative_to(bench.prefix)))
        weights[lighter] += size + 20_000
    directories = [str(path.relative_to(bench.prefix)) for path in paths if path not in sizes]
    for name, part in (("directories", directories), ("half-0", halves[0]), ("half-1", halves[1])):
        names = "\0".join(sorted(part)).encode()
        command = ["tar", "-cf", str(bench.workspace / f"{name}.tar"), "-C", str(bench.prefix)]
        subprocess.run([*command, "--no-recursion", "--null", "-T", "-"], input=names, check=True)
    _rattler("warm")(bench)


def snapper_pack(bench: Bench) -> Measurement:
    bench.absent("store")
    shutil.rmtree(bench.prefix / ".snapper", ignore_errors=True)
    done = bench.snapper("pack", "-p", bench.prefix, "--name", "bench")
    bench.figures["snapper store"] = bench.size("store")
    return done


def snapper_restore(bench: Bench) -> Measurement:
    return bench.snapper("restore", "bench", "--prefix", bench.absent("restored"))


def _conda_pack(ending: str) -> Callable[[Bench], Measurement]:
    def run(bench: Bench) -> Measurement:
        archive = bench.absent(f"conda-pack.{ending}")
        done = bench.run(["conda-pack", "-q", "-j", "2", "-p", str(bench.prefix), "-o", str(archive)])
        bench.figures[archive.name] = archive.stat().st_size
        return done

    return run


def _zstd_lower_bound(bench: Bench) -> Measurement:
    archive = bench.absent("plain.zst")
    done = bench.run(["zstd", "-3", "-T2", "-q", str(bench.workspace / "plain.tar"), "-o", str(archive)])
    bench.figures[archive.name] = archive.stat().st_size
    return done


def _tar_and_unpack(ending: str) -> Callable[[Bench], Measurement]:
    def run(bench: Bench) -> Measurement:
        target = bench.empty("restored")
        archive = str(bench.workspace / f"conda-pack.{ending}")
        return bench.run(
            ["tar", "-xf", archive, "-C", str(target)], [sys.executable, str(target / "bin" / "conda-unpack")]
        )

    return run


def _tar_zstd(bench: Bench) -> Measurement:
    target = bench.empty("restored")
    return bench.run(["tar", "--zstd", "-xf", str(bench.workspace / "plain.zst"), "-C", str(target)])


def _tar_lower_bound(bench: Bench) -> Measurement:
    """Unpack two halves at once, after the directories: two tars creating the same directory conflict."""
    target = bench.empty("restored")
    unpack = [
        f"tar -xf '{bench.workspace}/{name}.tar' -C '{target}'"
        for name in ("directories", "half-0", "half-1")
    ]
    script = f"{unpack[0]} || exit; {unpack[1]} & {unpack[2]} && wait $!"
    return bench.run(["sh", "-c", script])


def _rattler(cache: str) -> Callable[[Bench], Measurement]:
    def run(bench: Bench) -> Measurement:
        packages: Path = bench.absent("packages") if cache == "cold" else bench.workspace / "packages-warm"
        command = [sys.executable, "-c", _RATTLER, bench.absent("restored"), bench.prefix, packages]
        done = bench.run([str(word) for word in command])
        bench.absent("packages")
        return done

    return run


COLD = Phase(
    "cold",
    _prepare,
    (
        Case("pack", snapper_pack),
        Case("conda-pack -j 2, .tar.gz", _conda_pack("tar.gz")),
        Case("conda-pack -j 2, .tar.zst", _conda_pack("tar.zst")),
        Case("lower bound: zstd -3 -T2 of one tar", _zstd_lower_bound),
        Case("restore", snapper_restore),
        Case("tar + conda-unpack, .tar.gz", _tar_and_unpack("tar.gz")),
        Case("tar + conda-unpack, .tar.zst", _tar_and_unpack("tar.zst")),
        Case("tar --zstd, not relocated", _tar_zstd),
        Case("py-rattler, cold cache", _rattler("cold")),
        Case("py-rattler, warm cache (hard links)", _rattler("warm")),
        Case("lower bound: two tar -x, uncompressed", _tar_lower_bound),
    ),
)
