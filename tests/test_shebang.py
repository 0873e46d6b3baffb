"""Scripts run, with arguments and exit codes, below prefixes that the system does not accept in a first line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from snapper.format.canonicalize import TEXT_PLACEHOLDER, canonicalize
from snapper.format.relocate import relocate_file

PLACEHOLDER = "/home/build/_h_env_placehold_placehold"
BODY = b"import sys\nprint(sys.flags.isolated, sys.flags.no_user_site, sys.argv[1:])\nsys.exit(7)\n"

LONG = (
    "a-directory-with-a-name-that-is-long-enough-to-make-every-first-line-longer-than-the-kernel-takes-" * 2
)


@pytest.fixture(params=["short", LONG, "with a space", "with 'quotes' and $dollars \"too\""])
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a prefix whose `bin/python3` is this Python."""
    place = tmp_path / str(request.param)
    (place / "bin").mkdir(parents=True)
    program = place / "bin" / "python3"
    program.symlink_to(sys.executable)
    return place


def run(script: Path, data: bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    script.write_bytes(data)
    script.chmod(0o755)
    return subprocess.run([script, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("options", "flags"), [("", "0 0"), (" -s", "0 1"), (" -I", "1 1")])
def test_python_scripts_run_below_any_prefix(prefix: Path, options: str, flags: str) -> None:
    stored = f"#!{PLACEHOLDER}/bin/python3{options}\n".encode() + BODY
    done = run(
        prefix / "bin" / "script", relocate_file(stored, "text", PLACEHOLDER, str(prefix)), "a b", "-E", ""
    )
    assert done.stderr == ""
    assert done.stdout == f"{flags} ['a b', '-E', '']\n"
    assert done.returncode == 7


def test_coding_cookie_still_works(prefix: Path) -> None:
    stored = f"#!{PLACEHOLDER}/bin/python3\n# -*- coding: latin-1 -*-\nprint(ascii('".encode() + b"\xe9'))\n"
    done = run(prefix / "bin" / "script", relocate_file(stored, "text", PLACEHOLDER, str(prefix)))
    assert (done.stdout, done.stderr) == ("'\\xe9'\n", "")


def test_short_prefixes_keep_the_first_line_of_conda() -> None:
    stored = f"#!{PLACEHOLDER}/bin/python3 -E\n".encode() + BODY
    assert relocate_file(stored, "text", PLACEHOLDER, "/opt/env") == b"#!/opt/env/bin/python3 -E\n" + BODY


def test_other_interpreters_are_looked_up_on_path() -> None:
    stored = f"#!{PLACEHOLDER}/bin/perl -w\nprint 1;\n".encode()
    assert relocate_file(stored, "text", PLACEHOLDER, "/a b") == b"#!/usr/bin/env perl -w\nprint 1;\n"


def test_only_the_first_line_is_changed() -> None:
    stored = f"x = 1\n#!{PLACEHOLDER}/bin/python3\n".encode()
    assert relocate_file(stored, "text", PLACEHOLDER, "/a b") == b"x = 1\n#!/a b/bin/python3\n"


@pytest.mark.parametrize("prefix", ["/" + LONG, "/a b"])
def test_changed_first_lines_are_reverted_when_packed(prefix: str) -> None:
    stored = f"#!{TEXT_PLACEHOLDER}/bin/python3 -s\n".encode() + BODY
    found = canonicalize(relocate_file(stored, "text", TEXT_PLACEHOLDER, prefix), prefix)
    assert found is not None
    assert found.data == stored
