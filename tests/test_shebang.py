"""Scripts run, with arguments and exit codes, below prefixes that the system does not accept in a first line."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
from itertools import product
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


@pytest.mark.parametrize("prefix", ["short", LONG, "with a space"], indirect=True)
def test_docstrings_and_future_imports_stay_first(prefix: Path) -> None:
    body = b'# a comment\n\n"""usage"""\nfrom __future__ import annotations\nprint(__doc__)\n'
    for start in (f"#!{PLACEHOLDER}/bin/python3\n", f"#!{PLACEHOLDER}/bin/python3 -I\n# coding: utf-8\n"):
        stored = start.encode() + body
        relocated = relocate_file(stored, "text", PLACEHOLDER, str(prefix))
        done = run(prefix / "bin" / "script", relocated)
        assert (done.stdout, done.stderr) == ("usage\n", "")
        found = canonicalize(relocated, str(prefix), (PLACEHOLDER,))
        assert found is not None
        assert found.data == stored


def test_short_prefixes_keep_the_first_line_of_conda() -> None:
    stored = f"#!{PLACEHOLDER}/bin/python3 -E\n".encode() + BODY
    assert relocate_file(stored, "text", PLACEHOLDER, "/opt/env") == b"#!/opt/env/bin/python3 -E\n" + BODY


#: Scripts that print their options, arguments, and the number of a line, and exit with code 7.
LANGUAGES = {
    "perl": ("-w", b'print "$^W @ARGV\n"; print __LINE__; exit 7;\n'),
    "perl with two options": ("-w -T", b'print "$^W${^TAINT} @ARGV\n"; exit 7;\n__END__\n#!perl -w\n'),
    "ruby": ("-w", b'puts "#{$VERBOSE} #{ARGV.join(" ")}"; exit 7\n'),
    "bash": ("-f", b'echo "$- ${BASH_VERSINFO:+bash} $@"; "$0.child"; exit 7\n'),
    "dash": ("-f", b'echo "$- $@"; "$0.child"; exit 7\n'),
    "zsh": ("-f", b'echo "$ZSH_NAME $@"; "$0.child"; exit 7\n'),
    "node": ("--no-warnings", b"console.log(process.execArgv, process.argv.slice(2)); process.exit(7)\n"),
    "node in strict mode": ("", b'"use strict"; console.log((() => this)() ?? 1); process.exit(7)\n'),
    "tclsh": ("", b"puts [list $argv]; exit 7\n"),
    "lua5.4": ("", b"print(...) os.exit(7)\n"),
    "Rscript": ("--vanilla", b"cat(commandArgs(TRUE)); quit(status = 7)\n"),
}


def add_interpreter(prefix: Path, name: str) -> None:
    """Put a link to a program of this machine into the prefix; skip the test if there is none."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    (prefix / "bin" / name).symlink_to(program)


@pytest.mark.parametrize("prefix", [LONG, "with 'quotes' and $dollars \"too\""], indirect=True)
@pytest.mark.parametrize(
    ("case", "line"),
    [(case, "#!{}/bin/{} {}") for case in LANGUAGES]
    + list(product(["perl", "bash"], ["#! {}/bin/{}\t{} ", "#!/usr/bin/env -S {}/bin/{} {}"])),
)
def test_scripts_in_other_languages_keep_their_options_and_arguments(
    prefix: Path, tmp_path: Path, case: str, line: str
) -> None:
    name = case.partition(" ")[0]
    add_interpreter(prefix, name)
    options, body = LANGUAGES[case]
    script, child = prefix / "bin" / "script", prefix / "bin" / "script.child"
    stored = f"#!{PLACEHOLDER}/bin/{name} -f\n".encode() + b'echo "child of ${SNAPPER_EXEC:-a script}"\n'
    child.write_bytes(relocate_file(stored, "text", PLACEHOLDER, str(prefix)))
    child.chmod(0o755)
    plain = tmp_path / "plain"
    plain.write_bytes(body)
    shutil.copy(child, f"{plain}.child")
    command = [name, *options.split(), str(plain), "a b", "-E", ""]
    expected = subprocess.run(command, capture_output=True, text=True, check=False)
    stored = line.format(PLACEHOLDER, name, options).encode() + b"\n" + body
    done = run(script, relocate_file(stored, "text", PLACEHOLDER, str(prefix)), "a b", "-E", "")
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.rpartition("\n")[0] == expected.stdout.rpartition("\n")[0]


def test_lines_of_perl_scripts_keep_their_numbers(prefix: Path) -> None:
    add_interpreter(prefix, "perl")
    stored = f"#!{PLACEHOLDER}/bin/perl\ndie".encode()
    done = run(prefix / "bin" / "script", relocate_file(stored, "text", PLACEHOLDER, str(prefix)))
    assert done.stderr.endswith("line 2.\n")


