"""Compiled files that contain the prefix: they work where the environment is restored, or are kept and reported."""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import shutil
import sqlite3
import struct
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from conda_pack.prefixes import binary_replace
from hypothesis import given
from hypothesis import strategies as st

from snapper.commands.restore import RestoreResult
from snapper.format import elf, object_code
from snapper.format.canonicalize import canonicalize
from snapper.format.cstrings import replace_strings
from snapper.format.model import LAYER_SIZE, Relocation
from snapper.format.relocate import relocate_file
from snapper.restoring import signing
from snapper.store import open_store
from tests.conftest import Machine
from tests.support.layers import META, encode_member, file, pack_segment
from tests.support.programs import (
    LANGUAGES,
    Program,
    add_libraries,
    available,
    compile_program,
    program_from,
    random_program,
)
from tests.support.sandbox import publish_layers, restore_work

PLACEHOLDER = "/opt/build" + "_placehold" * 24


def new_environment(prefix: Path) -> Path:
    """Make an environment without packages."""
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta" / "history").touch()
    (prefix / "bin").mkdir()
    return prefix


@dataclass(frozen=True)
class Moves:
    """An environment at `old`, and where to restore it: at shorter, equally long, and longer prefixes."""

    machine: Machine
    old: Path

    @property
    def shorter(self) -> Path:
        return self.old.parents[2] / "w"

    @property
    def equal(self) -> Path:
        return self.old.parents[2] / "bob/envs/play"

    @property
    def longer(self) -> Path:
        return self.old.parents[2] / "ada/envs/work-with-a-longer-name"

    def pack(self, prefix: Path | None = None) -> tuple[str, set[str]]:
        """Pack the environment; return the snapshot, and the files that are reported."""
        outcome = self.machine.snapper("pack", "-p", prefix or self.old, "--name", "moved", "--json")
        reported = set(outcome.json["unrelocated"])
        assert outcome.code == (3 if reported else 0), outcome
        return str(outcome.json["snapshot"]), reported

    def restore(self, target: Path, snapshot: str) -> set[str]:
        """Restore the snapshot; return the files that are reported."""
        outcome = self.machine.snapper("restore", f"moved@{snapshot}", "--prefix", target, "--json")
        reported = set(outcome.json["restored"][0]["unrelocated"])
        assert outcome.code == (3 if reported else 0), outcome
        return reported


@pytest.fixture
def moves(machine: Machine, tmp_path: Path) -> Moves:
    return Moves(machine, new_environment(tmp_path / "home/ada/envs/work"))


# --- any program ----------------------------------------------------------------------------------------------

#: How many programs of each language the short and the long test compile.
COUNTS = {"c": (10, 260), "link": (8, 60), "c++": (2, 40), "rust": (2, 40), "go": (1, 20), "java": (1, 10)}


