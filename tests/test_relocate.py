"""Relocation: files that contain the prefix as a path follow the environment; similar text stays."""

from __future__ import annotations

import json
import marshal
import os
import py_compile
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from conda_pack.prefixes import binary_replace, text_replace
from hypothesis import assume, example, given
from hypothesis import strategies as st

from snapper.environment.conda import FileFacts
from snapper.environment.record_text import with_facts
from snapper.format.canonicalize import (
    TEXT_PLACEHOLDER,
    CanonicalFile,
    candidate_originals,
    canonicalize,
)
from snapper.format.cstrings import PlaceholderTooShort
from snapper.format.encodings import WIDE_ENCODINGS, find_wide_encoding
from snapper.format.model import Mode
from snapper.format.paths import contains_path
from snapper.format.relocate import RelocatedFileTooLarge, is_complete, relocate_file
from snapper.format.shebang import original_shebangs

CONDA_PLACEHOLDER = "/opt/anaconda1anaconda2anaconda3" + "_placehold" * 22
P = CONDA_PLACEHOLDER.encode()
ELF = b"\x7fELF\2\1\1\0"


def canonical(data: bytes, prefix: str, before: CanonicalFile | None = None) -> CanonicalFile:
    file = canonicalize(data, prefix, (before.placeholder,) if before else ())
    assert file is not None
    return file


def kept(data: bytes, prefix: str) -> CanonicalFile:
    """Return what becomes of a file that contains the prefix in a form that is not understood."""
    return CanonicalFile(data, None, "", prefix, unrelocated=True)


def relocate_to(file: CanonicalFile, prefix: str) -> bytes:
    assert file.mode is not None
    return relocate_file(file.data, file.mode, file.placeholder, prefix)


def moved(data: bytes, old: str, new: str) -> bytes:
    """Return a file of an environment at `old` after the environment was restored at `new`."""
    file = canonicalize(data, old)
    return data if file is None or file.mode is None else relocate_to(file, new)


# --- text -------------------------------------------------------------------------------------------------

MOVES = {
    "/env": "/new",
    "/env\n": "/new\n",
    "/env/": "/new/",
    "/env.": "/new.",
    "in /env. Then": "in /new. Then",
    "#!/env/bin/python -sE\n": "#!/new/bin/python -sE\n",
    "#! /env/bin/python\n": "#! /new/bin/python\n",
    "-I/env/include": "-I/new/include",
    "cc -I/env/include -O": "cc -I/new/include -O",
    "'-L/env'": "'-L/new'",
    "-L/env -lz": "-L/new -lz",
    "\t-L/env": "\t-L/new",
    "-Wl,-rpath,/env/lib": "-Wl,-rpath,/new/lib",
    "-isystem /env/include": "-isystem /new/include",
    "--prefix=/env": "--prefix=/new",
    "-p=/env": "-p=/new",
    "file:///env/x": "file:///new/x",
    "git+file:///env/src@main": "git+file:///new/src@main",
    "PATH=/a:/env/bin:/b": "PATH=/a:/new/bin:/b",
    "/env:/env/lib:/env": "/new:/new/lib:/new",
    '"/env/bin"': '"/new/bin"',
    "'/env'": "'/new'",
    "`/env/bin/x`": "`/new/bin/x`",
    "(/env)": "(/new)",
    "</env>": "</new>",
    "[/env,/env]": "[/new,/new]",
    "{/env;}": "{/new;}",
    "$ENV|/env&": "$ENV|/new&",
    "a=/env\0"[:-1]: "a=/new",
    json.dumps({"prefix": "/env", "argv": ["/env/bin/python"]}): json.dumps(
        {"prefix": "/new", "argv": ["/new/bin/python"]}
    ),
    "\ufeff/env/x": "\ufeff/new/x",
    json.dumps("1\n/env/x\t/env"): json.dumps("1\n/new/x\t/new"),
    "/env/env": "/new/env",
    "/env/usr/env/x": "/new/usr/env/x",
}

