"""Layers of an attacker: each must be refused, and nothing outside the environment may be read or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import zstandard

from snapper.format.member import Member, encode_header, padding
from snapper.format.model import Relocation
from tests.support.layers import (
    META,
    PLACEHOLDER,
    PLACEHOLDER_BYTES,
    StoredLayer,
    directory,
    encode_member,
    file,
    first_piece,
    hardlink,
    member_of_type,
    next_piece,
    pack_members,
    pack_segment,
    symlink,
    with_header_field,
)

GOOD = pack_members(encode_member(META), file("good"))


def with_description(stored: StoredLayer, **changes: Any) -> StoredLayer:
    """Return the layer with another description of the same bytes."""
    return StoredLayer(replace(stored.layer, **changes), stored.data)


def stored_as(segment: bytes, data: bytes) -> list[StoredLayer]:
    """Return layers; the last one is described as the segment, but stored as `data`."""
    return [GOOD, pack_segment(segment, 1, stored=data)]


def split_text(placeholder: str, replaced: int) -> list[StoredLayer]:
    """Return a file in two pieces; the second claims that `replaced` placeholders precede it."""
    data = b"x" * 600 + PLACEHOLDER_BYTES + b"y" * 600 + PLACEHOLDER_BYTES + b"z" * 300
    how = (Relocation("text", placeholder, ("big",)),)
    first, second = data[:700], data[700:] + padding(len(data))
    return [
        first_piece(len(data), first, relocations=how),
        next_piece(700, second, len(data), replaced=replaced, relocations=how),
    ]


PLAIN = file("plain", b"plain" * 1000)

#: By what is wrong, functions of a directory outside that the attack aims at.
HOSTILE_LAYERS: dict[str, Callable[[Path], list[StoredLayer]]] = {
    # paths
    "a file in the parent directory": lambda _: [pack_members(file("../victim"))],
    "a file in a sibling directory": lambda _: [pack_members(file("a/../../../outside/victim"))],
    "a file at an absolute path": lambda out: [pack_members(file(f"{out}/victim"))],
    "a file at a long absolute path": lambda out: [pack_members(file(f"{out}/{'v' * 200}"))],
    "a directory in the parent directory": lambda _: [pack_members(directory(".."))],
    "a directory at an absolute path": lambda out: [pack_members(directory(str(out), 0))],
    "a symlink in the parent directory": lambda _: [pack_members(symlink("../link", "victim"))],
    "a hard link in the parent directory": lambda _: [
        pack_members(file("a"), hardlink("../../outside/new", "a"))
    ],
    "a path with a dot component": lambda _: [pack_members(file("./a"))],
    "a path with an empty component": lambda _: [pack_members(file("a//b"))],
    "a path that ends in a slash": lambda _: [pack_members(file("a/"))],
    "a directory at the prefix itself": lambda _: [pack_members(directory(".", 0o777))],
    "no path": lambda _: [pack_members(file(""))],
    "a path that is too deep": lambda _: [pack_members(file("a/" * 3000 + "a"))],
    "a name that is too long": lambda _: [pack_members(file("a/" + "x" * 256), file("a/b"))],
    "a NUL in a long path": lambda _: [pack_members(file("x" * 101 + "\0/../../victim"))],
    "snapper's own directory": lambda _: [pack_members(directory(".snapper"))],
    "a symlink for snapper's own directory": lambda out: [pack_members(symlink(".snapper", out))],
    "snapper's own state": lambda _: [pack_members(file(".snapper/state.json"))],
    "snapper's own directory below another": lambda _: [pack_members(file("envs/x/.snapper/state.json"))],
    "snapper's own directory beside a file": lambda _: [pack_members(file("a/b"), directory("a/.Snapper"))],
    "a staging directory": lambda _: [pack_members(symlink("envs/.team.snapper/kept", "../../.."))],
    "an empty staging directory": lambda _: [pack_members(file("envs/f"), directory("envs/.team.SNAPPER"))],
    "a link in place of envs": lambda out: [pack_members(symlink("envs", out))],
    "a link in place of envs in capitals": lambda out: [pack_members(symlink("ENVS", out))],
    "a link in place of pkgs": lambda out: [pack_members(symlink("pkgs", out))],
    "a file in place of envs": lambda _: [pack_members(file("envs"))],
    "a split file in place of envs": lambda _: [
        first_piece(2000, b"x" * 500, "envs"),
        next_piece(500, b"x" * 1548, path="envs"),
    ],
    "conda's trash": lambda _: [pack_members(file(".condatmp/evil"))],
    # links
    "a file through a symlink": lambda out: [pack_members(symlink("a", out), file("a/victim"))],
    "a file through a symlink that comes later": lambda out: [
        pack_members(file("a/victim"), symlink("a", out))
    ],
    "a file through another layer's symlink": lambda out: [
        pack_members(symlink("a", out)),
        pack_members(file("a/victim")),
    ],
    "a file through a later layer's symlink": lambda out: [
        pack_members(file("a/victim")),
        pack_members(symlink("a", out)),
    ],
    "a file at a symlink": lambda out: [pack_members(symlink("a", out / "victim"), file("a"))],
    "a directory at a symlink": lambda out: [pack_members(symlink("a", out), directory("a", 0o700))],
    "a directory through a symlink": lambda out: [pack_members(symlink("a", out), directory("a/new"))],
    "a symlink through a symlink": lambda out: [pack_members(symlink("a", out), symlink("a/new", "x"))],
    "a hard link through a symlink": lambda out: [
        pack_members(symlink("a", out), file("f"), hardlink("a/new", "f"))
    ],
    "a hard link to a file through a symlink": lambda out: [
        pack_members(symlink("a", out), hardlink("b", "a/secret"))
    ],
    "a hard link to a symlink": lambda out: [pack_members(symlink("a", out / "secret"), hardlink("b", "a"))],
    "a hard link to another layer's symlink": lambda out: [
        pack_members(symlink("a", out / "secret")),
        pack_members(hardlink("b", "a")),
    ],
    "a hard link to a file outside": lambda _: [pack_members(hardlink("a", "../../../outside/secret"))],
    "a hard link to an absolute path": lambda out: [pack_members(hardlink("a", f"{out}/secret"))],
    "a hard link to nothing": lambda _: [pack_members(hardlink("a", "b"))],
    "a hard link to a directory": lambda _: [pack_members(directory("a", 0o700), hardlink("b", "a"))],
    "a hard link to itself": lambda _: [pack_members(hardlink("a", "a"))],
    "a hard link to the state": lambda _: [pack_members(hardlink("a", ".snapper/state.json"))],
    "a symlink to the empty path": lambda _: [pack_members(symlink("a", ""))],
    "a symlink to a path that is too long": lambda _: [pack_members(symlink("a", "x/" * 3000))],
    # repeated paths
    "a file twice": lambda _: [pack_members(file("a", b"1"), file("a", b"2"))],
    "a file in two layers": lambda _: [pack_members(file("a", b"1")), pack_members(file("a", b"2"))],
    "a file and a directory": lambda _: [pack_members(file("a"), directory("a", 0o700))],
    "a directory and a file": lambda _: [pack_members(directory("a", 0o700), file("a"))],
    "a file and a file below it": lambda _: [pack_members(file("a"), file("a/b"))],
    "a file and later its parent": lambda _: [pack_members(file("a/b"), file("a"))],
    "a symlink twice": lambda _: [pack_members(symlink("a", "b"), symlink("a", "c"))],
    "a symlink and a file": lambda _: [pack_members(symlink("a", "b")), pack_members(file("a"))],
    "a hard link and a symlink": lambda _: [pack_members(file("f"), hardlink("a", "f"), symlink("a", "f"))],
    "a split file and then a whole one": lambda _: [
        first_piece(2000, b"x" * 500),
        next_piece(500, b"x" * 1548),
        pack_members(file("big")),
    ],
    "a whole file and then a split one": lambda _: [
        pack_members(file("big", b"y" * 9000)),
        first_piece(2000, b"x" * 500),
        next_piece(500, b"x" * 1548),
    ],
    # types
    "a character device": lambda _: [pack_members(member_of_type("dev", b"3"))],
    "a block device": lambda _: [pack_members(member_of_type("dev", b"4"))],
    "a fifo": lambda _: [pack_members(member_of_type("pipe", b"6"))],
    # numbers
    "a time that is too late": lambda _: [pack_members(with_header_field(136, b"777777777777"))],
    "a time before 1970": lambda _: [pack_members(with_header_field(136, b"-0000000001\0"))],
    "a mode of eight digits": lambda _: [pack_members(with_header_field(100, b"77777777"))],
    # sizes
    "more members than the manifest says": lambda _: [
        with_description(pack_members(file("a"), file("b")), members=1)
    ],
    "fewer members than the manifest says": lambda _: [with_description(pack_members(file("a")), members=2)],
    "a layer that unpacks to more": lambda _: stored_as(PLAIN, zstandard.compress(PLAIN + file("more"))),
    "a layer that unpacks to less": lambda _: stored_as(PLAIN, zstandard.compress(PLAIN[:-512])),
    "a layer that unpacks to nothing": lambda _: stored_as(PLAIN, zstandard.compress(b"")),
    "a layer of two frames": lambda _: stored_as(
        PLAIN, zstandard.compress(PLAIN) + zstandard.compress(file("more"))
    ),
    "a layer with a tail": lambda _: stored_as(PLAIN, zstandard.compress(PLAIN) + b"tail"),
    "a truncated layer": lambda _: stored_as(PLAIN, zstandard.compress(PLAIN)[:-20]),
    "a layer that is not compressed": lambda _: stored_as(PLAIN, PLAIN),
    "an empty object": lambda _: stored_as(PLAIN, b""),
    "a layer that unpacks to 100 MB": lambda _: stored_as(PLAIN, zstandard.compress(b"\0" * 100_000_000)),
    "no members at all": lambda _: [pack_segment(b"\xff" * 1024, 1)],
    "an end of an archive inside": lambda _: [pack_members(file("a"), b"\0" * 1024)],
    "a layer that ends inside a header": lambda _: [pack_segment(file("b") + file("a")[:100], 1)],
    # split files
    "a split file without its end": lambda _: [first_piece(2000, b"x" * 500)],
    "a split file without its middle": lambda _: [
        first_piece(2000, b"x" * 500),
        next_piece(700, b"x" * 1300),
    ],
    "a split file with overlapping pieces": lambda _: [
        first_piece(2000, b"x" * 500),
        next_piece(400, b"x" * 1600),
    ],
    "a split file that continues with another": lambda _: [
        first_piece(2000, b"x" * 500),
        next_piece(500, b"x" * 1548, path="b"),
    ],
    "a split file that continues with another size": lambda _: [
        first_piece(2000, b"x" * 500),
        next_piece(500, b"x" * 2048, size=2500),
    ],
    "a split file with a layer in between": lambda _: [
        first_piece(2000, b"x" * 500),
        GOOD,
        next_piece(500, b"x" * 1548),
    ],
    "a split file with two ends": lambda _: [
        first_piece(2000, b"x" * 500),
        next_piece(500, b"x" * 1548),
        next_piece(500, b"y" * 1548),
    ],
    "members after a split file": lambda _: [
        pack_members(encode_header(Member("big", "file", 0o644, 0, 100_000)), file("a"))
    ],
    "a middle without a beginning": lambda _: [
        GOOD,
        pack_members(file("f", b"x" * 4000)),
        next_piece(500, b"x" * 1548),
    ],
    "an end that begins at the end": lambda _: [pack_members(file("f", b"x" * 4000)), next_piece(2000, b"")],
    "a split file at a path outside": lambda _: [first_piece(2000, b"x" * 500, "../big")],
    "a split file at a symlink": lambda out: [
        pack_members(symlink("big", out / "victim")),
        first_piece(2000, b"x" * 500),
        next_piece(500, b"x" * 1548),
    ],
    "a split file through a symlink": lambda out: [
        pack_members(symlink("a", out)),
        first_piece(2000, b"x" * 500, "a/victim"),
        next_piece(500, b"x" * 1548, path="a/victim"),
    ],
    "a split file at a directory": lambda _: [
        first_piece(2000, b"x" * 500, "d"),
        next_piece(500, b"x" * 1548, path="d"),
        pack_members(file("d/f")),
    ],
    "a split text that counts too few placeholders": lambda _: split_text(PLACEHOLDER, 0),
    "a split text that counts too many placeholders": lambda _: split_text(PLACEHOLDER, 2),
    "a split text that counts more placeholders than fit": lambda _: split_text("/long" * 100, 700),
    "a split text that counts short placeholders beyond its size": lambda _: split_text("/a", 700),
    "a text that would be larger than any layer": lambda _: [
        pack_segment(file("a", b"/a" * 5_000_000), 1, (Relocation("text", "/a", ("a",)),))
    ],
    "texts that would be larger than their layer": lambda _: [
        pack_segment(
            b"".join(file(path, b"/a" * 20_000) for path in "abcdefghijklmnopqrst"),
            20,
            (Relocation("text", "/a", tuple("abcdefghijklmnopqrst")),),
        )
    ],
}