@pytest.mark.parametrize("language", LANGUAGES)
def test_random_programs_work_or_are_reported(
    moves: Moves, language: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A program that is not reported prints what it prints if it is compiled at the new prefix.

    One that is reported prints the same as before, or that. Packing it again gives the same snapshot.
    """
    if not available(language):
        pytest.skip(f"there is no compiler for {language}")
    long = bool(request.config.getoption("--long"))
    programs = [random_program(seed, language) for seed in range(COUNTS[language][long])]
    add_libraries(moves.old)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(lambda program: program.build(str(moves.old), moves.old / "bin"), programs):
            pass
    snapshot, packed = moves.pack()
    targets = [moves.shorter, moves.equal, moves.longer]
    if long:
        targets += [moves.old.with_name("wor"), moves.old.with_name("works")]
    wrong: list[str] = []
    for target in targets:
        reported = moves.restore(target, snapshot)
        for program in programs:
            is_reported = not reported.isdisjoint(files_of(program))
            if not is_right(program, moves.old, target, tmp_path / "fresh", is_reported):
                wrong.append(f"{program.form} at {target}, {'reported' if is_reported else 'not reported'}")
            if is_reported and len(str(target)) <= len(str(moves.old)):
                assert not packed.isdisjoint(files_of(program)), program.form
        assert moves.pack(target)[0] == snapshot
        shutil.rmtree(target)
    assert wrong == []


def files_of(program: Program) -> set[str]:
    return {f"bin/{program.name}", f"bin/{program.name}.class"}


def is_right(program: Program, old: Path, target: Path, scratch: Path, is_reported: bool) -> bool:
    if is_reported:
        output = run(program, target / "bin", target)
        if output == run(program, old / "bin", target) or "loader" in program.form:
            return True
        with away(old):
            return output == fresh_output(program, target, scratch)
    with away(old):
        return run(program, target / "bin", target) == fresh_output(program, target, scratch)


@contextmanager
def away(prefix: Path) -> Iterator[None]:
    """Move an environment out of the way, so that nothing works because it is there."""
    hidden = prefix.with_name("away")
    prefix.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(prefix)


def run(program: Program, directory: Path, prefix: Path) -> tuple[int, bytes]:
    """Run the program in the directory; it is told the prefix."""
    try:
        command = [*program.command(directory), str(prefix), f"{prefix}/x"]
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:  # of its loader
        return -1, b""
    return done.returncode, done.stdout


def fresh_output(program: Program, prefix: Path, scratch: Path) -> tuple[int, bytes]:
    """Return what the program prints if it is compiled at the prefix."""
    directory = scratch / str(len(str(prefix))) / program.name
    directory.mkdir(parents=True, exist_ok=True)
    program.build(str(prefix), directory)
    return run(program, directory, prefix)


# --- what is reported -----------------------------------------------------------------------------------------


def write_pickle(protocol: int) -> Callable[[Path, str], None]:
    def write(file: Path, prefix: str) -> None:
        file.write_bytes(pickle.dumps({"path": f"{prefix}/data", "home": prefix, "n": 300}, protocol))

    return write


def write_database(file: Path, prefix: str) -> None:
    with sqlite3.connect(file) as database:
        database.execute("create table files (path text primary key)")
        database.executemany("insert into files values (?)", [(f"{prefix}/{name}",) for name in "abc"])
    database.close()


def write_zip(file: Path, prefix: str) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("paths.txt", f"{prefix}/data\n")


def write_numpy_array(file: Path, prefix: str) -> None:
    """An array of strings in UTF-32, all of one length, without NULs between them."""
    text = [f"{prefix}/{letter}" for letter in "abcd"]
    header = f"{{'descr': '<U{len(text[0])}', 'fortran_order': False, 'shape': (4,), }}".ljust(117) + "\n"
    magic = b"\x93NUMPY\1\0" + struct.pack("<H", len(header))
    file.write_bytes(magic + header.encode() + "".join(text).encode("utf-32-le"))


def write_bytes(before: bytes, after: bytes, encoding: str = "utf-8") -> Callable[[Path, str], None]:
    def write(file: Path, prefix: str) -> None:
        file.write_bytes(before + prefix.encode(encoding) + after)

    return write


def write_with_lengths(before: Callable[[int], bytes], after: bytes = b"") -> Callable[[Path, str], None]:
    """Return a function that writes a string after its length, without any NUL byte."""

    def write(file: Path, prefix: str) -> None:
        path = f"{prefix}/data"
        file.write_bytes(before(len(path)) + path.encode() + after)

    return write


DATA: dict[str, Callable[[Path, str], None]] = {
    **{f"pickle {protocol}": write_pickle(protocol) for protocol in range(6)},
    "SQLite": write_database,
    "zip": write_zip,
    "NumPy": write_numpy_array,
    "program for Windows": write_bytes(b"MZ\x90\0\3\0", b"\2\0", "utf-16-le"),
    "marshal": write_bytes(b"\xda\x40", b"q\0"),
    "amid words": write_bytes(b"\0A", b"q\0"),
    "msgpack, short": write_with_lengths(
        lambda length: bytes([0x81, 0xA4]) + b"path" + bytes([0xD9, length])
    ),
    "msgpack, fixed": write_with_lengths(
        lambda length: bytes([0x81, 0xA1]) + b"p" + bytes([0xA0 | length % 32])
    ),
    "CBOR": write_with_lengths(lambda length: b"\xa1\x64path\x78" + bytes([length])),
    "protobuf": write_with_lengths(lambda length: b"\x0a" + bytes([length])),
    "protobuf, two fields": write_with_lengths(lambda length: b"\x0a" + bytes([length]), b"\x12\x01x"),
    "PHP": write_with_lengths(lambda length: f'a:1:{{i:0;s:{length}:"'.encode(), b'";}\n'),
    "PHP, inside": write_with_lengths(lambda length: f's:{length + 5}:"PATH='.encode(), b'";\n'),
    "bencode": write_with_lengths(lambda length: f"d4:path{length}:".encode(), b"e"),
    "netstring": write_with_lengths(lambda length: f"{length}:".encode(), b",\n"),
    "Redis": write_with_lengths(lambda length: f"*1\r\n${length}\r\n".encode(), b"\r\n"),
    "Subversion": write_with_lengths(lambda length: f"K 4\npath\nV {length}\n".encode(), b"\nEND\n"),
    "R": write_with_lengths(lambda length: f"A\n3\n262153\n{length}\n".encode(), b"\n"),
    "mailbox": write_with_lengths(lambda length: f"From x\nContent-Length: {length}\n\n".encode(), b"\n"),
    "PDF": write_bytes(b"%PDF-1.4\n", b"\nstartxref\n99\n%%EOF\n"),
    "FITS": write_bytes(b"SIMPLE  =                    T".ljust(80), b"END".ljust(80)),
    "UTF-16, later": write_bytes(b"%" * 301, b"\0\1", "utf-16-be"),
}


def test_data_with_lengths_is_kept_and_reported(moves: Moves) -> None:
    for name, write in DATA.items():
        write(moves.old / name, str(moves.old))
    before = {name: (moves.old / name).read_bytes() for name in DATA}
    snapshot, reported = moves.pack()
    assert reported == set(DATA)
    for target in (moves.shorter, moves.longer):
        assert moves.restore(target, snapshot) == set(DATA)
        assert {name: (target / name).read_bytes() for name in DATA} == before
        assert moves.pack(target) == (snapshot, reported)


def test_path_of_the_same_length_is_replaced_where_nothing_can_depend_on_it(moves: Moves) -> None:
    for name, write in DATA.items():
        write(moves.old / name, str(moves.old))
    snapshot, _ = moves.pack()
    reported = moves.restore(moves.equal, snapshot)
    assert reported == set(DATA) - {f"pickle {protocol}" for protocol in (2, 3, 4, 5)} - {"NumPy"}
    for name in DATA:
        expected = moves.old if name in reported else moves.equal
        assert str(expected).encode() in (moves.equal / name).read_bytes().replace(b"\0", b""), name
    for protocol in range(2, 6):
        content = pickle.loads((moves.equal / f"pickle {protocol}").read_bytes())
        assert content == {"path": f"{moves.equal}/data", "home": str(moves.equal), "n": 300}
    assert moves.pack(moves.equal)[0] == snapshot


@pytest.mark.parametrize(
    "text",
    [
        "a 12:{prefix}/bin",
        "root:x:0:0:root:{prefix}:/bin/sh\n",
        '{{"argv": ["{prefix}/bin/python"], "n": 1}}',
        "({prefix}/bin)",
        '"{prefix}/lib/python3.11/site-packages/x.py"',
        "\x1b[1m {prefix}\x1b[0m\a\n",
        " {prefix}",
        "café: {prefix}/x\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_text_that_resembles_data_with_lengths_is_relocated(text: str, encoding: str) -> None:
    data = text.format(prefix="/home/ada/envs/work").encode(encoding)
    file = canonicalize(data, "/home/ada/envs/work")
    assert file is not None
    assert (file.mode, file.kept) == ("text", "")


CASES = {
    "c": """struct { char prefix[sizeof P - 1], next[5]; } s = {P, "hello"};
        int printf(const char *, ...);
        int main(void) { return printf("%.*s %.5s\\n", (int)sizeof s.prefix, s.prefix, s.next) < 0; }""",
    "rust": """fn main() { println!("{:?}", std::ffi::CString::new(concat!(p!(), "/x")).unwrap()); }""",
    "java": """class Case { static final String P = "PREFIX";
        public static void main(String[] args) { System.out.println(P + "/x"); } }""",
}


@pytest.mark.parametrize("language", CASES)
def test_constant_without_terminator_is_never_shortened(moves: Moves, language: str) -> None:
    """The old prefix stays, its neighbors stay in place, and both commands report the file."""
    if not available(language):
        pytest.skip(f"there is no compiler for {language}")
    program = program_from(language, CASES[language])
    program.build(str(moves.old), moves.old / "bin")
    expected = run(program, moves.old / "bin", moves.old)
    assert str(moves.old).encode() in expected[1]
    snapshot, packed = moves.pack()
    assert not packed.isdisjoint(files_of(program))
    assert moves.restore(moves.shorter, snapshot) == packed
    assert run(program, moves.shorter / "bin", moves.old) == expected


@pytest.mark.parametrize("language", CASES)
def test_constant_follows_to_a_path_of_the_same_length(moves: Moves, language: str) -> None:
    if not available(language):
        pytest.skip(f"there is no compiler for {language}")
    program = program_from(language, CASES[language])
    program.build(str(moves.old), moves.old / "bin")
    output = run(program, moves.old / "bin", moves.old)[1]
    snapshot, _ = moves.pack()
    if moves.restore(moves.equal, snapshot):
        assert (
            language != "java"
        )  # it may be copied in pieces, or directly behind it there may be another string
        assert run(program, moves.equal / "bin", moves.old)[1] == output
    else:
        moved = output.replace(str(moves.old).encode(), str(moves.equal).encode())
        assert run(program, moves.equal / "bin", moves.old)[1] == moved


# --- what is understood ---------------------------------------------------------------------------------------


def test_debug_information_is_not_reported(moves: Moves) -> None:
    source = f'#line 1 "{moves.old}/source.c"\nint main(void) {{ return 0; }}\n'
    compile_program(moves.old / "bin/debugged", "-g", source=source)
    assert str(moves.old).encode() in (moves.old / "bin/debugged").read_bytes()
    snapshot, packed = moves.pack()
    assert packed == set()
    assert moves.restore(moves.shorter, snapshot) == set()
    assert moves.pack(moves.shorter) == (snapshot, set())


@pytest.mark.parametrize("symbol", ["lib", "ib", "work"])
def test_path_that_shares_characters_with_a_symbol_is_kept(moves: Moves, symbol: str) -> None:
    """The linker stores the symbol as the end of the path; the loader still has to find it."""
    path = moves.old if symbol == "work" else moves.old / "lib"
    source = f"int {symbol} = 3; int main(void) {{ return {symbol} - 3; }}"
    compile_program(moves.old / "bin/program", "-rdynamic", f"-Wl,-O2,-rpath,{path}", source=source)
    data = (moves.old / "bin/program").read_bytes()
    assert f"\0{symbol}\0".encode() not in data.partition(b".shstrtab")[0].partition(b"crtstuff.c")[0]
    snapshot, packed = moves.pack()
    assert packed == {"bin/program"}
    assert moves.restore(moves.shorter, snapshot) == packed
    assert (moves.shorter / "bin/program").read_bytes() == data


def test_programs_larger_than_a_layer_are_relocated_where_they_are_understood(moves: Moves) -> None:
    source = (
        f'char large[{LAYER_SIZE}] = {{1}}; const char *p = "{moves.old}/x"; int main(void) {{ return 0; }}'
    )
    compile_program(moves.old / "bin/kept", f"-Wl,-rpath,{moves.old}/lib", source=source)
    compile_program(
        moves.old / "bin/changed", f"-Wl,-rpath,{moves.old}/lib", source=source.replace(str(moves.old), "")
    )
    snapshot, packed = moves.pack()
    assert packed == {"bin/kept"}
    for target in (moves.shorter, moves.equal):
        assert moves.restore(target, snapshot) == {"bin/kept"}
        for name in ("kept", "changed"):
            data = (target / "bin" / name).read_bytes()
            assert f"\0{target}/lib\0".encode() in data
            assert f"{moves.old}/lib".encode() not in data
            assert (f"\0{moves.old}/x\0".encode() in data) == (name == "kept")
    assert moves.pack(moves.equal) == (snapshot, packed)


def test_programs_compiled_elsewhere_are_not_searched_for_pieces(moves: Moves) -> None:
    """Their wheel's tags say so. They are still searched for the prefix itself."""
    site = moves.old / "lib/python3.11/site-packages"
    text = os.fsencode(moves.old) + b"/x\0"
    program = program_storing(text, [*range(0, len(text) - 8, 8), len(text) - 8])
    for name, tag in (("local", "linux_x86_64"), ("downloaded", "manylinux_2_17_x86_64")):
        info = site / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        (info / "WHEEL").write_text(f"Tag: cp311-cp311-{tag}\n")
        (info / "RECORD").write_text(f"{name}.so,,\n{name}-1.dist-info/METADATA,,\n")
        (site / f"{name}.so").write_bytes(program)
    assert os.fsencode(moves.old) not in (site / "local.so").read_bytes()
    _, packed = moves.pack()
    assert packed == {"lib/python3.11/site-packages/local.so"}


def program_storing(text: bytes, starts: list[int]) -> bytes:
    """Return a program with an instruction for each position in the text, which stores the next 8 characters."""
    return b"\x7fELF" + b"\x48\xb8".join([b"", *(text[start : start + 8] for start in starts), b""])


@pytest.mark.parametrize("rest", [b"", b"\0", b"/\0", b"/x\0", b"/x/y\0", b"/x.json\0"])
@pytest.mark.parametrize("name", ["w", "wo", "wor", "work", "work1", "work12", "work123", "work1234"])
@pytest.mark.parametrize("lead", [b"", b"-I", b"PATH="])
def test_path_is_found_in_instructions_whose_last_ones_overlap(lead: bytes, name: str, rest: bytes) -> None:
    """Where a text does not end with a whole piece, compilers store one or two that begin inside of the one before."""
    path = f"/home/ada/envs/{name}"
    text = lead + path.encode() + rest
    whole, end = list(range(0, len(text) - 7, 8)), len(text)
    for starts in ([*whole, end - 8], [*whole[:-1], end - 16, end - 8]):
        assert object_code.mentions(program_storing(text, starts), path)


@pytest.mark.parametrize("name", ["w", "wo", "wor", "work", "work1", "work12", "work123", "work1234"])
def test_path_without_terminator_is_found_in_instructions(name: str) -> None:
    """What is left at the end are four, two, or one characters, or one piece that overlaps the one before."""
    path = f"/home/ada/envs23/{name}".encode()
    rest = len(path) % 8
    sizes = [8] * (len(path) // 8) + [size for size in (4, 2, 1) if rest & size and rest <= 4]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    ends = [path[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    program = b"\x7fELF" + b"\x48\xb8".join([b"", *ends, path[-8:] if rest > 4 else b"", b""])
    assert path not in program
    assert object_code.mentions(program, path.decode())


@pytest.mark.parametrize(
    ("path", "pieces"),
    [
        # As Go copies it: the first two pieces overlap, and the last ones are other text.
        ("/home/ada/miniconda3/envs/ml", ["/home/ad", "a/minico", "iniconda", "3/envs/m", "l/bin/py"]),
        ("/home/ada/env", ["/home/ad", "a/en", "v/"]),  # as Go compares it
        ("/opt/tools", ["PATH=/op", "t/to", "ol", "s"]),
        ("/opt/conda", ["noc/tpo/", "ad"]),  # as Clang compares its order
    ],
)
def test_path_is_found_in_pieces_that_overlap_or_end_in_other_text(path: str, pieces: list[str]) -> None:
    program = b"\x7fELF" + b"".join(b"\x48\xb8" + piece.encode() for piece in pieces)
    assert object_code.mentions(program, path)
    assert any(needle in program for needle in object_code.search_needles(path))


def test_pieces_are_searched_in_linear_time() -> None:
    """The path is as long as can be, and the file has all of its pieces but one."""
    path = "/" + "".join(f"{number * 2654435761 % (1 << 28):07x}/" for number in range(512))[:4090] + "z"
    pieces = b"".join(b"\xb8" + path[start : start + 8].encode() for start in range(len(path) - 16))
    program = b"\x7fELF" + bytes(1 << 20) + pieces
    begin = time.process_time()
    assert not object_code.mentions(program, path)
    assert time.process_time() - begin < 2


def test_path_is_found_in_constants_of_which_the_last_one_overlaps() -> None:
    """Compilers copy 16 characters at a time. Linkers put the constants one behind the other."""
    text = b"/home/ada/some-directory/envs/work/lib/python\0"
    for magic in (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"!<arch>\n"):
        program = magic.ljust(64, b"\0") + text[:32] + text[-16:]
        assert object_code.mentions(program, "/home/ada/some-directory/envs/work")


def test_beginning_of_a_path_in_pieces_is_not_taken_for_a_shorter_one() -> None:
    """A program that was restored at `/a/path/to/envs/wor` would seem to contain that, too."""
    path = b"/a/path/to/envs/work/x\0"
    program = b"\x7fELF".ljust(64, b"\0") + path[:19] + b"\1\x48\xb8" + path[-8:]
    assert object_code.mentions(program, "/a/path/to/envs/work")
    assert not object_code.mentions_besides(program, "/a/path/to/envs/wor", "/a/path/to/envs/work")


@pytest.mark.parametrize("magic", [b"\xcf\xfa\xed\xfe", b"!<arch>\n", b"\x80\x04", b"EM_AARCH64"])
def test_nothing_is_replaced_beside_instructions_that_are_not_understood(
    magic: bytes, tmp_path: Path
) -> None:
    """They may contain pieces of the path that cannot be found."""
    compile_program(tmp_path / "program", source='const char *p = "/env/x"; int main(void) { return 0; }')
    program = bytearray((tmp_path / "program").read_bytes())
    assert b"/new/x" in object_code.replace_equally_long(bytes(program), "/env", "/new")
    if magic == b"EM_AARCH64":
        program[18:20] = b"\xb7\0"
        magic = b""
    data = magic + bytes(program)
    assert object_code.replace_equally_long(data, "/env", "/new") == data


def test_pieces_of_another_path_are_not_taken_for_one_that_is_shorter() -> None:
    """Otherwise, a program would only seem to contain the prefix where it was restored."""
    other = b"/home/ada/envs23/play/one"
    program = program_storing(other, list(range(0, len(other), 8)))
    assert object_code.mentions(program, other.decode())
    for name in ("w", "wo", "wor"):
        assert not object_code.mentions(program, f"/home/ada/envs23/{name}")
    sibling = b"\x7fELF\0\0/usr/local/share\0env"
    for prefix in ("/usr/local/env", "/usr/local/w", "/usr/local/ab"):
        assert not object_code.mentions(sibling, prefix)


@given(st.data())
def test_malformed_programs_are_kept(data: st.DataObject) -> None:
    """Whatever they contain, nothing fails, and what is changed can be undone."""
    program = bytearray(_program_with_every_table())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(4, 0x40) | st.integers(0x40, len(program) - 1))
        program[at : at + 8] = data.draw(st.binary(min_size=1, max_size=8))
    cut = bytes(program[: data.draw(st.integers(16, len(program)))])
    for prefix in ("/home/ada/envs/work", "/lib64"):
        file = canonicalize(cut, prefix)
        if file is not None and file.mode is not None:
            assert relocate_file(file.data, file.mode, file.placeholder, prefix) == cut
    assert len(object_code.replace_equally_long(cut, "/home/ada/envs/work", "/home/bob/envs/play")) == len(
        cut
    )


def _elf(
    segments: list[bytes], sections: list[bytes], sizes: tuple[int, int], counts: tuple[int, int]
) -> bytes:
    """Make an ELF file whose header states these sizes and counts of its headers."""
    tables = b"".join([*segments, *sections])
    fields = (3, 62, 1, 0, 64, 64 + 56 * len(segments), 0, 64, sizes[0], counts[0], sizes[1], counts[1], 0)
    return b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", *fields) + tables + bytes(4096)


_LOAD = struct.pack("<IIQQQQQQ", 1, 4, 1 << 30, 0, 0, 16, 16, 1)
_DYNAMIC = struct.pack("<IIQQQQQQ", 2, 4, 64, 0, 0, 4096, 4096, 1)
_CODE = struct.pack("<IIQQQQIIQQ", 0, 1, 6, 0, 64, 4096, 0, 0, 1, 0)
_FAR_CODE = struct.pack("<IIQQQQIIQQ", 0, 1, 6, 0, 1 << 63, 16, 0, 0, 1, 0)


@pytest.mark.parametrize(
    "data",
    [
        _elf([_LOAD], [_CODE], (0, 0), (65535, 65535)),
        _elf([_LOAD] * 65, [], (56, 64), (65, 0)),
        _elf([_DYNAMIC] * 60, [], (56, 64), (60, 0)),
        _elf([_LOAD], [_CODE] * 100, (56, 64), (1, 100)),
        _elf([_LOAD], [_FAR_CODE], (56, 64), (1, 1)),
    ],
    ids=["one record many times", "segments", "dynamic sections", "code", "code outside of the file"],
)
def test_impossible_tables_are_not_understood(data: bytes) -> None:
    assert elf.parse(data) == elf.ElfLayout((), ())


@functools.cache
def _program_with_every_table() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "program")
        options = ("-rdynamic", "-g", "-Wl,--hash-style=both", "-Wl,-rpath,/home/ada/envs/work/lib")
        compile_program(
            file, *options, source='int puts(const char *); int main(void) { return puts("hello"); }'
        )
        return file.read_bytes()


