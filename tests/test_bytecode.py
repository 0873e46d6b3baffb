"""Compiled modules: rewritten for another prefix, they equal what Python would have compiled there."""

from __future__ import annotations

import importlib.util
import marshal
import os
import py_compile
import struct
import traceback
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapper.format.bytecode import replace_paths, source_of, with_source_mtime

SOURCE = '''"""A module with code objects of every kind."""
from dataclasses import dataclass

NAME = "naïve"
TABLE = {key: [value for value in range(key)] for key in range(3)}


@dataclass
class Point:
    """A point."""
    x: int = 1

    def double(self):
        return (lambda: self.x * 2)()


def outer(y):
    def inner():
        return x + y
    x = 3
    return inner()


async def later():
    yield 1


def fail():
    raise ValueError("from here")
'''


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("source") / "module.py", SOURCE)


def written(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    os.utime(file, (1_600_000_000, 1_600_000_000))
    return file


def compiled(source: Path, dfile: str, optimize: int = -1, checked: bool = False) -> bytes:
    """Return the module that Python compiles from the source at the path `dfile`."""
    mode = (
        py_compile.PycInvalidationMode.CHECKED_HASH if checked else py_compile.PycInvalidationMode.TIMESTAMP
    )
    target = py_compile.compile(
        str(source), str(source) + "c", dfile, doraise=True, optimize=optimize, invalidation_mode=mode
    )
    assert target is not None
    return Path(target).read_bytes()


def replaced(data: bytes, old: str, new: str) -> bytes:
    return replace_paths(data, old.encode("utf-8", "surrogatepass"), new.encode("utf-8", "surrogatepass"))


def code_in(data: bytes) -> CodeType:
    code: CodeType = marshal.loads(data[16:])
    return code


def file_names(code: CodeType) -> set[str]:
    inner = [file_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return {code.co_filename}.union(*inner)


#: `{prefix}/lib/m.py` has 254, 255, 256 and 257 characters: marshal's short strings have at most 255.
AROUND_THE_LIMIT = ["/" + "p" * (length - 10) for length in (254, 255, 256, 257)]
PREFIXES = [
    "/a",
    "/opt/conda/envs/work",
    "/b" * 200,
    "/home/é",
    "/home/" + "é" * 128,
    "/日本",
    "/home/\udcff",
    *AROUND_THE_LIMIT,
]


@pytest.mark.parametrize("new", PREFIXES, ids=range(len(PREFIXES)))
@pytest.mark.parametrize("old", PREFIXES, ids=range(len(PREFIXES)))
def test_replaced_module_equals_one_compiled_at_the_new_prefix(source: Path, old: str, new: str) -> None:
    here, there = compiled(source, f"{old}/lib/m.py"), compiled(source, f"{new}/lib/m.py")
    assert replaced(here, old, new) == there


@pytest.mark.parametrize("optimize", [0, 1, 2])
@pytest.mark.parametrize("checked", [False, True])
def test_modules_of_every_invalidation_mode_are_replaced(source: Path, optimize: int, checked: bool) -> None:
    here = compiled(source, "/old/m.py", optimize, checked)
    assert replaced(here, "/old", "/new") == compiled(source, "/new/m.py", optimize, checked)


NAMES = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=300)


@given(NAMES, NAMES, NAMES)
def test_any_file_names_are_replaced(source: Path, old: str, new: str, below: str) -> None:
    here, there = compiled(source, f"/{old}/{below}.py"), compiled(source, f"/{new}/{below}.py")
    assert replaced(here, f"/{old}", f"/{new}") == there
    assert replaced(there, f"/{new}", f"/{old}") == here


@pytest.mark.parametrize("new", ["/n", "/home/" + "é" * 200])
def test_replaced_modules_run_and_report_their_new_path(source: Path, new: str) -> None:
    data = replaced(compiled(source, "/old/lib/m.py"), "/old", new)
    code = code_in(data)
    assert file_names(code) == {f"{new}/lib/m.py"}
    found: dict[str, Any] = {"__name__": "m"}
    exec(code, found)  # noqa: S102 - to run it is the test
    assert found["NAME"] == "naïve"
    assert found["outer"](4) == 7
    assert found["Point"](5).double() == 10
    with pytest.raises(ValueError, match="from here") as caught:
        found["fail"]()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].filename == f"{new}/lib/m.py"


CONSTANTS = """
import sys
ITSELF = "{prefix}"
BELOW = "{prefix}/share/data"
EITHER = ("{prefix}/a", ["{prefix}/b"], {{"{prefix}/c": "{prefix}/c"}})
def f(x="{prefix}/default"): return x, f"{prefix}/{{x}}"
"""


