"""Modification and access times of restored files: what caches, scratch purges, and archives rely on."""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import shutil
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from scripts.maker import make
from snapper.format.times import LINK_TIME, RESTORED_LINK_TIME
from tests.conftest import Machine
from tests.support.environments import forget_state, make_data
from tests.support.pip import pip, python_of, run, wheels

DAY = 24 * 3600
SECOND = 10**9
CACHED = """\
import numba
@numba.njit(cache=True)
def double(x):
    return 2 * x
double(1)
print(sum(double.stats.cache_hits.values()))
"""

#: Times in nanoseconds, and what a snapshot has instead.
TIMES = {
    1_700_000_000_123_456_789: 1_700_000_000_123_456_789,
    1_700_000_000_000_000_001: 1_700_000_000_000_000_001,
    999_999_999: 999_999_999,
    0: 0,
    -1: 0,
    -(2**31) * SECOND: 0,
    (8**11 - 1) * SECOND: (8**11 - 1) * SECOND,
    (8**11 - 1) * SECOND + 1: (8**11 - 1) * SECOND,
    10_413_792_000 * SECOND: (8**11 - 1) * SECOND,  # 2300-01-01
    RESTORED_LINK_TIME * SECOND: RESTORED_LINK_TIME * SECOND,
    RESTORED_LINK_TIME * SECOND + 1: RESTORED_LINK_TIME * SECOND + 1,
}


@pytest.fixture
def data(machine: Machine) -> Path:
    return make_data(machine.envs / "data")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment whose Python has compiled modules: some from packages, some of the user's."""
    prefix = tmp_path_factory.mktemp("compiled") / "env"
    make("compiled", prefix, copy=True)
    (prefix / "lib" / "mine.py").write_text(f"here = {str(prefix)!r}\n")
    relocated = [
        prefix / "lib/mine.py",
        *prefix.rglob("_sysconfigdata_*.py"),
        *prefix.rglob("python-config.py"),
    ]
    run([python_of(prefix), "-m", "compileall", "-q"], relocated, prefix)
    return prefix


def moved(prefix: Path, machine: Machine) -> Path:
    """Pack the environment, and restore it elsewhere."""
    machine.run_json("pack", "-p", prefix, "--name", "work")
    machine.run_json("restore", "work", "--envs-dir", machine.envs)
    return machine.envs / "work"


def mtime_of(path: Path) -> int:
    return path.lstat().st_mtime_ns


def is_possible(path: Path, mtime: int) -> bool:
    """Return whether the file system can hold the time."""
    os.utime(path, ns=(mtime, mtime))
    return mtime_of(path) == mtime


def is_changed(machine: Machine) -> bool:
    (environment,) = machine.run_json("status")["environments"]
    drift = environment["drift"]
    return drift is not None and any(drift.values())


def test_nanoseconds_and_limits_survive_any_number_of_moves(
    data: Path, machine: Machine, new_machine: Callable[[str], Machine]
) -> None:
    expected = {}
    for number, (mtime, kept) in enumerate(TIMES.items()):
        file = data / f"file{number}"
        file.write_text("x")
        if is_possible(file, mtime):
            expected[file.name] = kept
    clamped = {name for name, kept in expected.items() if mtime_of(data / name) != kept}
    assert len(clamped) >= 2

    packed = machine.snapper("pack", "data", "--json")
    assert (packed.code, set(packed.json["clamped"])) == (3, clamped)
    shown = machine.snapper("pack", "data")
    assert shown.code == 3
    assert all(shown.err.count(f"    {name}\n") == 1 for name in clamped), shown.err
    assert not is_changed(machine)

    for name in ("second", "third"):
        other = new_machine(name)
        other.run_json("restore", "data", "--envs-dir", other.envs)
        restored = other.envs / "data"
        assert {name: mtime_of(restored / name) for name in expected} == expected
        assert not is_changed(other)
        again = other.run_json("pack", "data", "--full")
        assert (again["unchanged"], again["added_layers"], again["clamped"]) == (True, 0, [])
        forget_state(restored)
        assert other.run_json("pack", "data")["snapshot"] == packed.json["snapshot"]