STAYS = [
    "",
    "env",
    "/en",
    "/env-other",
    "/env-other/bin",
    "/envx",
    "/env2/bin",
    "/env_x",
    "/env.bak",
    "/env.d/x",
    "/env~",
    "/env+x",
    "/envé",
    "/Env",
    "/usr/env",
    "/usr/env/bin/python",
    "#!/usr/env python",
    "./env/bin",
    "../env/bin",
    "~/env/bin",
    "x/env",
    "conda-1.2/env/x",
    "a-/env/x",
    "a+/env/x",
    "/home/josé/env/bin",
    "/data/my-x/env/bin",
    "/data/-I/env/bin",
    "some-L/env",
    "é-L/env",
    "http://env/bin",
    "https://env",
    r"\/usr\/env \/env2 %2Fusr%2Fenv",
]


@pytest.mark.parametrize("text", MOVES)
def test_paths_in_text_are_relocated(text: str) -> None:
    assert moved(text.encode(), "/env", "/new") == MOVES[text].encode()


@pytest.mark.parametrize("text", STAYS)
def test_text_that_only_resembles_the_prefix_stays(text: str) -> None:
    data = text.encode()
    assert canonicalize(data, "/env") is None
    assert not contains_path(data, "/env")


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("/home/ada/env", r'{"home": "\/home\/ada\/env\/x", "path": "/home/ada/env"}'),
        ("/home/ada/env", "http://localhost/?path=%2Fhome%2Fada%2Fenv\n"),
        ("/home/ada/my env", "file:///home/ada/my%20env/x\n/home/ada/my env\n"),
        ("/home/zoé/env", r'{"argv": ["/home/zo\u00e9/env/bin/python"]}'),
        ("/home/ada/env", "a=/home//ada/env/x\nb=/home/ada/env/x\n"),
        ("/home/ada/env", "-I/home/ada/.///./env\n"),
        ("/home/ada/env", "/home/" + "/./" * 100_000 + "ada//env\n"),
    ],
)
def test_paths_with_escapes_are_kept_and_reported(prefix: str, text: str) -> None:
    """What is not escaped in the same file is relocated. Packing the restored file gives the same."""
    file = canonicalize(text.encode(), prefix)
    assert file is not None
    assert (file.kept, file.unrelocated) == (prefix, True)
    relocated = relocate_to(file, "/new") if file.mode else file.data
    assert relocated == text.replace(prefix, "/new").encode()
    assert not is_complete(relocated, prefix)
    assert canonicalize(relocated, "/new", (file.placeholder,) if file.mode else (), (prefix,)) == file


def test_paths_and_similar_text_in_one_file_are_told_apart() -> None:
    assert moved(b"/env /env-other /usr/env -L/env\n" * 3, "/env", "/elsewhere") == (
        b"/elsewhere /env-other /usr/env -L/elsewhere\n" * 3
    )


@pytest.mark.parametrize(
    "prefix", ["/e", "/a.b+c", "/opt/(x)", "/a b", "/home/é", "/home/\udcff", "/\\1\\g<0>"]
)
@pytest.mark.parametrize(
    "target", ["/n", "/opt/a much longer one", "/home/日本", "/home/\udcfe", "/\\1\\g<0>"]
)
def test_text_is_relocated_from_any_prefix_to_any_other(prefix: str, target: str) -> None:
    data = b"exec " + os.fsencode(prefix) + b"/bin/python\nx=" + os.fsencode(prefix) + b"\n"
    assert moved(data, prefix, target) == data.replace(os.fsencode(prefix), os.fsencode(target))
    data = ELF + P + b"/lib:" + P + b"\0end"
    relocated = relocate_file(data, "binary", CONDA_PLACEHOLDER, prefix)
    assert os.fsencode(prefix) + b"/lib:" in relocated
    assert list(candidate_originals(relocated, "binary", CONDA_PLACEHOLDER, prefix)) == [data]


def test_text_relocated_three_times_and_back_is_unchanged() -> None:
    homes = ["/home/ada/envs/work", "/w", "/home/a/much/longer/target/for/an/environment", "/home/é"]
    data = (
        b"PATH=/home/ada/envs/work/bin:/usr/bin\n# not /home/ada/envs/work-2, nor /usr/home/ada/envs/work\n"
    )
    here = data
    file: CanonicalFile | None = None
    for home, following in zip(homes, [*homes[1:], homes[0]], strict=True):
        last = file
        file = canonical(here, home, last)
        assert last is None or file == last
        here = relocate_to(file, following)
        assert here.count(following.encode() + b"/bin:") == 1
    assert here == data