def test_constants_that_are_paths_are_replaced(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    here = compiled(written(file, CONSTANTS.format(prefix="/a/b")), "/a/b/m.py")
    there = compiled(written(file, CONSTANTS.format(prefix="/x/y")), "/x/y/m.py")
    assert replaced(here, "/a/b", "/x/y") == there


def test_strings_that_only_resemble_the_prefix_stay(tmp_path: Path) -> None:
    text = 'A = ("/a/b-c", "/a/bc/d", "x /a/b/c", "/x/a/b", "PATH=/a/b", b"/a/b/c", "//a/b", "/a/b.c")\n'
    data = compiled(written(tmp_path / "m.py", text), "m.py")
    assert replaced(data, "/a/b", "/somewhere/else") == data


@given(
    st.lists(
        st.sampled_from([b"/env", b"/", b"z", b"\xfa", b"\4", b"\5\0\0\0", b"a", b"t", b"\xff"]), max_size=40
    )
)
def test_replacing_accepts_any_bytes(parts: list[bytes]) -> None:
    data = b"".join(parts)
    there = replace_paths(data, b"/env", b"/elsewhere")
    assert there[:16] == data[:16]
    assert (there == data) == (b"/elsewhere" not in there)


@pytest.mark.parametrize(
    ("path", "expected"),
    {
        "__pycache__/m.cpython-311.pyc": "m.py",
        "lib/python3.11/site-packages/p/__pycache__/__init__.cpython-311.pyc": (
            "lib/python3.11/site-packages/p/__init__.py"
        ),
        "a/__pycache__/m.cpython-311.opt-1.pyc": "a/m.py",
        "a/__pycache__/m.pypy39.opt-2.pyc": "a/m.py",
        "a/__pycache__/naïve.cpython-314.pyc": "a/naïve.py",
        "a\nb/__pycache__/m.cpython-311.pyc": "a\nb/m.py",
        "a/__pycache__/__pycache__/m.cpython-311.pyc": "a/__pycache__/m.py",
        "a/m.pyc": None,
        "a/m.py": None,
        "a/__pycache__/m.pyc": None,
        "a/__pycache__/m.cpython-311.pyc.tmp": None,
        "a/__pycache__/m.cpython-311.pyc\n": None,
        "a/__pycache__/m.cpython-311-pytest-8.3.4.pyc": None,
        "a/x__pycache__/m.cpython-311.pyc": None,
        "a/__pycache__/b/m.cpython-311.pyc": None,
    }.items(),
)
def test_source_of_a_compiled_module(path: str, expected: str | None) -> None:
    assert source_of(path) == expected


@pytest.mark.parametrize("optimization", ["", 1, 2])
def test_source_of_the_paths_that_python_uses(optimization: str | int) -> None:
    cached = importlib.util.cache_from_source("a/b/m.py", optimization=optimization)
    assert source_of(cached) == "a/b/m.py" == importlib.util.source_from_cache(cached)


def test_module_becomes_valid_for_the_new_source_mtime(source: Path) -> None:
    data = compiled(source, "/a/m.py")
    later = with_source_mtime(memoryview(data), 1_600_000_000, 315532800)
    assert later is not None
    assert struct.unpack("<I", later[8:12]) == (315532800,)
    assert (later[:8], later[12:]) == (data[:8], data[12:])
    os.utime(source, (315532800, 315532800))
    assert later == compiled(source, "/a/m.py")
    os.utime(source, (1_600_000_000, 1_600_000_000))


def test_module_that_was_not_valid_by_mtime_is_unchanged(source: Path) -> None:
    data = compiled(source, "/a/m.py")
    assert with_source_mtime(memoryview(data), 1_600_000_001, 7) is None
    hashed = compiled(source, "/a/m.py", checked=True)
    assert with_source_mtime(memoryview(hashed), struct.unpack("<I", hashed[8:12])[0], 7) is None
    assert with_source_mtime(memoryview(b""), 0, 7) is None
    assert with_source_mtime(memoryview(b"\0" * 15), 0, 7) is None


def test_mtimes_are_stored_modulo_32_bits() -> None:
    data = struct.pack("<4sIII", b"\xa7\r\r\n", 0, 5, 10) + b"code"
    assert (
        with_source_mtime(memoryview(data), 2**32 + 5, 2**33 + 6)
        == struct.pack("<4sIII", b"\xa7\r\r\n", 0, 6, 10) + b"code"
    )