def test_times_that_numba_depends_on_are_exact(tmp_path: Path, machine: Machine) -> None:
    """Other files of packages have whole seconds, so that installations by different programs share layers."""
    prefix = tmp_path / "env"
    make("compiled", prefix, copy=True)
    (library,) = prefix.glob("lib/python3*")
    for name in ("this.py", "abc.py"):
        os.utime(library / name, ns=(0, 1_700_000_000_123_456_789))
    machine.run_json("pack", "-p", prefix, "--name", "work")
    machine.run_json("restore", "work", "--envs-dir", machine.envs)
    restored = machine.envs / "work" / library.relative_to(prefix)
    assert mtime_of(restored / "this.py") == mtime_of(restored / "abc.py") == 1_700_000_000_000_000_000

    (library / "__pycache__" / "this.rot13-2.py311.nbi").write_text("x")
    packed = machine.run_json("pack", "-p", prefix, "--name", "work")
    assert machine.run_json("pack", "-p", prefix, "--name", "work", "--full")["unchanged"]
    machine.run_json("restore", "work", "--envs-dir", machine.envs, "--replace")
    assert mtime_of(restored / "this.py") == 1_700_000_000_123_456_789
    assert mtime_of(restored / "abc.py") == 1_700_000_000_000_000_000
    assert machine.run_json("pack", "work", "--full")["snapshot"] == packed["snapshot"]