def test_file_that_contains_the_placeholder_gets_another_one() -> None:
    data = f"/env/x {TEXT_PLACEHOLDER} /env\n".encode()
    file = canonical(data, "/env")
    assert relocate_to(file, "/env") == data
    assert relocate_to(file, "/new") == f"/new/x {TEXT_PLACEHOLDER} /new\n".encode()


def test_file_that_contains_every_placeholder_is_not_relocated() -> None:
    data = f"/env/x {TEXT_PLACEHOLDER} {TEXT_PLACEHOLDER}_\n".encode()
    assert canonicalize(data, "/env") == kept(data, "/env")


def test_text_from_conda_packages_is_inverted() -> None:
    packaged = b"p=%b/bin:%b;x=%b-suffix%b" % ((CONDA_PLACEHOLDER.encode(),) * 4)
    installed = bytes(text_replace(packaged, CONDA_PLACEHOLDER, "/env"))
    assert next(candidate_originals(installed, "text", CONDA_PLACEHOLDER, "/env")) == packaged
    assert relocate_file(packaged, "text", CONDA_PLACEHOLDER, "/env") == installed


def test_package_text_that_resembles_the_prefix_is_among_the_candidates() -> None:
    packaged = b"#!%b/bin/python\n#!/usr/bin/env python\n" % CONDA_PLACEHOLDER.encode()
    installed = bytes(text_replace(packaged, CONDA_PLACEHOLDER, "/env"))
    assert any(
        packaged in candidate_originals(installed, "text", CONDA_PLACEHOLDER, prefix)
        for prefix in ("/bin", "/env")
    )
    packaged = b"%b and /usr/env\n" % CONDA_PLACEHOLDER.encode()
    installed = bytes(text_replace(packaged, CONDA_PLACEHOLDER, "/env"))
    assert packaged in candidate_originals(installed, "text", CONDA_PLACEHOLDER, "/env")


PIECES = [
    b"/env",
    b"/env/",
    b"/",
    b"-",
    b"-I",
    b":",
    b" ",
    b"x",
    b".",
    b"\n",
    b"\xc3\xa9",
    b"env",
    b'"',
    b"_",
    b"/usr",
]
PIECES += [part.encode() for part in (TEXT_PLACEHOLDER, TEXT_PLACEHOLDER[:20], TEXT_PLACEHOLDER[20:])]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_relocating_canonical_text_gives_back_every_byte(data: bytes) -> None:
    file = canonicalize(data, "/env")
    if file is None:
        return
    assert relocate_to(file, "/env") == data
    elsewhere = relocate_to(file, "/q/w")
    assert canonical(elsewhere, "/q/w", file) == file


# --- binaries ---------------------------------------------------------------------------------------------


def conda_installs(data: bytes, prefix: str, placeholder: str = CONDA_PLACEHOLDER) -> bytes:
    return bytes(binary_replace(data, placeholder.encode(), prefix.encode()))


def inverted(data: bytes, prefix: str, placeholder: str = CONDA_PLACEHOLDER) -> bytes:
    (file,) = candidate_originals(data, "binary", placeholder, prefix)
    return file


BINARIES = {
    "one string": b"\1\2" + P + b"/lib\0\3\4",
    "the placeholder alone": P + b"\0",
    "several strings": P + b"/a\0" + P + b"/b\0between\0" + P + b"\0",
    "several in one string": P + b"/a:" + P + b"/b:" + P + b"\0end",
    "behind other text": b"PATH=/usr/bin:" + P + b"/bin\0end",
    "padding of its own": P + b"/lib\0\0\0\0\0\0\0end",
    "none": b"nothing\0here",
    "no end": b"\0begins " + P + b"/lib",
    "no end after an end": P + b"/a\0" + P + b"/b",
    "adjacent": P + P + b"\0",
}


