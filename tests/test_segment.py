"""Tar segments: other programs can read them, and only what `encode_header` writes is accepted."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapper.format.member import BLOCK, InvalidSegment, Member, encode_header, padding
from snapper.format.segment import iter_members

END = b"\0" * 2 * BLOCK
GIB = 1024**3


def raw(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def segment(*parts: tuple[Member, bytes]) -> bytes:
    return b"".join(encode_header(member) + data + padding(len(data)) for member, data in parts)


def parsed(data: bytes, start: int = 0) -> list[tuple[Member, bytes]]:
    return [(member, bytes(held)) for member, held in iter_members(memoryview(data), start)]


def file(path: str, data: bytes = b"", mode: int = 0o644, mtime: int = 1_600_000_000) -> tuple[Member, bytes]:
    return Member(path, "file", mode, mtime, len(data)), data


def of_length(length: int, longest_part: int = 90) -> str:
    """Return a path of exactly that many bytes."""
    parts = ["x" * longest_part] * (length // (longest_part + 1))
    rest = length - len("/".join([*parts, ""]))
    return "/".join([*parts, "y" * rest]) if rest else "/".join(parts)[:-1] + "/z"


def tree() -> list[tuple[Member, bytes]]:
    """Return members of every type, with names at and around every limit of the format."""
    members: list[tuple[Member, bytes]] = [
        file("plain", b"hello\n", 0o755),
        file("empty"),
        file("block", b"b" * BLOCK, 0o600, 0),
        file("block and a byte", b"b" * (BLOCK + 1), 0o444, 1),
        file("naïve/日本語.txt", b"unicode"),
        file(raw(b"latin-\xe9/\xff\xfe"), b"no unicode"),
        file("line\nfeed", b"newline"),
        file("=1 path=x", b"like a record"),
        file(raw(b"long/" + b"\xff" * 120), b"long and no unicode"),
        file("é" * 127, b"long, not ASCII, and no slash to split at"),
        (Member("exact", "file", 0o644, 1_600_000_000, 1, "", 123_456_789), b"x"),
        (Member("exact" * 30, "file", 0o644, 1, 1, "", 1), b"x"),
        (Member("bin/latest", "symlink", 0o777, 0, 0, "../plain"), b""),
        (Member("linked", "hardlink", 0o755, 1_600_000_000, 0, "plain"), b""),
        (Member("made", "directory", 0o700, 1_600_000_000), b""),
        (Member(raw(b"to-\xff"), "symlink", 0o777, 0, 0, raw(b"/any\xffwhere")), b""),
    ]
    for length in (99, 100, 101, 154, 155, 156, 254, 255, 256, 257, 300, 1000):
        members.append(file(f"deep/{length}/" + of_length(length - len(f"deep/{length}/")), b"%d" % length))
        members.append((Member(f"link{length}", "symlink", 0o777, 0, 0, of_length(length)), b""))
    for length in (99, 100, 101, 154, 155, 255):
        members.append(file("n" * length, b"flat %d" % length))
        members.append((Member(f"hard{length}", "hardlink", 0o644, 1_600_000_000, 0, "n" * length), b""))
    for length in (98, 99, 100, 101, 155, 255):
        members.append((Member("d" * length, "directory", 0o755, 1_600_000_000), b""))
    return members


def check_extracted(top: Path) -> None:
    """Assert that a program has extracted all members of `tree()`."""
    for member, data in tree():
        path = os.fsencode(top) + b"/" + os.fsencode(member.path)
        status = os.lstat(path)
        if member.type == "symlink":
            assert os.readlink(path) == os.fsencode(member.target)
        elif member.type == "hardlink":
            assert os.path.samefile(path, os.fsencode(top) + b"/" + os.fsencode(member.target))
        elif member.type == "directory":
            assert stat.S_ISDIR(status.st_mode)
        else:
            with open(path, "rb") as opened:
                assert opened.read() == data
            assert stat.S_IMODE(status.st_mode) == member.mode
            # Python's tarfile and old versions of GNU tar keep less than nanoseconds.
            assert abs(status.st_mtime_ns - member.mtime_ns) < 1000


def test_tarfile_reads_every_member() -> None:
    stream = io.BytesIO(segment(*tree()) + END)
    with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        for (member, data), info in zip(tree(), archive.getmembers(), strict=True):
            assert info.name == member.path
            assert info.linkname == member.target
            assert (info.mode, info.size) == (member.mode, member.size)
            assert info.mtime == pytest.approx(member.mtime_ns / 10**9, abs=1e-6, rel=0)
            assert (info.uid, info.gid, info.uname, info.gname) == (0, 0, "", "")
            assert {
                "file": info.isreg(),
                "hardlink": info.islnk(),
                "symlink": info.issym(),
                "directory": info.isdir(),
            }[member.type]
            if info.isreg():
                held = archive.extractfile(info)
                assert held is not None
                assert held.read() == data


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_programs_extract_every_member(program: str, tmp_path: Path) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    archive, top = tmp_path / "all.tar", tmp_path / "top"
    archive.write_bytes(segment(*tree()) + END)
    top.mkdir()
    done = subprocess.run(
        [program, "-x", "-p", "-f", archive, "-C", top],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    # POSIX requires hdrcharset for names that are not UTF-8. bsdtar fails without it; GNU tar does not need it.
    complaints = done.stderr.replace(b"tar: Ignoring unknown extended header keyword 'hdrcharset'\n", b"")
    assert (done.returncode, complaints) == (0, b"")
    check_extracted(top)


@pytest.mark.parametrize("size", [8 * GIB - 1, 8 * GIB, 123 * GIB + 7])
def test_sizes_too_large_for_ustar_are_read_by_other_programs(size: int, tmp_path: Path) -> None:
    head = encode_header(Member("huge", "file", 0o644, 0, size))
    last = encode_header(Member("last", "file", 0o644, 0, 0))
    archive = tmp_path / "huge.tar"
    with archive.open("wb") as out:
        out.write(head)
        out.seek(len(head) + size + len(padding(size)))
        out.write(last + END)
    with tarfile.open(archive, "r:") as opened:
        assert [(info.name, info.size) for info in opened] == [("huge", size), ("last", 0)]
    listed = subprocess.run(
        ["tar", "--list", "--verbose", "--file", archive],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [line.split()[2] for line in listed.stdout.splitlines()] == [str(size), "0"]
    assert parsed(head + b"the beginning") == [(Member("huge", "file", 0o644, 0, size), b"the beginning")]


def test_pax_records_are_written_only_if_ustar_is_too_small() -> None:
    fitting = [
        file("n" * 100),
        file("p" * 155 + "/" + "n" * 100),
        (Member("d" * 99, "directory", 0o755, 0), b""),
        (Member("s", "symlink", 0o777, 0, 0, "t" * 100), b""),
        (Member("big", "file", 0o644, 0, 8 * GIB - 1), b""),
    ]
    assert [len(encode_header(member)) for member, _ in fitting] == [BLOCK] * len(fitting)
    larger = [
        file("n" * 101),
        file("p" * 156 + "/" + "n" * 100),
        file("p/" + "n" * 101),
        (Member("s", "symlink", 0o777, 0, 0, "t" * 101), b""),
        (Member("big", "file", 0o644, 0, 8 * GIB), b""),
    ]
    assert [len(encode_header(member)) for member, _ in larger] == [3 * BLOCK] * len(larger)


def test_pax_record_length_includes_its_own_digits() -> None:
    for length in range(101, 1100):
        member = Member("n" * length, "file", 0o644, 0)
        assert parsed(encode_header(member)) == [(member, b"")]


NAMES = (
    st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and name[-1:] != b"/").map(raw)
)
MODES = st.integers(0, 0o7777)
TIMES = st.integers(0, 8**11 - 1)


@st.composite
def member_and_data(draw: st.DrawFn) -> tuple[Member, bytes]:
    kind = draw(st.sampled_from(["file", "file", "hardlink", "symlink", "directory"]))
    data = draw(st.binary(max_size=1200)) if kind == "file" else b""
    target = draw(NAMES) if kind in ("hardlink", "symlink") else ""
    nanoseconds = draw(st.integers(0, 10**9 - 1))
    member = Member(draw(NAMES), kind, draw(MODES), draw(TIMES), len(data), target, nanoseconds)  # type: ignore[arg-type]
    return member, data


@given(st.lists(member_and_data(), max_size=6))
def test_parsing_inverts_encoding(members: list[tuple[Member, bytes]]) -> None:
    assert parsed(segment(*members)) == members


@given(
    st.lists(member_and_data(), min_size=1, max_size=3), st.integers(1, 10**18 - 1), st.binary(max_size=600)
)
def test_last_member_may_be_incomplete(members: list[tuple[Member, bytes]], size: int, data: bytes) -> None:
    split = Member("split", "file", 0o644, 0, size)
    held = data[:size]
    assert parsed(segment(*members) + encode_header(split) + held) == [*members, (split, held)]


@given(st.binary(max_size=700), st.lists(member_and_data(), max_size=3))
def test_parsing_starts_at_an_offset(before: bytes, members: list[tuple[Member, bytes]]) -> None:
    assert parsed(before + segment(*members), len(before)) == members


def test_times_outside_the_range_of_ustar_are_clamped() -> None:
    assert parsed(encode_header(Member("old", "file", 0o644, -5)))[0][0].mtime == 0
    assert parsed(encode_header(Member("late", "file", 0o644, 8**11)))[0][0].mtime == 8**11 - 1


PLAIN = Member("name", "file", 0o644, 0)
MODE, SIZE, MTIME, TYPE, MAGIC = 100, 124, 136, 156, 257


def with_field(start: int, value: bytes, member: Member = PLAIN) -> bytes:
    """Return a member's header with some of its bytes replaced."""
    block = encode_header(member)
    return block[:start] + value + block[start + len(value) :]


