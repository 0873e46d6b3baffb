"""Files of unpacked archives: binaries are changed in pieces, and no file exhausts memory."""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path

import pytest

from snapper.archives import unpacked
from snapper.archives.importer import unpacked_archive
from snapper.environment import conda
from snapper.errors import InvalidArchive
from snapper.format.canonicalize import candidate_originals
from snapper.format.relocate import replace_placeholder
from snapper.process.progress import NO_PROGRESS
from tests.support.archives import member, write_tar

OLD, NEW = "/old" + "_placehold" * 20, "/new/prefix"
#: Says that the environment was at /longer/prefix, and that another prefix in one file has to be replaced by that.
LIST = b"_prefix_records = [\n('big', '/old', '%b')\n" + b"('a', '/longer/prefix', 'text')\n" * 2 + b"]\n"


def make_binary(seed: int) -> bytes:
    """Return strings with and without a placeholder, and NULs between them."""
    source = random.Random(seed)
    parts: list[bytes] = []
    for _ in range(300):
        parts.append(source.choice((b"", OLD.encode(), b"text", OLD.encode() + b"/lib:" + OLD.encode())))
        parts.append(source.randbytes(source.randrange(8)))
        parts.append(b"\0" * source.choice((0, 1, 1, 7, 500)))
    return b"".join(parts)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacked, "_PIECE", 97)
    monkeypatch.setattr(unpacked, "_PADDING", 5000)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("seed", range(10))
def test_binaries_are_changed_in_pieces_as_a_whole(tmp_path: Path, seed: int) -> None:
    data = make_binary(seed)
    file = tmp_path / "file"
    file.write_bytes(data)
    file.chmod(0o444)
    os.link(file, tmp_path / "link")
    before = file.stat()
    unpacked.rewrite_strings(tmp_path, "file", lambda piece: replace_placeholder(piece, "binary", OLD, NEW))
    relocated = replace_placeholder(data, "binary", OLD, NEW)
    assert file.read_bytes() == (tmp_path / "link").read_bytes() == relocated
    after = file.stat()
    assert (after.st_mtime_ns, stat.S_IMODE(after.st_mode)) == (before.st_mtime_ns, 0o444)
    pieces = list(unpacked.read_strings(tmp_path, "file"))
    assert b"".join(pieces) == relocated
    assert len(pieces) > 10
    originals = [next(candidate_originals(piece, "binary", OLD, NEW)) for piece in pieces]
    assert b"".join(originals) == next(candidate_originals(relocated, "binary", OLD, NEW))
    assert unpacked.read_facts(tmp_path, "file").size == len(relocated)


@pytest.mark.usefixtures("small_pieces")
def test_strings_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long runs of NULs are not."""
    monkeypatch.setattr(unpacked, "LARGEST", 8000)
    (tmp_path / "zeros").write_bytes(b"a" + b"\0" * 20_000)
    assert b"".join(unpacked.read_strings(tmp_path, "zeros")) == (tmp_path / "zeros").read_bytes()
    (tmp_path / "string").write_bytes(b"a" * 10_000)
    with pytest.raises(OSError) as caught:
        list(unpacked.read_strings(tmp_path, "string"))
    assert caught.value.errno == errno.EFBIG


def test_rewritten_files_keep_their_mode_and_time(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for before, after in ((b"longer text", b"text"), (b"text", b"longer text")):
        file.write_bytes(before)
        file.chmod(0o555)
        os.utime(file, ns=(5, 7))
        unpacked.rewrite(tmp_path, "file", after)
        assert file.read_bytes() == after
        assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_mtime_ns) == (0o555, 7)
        file.chmod(0o755)
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="leads out"):
        unpacked.rewrite(tmp_path, "link", b"")


LARGE = {
    "record": ({"conda-meta/a-1-0.json": bytes(1001)}, "conda-meta/a-1-0.json: it is larger than 1,000 bytes"),
    "list": ({"bin/conda-unpack": bytes(1001)}, "bin/conda-unpack: it is larger than 1,000 bytes"),
    "text": ({"big": bytes(1001), "bin/conda-unpack": LIST % b"text"}, "big: it is larger than 1,000 bytes"),
    "text that grows": (
        {"big": b"/old " * 190, "bin/conda-unpack": LIST % b"text"},
        "big: it would be larger than 1,000 bytes with the prefix",
    ),
    "string": (
        {"big": b"/old" + b"x" * 9000, "bin/conda-unpack": LIST % b"binary"},
        "big: it has a string of more than 1,000 bytes",
    ),
    "script": ({"bin/big": b"#!/usr/bin/env python\n" + bytes(1000)}, "bin/big: it is larger than 1,000 bytes"),
}  # fmt: skip


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("what", LARGE)
def test_archives_with_files_that_would_fill_memory_are_refused(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked, "LARGEST", 1000)
    monkeypatch.setattr(conda, "LARGEST_RECORD", 1000)
    monkeypatch.setattr("snapper.environment.conda_unpack._MAX_SCRIPT_SIZE", 1000)
    files, message = LARGE[what]
    members = [member(path, data) for path, data in files.items()]
    file = write_tar(tmp_path / "large.tar", member("conda-meta/history", b""), *members)
    with pytest.raises(InvalidArchive) as caught, unpacked_archive(file, NO_PROGRESS):
        pass
    assert message in caught.value.message