@pytest.mark.parametrize("what", BINARIES)
@pytest.mark.parametrize("prefix", ["/e", "/home/ada/envs/work", "/" + "x" * (len(P) - 1)])
def test_binaries_from_conda_packages_are_inverted(what: str, prefix: str) -> None:
    packaged = ELF + BINARIES[what]
    installed = conda_installs(packaged, prefix)
    assert len(installed) == len(packaged)
    assert inverted(installed, prefix) == packaged
    assert relocate_file(packaged, "binary", CONDA_PLACEHOLDER, prefix) == installed


@given(
    st.lists(
        st.sampled_from([P[:40], b"/lib", b":", b"\0", b"\0\0\0", b"x", b"/", P[:39], b"\xff"]), max_size=14
    ),
    st.sampled_from(["/e", "/env", "/home/ada/work", P[:40].decode(), P[:20].decode()]),
)
@example([P[:40], b"\0" * 60], "/env")
def test_inverting_undoes_the_replacement_of_conda(pieces: list[bytes], prefix: str) -> None:
    placeholder, packaged = P[:40].decode(), b"".join(pieces)
    assume(prefix == placeholder or prefix.encode() not in packaged)
    installed = conda_installs(packaged, prefix, placeholder)
    assert len(installed) == len(packaged)
    assert inverted(installed, prefix, placeholder) == packaged


@given(st.binary(max_size=200), st.binary(max_size=200), st.integers(0, 50))
def test_inverting_undoes_the_replacement_of_conda_amid_any_bytes(
    before: bytes, after: bytes, room: int
) -> None:
    packaged = before + P + after + b"\0" * room
    assume(b"/home/ada" not in packaged)
    assert inverted(conda_installs(packaged, "/home/ada"), "/home/ada") == packaged


@given(st.binary(max_size=300), st.sampled_from(["/env", "/e", "/x/y"]))
def test_inverting_a_binary_keeps_its_length(data: bytes, prefix: str) -> None:
    for part in (data, data + prefix.encode() + data + prefix.encode() + b"\0" * 300 + data):
        assert len(inverted(part, prefix)) == len(part)


def test_strings_without_space_for_the_placeholder_stay() -> None:
    data = ELF + b"/env/lib\0next\0"
    assert inverted(data, "/env") == data


def test_prefix_longer_than_the_placeholder_is_rejected() -> None:
    with pytest.raises(PlaceholderTooShort):
        relocate_file(ELF + b"/placeholder/lib\0", "binary", "/placeholder", "/placeholder/")
    assert (
        relocate_file(ELF + b"nothing\0", "binary", "/placeholder", "/a/longer/prefix") == ELF + b"nothing\0"
    )
    assert (
        len(relocate_file(ELF + b"/placeholder/lib\0", "binary", "/placeholder", "/eleven/chs"))
        == len(ELF) + 17
    )


def test_binaries_that_are_not_understood_are_kept() -> None:
    prefix = "/home/ada/envs/work"
    for data in (
        ELF + b"/home/ada/envs/work/lib\0",
        b"PK\3\4\0\0/home/ada/envs/work\0",
        b"\0/home/ada/envs/work",
        b"GIF89a\0/home/ada/envs/work\0",
        b"\0\x41/home/ada/envs/workq\1",
    ):
        assert canonicalize(data, prefix) == kept(data, prefix)


# --- compiled modules -------------------------------------------------------------------------------------


def compiled(source: Path, dfile: str) -> bytes:
    target = source.with_suffix(".pyc")
    py_compile.compile(str(source), str(target), dfile=dfile, doraise=True)
    return target.read_bytes()


@pytest.mark.parametrize("target", ["/n", "/home/" + "x" * 300, "/home/é", "/home/\udcff"])
def test_compiled_modules_are_relocated(tmp_path: Path, target: str) -> None:
    source = tmp_path / "module.py"
    source.write_text("def f():\n    return __file__, '/env-other'\n")
    data = compiled(source, "/env/lib/module.py")
    file = canonical(data, "/env")
    assert file.mode == "pyc"
    relocated = relocate_to(file, target)
    assert relocated == compiled(source, f"{target}/lib/module.py")
    assert canonical(relocated, target, file) == file
    assert relocate_to(file, "/env") == data
    assert list(candidate_originals(relocated, "pyc", "/env", target)) == [data]