# --- conda's own files ----------------------------------------------------------------------------------------


def install_program(prefix: Path, packaged: bytes, *, wide: bool = True) -> None:
    """Install a package's program as conda does, or as installers that do not know wide strings do."""
    installed = replace_strings(packaged, PLACEHOLDER, str(prefix))
    if not wide:
        installed = bytes(binary_replace(packaged, PLACEHOLDER.encode(), os.fsencode(prefix)))
    (prefix / "bin/program").write_bytes(installed)
    (prefix / "bin/program").chmod(0o755)
    entry = {
        "_path": "bin/program",
        "path_type": "hardlink",
        "sha256": sha256(packaged).hexdigest(),
        "sha256_in_prefix": sha256(installed).hexdigest(),
        "prefix_placeholder": PLACEHOLDER,
        "file_mode": "binary",
    }
    record = {"name": "wide", "version": "1", "build": "0", "files": ["bin/program"]}
    (prefix / "conda-meta/wide-1-0.json").write_text(json.dumps({**record, "paths_data": {"paths": [entry]}}))


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A package's program with the placeholder in strings of every width."""
    file = tmp_path_factory.mktemp("packaged") / "program"
    source = """typedef __WCHAR_TYPE__ wchar_t; int puts(const char *); int putchar(int);
        const char *volatile a = P "/a"; const wchar_t *volatile w = L"" P L"/w"; const unsigned short u[] = u"" P "/u";
        const unsigned short *volatile v = u;
        int main(void) { puts(a); while (*w) putchar(*w++); putchar(10); while (*v) putchar(*v++); putchar(10); }"""
    compile_program(file, f'-DP="{PLACEHOLDER}"', "-g", source=source)
    return file.read_bytes()


