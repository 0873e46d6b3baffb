"""Warm cases: pack and restore when most data is already stored or in place, and start-up cost."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from benchmarks.bench import Bench, Case, Phase
from benchmarks.measure import Measurement
from scripts.maker import change

#: A small package that the large environment does not contain.
SMALL = "tabulate"
_TEN = [f"env{number}" for number in range(10)]


def _prepare(bench: Bench) -> None:
    """Pack `bench` and `work` (two snapshots, the second with one small package more); create ten environments."""
    _settle(bench.prefix)
    bench.run_json("pack", "-p", bench.prefix, "--name", "bench")
    work = bench.workspace / "work"
    bench.run_json("restore", "bench", "--prefix", work)
    bench.run_json("pack", "-p", work, "--name", "work")
    change(work, install=[SMALL])
    bench.run_json("pack", "-p", work, "--name", "work")
    bench.run_json("restore", "work@~1", "--prefix", work)
    _make_ten(bench)


def _settle(prefix: Path) -> None:
    """Let Python compile the relocated modules it imports at start, which would otherwise count as changes later."""
    command = [str(prefix / "bin" / "python"), "-c", "import sysconfig; sysconfig.get_config_vars()"]
    subprocess.run(command, check=True, env={"PATH": "/usr/bin:/bin"})


def _make_ten(bench: Bench) -> None:
    """Create ten hard-linked copies of the large environment, each with its own state, in a store of their own."""
    store = bench.workspace / "ten-store"
    subprocess.run(["cp", "-al", bench.workspace / "store", store], check=True)
    (store / "environments").rename(bench.workspace / "entries")
    (store / "environments").mkdir()
    entry = json.loads((bench.workspace / "entries" / "bench.json").read_bytes())
    shutil.rmtree(bench.workspace / "entries")
    source = bench.workspace / "restored"
    bench.run_json("restore", "bench", "--prefix", source)
    for name in _TEN:
        prefix = bench.workspace / "ten" / name
        prefix.parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-al", source, prefix], check=True)
        state = prefix / ".snapper" / "state.json"
        fields = json.loads(state.read_bytes()) | {"environment": name, "prefix": str(prefix)}
        fields.pop("prefix_digest", None)  # of the other prefix; 0.1.0 does not write it
        state.unlink()
        state.write_text(json.dumps(fields))
        text = json.dumps(entry | {"name": name}, sort_keys=True, separators=(",", ":"))
        (store / "environments" / f"{name}.json").write_text(text)
    shutil.rmtree(source)
    bench.run_json("restore", "--all", "--store", store, "--envs-dir", bench.workspace / "ten")


def _pack_unchanged(bench: Bench) -> Measurement:
    before = bench.size("store")
    done = bench.snapper("pack", "-p", bench.prefix, "--name", "bench")
    bench.figures["added, nothing changed"] = bench.size("store") - before
    return done


def _pack_one_more(bench: Bench) -> Measurement:
    """Pack one package more into a store that has neither the package nor pages that mention it."""
    name, prefix = "more", bench.workspace / "more-env"
    shutil.copytree(bench.workspace / "store", bench.absent("more-store"))
    store = bench.workspace / "more-store"
    if prefix.exists():
        shutil.rmtree(prefix)
    bench.run_json("restore", "bench", "--prefix", prefix, "--store", store)
    bench.run_json("remove", "work", "--yes", "--store", store)
    bench.run_json("prune", "--grace", "0m", "--yes", "--store", store)
    bench.run_json("pack", "-p", prefix, "--name", name, "--store", store)
    _settle(prefix)
    bench.run_json("pack", "-p", prefix, "--name", name, "--store", store)
    change(prefix, install=[SMALL])
    before = bench.size("more-store")
    lists = _lists(store)
    done = bench.snapper("pack", "-p", prefix, "--name", name, "--store", store)
    bench.figures["added, one package more"] = bench.size("more-store") - before
    bench.figures["of that, snapshot and pages"] = _lists(store) - lists
    shown = bench.run_json("show", name, "--store", store)
    own = [layer["size"] for layer in shown["layers"] if layer["owner"].startswith(f"{SMALL}-")]
    bench.figures["that package's layers"] = sum(own)
    return done


def _lists(store: Path) -> int:
    """Return the size of snapshots and their pages, in bytes."""
    return sum(
        file.stat().st_size for top in ("snapshots", "pages") for file in (store / top).rglob("*.json")
    )


def _forward(bench: Bench) -> Measurement:
    return bench.snapper("restore", "work", "--prefix", bench.workspace / "work")


def _back(bench: Bench) -> Measurement:
    return bench.snapper("restore", "work@~1", "--prefix", bench.workspace / "work")


def _ten(bench: Bench) -> Measurement:
    options = ("--store", bench.workspace / "ten-store", "--envs-dir", bench.workspace / "ten")
    return bench.snapper("restore", "--all", *options)


WARM = Phase(
    "warm",
    _prepare,
    (
        Case("pack, nothing changed", _pack_unchanged),
        Case("pack, one small package more", _pack_one_more),
        Case("restore, one package more", _forward),
        Case("restore, one package less", _back),
        Case("restore --all, ten already present", _ten),
        Case("snapper --help", lambda bench: bench.snapper("--help")),
        Case("snapper list", lambda bench: bench.snapper("list")),
    ),
)


def _prepare_common(bench: Bench) -> None:
    """Pack `first`: the environment restored at another prefix without a tenth of its packages.

    Of every ten packages ordered by size, the sixth is removed, so that a tenth of the packages is close to a tenth
    of the bytes. The environment is restored, not copied, because copied files would keep the original prefix.
    """
    first = bench.workspace / "first"
    bench.run_json("pack", "-p", bench.prefix, "--name", "bench")
    bench.run_json("restore", "bench", "--prefix", first)
    bench.absent("store")
    files = {record: json.loads(record.read_bytes())["files"] for record in first.glob("conda-meta/*.json")}
    sizes = {record: sum((first / path).lstat().st_size for path in paths) for record, paths in files.items()}
    for record in sorted(sizes, key=sizes.__getitem__)[5::10]:
        for path in files[record]:
            (first / path).unlink()
        record.unlink()
    shutil.rmtree(first / ".snapper")
    bench.run_json("pack", "-p", first, "--name", "first")
    shutil.rmtree(first)
    (bench.workspace / "store").rename(bench.workspace / "first-store")


def _second_cold(bench: Bench) -> Measurement:
    bench.absent("store")
    shutil.rmtree(bench.prefix / ".snapper", ignore_errors=True)
    return bench.snapper("pack", "-p", bench.prefix, "--name", "second")


def _second(bench: Bench) -> Measurement:
    bench.absent("store")
    subprocess.run(["cp", "-a", bench.workspace / "first-store", bench.workspace / "store"], check=True)
    bench.figures["the first environment"] = before = bench.size("store")
    shutil.rmtree(bench.prefix / ".snapper", ignore_errors=True)
    done = bench.snapper("pack", "-p", bench.prefix, "--name", "second")
    bench.figures["added, 90% in common"] = bench.size("store") - before
    return done


COMMON = Phase(
    "common",
    _prepare_common,
    (
        Case("pack, in an empty store", _second_cold),
        Case("pack, 90% in common with another", _second),
    ),
)


def _prepare_twice(bench: Bench) -> None:
    """Create the environment with a second copy of its files, owned by no package, inside."""
    twice = bench.workspace / "twice"
    ignored = shutil.ignore_patterns(".snapper")
    shutil.copytree(bench.prefix, twice, symlinks=True, ignore=ignored)
    ignored = shutil.ignore_patterns(".snapper", "conda-meta")
    shutil.copytree(bench.prefix, twice / "share" / "copy", symlinks=True, ignore=ignored)


def _pack_of(bench: Bench, prefix: Path, name: str) -> Measurement:
    bench.absent("store")
    shutil.rmtree(prefix / ".snapper", ignore_errors=True)
    return bench.snapper("pack", "-p", prefix, "--name", name)


def _restore_of(bench: Bench, name: str) -> Measurement:
    done = bench.snapper("restore", name, "--prefix", bench.absent("restored"))
    bench.absent("restored")
    return done


TWICE = Phase(
    "twice the files",
    _prepare_twice,
    (
        Case("pack, once", lambda bench: _pack_of(bench, bench.prefix, "once")),
        Case("restore, once", lambda bench: _restore_of(bench, "once")),
        Case("pack, twice", lambda bench: _pack_of(bench, bench.workspace / "twice", "twice")),
        Case("restore, twice", lambda bench: _restore_of(bench, "twice")),
    ),
)