MODULE = """
import sys
FLAGS = "-L{prefix}/lib -Wl,-rpath,{prefix}/lib:{prefix}/lib64"
OTHERS = ("{prefix}-other", "/x{prefix}", 10**40, -(10**20), 1.5, 2j, None, True, ...)
def outer(where="see {prefix}"):
    def inner(x): return [x in {{1, 2}}, ("a {prefix}", "b"), where[1:2], f"{{x}} {prefix}/é"]
    return inner
class Inner:
    \"\"\"{prefix} is it, and {prefix}/share.\"\"\"
"""


def constants(module: bytes) -> list[object]:
    """Return the constants of all code in the module, and the names of its files."""
    file: list[object] = []
    codes = [marshal.loads(module[16:])]
    for code in codes:
        codes += [each for each in code.co_consts if isinstance(each, CodeType)]
        file += [code.co_filename, *(each for each in code.co_consts if not isinstance(each, CodeType))]
    return file


@pytest.mark.parametrize("target", ["/opt", "/nev", "/home/" + "x" * 300, "/home/é"])
def test_constants_of_compiled_modules_are_relocated(tmp_path: Path, target: str) -> None:
    """They equal what Python would have compiled there, wherever they contain the prefix."""
    text = MODULE.format(prefix="/env")
    source = tmp_path / "module.py"
    source.write_text(text + f"DATA = {b'in /env/x'!r}\n")
    data = compiled(source, "/env/lib/module.py")
    file = canonical(data, "/env")
    assert relocate_to(file, "/env") == data
    relocated = relocate_to(file, target)
    moved = re.sub("(?<![x])/env(?!-other)", lambda _: target, text)
    source.write_text(moved + f"DATA = {os.fsencode(f'in {target}/x')!r}\n")
    expected = compiled(source, f"{target}/lib/module.py")
    assert relocated[:16] == data[:16]
    assert constants(relocated) == constants(expected)
    assert canonical(relocated, target, file) == file


def test_file_names_in_modules_of_future_pythons_are_relocated(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("A = 'in /env/x'\n")
    data = b"\xff\x7f" + compiled(source, "/env/lib/module.py")[2:]
    relocated = relocate_to(canonical(data, "/env"), "/opt")
    assert b"/opt/lib/module.py" in relocated
    assert b"in /env/x" in relocated


# --- files of an attacker -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "data"),
    [
        ("text", b"/a" * 40_000),
        ("text", ("/a" * 40_000).encode("utf-16-le")),
        ("pyc", b"0" * 16 + b"/a" * 40_000),
    ],
)
def test_file_that_would_become_larger_than_any_layer_is_refused(mode: Mode, data: bytes) -> None:
    """A short placeholder is replaced many times, by a prefix that is as long as possible."""
    with pytest.raises(RelocatedFileTooLarge):
        relocate_file(data, mode, "/a", "/prefix" * 580)
    assert len(relocate_file(b"/a" * 30_000, "text", "/a", "/prefix" * 580)) == 30_000 * 7 * 580


N = 30_000

#: Files for which a careless search takes time that grows with the square of their size.
SLOW: dict[str, Callable[[], object]] = {
    "an interpreter line without an end": lambda: relocate_file(
        b"#!/p/" + b"a" * N, "text", "/p", "/with space"
    ),
    "many unfinished encoding declarations": lambda: relocate_file(
        b"#!/p/python\n#" + b"coding:a" * N, "text", "/p", "/with space"
    ),
    "many encoding declarations without a name": lambda: relocate_file(
        b"#!/p/python\n#" + b"coding: !" * N + b"\n", "text", "/p", "/with space"
    ),
    "strings without an end": lambda: relocate_file(b"\0" + P[:40] * N, "binary", P[:40].decode(), "/p"),
    "strings without an end that contain the prefix": lambda: canonicalize(
        ELF + b"/home/ada/envs/work" * N, "/home/ada/envs/work"
    ),
    "an env line without an end": lambda: list(original_shebangs(b"#!/usr/bin/env " + b"a" * N, b"/p")),
    "a first line of blanks": lambda: relocate_file(
        b"#!/p/perl" + b" \t" * N + b"x", "text", "/p", "/with space"
    ),
    "a first line of options for env": lambda: relocate_file(
        b"#!/usr/bin/env -S" + b" -i a=b" * N + b" /p/perl", "text", "/p", "/with space"
    ),
    "a line for the shell without an end": lambda: list(
        original_shebangs(b'#!/bin/sh\nexec "/p/perl"' + b' "$0" ' * N, b"/p")
    ),
    "a program without an end": lambda: relocate_file(
        b"#!/bin/sh\n'''exec' /p/" + b"a" * N, "text", "/p", "/with space"
    ),
}