@pytest.mark.parametrize("wide", [True, False])
def test_wide_strings_of_packages_are_relocated_as_conda_does(
    moves: Moves, packaged: bytes, wide: bool
) -> None:
    """That is also done if the installer has not done it: what it has left refers to the machine of the build."""
    install_program(moves.old, packaged, wide=wide)
    snapshot, packed = moves.pack()
    assert packed == set()
    assert moves.machine.snapper("verify", "-p", moves.old).code == 0
    for target in (moves.shorter, moves.longer):
        assert moves.restore(target, snapshot) == set()
        assert (target / "bin/program").read_bytes() == conda_binary_replace(packaged, str(target))
        shown = subprocess.check_output([target / "bin/program"], text=True)
        assert shown == f"{target}/a\n{target}/w\n{target}/u\n"
        assert moves.pack(target) == (snapshot, set())


def conda_binary_replace(data: bytes, prefix: str) -> bytes:
    """Do what conda/core/portability.py does."""
    for encoding in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        old, new, zeros = PLACEHOLDER.encode(encoding), prefix.encode(encoding), "\0".encode(encoding)

        def replace(match: re.Match[bytes], old: bytes = old, new: bytes = new) -> bytes:
            padding = (len(old) - len(new)) * match.group().count(old)
            return match.group().replace(old, new) + b"\0" * padding

        data = re.sub(
            re.escape(old) + b"(?:(?!(?:" + zeros + b")).)*" + zeros, replace, data, flags=re.DOTALL
        )
    return data


