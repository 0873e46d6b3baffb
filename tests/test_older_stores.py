"""Snapshots of 0.1.0 are restored without shortening strings whose lengths may be stated elsewhere.

`data/store-0.1.0.tar.xz` was made by it. Each of its two environments was at `/opt/made-by-an-old-version/env`. In the
programs of `old`, all strings have placeholders that 0.1.0 chose; in those of `mixed`, some that a later version chose,
which had packed the environment before. `bin/large` is larger than a layer, and `bin/linked` contains the prefix only
in its RUNPATH.
"""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Machine

ORIGIN = "/opt/made-by-an-old-version/env"
PROGRAMS = ("bin/program", "bin/large", "bin/linked")

#: Data without NUL bytes that states the length of a path with the prefix.
DATA = ("data.msgpack", "data.php")


class Moved(NamedTuple):
    """Where an environment is restored, and the files that are reported."""

    length: int
    reported: set[str]


@pytest.fixture
def older(machine: Machine) -> Machine:
    with tarfile.open(Path(__file__).parent / "data/store-0.1.0.tar.xz") as archive:
        archive.extractall(machine.store, filter="data")
    return machine


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("old", Moved(len(ORIGIN) - 5, {"bin/program", "bin/large", *DATA})),
        ("mixed", Moved(len(ORIGIN) - 5, {"bin/program", "bin/large", *DATA})),
        ("mixed", Moved(len(ORIGIN), {"data.msgpack"})),
        ("old", Moved(len(ORIGIN) + 5, {*PROGRAMS, *DATA})),
    ],
    ids=["shorter", "shorter-mixed", "equal", "longer"],
)
def test_only_what_is_understood_is_changed_or_the_file_is_reported(
    name: str, moved: Moved, older: Machine, scratch: Path
) -> None:
    prefix = scratch / "e".ljust(moved.length - len(str(scratch)) - 1, "x")
    assert len(str(prefix)) == moved.length
    outcome = older.snapper("restore", name, "--prefix", prefix, "--json")
    assert (outcome.code, set(outcome.json["restored"][0]["unrelocated"])) == (3, moved.reported)
    for path in ("bin/program", "bin/linked"):
        linked = f"{prefix}/lib".encode() in (prefix / path).read_bytes()
        assert linked == (moved.length <= len(ORIGIN)), path
    for path in ("bin/program", "bin/large"):
        shown = subprocess.check_output([prefix / path], text=True)
        assert len(shown) == len(f"{ORIGIN}/share/x\n"), path
        assert shown.startswith(f"{prefix}/" if moved.length == len(ORIGIN) else "/snapper_"), path
    checked = older.snapper("verify", "-p", prefix)
    assert checked.code == 0, checked
    if name == "mixed" and moved.length < len(ORIGIN):  # what was not understood is reported again
        again = older.snapper("pack", "-p", prefix, "--json")
        assert (again.code, {"bin/program", "bin/large"} <= set(again.json["unrelocated"])) == (3, True)


def test_exported_programs_are_not_shortened(older: Machine) -> None:
    """conda-unpack replaces all strings; it does not get the programs in which others than the loader's have them."""
    archive = older.home / "old.tar"
    outcome = older.snapper("export", "old", "-o", archive, "--json")
    assert (outcome.code, outcome.json["unrelocated"]) == (3, ["bin/large", "bin/program"])
    with tarfile.open(archive) as opened:
        (script,) = (opened.extractfile(each) for each in opened if each.name.endswith("bin/conda-unpack"))
        assert script is not None
        text = script.read().decode()
    assert ("bin/linked" in text, "bin/program" in text, "bin/large" in text) == (True, False, False)