def test_numba_uses_its_caches(machine: Machine, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("numba is large: use --long")
    prefix = tmp_path / "env"
    make("compiled", prefix, copy=True)
    pip(prefix, "install", "--no-index", *wheels("numba", "llvmlite", "numpy"))
    (site,) = prefix.glob("lib/python3*/site-packages")
    (site / "mine.py").write_text(CACHED)
    count = [python_of(prefix), "-c"], ["import mine"]
    assert run(*count, tmp_path).split() == ["0"]
    assert run(*count, tmp_path).split() == ["1"]
    restored = moved(prefix, machine)
    assert run([python_of(restored), "-c"], ["import mine"], tmp_path).split() == ["1"]


def test_files_at_the_time_of_linked_ones_are_restored_alike(data: Path, machine: Machine) -> None:
    """A file of the user's from 1980-01-01 cannot be told from those that conda made when it installed a package."""
    source = data / "lib" / "mine.py"
    source.parent.mkdir(exist_ok=True)
    source.write_text("x = 1\n")
    os.utime(source, (LINK_TIME, LINK_TIME))
    subprocess.run([sys.executable, "-m", "compileall", "-q", source], check=True)
    machine.run_json("pack", "data")
    shutil.rmtree(data)
    machine.run_json("restore", "data")
    assert mtime_of(source) == RESTORED_LINK_TIME * SECOND
    assert stale_modules(data / "lib") == []
    assert machine.run_json("pack", "data", "--full")["unchanged"]


#: What a package's record can say of a file.
CHECKED = {"path_type": "hardlink", "sha256": ""}
RELOCATED = {"prefix_placeholder": "", "file_mode": ""}
ENTRIES: dict[str, dict[str, str]] = {
    "checked": CHECKED,
    "relocated": CHECKED | RELOCATED,
    "unchecked_relocated": {"path_type": "hardlink"} | RELOCATED,
    "unchecked": {"path_type": "hardlink"},
    "was_link": {"path_type": "softlink", "sha256": ""},
    "only_path": {},
}


def make_modules(prefix: Path) -> None:
    """Create an environment with a package for each of ENTRIES, which has a compiled module for each of EDITS."""
    placeholder = "/opt/placeholder"
    original = f"here = '{placeholder}'\nlimit = 5\n"
    known = {
        "sha256": hashlib.sha256(original.encode()).hexdigest(),
        "prefix_placeholder": placeholder,
        "file_mode": "text",
    }
    for kind, fields in ENTRIES.items():
        paths: list[dict[str, str]] = []
        for change in EDITS:
            source = prefix / f"lib/{kind}/{change.__name__}.py"
            source.parent.mkdir(parents=True, exist_ok=True)
            is_relocated = "prefix_placeholder" in fields
            source.write_text(original.replace(placeholder, str(prefix)) if is_relocated else original)
            os.utime(source, ns=(0, 1_500_000_000_123_456_789))
            compiled = Path(py_compile.compile(str(source), doraise=True) or "")
            entry = fields | {field: known[field] for field in known.keys() & fields.keys()}
            paths.append({"_path": str(source.relative_to(prefix)), **entry})
            paths.append({"_path": str(compiled.relative_to(prefix)), "path_type": "pyc_file"})
        record: dict[str, object] = {"name": kind, "version": "1", "build_string": "0"}
        record |= {"paths_data": {"paths": paths}} if fields else {"files": [path["_path"] for path in paths]}
        (prefix / "conda-meta").mkdir(exist_ok=True)
        (prefix / f"conda-meta/{kind}-1-0.json").write_text(json.dumps(record))


def keep(source: Path) -> None:
    """The source stays as it is."""


def edit(source: Path) -> None:
    """The source gets other contents of equal size."""
    source.write_text(source.read_text().replace("5", "7"))


def edit_and_compile(source: Path) -> None:
    """The source gets other contents, and is compiled again."""
    edit(source)
    py_compile.compile(str(source))


def replace_by_older(source: Path) -> None:
    """The source is replaced by another file, with the time of that."""
    edit(source)
    os.utime(source, (1_510_000_000, 1_510_000_000))


EDITS = (keep, edit, edit_and_compile, replace_by_older)


def test_compiled_modules_are_valid_in_a_restore_if_they_were_on_disk(machine: Machine) -> None:
    """Restored environments are edited as well as the first one; the prefixes have the same length."""
    first, second, copy = (machine.envs / name for name in ("one", "two", "tri"))
    make_modules(first)
    machine.run_json("pack", "-p", first, "--name", "work")
    machine.run_json("restore", "work", "--prefix", second)
    assert stale_modules(second) == []
    for edited in (first, second):
        for kind in ENTRIES:
            for change in EDITS:
                change(edited / f"lib/{kind}/{change.__name__}.py")
        stale = {module.parent.parent.name for module in stale_modules(edited)}
        assert stale == {*ENTRIES}
        machine.run_json("pack", "-p", edited, "--name", "work")
        machine.run_json("restore", "work", "--prefix", copy, "--replace")
        assert relative(stale_modules(copy), copy) == relative(stale_modules(edited), edited)
        for kind in ENTRIES:
            source = f"lib/{kind}/edit_and_compile.py"
            assert mtime_of(copy / source) == mtime_of(edited / source)
    for record in second.glob("conda-meta/*.json"):  # some installers write all of them again
        record.touch()
    machine.run_json("pack", "-p", second, "--name", "work")
    machine.run_json("restore", "work", "--prefix", copy, "--replace")
    assert relative(stale_modules(copy), copy) == relative(stale_modules(second), second)


def relative(paths: Iterable[Path], top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in paths)


def stale_modules(top: Path) -> list[Path]:
    """Return the compiled modules that Python would compile again."""
    stale = []
    for module in top.rglob("__pycache__/*.pyc"):
        flags, mtime, size = struct.unpack("<4xIII", module.read_bytes()[:16])
        source = module.parent.parent / f"{module.name.partition('.')[0]}.py"
        status = source.stat()
        if flags == 0 and (mtime, size) != (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF):
            stale.append(module)
    return stale


def test_compiled_modules_stay_valid(compiled: Path, machine: Machine) -> None:
    assert stale_modules(compiled) == []
    restored = compiled.with_name("new")  # as long, so that sources with the prefix keep their sizes
    machine.run_json("pack", "-p", compiled, "--name", "work")
    machine.run_json("restore", "work", "--prefix", restored)
    assert len(list(restored.rglob("*.pyc"))) > 100
    assert stale_modules(restored) == []
    assert machine.run_json("pack", "-p", restored, "--name", "work", "--full")["unchanged"]


def test_restored_files_can_be_zipped_in_every_time_zone(compiled: Path, machine: Machine) -> None:
    top = moved(compiled, machine)
    code = "import shutil, sys; shutil.make_archive(sys.argv[1], 'zip', sys.argv[2])"
    for zone in ("America/New_York", "Etc/GMT+12", "Pacific/Kiritimati"):
        for directory in ("conda-meta", "bin", "share"):
            run(
                [sys.executable, "-c", code],
                [machine.home / directory, top / directory],
                machine.home,
                TZ=zone,
            )


def test_access_times_are_those_of_the_restore(data: Path, machine: Machine) -> None:
    """Directories are scanned for files that nobody has used for a month, and these are removed."""
    old = time.time() - 40 * DAY
    for number in range(3):
        (data / f"mine{number}").write_text(f"{data}\n")
        os.utime(data / f"mine{number}", (old, old))
    machine.run_json("pack", "data", "-m", "first")
    shutil.rmtree(data)
    machine.run_json("restore", "data")
    assert unused_files(data) == []
    (data / "mine1").write_text("changed\n")
    machine.run_json("pack", "data")
    for file in data.rglob("*"):
        os.utime(file, ns=(int(old * SECOND), mtime_of(file)), follow_symlinks=False)
    machine.run_json("pack", "data")
    empty = data / "share/textdata/empty"
    inode = empty.stat().st_ino
    assert unused_files(data) == [str(empty)], "the others have just been read"
    machine.run_json("restore", "data@~1", "--replace")
    assert empty.stat().st_ino == inode, "it has not been written again"
    assert unused_files(data) == []


def unused_files(top: Path) -> list[str]:
    return run(["find", top], ["-atime", "+30", "-not", "-path", "*/.snapper/*"], top).splitlines()


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.zst"])
def test_exported_archives_have_exact_times(data: Path, machine: Machine, suffix: str) -> None:
    mtime = 1_700_000_000_123_456_789
    (data / "mine").write_text("x")
    os.utime(data / "mine", ns=(mtime, mtime))
    packed = machine.run_json("pack", "data")
    archive = machine.home / f"data.{suffix}"
    machine.run_json("export", "data", "-o", archive)
    assert machine.run_json("import", archive, "--name", "again")["added_layers"] == 0
    assert machine.run_json("show", "again")["snapshot"] == packed["snapshot"]


@pytest.mark.parametrize(
    ("suffix", "seconds", "kept"),
    [
        ("zip", 0, 1980),
        ("zip", 5_000_000_000, 2107),
        ("squashfs", 5_000_000_000, 2106),
        ("tar", 8**11 - 1, 2242),
    ],
)
def test_exports_report_times_that_the_format_cannot_hold(
    data: Path, machine: Machine, suffix: str, seconds: int, kept: int
) -> None:
    if suffix == "squashfs" and not shutil.which("mksquashfs"):
        pytest.skip("mksquashfs is not installed")
    (data / "mine").write_text("x")
    os.utime(data / "mine", (seconds, seconds))
    machine.run_json("pack", "data")
    archive = machine.home / f"data.{suffix}"
    exported = machine.snapper("export", "data", "-o", archive, "--json")
    assert exported.json["clamped"] == ([] if suffix == "tar" else ["mine"])
    assert exported.code == (3 if exported.json["clamped"] else 0)
    machine.run_json("import", archive, "--name", "again")
    machine.run_json("restore", "again")
    assert time.gmtime((machine.envs / "again" / "mine").stat().st_mtime).tm_year == kept


def test_imports_report_impossible_times(data: Path, machine: Machine) -> None:
    machine.run_json("pack", "data")
    machine.run_json("export", "data", "-o", machine.home / "data.tar")
    with (
        tarfile.open(machine.home / "data.tar") as source,
        tarfile.open(machine.home / "bad.tar", "w") as bad,
    ):
        for number, member in enumerate(source):
            if member.isfile():
                member.pax_headers = {"mtime": ("inf", "-5", "10413792000.5")[number % 3]}
            bad.addfile(member, source.extractfile(member) if member.isfile() else None)
    outcome = machine.snapper("import", machine.home / "bad.tar", "--json")
    assert outcome.code == 3
    assert len(outcome.json["clamped"]) > 3