def test_stripped_program_of_a_package_is_relocated(moves: Moves, packaged: bytes) -> None:
    install_program(moves.old, packaged)
    subprocess.run(["strip", moves.old / "bin/program"], check=True)
    snapshot, packed = moves.pack()
    assert packed == set()
    assert moves.restore(moves.shorter, snapshot) == set()
    shown = subprocess.check_output([moves.shorter / "bin/program"], text=True)
    assert shown == f"{moves.shorter}/a\n{moves.shorter}/w\n{moves.shorter}/u\n"


def test_program_that_replaces_a_package_file_is_treated_as_the_users(moves: Moves, packaged: bytes) -> None:
    install_program(moves.old, packaged)
    program = program_from("c", CASES["c"])
    program.build(str(moves.old), moves.old / "bin")
    (moves.old / "bin/case").replace(moves.old / "bin/program")
    before = (moves.old / "bin/program").read_bytes()
    snapshot, packed = moves.pack()
    assert packed == {"bin/program"}
    assert moves.restore(moves.shorter, snapshot) == packed
    assert (moves.shorter / "bin/program").read_bytes() == before


# --- macOS ----------------------------------------------------------------------------------------------------

ARM64 = b"\xcf\xfa\xed\xfe\x0c\0\0\1"
INTEL = b"\xcf\xfa\xed\xfe\x07\0\0\1"
BOTH = b"\xca\xfe\xba\xbe\0\0\0\2\1\0\0\7" + bytes(16) + b"\1\0\0\x0c" + bytes(16)
BOTH_LARGE = b"\xca\xfe\xba\xbf\0\0\0\2\1\0\0\7" + bytes(28) + b"\1\0\0\x0c" + bytes(28)


