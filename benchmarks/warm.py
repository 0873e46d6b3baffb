"""Packing and restoring where most is known already, and starting where nothing is to be done."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.bench import Bench, Case, Phase
from benchmarks.measure import Measured
from scripts.maker import change

#: A small package, which the large environment does not have.
SMALL = "tabulate"
_TEN = [f"env{number}" for number in range(10)]


def _prepare(bench: Bench) -> None:
    """`bench` in two snapshots, the second with a small package more, restored as `restored`; ten environments."""
    _settle(bench.prefix)
    bench.done("pack", "-p", bench.prefix, "--name", "bench")
    work = bench.place / "work"
    bench.done("restore", "bench", "--prefix", work)
    bench.done("pack", "-p", work, "--name", "work")
    change(work, install=[SMALL])
    bench.done("pack", "-p", work, "--name", "work")
    bench.done("restore", "work@~1", "--prefix", work)
    _make_ten(bench)


def _settle(prefix: Path) -> None:
    """Python compiles what it starts with, where that was relocated: later on that would be changes."""
    command = [str(prefix / "bin" / "python"), "-c", "import sysconfig; sysconfig.get_config_vars()"]
    subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin"})


def _make_ten(bench: Bench) -> None:
    """Ten environments that are the large one: hard links, each with a state of its own, in a store of their own."""
    store = bench.place / "ten-store"
    subprocess.run(["cp", "-al", bench.place / "store", store], check=True)
    (store / "environments").rename(bench.place / "entries")
    (store / "environments").mkdir()
    entry = json.loads((bench.place / "entries" / "bench.json").read_bytes())
    shutil.rmtree(bench.place / "entries")
    source = bench.place / "restored"
    bench.done("restore", "bench", "--prefix", source)
    for name in _TEN:
        prefix = bench.place / "ten" / name
        prefix.parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-al", source, prefix], check=True)
        state = prefix / ".snapper" / "state.json"
        fields = json.loads(state.read_bytes()) | {"environment": name, "prefix": str(prefix)}
        state.unlink()
        state.write_text(json.dumps(fields))
        text = json.dumps(entry | {"name": name}, sort_keys=True, separators=(",", ":"))
        (store / "environments" / f"{name}.json").write_text(text)
    shutil.rmtree(source)
    bench.done("restore", "--all", "--store", store, "--envs-dir", bench.place / "ten")


def _pack_unchanged(bench: Bench) -> Measured:
    before = bench.size("store")
    done = bench.snapper("pack", "-p", bench.prefix, "--name", "bench")
    bench.figures["added, nothing changed"] = bench.size("store") - before
    return done


def _pack_one_more(bench: Bench) -> Measured:
    """Another store for each time, so that the package and all that tells of it are new to it."""
    name, prefix = "more", bench.place / "more-env"
    shutil.copytree(bench.place / "store", bench.gone("more-store"))
    store = bench.place / "more-store"
    if prefix.exists():
        shutil.rmtree(prefix)
    bench.done("restore", "bench", "--prefix", prefix, "--store", store)
    bench.done("remove", "work", "--yes", "--store", store)
    bench.done("prune", "--grace", "0m", "--yes", "--store", store)
    bench.done("pack", "-p", prefix, "--name", name, "--store", store)
    _settle(prefix)
    bench.done("pack", "-p", prefix, "--name", name, "--store", store)
    change(prefix, install=[SMALL])
    before = bench.size("more-store")
    lists = _lists(store)
    done = bench.snapper("pack", "-p", prefix, "--name", name, "--store", store)
    bench.figures["added, one package more"] = bench.size("more-store") - before
    bench.figures["of that, snapshot and pages"] = _lists(store) - lists
    shown = bench.done("show", name, "--store", store)
    own = [layer["size"] for layer in shown["layers"] if layer["owner"].startswith(f"{SMALL}-")]
    bench.figures["that package's layers"] = sum(own)
    return done


def _lists(store: Path) -> int:
    """What snapshots and their pages take, in bytes."""
    return sum(
        file.stat().st_size for top in ("snapshots", "pages") for file in (store / top).rglob("*.json")
    )


def _forward(bench: Bench) -> Measured:
    return bench.snapper("restore", "work", "--prefix", bench.place / "work")


def _back(bench: Bench) -> Measured:
    return bench.snapper("restore", "work@~1", "--prefix", bench.place / "work")


def _ten(bench: Bench) -> Measured:
    options = ("--store", bench.place / "ten-store", "--envs-dir", bench.place / "ten")
    return bench.snapper("restore", "--all", *options)


WARM = Phase(
    "warm",
    _prepare,
    (
        Case("pack, nothing changed", _pack_unchanged),
        Case("pack, one small package more", _pack_one_more),
        Case("restore, one package more", _forward),
        Case("restore, one package less", _back),
        Case("restore --all, ten there already", _ten),
        Case("snapper --help", lambda bench: bench.snapper("--help")),
        Case("snapper list", lambda bench: bench.snapper("list")),
    ),
)


def _prepare_common(bench: Bench) -> None:
    """`first` is the environment, restored at another place, without a tenth of its packages: of every ten in the
    order of their sizes the sixth. That is the choice by which a tenth of the packages is nearest to a tenth of the
    bytes. It has to be restored, as copied files know themselves by the place that they come from.
    """
    first = bench.place / "first"
    bench.done("pack", "-p", bench.prefix, "--name", "bench")
    bench.done("restore", "bench", "--prefix", first)
    bench.gone("store")
    files = {record: json.loads(record.read_bytes())["files"] for record in first.glob("conda-meta/*.json")}
    sizes = {record: sum((first / path).lstat().st_size for path in paths) for record, paths in files.items()}
    for record in sorted(sizes, key=sizes.__getitem__)[5::10]:
        for path in files[record]:
            (first / path).unlink()
        record.unlink()
    shutil.rmtree(first / ".snapper")
    bench.done("pack", "-p", first, "--name", "first")
    shutil.rmtree(first)
    (bench.place / "store").rename(bench.place / "first-store")


def _second_cold(bench: Bench) -> Measured:
    bench.gone("store")
    shutil.rmtree(bench.prefix / ".snapper", ignore_errors=True)
    return bench.snapper("pack", "-p", bench.prefix, "--name", "second")


def _second(bench: Bench) -> Measured:
    bench.gone("store")
    subprocess.run(["cp", "-a", bench.place / "first-store", bench.place / "store"], check=True)
    bench.figures["the first environment"] = before = bench.size("store")
    shutil.rmtree(bench.prefix / ".snapper", ignore_errors=True)
    done = bench.snapper("pack", "-p", bench.prefix, "--name", "second")
    bench.figures["added, 90% in common"] = bench.size("store") - before
    return done


COMMON = Phase(
    "in common",
    _prepare_common,
    (
        Case("pack, in an empty store", _second_cold),
        Case("pack, 90% in common with another", _second),
    ),
)


def _prepare_twice(bench: Bench) -> None:
    """The environment with a copy of its files, which are nobody's, inside."""
    twice = bench.place / "twice"
    ignored = shutil.ignore_patterns(".snapper")
    shutil.copytree(bench.prefix, twice, symlinks=True, ignore=ignored)
    ignored = shutil.ignore_patterns(".snapper", "conda-meta")
    shutil.copytree(bench.prefix, twice / "share" / "copy", symlinks=True, ignore=ignored)


def _pack_of(bench: Bench, prefix: Path, name: str) -> Measured:
    bench.gone("store")
    shutil.rmtree(prefix / ".snapper", ignore_errors=True)
    return bench.snapper("pack", "-p", prefix, "--name", name)


def _restore_of(bench: Bench, name: str) -> Measured:
    done = bench.snapper("restore", name, "--prefix", bench.gone("restored"))
    bench.gone("restored")
    return done


TWICE = Phase(
    "twice the files",
    _prepare_twice,
    (
        Case("pack, once", lambda bench: _pack_of(bench, bench.prefix, "once")),
        Case("restore, once", lambda bench: _restore_of(bench, "once")),
        Case("pack, twice", lambda bench: _pack_of(bench, bench.place / "twice", "twice")),
        Case("restore, twice", lambda bench: _restore_of(bench, "twice")),
    ),
)
