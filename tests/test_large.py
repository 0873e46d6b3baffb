"""Files larger than a layer: restored exactly, relocated across layer boundaries, and with bounded memory."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scripts.maker import make
from snapper.format.cstrings import replace_strings
from snapper.format.model import LAYER_SIZE
from snapper.packing.large import _cut_in_text
from tests.conftest import Machine

MEMORY = 500_000_000

PLACEHOLDER = "/opt/build" + "_placehold" * 12


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prefix = tmp_path / "origin" / "data"
    make("data", prefix, copy=True)
    return prefix


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _digest_in_chunks(stream.read)
        )


def _digest_in_chunks(read: Callable[[int], bytes]) -> str:
    sha256 = hashlib.sha256()
    while chunk := read(1 << 20):
        sha256.update(chunk)
    return sha256.hexdigest()


def write_text(file: Path, prefix: Path, size: int) -> None:
    """Write text with the prefix, and paths that merely start with it, across every layer boundary and elsewhere."""
    rng = random.Random(1)
    with file.open("wb") as out:
        while out.tell() < size:
            to_boundary = LAYER_SIZE - out.tell() % LAYER_SIZE
            if to_boundary < 200:
                out.write(b"x" * (to_boundary - rng.randrange(1, 40)) + b" ")
            out.write(os.fsencode(prefix) + rng.choice([b"/bin:", b"\n", b"-other ", b" "]))
            out.write(b"." * min(rng.randrange(100_000), max(0, to_boundary - 150)) + b" ")


def write_binary(file: Path, prefix: Path, size: int) -> None:
    """Write a package's binary, with NUL-terminated paths across every layer boundary and elsewhere, some of them wide.

    Installing it is left to conda's own algorithm, and the record has its checksums.
    """
    rng = random.Random(2)
    encodings = itertools.cycle(("utf-8", "utf-16-le", "utf-8", "utf-32-le"))
    out = io.BytesIO()
    out.write(b"\x7fELF\0")
    while out.tell() < size:
        to_boundary = LAYER_SIZE - out.tell() % LAYER_SIZE
        if to_boundary < 1200:
            out.write(b"\1" * (to_boundary - rng.randrange(1, 300)) + b"\0")
        encoding = next(encodings)
        out.write(b"\0" * (-out.tell() % 4))
        out.write(":".join([f"{PLACEHOLDER}/lib"] * rng.randrange(1, 4)).encode(encoding))
        out.write(b"\0" * rng.randrange(8, 16))
        out.write(b"\2" * min(rng.randrange(100_000), max(0, to_boundary - 4000)) + b"\0")
    packaged = out.getvalue()
    file.write_bytes(replace_strings(packaged, PLACEHOLDER, str(prefix)))
    entry = {
        "_path": file.name,
        "path_type": "hardlink",
        "sha256": hashlib.sha256(packaged).hexdigest(),
        "sha256_in_prefix": digest(file),
        "prefix_placeholder": PLACEHOLDER,
        "file_mode": "binary",
    }
    record = {"name": "big", "version": "1", "build": "0", "paths_data": {"paths": [entry]}}
    (prefix / "conda-meta/big-1-0.json").write_text(json.dumps({**record, "files": [file.name]}))


@pytest.mark.parametrize("write", [write_text, write_binary])
def test_prefix_across_layer_boundary_is_relocated(
    write: Callable[[Path, Path, int], None], data: Path, machine: Machine
) -> None:
    write(data / "big", data, 2 * LAYER_SIZE + LAYER_SIZE // 3)
    packed = machine.run_json("pack", "-p", data, "--name", "big")
    assert packed["unrelocated"] == []
    layers = machine.run_json("show", "big")["layers"]
    assert sum("begins" in layer for layer in layers) == 2
    length = len(str(data))
    short = machine.home / "s"
    same = Path("/tmp/" + f"{os.getpid()}{'y' * length}"[: length - 5]) if length > 15 else short
    for target in (short, same):
        try:
            machine.run_json("restore", "big", "--prefix", target)
            expected = (data / "big").read_bytes()
            if write is write_text:
                for end in (b"/", b"\n", b" "):
                    expected = expected.replace(os.fsencode(data) + end, os.fsencode(target) + end)
                assert (target / "big").read_bytes() == expected
            else:
                restored = (target / "big").read_bytes()
                write(data / "big", target, 2 * LAYER_SIZE + LAYER_SIZE // 3)
                assert restored == (data / "big").read_bytes()
            again = machine.run_json("pack", "-p", target, "--name", "big")
            assert again["snapshot"] == packed["snapshot"]
        finally:
            subprocess.run(["rm", "-rf", target], check=True)


@given(
    st.lists(st.sampled_from([b"/env", b":", b"x" * 9, b"-", b"/en", b"v"]), min_size=1, max_size=30).map(
        b"".join
    ),
    st.integers(1, 200),
)
@example(b"x" * 20 + b"/env:/env" + b"x" * 20, 29)
def test_safe_cut_keeps_distance_from_the_prefix(text: bytes, length: int) -> None:
    """Adjacent paths, as in lists of paths, are not split, nor separated from the bytes that delimit them."""
    length = min(length, len(text))
    cut = _cut_in_text(text, length, b"/env")
    assert 0 < cut <= length
    near = [
        start for start in range(len(text)) if text.startswith(b"/env", start) and start - 4 < cut < start + 8
    ]
    assert not near or cut == length


def test_files_of_about_a_layer_size_are_restored_exactly(data: Path, machine: Machine) -> None:
    for size in (LAYER_SIZE - 1, LAYER_SIZE, LAYER_SIZE + 1, 2 * LAYER_SIZE, 2 * LAYER_SIZE + 511):
        with (data / f"of-{size}").open("wb") as out:
            out.truncate(size)
            out.seek(size - 5)
            out.write(b"end.\n")
    os.link(data / f"of-{2 * LAYER_SIZE}", data / "a-hard-link")
    machine.run_json("pack", "-p", data, "--name", "big")
    machine.run_json("restore", "big", "--prefix", machine.envs / "big")
    for file in data.iterdir():
        if file.name.startswith(("of-", "a-hard")):
            copy = machine.envs / "big" / file.name
            assert (copy.stat().st_size, digest(copy)) == (file.stat().st_size, digest(file))
            assert copy.stat().st_mtime_ns == file.stat().st_mtime_ns


def peak_memory(command: list[str], variables: dict[str, str]) -> int:
    """Run a command, and return the peak memory of it and its descendants in bytes, counting shared memory once."""
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(_proportional_size, _descendants(process.pid))))
        time.sleep(0.02)
    assert process.returncode == 0
    return peak


def _descendants(pid: int) -> list[int]:
    """Return the process and its descendants."""
    pids = [pid]
    for each in pids:
        try:
            pids += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        except OSError:
            continue
    return pids


def _proportional_size(pid: int) -> int:
    """Return the process's memory in bytes, counting a share of memory that others map, too."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def test_memory_use_is_bounded(data: Path, machine: Machine, pytestconfig: pytest.Config) -> None:
    """An incompressible file of 3 GB (666 MB unless --long)."""
    block = random.Random(3).randbytes(37_000_001)
    with (data / "huge").open("wb") as out:
        for _ in range(81 if pytestconfig.getoption("--long") else 18):
            out.write(block)
    for command in (
        ("pack", "-p", data, "--name", "huge"),
        ("restore", "huge", "--prefix", machine.envs / "huge"),
    ):
        assert peak_memory([*machine.command(*command), "--jobs", "2"], machine.variables) < MEMORY
    assert digest(machine.envs / "huge" / "huge") == digest(data / "huge")
