"""A publisher, or whoever can write to the store, puts objects into it that docs/format.md does not allow."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support.redteam import publisher
from tests.support.redteam.accounts import withstood
from tests.support.redteam.publisher import ENVIRONMENT, PLACEHOLDER, directory, encode, file, link, member
from tests.support.redteam.variants import variants
from tests.support.redteam.world import World

_MIB = 1 << 20


def _restore_others(world: World, *names: str) -> None:
    """Restore all environments; only the one that nobody has tampered with may, and must, be there afterwards."""
    world.publish("good")
    with world.unharmed("good", "evil"):
        outcome = world.victim.snapper("restore", "--all")
    withstood((world.victim.envs / "good/conda-meta").is_dir(), "other environments are not restored")
    withstood(outcome.code != 0, "nothing was noticed")
    withstood(len(outcome.out + outcome.err) < 100_000, "printed hundreds of kilobytes")
    withstood(not (world.victim.envs / "evil").exists(), "the environment was restored all the same")


def _publish_layer(world: World, segment: bytes, **options: Any) -> None:
    """Publish `evil` with this segment after a good layer; the options are those of `publisher.put_layer`."""
    publisher.make_store(world.store)
    layers = [
        publisher.put_layer(world.store, b"".join(ENVIRONMENT)),
        publisher.put_layer(world.store, segment, **options),
    ]
    publisher.put_entry(
        world.store, "evil", publisher.put_snapshot(world.store, layers), world.victim.envs / "evil"
    )


# --- JSON -------------------------------------------------------------------------------------------------

_DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
_DOCUMENTS = {
    "deep": _DEEP,
    "deep arrays": b"[" * 1_000_000,
    "huge number": b'{"format":' + b"9" * 1_000_000 + b"}",
    "float": b'{"format":1e999}',
    "NaN": b'{"format":NaN}',
    "repeated keys": b'{"format":1,"format":1}',
    "not UTF-8": b'{"format":1,"name":"\xff"}',
    "empty": b"",
    "null": b"null",
    "zeros": bytes(33 * _MIB),
    "long key twice": b'{"K":1,"K":1}'.replace(b"K", b"a" * _MIB + b"://"),
}


@variants("document", _DOCUMENTS, usually=("deep", "huge number", "zeros", "long key twice"))
def test_hostile_entry(document: str, world: World) -> None:
    """The entry of an environment is not an entry."""
    publisher.put(world.store, "environments/evil.json", _DOCUMENTS[document])
    _restore_others(world)


@variants("document", ["deep", "huge number", "zeros"], usually=("deep",))
def test_hostile_snapshot(document: str, world: World) -> None:
    """A snapshot with the right digest is not a snapshot."""
    data = _DOCUMENTS[document]
    publisher.put(world.store, f"snapshots/{publisher.sha256(data)}.json", data)
    publisher.put_entry(world.store, "evil", publisher.sha256(data), "/nowhere")
    _restore_others(world)


@variants("document", ["deep", "huge number", "zeros"], usually=("zeros",))
def test_hostile_marker(document: str, world: World) -> None:
    """The marker of the store is not a marker."""
    world.publish("good")
    publisher.put(world.store, "snapper.json", _DOCUMENTS[document])
    with world.unharmed():
        outcome = world.victim.snapper("restore", "--all")
    withstood(outcome.code in (12, 13), f"exited with {outcome.code}")


def test_same_page_many_times(world: World) -> None:
    """A small snapshot lists one page so often that its packages do not fit into memory."""
    publisher.make_store(world.store)
    names = ("name", "version", "build", "subdir", "channel", "url", "md5", "sha256")
    page = encode([dict.fromkeys(names, "x")] * 1000)
    publisher.put(world.store, f"pages/{publisher.sha256(page)[:2]}/{publisher.sha256(page)}.json", page)
    snapshot = publisher.put_snapshot(world.store, [publisher.put_layer(world.store, b"".join(ENVIRONMENT))])
    document = json.loads((world.store / f"snapshots/{snapshot}.json").read_bytes())
    document["packages"] = [{"digest": publisher.sha256(page), "size": len(page)}] * 100_000
    data = encode(document)
    publisher.put(world.store, f"snapshots/{publisher.sha256(data)}.json", data)
    publisher.put_entry(world.store, "evil", publisher.sha256(data), "/nowhere")
    _restore_others(world)


def test_page_of_another_list(world: World) -> None:
    """The page of packages is given as the page of layers."""
    publisher.make_store(world.store)
    package = dict.fromkeys(("name", "version", "build", "subdir", "channel", "url", "md5", "sha256"), "x")
    snapshot = publisher.put_snapshot(world.store, [], packages=[package])
    document = json.loads((world.store / f"snapshots/{snapshot}.json").read_bytes())
    document["layers"] = document["packages"]
    data = encode(document)
    publisher.put(world.store, f"snapshots/{publisher.sha256(data)}.json", data)
    publisher.put_entry(world.store, "evil", publisher.sha256(data), "/nowhere")
    _restore_others(world)


@variants("kind", ["snapshots", "pages", "layers"], usually=("layers",))
def test_other_bytes_under_a_digest(kind: str, world: World) -> None:
    """An object is replaced by another one of the same length."""
    world.publish("evil", file("share/unlike-others"))
    for path in (world.store / kind).rglob("*.*"):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    _restore_others(world)


@variants(
    "path",
    ["", "conda-meta", "share", "share/jupyter/kernels", "share/jupyter/kernels/python3"],
    usually=("", "share/jupyter/kernels"),
)
def test_unreadable_directory(path: str, world: World) -> None:
    """A directory is published with a mode that keeps its owner from reading it."""
    if path:
        world.publish("evil", directory(path, 0))
    else:
        world.publish("evil", snapshot={"mode": 0})
    world.publish("good")
    with world.unharmed("good", "evil"):
        world.victim.snapper("restore", "--all")
    withstood((world.victim.envs / "good/conda-meta").is_dir(), "other environments are not restored")


@variants("mode", [-1, 2**70], usually=(2**70,))
def test_impossible_mode(mode: int, world: World) -> None:
    """The snapshot has a mode that no directory can have."""
    world.publish("evil", snapshot={"mode": mode})
    world.publish("good")
    with world.unharmed("good", "evil"):
        world.victim.snapper("restore", "--all")
    withstood((world.victim.envs / "good/conda-meta").is_dir(), "other environments are not restored")


def test_long_history(world: World) -> None:
    """The history has as many entries as fit into a document."""
    digest = world.publish("evil")
    path = world.store / "environments/evil.json"
    entry = json.loads(path.read_bytes())
    entry["history"] *= 10_000
    path.write_bytes(encode(entry))
    with world.unharmed("evil"):
        world.victim.snapper("list")
        world.victim.snapper("restore", "--all")
        world.victim.snapper("log", "evil", "-n", 1)
    assert digest


# --- compression ------------------------------------------------------------------------------------------

_SEGMENT = file("bomb", b"x" * 1000)


def _frame_of_unknown_size(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


def _frame_with_window(log: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=log, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(_SEGMENT) + compressor.flush()


_FRAMES: dict[str, Callable[[], bytes]] = {
    "half a gigabyte": lambda: zstandard.compress(bytes(1 << 29)),
    "half a gigabyte, size not stated": lambda: _frame_of_unknown_size(bytes(1 << 29)),
    "a window of two gigabytes": lambda: _frame_with_window(31),
    "many frames": lambda: zstandard.compress(_SEGMENT) * 1000,
    "skippable frames": lambda: (b"\x50\x2a\x4d\x18" + (1000).to_bytes(4, "little") + bytes(1000)) * 1000,
    "truncated": lambda: zstandard.compress(_SEGMENT)[:-5],
    "not zstd": lambda: b"\x1f\x8b" + bytes(100),
}


@variants("frame", _FRAMES, usually=("half a gigabyte, size not stated", "a window of two gigabytes"))
def test_decompression_bomb(frame: str, world: World) -> None:
    """A layer does not decompress to what its snapshot says."""
    _publish_layer(world, _SEGMENT, stored=_FRAMES[frame]())
    _restore_others(world)


# --- members ----------------------------------------------------------------------------------------------

_SEGMENTS: dict[str, Callable[[Path], bytes]] = {
    "a parent directory": lambda home: file("../../.profile", "evil"),
    "an absolute path": lambda home: file(f"{home}/.profile", "evil"),
    "a path through a link": lambda home: link("a", home) + file("a/.profile", "evil"),
    "a path through a later link": lambda home: file("a/.profile", "evil") + link("a", home),
    "a hard link out of the environment": lambda home: member(
        "a", type=tarfile.LNKTYPE, linkname="../../.ssh/id_text"
    ),
    "a hard link through a link": lambda home: (
        link("a", home / ".ssh") + member("b", type=tarfile.LNKTYPE, linkname="a/id_text")
    ),
    "a hard link to a link": lambda home: (
        link("a", home / ".ssh/id_text") + member("b", type=tarfile.LNKTYPE, linkname="a")
    ),
    "a device": lambda home: member("a", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "a pipe": lambda home: member("a", type=tarfile.FIFOTYPE),
    "a GNU sparse file": lambda home: member("a", type=tarfile.GNUTYPE_SPARSE),
    "a GNU long name": lambda home: member(
        "././@LongLink", b"../../.profile\0", type=tarfile.GNUTYPE_LONGNAME
    ),
    "snapper's state": lambda home: file(".snapper/state.json", "{}"),
    "snapper's state in capitals": lambda home: file(".SNAPPER/state.json", "{}"),
    "2,500 components": lambda home: file("a/" * 2500 + "a"),
    "300 components": lambda home: file("a/" * 300 + "a"),
    "a component of 300 bytes": lambda home: file("a" * 300),
    "a path of 100,000 bytes": lambda home: file("a" * 100_000),
    "a time that is too large": lambda home: member("a", mtime=8**11 - 1),
    "a time with a fraction": lambda home: member("a", mtime=1.5),
    "a time before 1970": lambda home: member("a", mtime=-5),
    "an owner": lambda home: member("a", uid=1000, gid=1000),
    "the same path twice": lambda home: file("a", "1") + file("a", "2"),
    "a link to itself": lambda home: member("a", type=tarfile.LNKTYPE, linkname="a"),
    "a record for tarfile's sparse files": lambda home: member(
        "a", pax_headers={"GNU.sparse.name": "../../.profile", "GNU.sparse.size": "9"}
    ),
    "a setuid program": lambda home: file("a", "#!/bin/sh\n", mode=0o6755),
    "a sticky directory": lambda home: directory("a", 0o7777),
}


#: One of each kind.
_USUAL_SEGMENTS = (
    "a path through a link",
    "a hard link out of the environment",
    "a device",
    "snapper's state in capitals",
    "2,500 components",
    "a time that is too large",
    "a setuid program",
)


@variants("segment", _SEGMENTS, usually=_USUAL_SEGMENTS)
def test_hostile_member(segment: str, world: World) -> None:
    """A layer has a member that docs/format.md forbids."""
    _publish_layer(world, _SEGMENTS[segment](world.victim.home))
    world.publish("good")
    with world.unharmed("good", "evil"):
        world.victim.snapper("restore", "--all")
    withstood((world.victim.envs / "good/conda-meta").is_dir(), "other environments are not restored")
    for path in world.victim.envs.rglob("*"):
        mode = path.lstat().st_mode
        withstood(
            path.is_symlink() or path.is_dir() or path.is_file(), f"created the special file {path.name}"
        )
        withstood(not mode & 0o7000, f"created {path.name} with mode {mode:o}")


@pytest.mark.parametrize("mode", [0o666, 0o777])
def test_writable_for_everyone(mode: int, world: World) -> None:
    """Files and directories are published with modes that let other users change them."""
    members = (
        file("bin/python", "#!/bin/sh\n", mode=mode),
        directory("lib", 0o777),
        file("lib/x.py", mode=mode),
    )
    world.publish("evil", *members, snapshot={"mode": 0o777})
    with world.unharmed("evil"):
        world.victim.snapper("restore", "--all")
    prefix = world.victim.envs / "evil"
    assert prefix.is_dir()
    open_to_all = [
        os.path.relpath(path, prefix) for path in (prefix, *prefix.rglob("*")) if path.lstat().st_mode & 0o002
    ]
    withstood(not open_to_all, f"other users may write to {open_to_all}")


# --- relocation -------------------------------------------------------------------------------------------


def _publish_relocated(world: World, data: bytes, mode: str, placeholder: str = PLACEHOLDER) -> None:
    """Publish an environment whose file `a` has to be relocated."""
    how = [{"mode": mode, "placeholder": placeholder, "paths": ["a"]}]
    publisher.make_store(world.store)
    layers = [
        publisher.put_layer(world.store, b"".join(ENVIRONMENT)),
        publisher.put_layer(world.store, file("a", data), relocations=how),
    ]
    publisher.put_entry(world.store, "evil", publisher.put_snapshot(world.store, layers), "/nowhere")


def _restore_with_bomb(world: World) -> None:
    world.publish("good")
    with world.unharmed("good", "evil"):
        world.victim.snapper("restore", "--all")
    withstood((world.victim.envs / "good/conda-meta").is_dir(), "other environments are not restored")


def test_text_that_grows(world: World) -> None:
    """Relocation turns 8 MiB of short placeholders into most of a gigabyte."""
    _publish_relocated(world, b"/a" * (4 * _MIB), "text", "/a")
    long = world.victim.envs / ("l" * 200)
    with world.unharmed(long.name):
        outcome = world.victim.snapper("restore", "evil", "--envs-dir", long)
    size = sum(path.stat().st_size for path in long.rglob("a"))
    withstood(outcome.code or size < 100 * _MIB, f"wrote {size // _MIB} MiB")


def test_binary_without_end(world: World) -> None:
    """A binary file has many placeholders and no NUL byte, which a search for the end of each must find."""
    _publish_relocated(world, (b"/" + b"a" * 99) * 300_000, "binary", "/" + "a" * 99)
    _restore_with_bomb(world)


def test_module_with_deep_objects(world: World) -> None:
    """A compiled module is marshalled as tuples in tuples, 200,000 deep."""
    header = b"\xa7\r\r\n" + bytes(12)
    deep = b")\x01" * 200_000 + b"N"
    _publish_relocated(world, header + deep + b"x" + PLACEHOLDER.encode(), "pyc")
    _restore_with_bomb(world)


def test_record_with_deep_objects(world: World) -> None:
    """A package record to be updated is deeply nested."""
    publisher.make_store(world.store)
    name = "conda-meta/evil-1-0.json"
    data = b'{"paths_data":{"paths":' + b'[{"_path":' * 100_000
    layers = [
        publisher.put_layer(world.store, b"".join(ENVIRONMENT)),
        publisher.put_layer(
            world.store,
            file(name, data) + file("a", PLACEHOLDER),
            relocations=[
                {"mode": "record", "placeholder": "", "paths": [name]},
                {"mode": "text", "placeholder": PLACEHOLDER, "paths": ["a"]},
            ],
        ),
    ]
    publisher.put_entry(world.store, "evil", publisher.put_snapshot(world.store, layers), "/nowhere")
    _restore_with_bomb(world)


def test_record_with_many_braces(world: World) -> None:
    """A package record to be updated has braces in strings, for which a regular expression scans it again and again."""
    name = "conda-meta/evil-1-0.json"
    data = b'{"_path": "a{", "x\\": 1}' + b'{"\\"' * 100_000
    how = [{"mode": "record", "placeholder": "", "paths": [name]}]
    world.publish("evil", file(name, data), relocations=how, prefix=world.victim.envs / "evil")
    _restore_with_bomb(world)


def test_text_that_grows_in_many_files(world: World) -> None:
    """Each of many files grows to less than what a single one may, and is declared with much less."""
    data = b"/a" * (1 << 19)
    how = [{"mode": "text", "placeholder": "/a", "paths": [f"f{number}" for number in range(6)]}]
    members = [file(f"f{number}", data) for number in range(6)]
    world.publish("evil", *members, relocations=how)
    long = world.victim.envs / ("l" * 200)
    outcome = world.victim.snapper("restore", "evil", "--envs-dir", long)
    size = sum(path.stat().st_size for path in long.rglob("f*") if path.is_file())
    withstood(outcome.code or size < 100 * _MIB, f"wrote {size // _MIB} MiB")


_LONG_MEMBERS: dict[str, Callable[[str], bytes]] = {
    "links": lambda name: link(f"{'l' * 200}/{name}", "y" * 4000),
    "files": lambda name: file(f"{'/'.join(['d' * 200] * 20)}/{name}", ""),
}


@variants("kind", _LONG_MEMBERS, usually=("links",))
@variants("size", [120, 30], usually=(120, 30))
def test_many_long_members(kind: str, size: int, world: World) -> None:
    """Layers of some kilobytes have hundreds of MiB of links or paths, which are kept until all files are written.

    `size` is that of each layer, in MiB: a limit for one may leave too much for all of them.
    """
    publisher.make_store(world.store)
    layers = [publisher.put_layer(world.store, b"".join(ENVIRONMENT))]
    for layer in range(240 // size):
        one = _LONG_MEMBERS[kind](f"{layer}-000000")
        at = one.rindex(f"{layer}-000000".encode())
        members = bytearray(one * (size * _MIB // len(one)))
        for number, start in enumerate(range(at, len(members), len(one))):
            members[start : start + 8] = b"%d-%06d" % (layer, number)
        layers.append(publisher.put_layer(world.store, bytes(members)))
    publisher.put_entry(world.store, "evil", publisher.put_snapshot(world.store, layers), "/nowhere")
    _restore_with_bomb(world)


@variants("kind", ["file", "link"], usually=("file", "link"))
def test_many_directories(kind: str, world: World) -> None:
    """A layer of some kilobytes has members that need 254 directories each, which are not counted anywhere."""
    paths = [f"{number}/{'a/' * 253}f" for number in range(300)]
    members = [file(path, "") if kind == "file" else link(path, "x") for path in paths]
    world.publish("evil", *members)
    world.publish("good")
    world.victim.snapper("restore", "--all")
    made = sum(len(names) for _, names, _ in os.walk(world.victim.envs / "evil"))
    withstood(made < 3000, f"made {made:,} directories")
    withstood((world.victim.envs / "good/conda-meta").is_dir(), "other environments are not restored")


def test_layer_listed_many_times(world: World) -> None:
    """A snapshot lists one layer ten thousand times."""
    publisher.make_store(world.store)
    layer = publisher.put_layer(world.store, b"".join([*ENVIRONMENT, file("x", bytes(_MIB))]))
    publisher.put_entry(
        world.store, "evil", publisher.put_snapshot(world.store, [layer] * 10_000), "/nowhere"
    )
    _restore_with_bomb(world)


@pytest.mark.parametrize("member", [b"", link("conda-meta", "../work/conda-meta"), file("conda-meta", "")])
def test_snapshot_that_is_no_environment(member: bytes, world: World) -> None:
    """It replaces an environment with a directory that nothing can replace any more, or that leads into another one."""
    place = world.victim.envs / "team"
    world.publish("team", prefix=place)
    world.victim.snapper("restore", "team")
    layer = publisher.put_layer(world.store, member + file("x", "1"))
    publisher.put_entry(world.store, "team", publisher.put_snapshot(world.store, [layer]), str(place))
    world.victim.owns(world.store)
    with world.unharmed("team"):
        outcome = world.victim.snapper("restore", "team", "--replace")
    withstood(outcome.code == 12 and "conda-meta" in outcome.err, f"exit {outcome.code}: {outcome.err}")
