"""The victim imports an archive that an attacker has made."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.processes import forking
from tests.support.redteam.accounts import withstood
from tests.support.redteam.variants import variants
from tests.support.redteam.world import World

_LINK = 0o120777 << 16


def _tar(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    """Write an archive of a small environment with these members: headers without data, or names with data."""
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, compresslevel=1) as archive:
        for each in (("conda-meta/history", b""), *members):
            if isinstance(each, tarfile.TarInfo):
                archive.addfile(each)
                continue
            info = tarfile.TarInfo(each[0])
            info.size = len(each[1])
            archive.addfile(info, io.BytesIO(each[1]))
    return path


def _header(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def _import(world: World, archive: Path) -> int:
    """Have the victim import the archive; return the exit code."""
    world.victim.owns(archive)
    scratch = world.victim.home / "scratch"
    scratch.mkdir()
    world.victim.owns(scratch)
    with world.unharmed(also=(world.store, scratch)):
        code = world.victim.snapper("import", archive, "--name", "imported", TMPDIR=str(scratch)).code
    withstood(not any(scratch.iterdir()), "left something in the temporary directory")
    return code


# --- tar --------------------------------------------------------------------------------------------------

_HEADERS: dict[str, Callable[[Path], list[tarfile.TarInfo | tuple[str, bytes]]]] = {
    "a parent directory": lambda home: [("../../.profile", b"evil")],
    "an absolute path": lambda home: [(f"{home}/.profile", b"evil")],
    "a link to a secret": lambda home: [
        _header("a", type=tarfile.SYMTYPE, linkname=f"{home}/.ssh/id_json"),
        ("b", b""),
    ],
    "a record that is a link to a secret": lambda home: [
        _header("conda-meta/x-1-0.json", type=tarfile.SYMTYPE, linkname=f"{home}/.ssh/id_json")
    ],
    "a relative link out": lambda home: [_header("a", type=tarfile.SYMTYPE, linkname="../../../../etc")],
    "a link out through a link": lambda home: [
        _header("lib/a", type=tarfile.SYMTYPE, linkname=".."),
        _header("b", type=tarfile.SYMTYPE, linkname="lib/a/../../x"),
    ],
    "a file through a link": lambda home: [
        _header("a", type=tarfile.SYMTYPE, linkname=str(home)),
        ("a/.profile", b"evil"),
    ],
    "a hard link out": lambda home: [_header("a", type=tarfile.LNKTYPE, linkname="../../.ssh/id_json")],
    "a hard link to a link": lambda home: [
        _header("a", type=tarfile.SYMTYPE, linkname=f"{home}/.ssh/id_json"),
        _header("b", type=tarfile.LNKTYPE, linkname="a"),
    ],
    "links in a circle": lambda home: [
        _header("a", type=tarfile.SYMTYPE, linkname="b"),
        _header("b", type=tarfile.SYMTYPE, linkname="a"),
        _header("conda-meta/x-1-0.json", type=tarfile.SYMTYPE, linkname="../a"),
    ],
    "a device": lambda home: [_header("a", type=tarfile.CHRTYPE, devmajor=1, devminor=5)],
    "a pipe": lambda home: [_header("conda-meta/state", type=tarfile.FIFOTYPE)],
    "a setuid program": lambda home: [_header("bin/a", mode=0o6777)],
    "an unreadable directory": lambda home: [_header("lib", type=tarfile.DIRTYPE, mode=0)],
    "an infinite time": lambda home: [_header("a", pax_headers={"mtime": "inf"})],
    "a time that is no number": lambda home: [_header("a", pax_headers={"mtime": "nan"})],
    "a huge time": lambda home: [_header("a", pax_headers={"mtime": "1e300"})],
    "a large time": lambda home: [_header("a", pax_headers={"mtime": str(2**62)})],
    "a negative time": lambda home: [_header("a", pax_headers={"mtime": str(-(2**62))})],
    "2,500 components": lambda home: [("a/" * 2500 + "a", b"")],
    "20,000 components": lambda home: [("a/" * 20_000 + "a", b"")],
    "a directory with 2,500 components": lambda home: [
        _header("a/" * 2500, type=tarfile.DIRTYPE, mode=0o755)
    ],
    "a long component": lambda home: [("a" * 300, b"")],
    "a long target": lambda home: [_header("a", type=tarfile.SYMTYPE, linkname="b/" * 10_000)],
    "a target of a million bytes": lambda home: [
        _header("a", type=tarfile.SYMTYPE, linkname="a/" * 500_000),
    ],
    "many long targets": lambda home: [
        _header(f"l{number}", type=tarfile.SYMTYPE, linkname="a" * 1_000_000) for number in range(500)
    ],
    "many long comments": lambda home: [_header("f", pax_headers={"comment": "a" * 1_000_000})] * 450,
    "a target of nothing": lambda home: [_header("a", type=tarfile.SYMTYPE, linkname="")],
    "a path of nothing": lambda home: [("", b"")],
    "a path with NUL": lambda home: [_header("a", pax_headers={"path": "a\0b"})],
    "a path that is not text": lambda home: [("\udcff", b"")],
    "snapper's state": lambda home: [(".snapper/state.json", b"{}"), (".SNAPPER/x", b"")],
    "a file in place of conda-meta": lambda home: [("conda-meta", b"x")],
    "deep records": lambda home: [("conda-meta/x-1-0.json", b'{"a":' * 100_000)],
    "records of other types": lambda home: [
        (
            "conda-meta/x-1-0.json",
            b'{"name":[],"version":{},"files":3,"paths_data":{"paths":[[],{"_path":7}]}}',
        )
    ],
    "a record with a path outside": lambda home: [
        (
            "conda-meta/x-1-0.json",
            json.dumps(
                {
                    "name": "x",
                    "version": "1",
                    "build": "0",
                    "paths_data": {
                        "paths": [
                            {
                                "_path": f"../../../../../../../..{home}/.ssh/id_json",
                                "prefix_placeholder": "/p",
                                "file_mode": "text",
                                "sha256": "0" * 64,
                            },
                            {
                                "_path": f"{home}/.ssh/id_text",
                                "prefix_placeholder": "/p",
                                "file_mode": "text",
                                "sha256": "0" * 64,
                            },
                        ]
                    },
                }
            ).encode(),
        )
    ],
    "conda-unpack with code": lambda home: [
        (
            "bin/conda-unpack",
            b"_prefix_records = [\n(__import__('os').system('touch PWNED'), '/p', 'text'),\n]\n",
        )
    ],
    "conda-unpack with a path outside": lambda home: [
        ("bin/conda-unpack", f"_prefix_records = [\n('{home}/.profile', '# as', 'text'),\n]\n".encode()),
    ],
    "conda-unpack with deep lists": lambda home: [
        ("bin/conda-unpack", b"_prefix_records = [\n" + b"(" * 50_000 + b"\n]\n")
    ],
    "a file with a path of a million components": lambda home: [
        ("bin/x", b"/p" * 1_000_000),
        (
            "conda-meta/x-1-0.json",
            json.dumps(
                {
                    "name": "x",
                    "version": "1",
                    "build": "0",
                    "paths_data": {
                        "paths": [
                            {
                                "_path": "bin/x",
                                "prefix_placeholder": "/q",
                                "file_mode": "text",
                                "sha256": "0" * 64,
                            }
                        ]
                    },
                }
            ).encode(),
        ),
    ],
    "a kernelspec that is deep": lambda home: [("share/jupyter/kernels/x/kernel.json", b"[" * 100_000)],
    "settings with a hundred thousand URLs": lambda home: [("pip.conf", b"http://x" * 100_000)],
    "metadata that is deep": lambda home: [
        ("lib/python3.11/site-packages/x-1.dist-info/METADATA", b"Name: x\n" + b" (" * 100_000)
    ],
}


_USUAL_HEADERS = (
    "a file through a link",
    "a record that is a link to a secret",
    "a hard link out",
    "a pipe",
    "an infinite time",
    "a huge time",
    "2,500 components",
    "20,000 components",
    "a target of a million bytes",
    "many long comments",
    "conda-unpack with code",
    "a file with a path of a million components",
    "a record with a path outside",
    "settings with a hundred thousand URLs",
)


@variants("headers", _HEADERS, usually=_USUAL_HEADERS)
def test_hostile_tar(headers: str, world: World) -> None:
    """A tar archive has a member that no environment has."""
    archive = _tar(world.victim.home / "x.tar.gz", *_HEADERS[headers](world.victim.home))
    _import(world, archive)
    withstood(not list(world.top.rglob("PWNED")), "code in the archive was executed")


@variants(
    "path",
    [
        "conda-meta/x-1-0.json",
        "conda-meta/state",
        "bin/conda-unpack",
        "share/jupyter/kernels/x/kernel.json",
        "lib/python3.11/site-packages/x-1.dist-info/METADATA",
        "lib/python3.11/site-packages/x-1.dist-info/RECORD",
    ],
    usually=("conda-meta/x-1-0.json", "lib/python3.11/site-packages/x-1.dist-info/RECORD"),
)
def test_huge_small_file(path: str, world: World) -> None:
    """A small file inflates to 400 MB."""
    archive = world.victim.home / "x.tar.gz"
    beside = (
        [(path.replace("RECORD", "METADATA"), b"Name: x\nVersion: 1\n")] if path.endswith("RECORD") else []
    )
    _tar(archive, *beside, ("bin/python", b""))
    size = 400 << 20
    header = gzip.compress(_header(path, size=size).tobuf(tarfile.USTAR_FORMAT))
    end = gzip.compress(bytes(10_240))
    members = gzip.decompress(archive.read_bytes()).rstrip(b"\0")
    start = gzip.compress(members + bytes(-len(members) % 512))
    archive.write_bytes(start + header + gzip.compress(bytes(1 << 20)) * 400 + end)
    _import(world, archive)


def test_extended_header_of_a_gigabyte(world: World) -> None:
    """An extended header says that it is a gigabyte long, and it is."""
    archive = world.victim.home / "x.tar.gz"
    info = _header("x", type=tarfile.XHDTYPE, size=1 << 30)
    header = gzip.compress(info.tobuf(tarfile.USTAR_FORMAT))
    archive.write_bytes(header + gzip.compress(bytes(1 << 20)) * 1024)
    _import(world, archive)


def _xz_that_needs_memory(members: bytes) -> bytes:
    """Return members as an xz file that says that decompressing it takes 1.5 GiB."""
    data = bytearray(lzma.compress(members))
    start = len(b"\xfd7zXZ\0") + 6
    end = start + (data[start] + 1) * 4
    data[data.index(b"\x21\x01", start, end) + 2] = 37
    data[end - 4 : end] = struct.pack("<I", zlib.crc32(data[start : end - 4]))
    return bytes(data)


def _sparse_without_end(members: bytes) -> bytes:
    """Return members and a sparse file whose map has a gigabyte."""
    header = bytearray(_header("x", type=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    more = bytearray((b"%011o\0" % 1) * 42 + bytes(8))
    more[504] = 1
    return gzip.compress(members + header) + gzip.compress(bytes(more) * 2048, 1) * 1024


_BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "xz that needs memory": _xz_that_needs_memory,
    "a sparse file": _sparse_without_end,
    "zeros at the end": lambda members: gzip.compress(members) + gzip.compress(bytes(1 << 20)) * 40_000,
}


@variants("bomb", _BOMBS, usually=_BOMBS)
def test_bomb(bomb: str, world: World) -> None:
    """Reading an archive takes much more memory or time than its size lets expect."""
    archive = world.victim.home / "x.tar.gz"
    members = gzip.decompress(_tar(archive, ("bin/python", b"")).read_bytes()).rstrip(b"\0")
    archive.write_bytes(_BOMBS[bomb](members + bytes(-len(members) % 512)))
    _import(world, archive)


# --- zip --------------------------------------------------------------------------------------------------


def _zip(path: Path, *members: tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("conda-meta/history", "")
        for info, data in members:
            archive.writestr(info, data)
    return path


def _info(name: str, attributes: int = 0o100644 << 16, **fields: object) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
    info.external_attr, info.compress_type = attributes, zipfile.ZIP_DEFLATED
    for field, value in fields.items():
        setattr(info, field, value)
    return info


_ZIPS: dict[str, Callable[[Path], list[tuple[zipfile.ZipInfo, bytes]]]] = {
    "a parent directory": lambda home: [(_info("../../.profile"), b"evil")],
    "an absolute path": lambda home: [(_info(f"{home}/.profile"), b"evil")],
    "a path with backslashes": lambda home: [(_info("..\\..\\.profile"), b"evil")],
    "a link to a secret": lambda home: [(_info("a", _LINK), f"{home}/.ssh/id_json".encode())],
    "a record that is a link to a secret": lambda home: [
        (_info("conda-meta/x-1-0.json", _LINK), f"{home}/.ssh/id_json".encode())
    ],
    "a file through a link": lambda home: [
        (_info("a", _LINK), str(home).encode()),
        (_info("a/.profile"), b"evil"),
    ],
    "a directory that is a link": lambda home: [
        (_info("conda-meta", _LINK), str(home / ".ssh").encode()),
    ],
    "a target with NUL": lambda home: [(_info("a", _LINK), b"a\0b")],
    "a device": lambda home: [(_info("a", 0o020666 << 16), b"")],
    "a pipe": lambda home: [(_info("a", 0o010666 << 16), b"")],
    "a setuid program": lambda home: [(_info("a", 0o106777 << 16), b"")],
    "an impossible date": lambda home: [(_info("a", date_time=(1980, 0, 0, 31, 63, 62)), b"")],
    "2,500 components": lambda home: [(_info("a/" * 2500 + "a"), b"")],
    "the same path twice": lambda home: [(_info("a"), b"1"), (_info("a"), b"2")],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@variants(
    "members",
    _ZIPS,
    usually=("a link to a secret", "a file through a link", "a target with NUL", "2,500 components"),
)
def test_hostile_zip(members: str, world: World) -> None:
    """A zip archive has a member that no environment has."""
    _import(world, _zip(world.victim.home / "x.zip", *_ZIPS[members](world.victim.home)))


@pytest.mark.parametrize("kind", ["link", "record"])
def test_zip_with_false_sizes(kind: str, world: World) -> None:
    """A member of a zip states a small size and inflates to 700 MB."""
    name, attributes = ("a", _LINK) if kind == "link" else ("conda-meta/x-1-0.json", 0o100644 << 16)
    path = world.victim.home / "x.zip"
    bomb = _deflated_zeros(700)
    _zip(path, (_info(name, attributes, compress_type=zipfile.ZIP_STORED), bomb))
    data = bytearray(path.read_bytes())
    for magic, method, size in ((b"PK\x03\x04", 8, 22), (b"PK\x01\x02", 10, 24)):
        at = data.rindex(magic)
        struct.pack_into("<H", data, at + method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", data, at + size, 10)
    path.write_bytes(data)
    _import(world, path)


def test_zip_that_needs_memory(world: World) -> None:
    """A member of a zip says that decompressing it takes 1.5 GiB."""
    path = _zip(world.victim.home / "x.zip", (_info("a", compress_type=zipfile.ZIP_LZMA), b"data"))
    data = bytearray(path.read_bytes())
    at = data.index(b"\x05\0]") + 3
    data[at : at + 4] = struct.pack("<I", 3 << 29)
    path.write_bytes(data)
    _import(world, path)


def _deflated_zeros(size: int) -> bytes:
    """Return that many MiB of zeros as a deflated stream."""
    compressor = zlib.compressobj(9, wbits=-15)
    block = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return block * size + compressor.flush()


# --- files that are no archives, and temporary directories ------------------------------------------------


@variants("hazard", ["pipe", "zero", "directory", "secret", "empty", "truncated"], usually=("pipe", "zero"))
def test_file_that_is_no_archive(hazard: str, world: World) -> None:
    """The file to import is a pipe, a device, or not an archive."""
    path = world.victim.home / "x.tar.gz"
    if hazard == "pipe":
        os.mkfifo(path)
    elif hazard == "zero":
        path.symlink_to("/dev/zero")
    elif hazard == "directory":
        path.mkdir()
    elif hazard == "secret":
        path.symlink_to(world.secrets[0])
    elif hazard == "empty":
        path.touch()
    else:
        path.write_bytes(_tar(path, ("a", bytes(1000))).read_bytes()[:-20])
    _import(world, path)


def test_leftovers_of_others_in_the_temporary_directory(world: World) -> None:
    """The attacker has made what looks like leftovers of an import in the shared temporary directory."""
    archive = _tar(world.victim.home / "x.tar.gz")
    victims = world.victim.home / "work/keep"
    victims.mkdir()
    world.victim.owns(world.victim.home)
    (world.temporary / "snapper-scratch-link").symlink_to(victims)
    planted = world.temporary / "snapper-scratch-pipe"
    planted.mkdir(mode=0o777)
    os.mkfifo(planted / "lock", 0o666)
    linked = world.temporary / "snapper-scratch-linked"
    linked.mkdir(mode=0o777)
    (linked / "work").symlink_to(victims)
    for path in (planted, linked):
        world.attacker.owns(path)
        os.utime(path, (time.time() - 7200,) * 2)
    with world.unharmed(also=(world.store, world.temporary)):
        world.victim.snapper("import", archive, "--name", "imported", TMPDIR=str(world.temporary))
    withstood(victims.is_dir(), "removed a directory through a link")


def test_temporary_directory_is_private(world: World) -> None:
    """Another user looks, all the time, for what an import unpacks in the shared temporary directory."""
    archive = _tar(world.victim.home / "x.tar.gz", *((f"lib/{number}", bytes(10)) for number in range(300)))
    world.victim.owns(world.victim.home)
    ended, seen = forking.Event(), forking.SimpleQueue()

    def look() -> None:
        world.attacker.become()
        found: set[str] = set()
        while not ended.is_set():
            with suppress(FileNotFoundError):  # of what was listed, something may be gone by then
                for path in world.temporary.glob("*/*"):
                    found.add(path.name)
        seen.put(found)

    looking = forking.Process(target=look)
    looking.start()
    world.victim.snapper("import", archive, "--name", "imported", TMPDIR=str(world.temporary))
    ended.set()
    found = seen.get()
    looking.join()
    withstood(not found, f"saw {found}")
    withstood(not list(world.temporary.iterdir()), "left something in the shared temporary directory")