@pytest.mark.parametrize(
    "line",
    [
        "#!/usr/bin/env {}/bin/python3",
        "#!/usr/bin/env -S {}/bin/python3 -I -u",
        "#!/usr/bin/env -S -u HOME X=1 {}/bin/python3 -I",
        "#!/usr/bin/env -iS\t{}/bin/python3 -I",
        "#!/usr/bin/env --split-string={}/bin/python3 -I",
    ],
)
def test_scripts_that_env_starts_run_below_any_prefix(prefix: Path, line: str) -> None:
    stored = line.format(PLACEHOLDER).encode() + b"\n" + BODY
    done = run(prefix / "bin" / "script", relocate_file(stored, "text", PLACEHOLDER, str(prefix)), "x")
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.endswith("['x']\n")


@pytest.mark.parametrize("prefix", ["short", LONG, "with a space"], indirect=True)
def test_env_splits_words_with_quotes_itself(prefix: Path) -> None:
    line = f'#!/usr/bin/env -S "{PLACEHOLDER}/bin/python3" -c \'print("a  b", __import__("sys").argv[2:])\'\n'
    data = relocate_file(line.encode(), "text", PLACEHOLDER, str(prefix))
    done = run(prefix / "bin" / "script", data, "c d")
    assert (done.stdout, done.stderr) == ("a  b ['c d']\n", "")


@pytest.mark.parametrize("quotes", ["", '"'])
def test_scripts_that_pip_starts_by_the_shell_run_below_any_prefix(prefix: Path, quotes: str) -> None:
    command = f"{quotes}{PLACEHOLDER}/bin/python3{quotes}"
    stored = f"#!/bin/sh\n'''exec' {command} -s \"$0\" \"$@\"\n' '''\n".encode() + BODY
    done = run(prefix / "bin" / "script", relocate_file(stored, "text", PLACEHOLDER, str(prefix)), "x")
    assert (done.stdout, done.stderr, done.returncode) == ("0 1 ['x']\n", "", 7)


def test_scripts_run_through_links(prefix: Path, tmp_path: Path) -> None:
    stored = f"#!{PLACEHOLDER}/bin/python3\n".encode() + BODY
    script = prefix / "bin" / "script"
    run(script, relocate_file(stored, "text", PLACEHOLDER, str(prefix)))
    link = tmp_path / "link"
    link.symlink_to(script)
    assert subprocess.run([link], check=False, capture_output=True).returncode == 7


@pytest.mark.parametrize("stored", [b"#!%b/bin/python3", b"#!%b/bin/python3 -s\r\nx = 1\r\n"])
def test_first_lines_without_an_end_or_with_one_of_windows_are_relocated(stored: bytes) -> None:
    stored %= PLACEHOLDER.encode()
    assert relocate_file(stored, "text", PLACEHOLDER, "/p") == stored.replace(PLACEHOLDER.encode(), b"/p")
    assert PLACEHOLDER.encode() not in relocate_file(stored, "text", PLACEHOLDER, f"/{LONG}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{}/bin/tool", "#!/usr/bin/env tool"),
        ("{}/bin/awk -f", "#!/usr/bin/env -S awk -f"),
        ("/usr/bin/env -S -u X {}/bin/awk -f", "#!/usr/bin/env -S -u X awk -f"),
    ],
)
def test_unknown_interpreters_are_looked_up_on_path(line: str, expected: str) -> None:
    """Packed from there, and restored elsewhere, such a script has its first line again."""
    stored = f"#!{line.format(PLACEHOLDER)}\nx\n".encode()
    relocated = relocate_file(stored, "text", PLACEHOLDER, "/a b")
    assert relocated == f"{expected}\nx\n".encode()
    assert canonicalize(relocated, "/a b") is None
    found = canonicalize(relocated, "/a b", (PLACEHOLDER,))
    if not line.startswith("/usr/bin/env"):
        assert found is not None
        assert found.data == stored


@pytest.mark.parametrize("words", [b"a ", b'" '])
def test_long_first_lines_take_little_memory(words: bytes) -> None:
    line = b"#!%b/bin/python " % PLACEHOLDER.encode() + words * (2 << 20)
    tracemalloc.start()
    moved = relocate_file(line, "text", PLACEHOLDER, "/home/ada/my env")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert moved.startswith(b"#!/home/ada/my env/bin/python ")
    assert most < 8 * len(line)


def test_only_the_first_line_is_changed() -> None:
    stored = f"x = 1\n#!{PLACEHOLDER}/bin/python3\n".encode()
    assert relocate_file(stored, "text", PLACEHOLDER, "/a b") == b"x = 1\n#!/a b/bin/python3\n"


@pytest.mark.parametrize("prefix", ["/" + LONG, "/a b"])
@pytest.mark.parametrize(
    "line",
    [
        "{}/bin/python3 -s",
        " {}/bin/python3",
        "{}/bin/perl -w",
        "{}/bin/ruby -w -I{}/lib",
        "{}/bin/bash -e",
        "{}/bin/node",
        "{}/bin/Rscript --vanilla",
        "{}/bin/tclsh",
        "{}/bin/lua",
        "/usr/bin/env -S {}/bin/perl -w",
    ],
)
def test_changed_first_lines_are_reverted_when_packed(prefix: str, line: str) -> None:
    stored = f"#!{line.replace('{}', TEXT_PLACEHOLDER)}\n".encode() + BODY
    found = canonicalize(relocate_file(stored, "text", TEXT_PLACEHOLDER, prefix), prefix)
    assert found is not None
    assert found.data == stored
