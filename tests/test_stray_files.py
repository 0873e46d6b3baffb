"""Files that macOS, editors, and pip leave beside records of packages are no records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Machine
from tests.support.environments import make_data

#: What macOS writes on file systems without extended attributes (AppleDouble), beside `NAME` as `._NAME`.
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\x02\x00\x00\x00\x09" + bytes(120)


@pytest.fixture
def strewn(machine: Machine) -> Path:
    """Make an environment with such files wherever records are read."""
    prefix = make_data(machine.envs / "work")
    record = min(prefix.glob("conda-meta/*.json"))
    meta = record.parent
    for file in [*meta.iterdir()]:
        (meta / f"._{file.name}").write_bytes(APPLE_DOUBLE)
    (meta / f".#{record.name}").symlink_to("user@host.1234:1700000000")
    (meta / f".{record.name}.swp").write_bytes(b"b0VIM 9.0")
    (meta / f"#{record.name}#").write_text("{")
    (meta / f"{record.name}~").write_text("{")
    (meta / "notes.json").write_text("[]")
    (meta / "mine.json").mkdir()
    for copy in (f"{record.stem} (1).json", f"{record.stem} copy.json", f"{record.stem}-conflict.json"):
        shutil.copy(record, meta / copy)
    variables = prefix / "etc/conda/env_vars.d"
    variables.mkdir(parents=True)
    (variables / "mine.json").write_text('{"MINE": "1"}')
    (variables / "._mine.json").write_bytes(APPLE_DOUBLE)
    site = prefix / "lib/python3.12/site-packages"
    for name in ("mine-1.0.dist-info", "~ine-0.9.dist-info", "._hidden-1.0.dist-info"):
        (site / name).mkdir(parents=True)
        (site / name / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.partition('-')[0]}\nVersion: 1\n"
        )
        (site / name / "._METADATA").write_bytes(APPLE_DOUBLE)
    kernels = prefix / "share/jupyter/kernels"
    (kernels / "mine").mkdir(parents=True)
    spec = {"argv": [f"{prefix}/bin/mine"], "display_name": "Mine", "language": "mine"}
    (kernels / "mine/kernel.json").write_text(json.dumps(spec))
    for stray in ("._mine", "mine/._kernel.json", ".DS_Store"):
        (kernels / stray).write_bytes(APPLE_DOUBLE)
    return prefix


def test_stray_files_are_no_records_but_packed(machine: Machine, strewn: Path) -> None:
    packed = machine.run_json("pack", "work")
    shown = machine.run_json("show", "work")
    assert len(shown["packages"]) == len({package["name"] for package in shown["packages"]})
    assert [package["name"] for package in shown["pip"]] == ["mine"]
    assert [kernel["name"] for kernel in shown["kernels"]] == ["mine"]
    assert packed["altered"] == packed["missing"] == []
    target = machine.home / "elsewhere" / "work"
    (restored,) = machine.run_json("restore", "work", "--prefix", target)["restored"]
    assert len(restored["kernels"]) == 1
    assert {path.name for path in (target / "conda-meta").iterdir()} == {
        path.name for path in (strewn / "conda-meta").iterdir()
    }
    assert machine.run_json("pack", "-p", target, "--name", "again")["snapshot"] == packed["snapshot"]
    assert machine.snapper("verify", "work", "-p", target).code == 0


def test_stray_files_that_appear_later_change_no_packages(machine: Machine) -> None:
    prefix = make_data(machine.envs / "work")
    machine.run_json("pack", "work")
    record = min(prefix.glob("conda-meta/*.json"))
    (record.parent / f"._{record.name}").write_bytes(APPLE_DOUBLE)
    (status,) = machine.run_json("status", "work")["environments"]
    assert status["packages"] == {"added": [], "removed": [], "changed": []}


def test_stray_files_in_archives_are_no_records(machine: Machine, strewn: Path, tmp_path: Path) -> None:
    machine.run_json("pack", "work")
    archive = tmp_path / "work.tar.gz"
    machine.run_json("export", "work", "-o", archive)
    imported = machine.run_json("import", archive, "--name", "imported")
    assert imported["packages"] == machine.run_json("pack", "work")["packages"]


def test_doctor_reads_environments_with_stray_files(machine: Machine, strewn: Path) -> None:
    findings = json.dumps(machine.snapper("doctor", "--json").json)
    assert "not a conda package record" not in findings