def pax(records: bytes) -> bytes:
    """Return an extended header with these records."""
    head = with_field(TYPE, b"x", Member("PaxHeader", "file", 0o644, 0, len(records)))
    return head + records + padding(len(records))


def extended(records: bytes) -> bytes:
    return pax(records) + encode_header(PLAIN)


MALFORMED = {
    "truncated header": encode_header(PLAIN)[:-1],
    "one byte": b"x",
    "end of an archive": END,
    "end of an archive after a member": segment(file("name", b"data")) + END,
    "character device": with_field(TYPE, b"3"),
    "block device": with_field(TYPE, b"4"),
    "fifo": with_field(TYPE, b"6"),
    "contiguous file": with_field(TYPE, b"7"),
    "pre-POSIX file": with_field(TYPE, b"\0"),
    "global header": with_field(TYPE, b"g"),
    "GNU long name": with_field(TYPE, b"L"),
    "GNU sparse file": with_field(TYPE, b"S"),
    "GNU magic": with_field(MAGIC, b"ustar  \0"),
    "no magic": with_field(MAGIC, b"\0" * 8),
    "mode with letters": with_field(MODE, b"rwxr-xr"),
    "mode without digits": with_field(MODE, b"\0" * 8),
    "mode that fills its field": with_field(MODE, b"77777777"),
    "time after 2242": with_field(MTIME, b"777777777777"),
    "time before 1970": with_field(MTIME, b"-0000000001"),
    "size that fills its field": with_field(SIZE, b"777777777777"),
    "size that is not octal": with_field(SIZE, b"00000000009"),
    "negative size": with_field(SIZE, b"-0000000001"),
    "size in base 256": with_field(SIZE, b"\x80" + b"\0" * 10 + b"\1"),
    "size with a NUL inside": with_field(SIZE, b"0000\x00000001"),
    "size with an underscore": with_field(SIZE, b"0000000_001"),
    "directory with data": with_field(SIZE, b"00000000001", Member("name", "directory", 0o755, 0)),
    "symlink with data": with_field(SIZE, b"00000000001", Member("name", "symlink", 0o777, 0, 0, "x")),
    "hard link with data": with_field(SIZE, b"00000000001", Member("name", "hardlink", 0o777, 0, 0, "x")),
    "directory with a pax size": pax(b"9 size=1\n") + encode_header(Member("name", "directory", 0o755, 0)),
    "pax header without a member": pax(b"9 path=x\n"),
    "truncated pax header": pax(b"9 path=x\n")[: BLOCK + 5],
    "pax header above the size limit": pax(b"%d path=%s\n" % (2**21 + 14, b"x" * 2**21))
    + encode_header(PLAIN),
    "record without a length": extended(b"path=x\n"),
    "record longer than the header": extended(b"99 path=x\n"),
    "record shorter than its length": extended(b"8 path=x\n"),
    "record of length 0": extended(b"0 path=x\n"),
    "record with a negative length": extended(b"-9 path=x\n"),
    "record with a huge length": extended(b"9" * 300 + b" path=x\n"),
    "record with only a length": extended(b"9"),
    "record without a value": extended(b"7 path\n"),
    "record without a line feed": extended(b"9 path=xy"),
    "path with a NUL": extended(b"11 path=a\0b\n"),
    "pax size with letters": extended(b"12 size=ten\n"),
    "pax size with a sign": extended(b"11 size=-1\n"),
    "pax size with too many digits": extended(b"29 size=" + b"9" * 20 + b"\n"),
    "empty pax size": extended(b"8 size=\n"),
    "pax time of another second": extended(b"21 mtime=1.123456789\n"),
    "pax time of few digits": extended(b"13 mtime=0.5\n"),
    "pax time with an exponent": extended(b"15 mtime=1e-999\n"),
    "negative pax time": extended(b"22 mtime=-0.123456789\n"),
    "empty pax time": extended(b"9 mtime=\n"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_segments_are_rejected(what: str) -> None:
    with pytest.raises(InvalidSegment):
        parsed(MALFORMED[what])


@given(st.binary(max_size=4 * BLOCK))
def test_any_bytes_are_parsed_or_rejected(data: bytes) -> None:
    check_parsed_or_rejected(data)


@given(
    st.lists(member_and_data(), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=12)), min_size=1, max_size=4),
    st.integers(0, 4000),
)
def test_altered_segments_are_parsed_or_rejected(
    members: list[tuple[Member, bytes]], edits: list[tuple[int, bytes]], end: int
) -> None:
    data = bytearray(segment(*members))
    for at, value in edits:
        data[at % len(data) : at % len(data) + len(value)] = value
    check_parsed_or_rejected(bytes(data))
    check_parsed_or_rejected(bytes(data[:end]))


def check_parsed_or_rejected(data: bytes) -> None:
    try:
        found = parsed(data)
    except InvalidSegment as error:
        assert "\n" not in str(error)
        return
    for member, held in found:
        assert "\0" not in member.path + member.target
        assert len(held) <= member.size


def test_many_small_pax_records_are_parsed_in_linear_time() -> None:
    """A hostile header must not cost time that grows with the square of its length, which would be seconds."""
    records = b"6 a=b\n" * (1024 * 1024 // 6)
    began = time.process_time()
    assert len(parsed(extended(records))) == 1
    assert time.process_time() - began < 2