@pytest.mark.parametrize("what", SLOW)
def test_relocation_takes_linear_time(what: str) -> None:
    began = time.process_time()
    SLOW[what]()
    assert time.process_time() - began < 2


MEBIBYTE = 1 << 20
LONG: dict[str, Callable[[], object]] = {
    "a wide string": lambda: relocate_file(
        ELF + "/p".encode("utf-16-le") + b"ab" * (MEBIBYTE // 2) + b"\0\0", "binary", "/p", "/q"
    ),
    "a wide string that may have been shorter": lambda: list(
        candidate_originals(
            ELF + "/p".encode("utf-32-le") + b"a" * MEBIBYTE + b"\0" * 99, "binary", "/pp", "/p"
        )
    ),
    "empty lines of a script": lambda: relocate_file(
        b"#!/p/bin/python" + b"\n" * MEBIBYTE, "text", "/p", "/with space"
    ),
    "a string of a record": lambda: with_facts(
        b'{"_path": "{' + b'\\"' * (MEBIBYTE // 2) + b'"}', {"x": FileFacts("", 0)}, sizes=True
    ),
}


@pytest.mark.parametrize("what", LONG)
def test_relocation_takes_no_memory_for_each_character(what: str) -> None:
    """Regular expressions can need a hundred bytes for each, which is more than an instance has."""
    LONG[what]()
    tracemalloc.start()
    LONG[what]()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * MEBIBYTE


class CountedBytes(bytes):
    """A file that counts how often a search in it begins."""

    searches = 0

    def find(self, *args: Any) -> int:
        self.searches += 1
        return super().find(*args)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-32-be"])
def test_search_for_a_wide_path_begins_once(encoding: str) -> None:
    """A path with a period can occur between characters as often as there are characters."""
    shifted = CountedBytes(b"\0" + ("/a" * 100_000).encode(encoding))
    assert find_wide_encoding(shifted, "/a" * 2040) != encoding
    assert shifted.searches <= len(WIDE_ENCODINGS)


@pytest.mark.parametrize("distance", [*range(-20, 8, 4), 2])
def test_wide_paths_are_found_after_others_between_characters(distance: int) -> None:
    """At the end of what is searched at once, too."""
    path = "/env".encode("utf-32-le")
    data = b"\0" + path + bytes((1 << 20) + distance - len(path) - 1) + path
    assert find_wide_encoding(data, "/env") == ("utf-32-le" if distance % 4 == 0 else None)


@given(st.text("/a\u2f61\u612f\u4100", max_size=20), st.data())
def test_wide_paths_are_found_where_characters_begin(text: str, draw: st.DataObject) -> None:
    encoding = draw.draw(st.sampled_from(WIDE_ENCODINGS))
    data = bytes(draw.draw(st.integers(0, 4))) + text.encode(encoding) + bytes(draw.draw(st.integers(0, 4)))
    begin = draw.draw(st.integers(0, len(text)))
    path = text[begin : draw.draw(st.integers(begin, len(text)))] or "/"
    expected = [
        other
        for other in WIDE_ENCODINGS
        for needle, width in [(path.encode(other), len("/".encode(other)))]
        if any(data.startswith(needle, start) for start in range(0, len(data), width))
    ]
    assert find_wide_encoding(data, path) == (expected[0] if expected else None)
