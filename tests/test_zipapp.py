"""Zip archives behind a first line run below other prefixes, however they state where their members are."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipapp
import zipfile
from pathlib import Path

import pytest

from snapper.format.canonicalize import canonicalize
from snapper.format.relocate import relocate_file
from tests.conftest import Machine

MAIN = "import sys, helper\nprint(helper.NAME, sys.argv[1:])\nsys.exit(7)\n"


def make_prefix(prefix: Path) -> Path:
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/python3").symlink_to(sys.executable)
    return prefix


def by_zipapp(prefix: Path, option: str = "") -> bytes:
    """Positions count from the start of the file."""
    source = prefix / "source"
    source.mkdir()
    (source / "__main__.py").write_text(MAIN)
    (source / "helper.py").write_text("NAME = 'helper'\n" * 50)
    target = prefix / "app.pyz"
    zipapp.create_archive(source, target, interpreter=f"{prefix}/bin/python3{option}", compressed=True)
    return target.read_bytes()


def with_option(prefix: Path) -> bytes:
    return by_zipapp(prefix, " -s")


def by_cat(prefix: Path) -> bytes:
    """Positions count from the start of the archive, as if one had put the line before it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__main__.py", MAIN)
        archive.writestr("helper.py", "NAME = 'helper'\n")
        archive.comment = b"made by cat"
    return f"#!{prefix}/bin/python3\n".encode() + buffer.getvalue()


FORMS = (by_zipapp, with_option, by_cat)
PREFIXES = ("p", "a-name-as-long-as-that-of-the-old-one", "x" * 120, "with a space", "y" * 240)


def run(file: Path, data: bytes) -> subprocess.CompletedProcess[str]:
    file.write_bytes(data)
    file.chmod(0o755)
    return subprocess.run([file, "a b"], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("old", [PREFIXES[1], PREFIXES[4]])
def test_zipapps_run_below_other_prefixes(tmp_path: Path, form: type, old: str) -> None:
    prefix = make_prefix(tmp_path / "old" / old)
    data = form(prefix)
    found = canonicalize(data, str(prefix))
    assert found is not None
    assert (found.mode, found.kept, found.unrelocated) == ("text", "", False)
    assert os.fsencode(prefix) not in found.data
    for name in PREFIXES:
        new = make_prefix(tmp_path / "new" / name)
        relocated = relocate_file(found.data, "text", found.placeholder, str(new))
        done = run(new / "bin/app", relocated)
        assert (done.stdout, done.stderr, done.returncode) == ("helper ['a b']\n", "", 7)
        with zipfile.ZipFile(new / "bin/app") as archive:
            assert archive.testzip() is None
        again = canonicalize(relocated, str(new), (found.placeholder,))
        assert again is not None
        assert (again.data, again.placeholder) == (found.data, found.placeholder)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_at_the_same_prefix_zipapps_do_not_change(tmp_path: Path, form: type) -> None:
    prefix = make_prefix(tmp_path / "work")
    data = form(prefix)
    found = canonicalize(data, str(prefix))
    assert found is not None
    assert relocate_file(found.data, "text", found.placeholder, str(prefix)) == data


def test_zipapps_are_packed_and_restored(tmp_path: Path, machine: Machine) -> None:
    prefix = make_prefix(tmp_path / "a-longer-name-than-the-other")
    (prefix / "conda-meta").mkdir()
    data = by_zipapp(prefix)
    (prefix / "app.pyz").unlink()
    assert run(prefix / "bin/app", data).returncode == 7
    packed = machine.run_json("pack", "-p", prefix, "--name", "app")
    assert packed["unrelocated"] == []
    target = machine.envs / "app"
    machine.run_json("restore", "app", "--prefix", target)
    done = subprocess.run([target / "bin/app", "x"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("helper ['x']\n", 7)
    assert machine.run_json("pack", "-p", target, "--name", "app", "--full")["unchanged"]


def test_prefixes_inside_of_a_zipapp_are_reported(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "work")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("__main__.py", f"print('{prefix}/share')\n")
    found = canonicalize(f"#!{prefix}/bin/python3\n".encode() + buffer.getvalue(), str(prefix))
    assert found is not None
    assert (found.mode, found.kept, found.unrelocated) == ("text", str(prefix), True)


@pytest.mark.parametrize(
    "data",
    [b"#!/p/q/bin/sh\n\0payload", b"#!/p/q/bin/sh\nPK\3\4\0no end", b"#!/p/q\0PK\3\4PK\5\6" + bytes(20)],
)
def test_other_files_with_a_first_line_are_reported(data: bytes) -> None:
    found = canonicalize(data, "/p/q")
    assert found is not None
    assert (found.mode, found.unrelocated) == (None, True)