@pytest.mark.parametrize(
    ("begins", "is_signed"), [(ARM64, True), (BOTH, True), (BOTH_LARGE, True), (INTEL, False)]
)
@pytest.mark.parametrize("codesign", ["signs", "fails", "missing"])
def test_programs_for_macos_are_signed_after_relocation(
    begins: bytes, is_signed: bool, codesign: str, sandbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in `PATH` stands in for codesign. Without it, such programs keep what they contain, and can start."""
    monkeypatch.setenv("PATH", f"{sandbox / 'tools'}:/usr/bin:/bin")
    if codesign != "missing":
        script = sandbox / "tools/codesign"
        script.parent.mkdir()
        done = (
            "exit 1"
            if codesign == "fails"
            else f'printf "%s " "$1" "$2" "$3" >> {sandbox}/log; printf signed >> "$4"'
        )
        script.write_text(f"#!/bin/sh\n{done}\n")
        script.chmod(0o755)
    stored = begins + PLACEHOLDER.encode() + b"/lib\0"
    unchanged = file("bin/unchanged", begins + b"/opt/other", mode=0o755)
    members = encode_member(META) + file("bin/program", stored, mode=0o755) + unchanged
    layer = pack_segment(members, 3, (Relocation("binary", PLACEHOLDER, ("bin/program", "bin/unchanged")),))
    publish_layers(open_store(str(sandbox / "store")), [layer])
    outcome = restore_work(sandbox)
    assert isinstance(outcome, RestoreResult)
    relocated = replace_strings(stored, PLACEHOLDER, outcome.prefix)
    content = Path(outcome.prefix, "bin/program").read_bytes()
    assert Path(outcome.prefix, "bin/unchanged").read_bytes() == begins + b"/opt/other"
    if is_signed and codesign != "signs":
        assert (outcome.unrelocated, content) == (("bin/program",), stored)
    else:
        assert (outcome.unrelocated, content) == ((), relocated + b"signed" * is_signed)
    log = sandbox / "log"
    assert (log.read_text() if log.exists() else "") == "--sign - --force " * (
        is_signed and codesign == "signs"
    )


def test_programs_for_macos_that_are_larger_than_a_layer_are_signed(moves: Moves, tmp_path: Path) -> None:
    """Their signatures are made when all of their pieces are written. Without codesign, they are reported."""
    codesign = tmp_path / "tools" / "codesign"
    codesign.parent.mkdir()
    codesign.write_text('#!/bin/sh\nprintf signed >> "$4"\n')
    codesign.chmod(0o755)
    packaged = ARM64 + f"{PLACEHOLDER}/lib\0".encode() + bytes(LAYER_SIZE)
    install_program(moves.old, packaged)
    snapshot, _ = moves.pack()
    for path, signature in ((f"{codesign.parent}:/usr/bin:/bin", b"signed"), ("/usr/bin:/bin", b"")):
        command = ("restore", f"moved@{snapshot}", "--prefix", moves.longer, "--json")
        outcome = moves.machine.snapper(*command, PATH=path)
        reported = outcome.json["restored"][0]["unrelocated"]
        assert (outcome.code, reported) == ((0, []) if signature else (3, ["bin/program"]))
        relocated = replace_strings(packaged, PLACEHOLDER, str(moves.longer))
        assert (moves.longer / "bin/program").read_bytes() == relocated + signature
        shutil.rmtree(moves.longer)


def test_programs_of_managed_environments_sign_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever published the environment would have them run when another one is restored."""
    program = tmp_path / "base" / "bin" / "codesign"
    for path, text in {
        program: f"#!/bin/sh\ntouch {tmp_path}/ran\n",
        tmp_path / "base" / "conda-meta" / "history": "",
        tmp_path / "base" / ".snapper" / "state.json": "{}",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    assert signing.sign(b"program") is None
    assert not (tmp_path / "ran").exists()
