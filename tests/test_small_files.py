"""Small files that someone else wrote: only regular ones are read, up to a limit, and through no link to elsewhere."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from snapper.fs.beneath import LISTING, open_beneath
from snapper.fs.directories import opened_directory
from snapper.fs.moves import Entry
from snapper.fs.small_files import (
    list_beneath,
    read_all_beneath,
    read_beneath,
    read_file,
    read_own_entry,
    read_own_path,
)

OTHER_USER = 65534


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory with a file below, beside another that the tests must not read."""
    (tmp_path / "secret").write_bytes(b"secret")
    top = tmp_path / "top"
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/file").write_bytes(b"data")
    return top


def expect_refusal(code: int, reason: str, read: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        read(*arguments)
    assert caught.value.errno == code, caught.value
    assert reason in (caught.value.strerror or "")
    assert os.path.isabs(caught.value.filename)


@pytest.mark.parametrize("path", ["a/b/file", "/a//b/./file", "a/../a/b/file", "./a/b/../b/file"])
def test_paths_are_relative_to_the_directory(top: Path, path: str) -> None:
    assert read_beneath(top, path) == b"data"


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("a/link", "b/file"),
        ("a/link", "../a/b/../b/file"),
        ("link", "{top}/a/b/file"),
        ("link", "./a//b/file"),
        ("a/b/link", "../../again"),
    ],
)
def test_links_inside_the_directory_are_followed(top: Path, link: str, target: str) -> None:
    (top / "again").symlink_to("a/b/file")
    (top / link).symlink_to(target.format(top=top))
    assert read_beneath(top, link) == b"data"
    assert read_own_path(top / link) == b"data"
    (top / "directory").symlink_to(os.path.dirname(target.format(top=top)) or ".")
    assert list_beneath(top, "a/b/")


def test_the_directory_itself_may_be_a_link(top: Path) -> None:
    """Absolute links in it may then use either name."""
    other = top.parent / "other"
    other.symlink_to(top)
    for number, name in enumerate((top, other)):
        (top / f"link{number}").symlink_to(name / "a/b/file")
        assert read_beneath(other, f"link{number}") == b"data"


@pytest.mark.parametrize(
    "target",
    ["../secret", "a/../../secret", "{top}/../secret", "{top}x/secret", "/etc/passwd", "/dev/zero", ".."],
)
def test_links_that_lead_outside_are_refused(top: Path, target: str) -> None:
    (top / "link").symlink_to(target.format(top=top))
    (top.parent / "topx").mkdir()
    (top.parent / "topx/secret").write_bytes(b"secret")
    for path in ("link", "link/", "a/../link", "link/secret"):
        expect_refusal(errno.ELOOP, f"leads out of {top}", read_beneath, top, path)
        expect_refusal(errno.ELOOP, "", list_beneath, top, path)


def test_paths_that_lead_outside_are_refused(top: Path) -> None:
    for path in ("../secret", "a/b/../../../secret", ".."):
        expect_refusal(errno.ELOOP, "", read_beneath, top, path)
    for path in ("a\0b", "\ud800"):
        expect_refusal(errno.EINVAL, "", read_beneath, top, path)


def test_missing_files_and_circular_links(top: Path) -> None:
    expect_refusal(errno.ENOENT, "", read_beneath, top, "a/none")
    expect_refusal(errno.ENOENT, "", read_beneath, top / "none", "a")
    expect_refusal(errno.ENOTDIR, "", read_beneath, top, "a/b/file/x")
    expect_refusal(errno.ENOTDIR, "", list_beneath, top, "a/b/file")
    (top / "one").symlink_to("two")
    (top / "two").symlink_to("one")
    expect_refusal(errno.ELOOP, "too many", read_beneath, top, "one")


def test_only_regular_files_are_read(top: Path) -> None:
    """A pipe without a writer does not block."""
    os.mkfifo(top / "pipe")
    for path in ("pipe", "a", ""):
        expect_refusal(errno.EINVAL, "not a regular file", read_beneath, top, path)
    expect_refusal(errno.EINVAL, "not a regular file", read_file, top / "pipe")
    expect_refusal(errno.EINVAL, "not a regular file", read_file, "/dev/zero")


def test_large_files_are_refused_before_they_are_read(top: Path) -> None:
    with open(top / "large", "wb") as file:
        file.truncate(2 << 30)
    tracemalloc.start()
    expect_refusal(errno.EFBIG, "larger than 4,194,304 bytes", read_beneath, top, "large")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert read_beneath(top, "a/b/file", 4) == b"data"
    expect_refusal(errno.EFBIG, "larger than 3 bytes", read_beneath, top, "a/b/file", 3)
    expect_refusal(errno.EFBIG, "", read_file, "/proc/self/status", 100)  # its size is stated as 0
    assert read_file("/proc/self/status")


def test_directories_with_many_entries_are_refused(top: Path) -> None:
    for number in range(4):
        (top / f"a/{number}").touch()
    assert list_beneath(top, "a", 5) == ["0", "1", "2", "3", "b"]
    expect_refusal(errno.EFBIG, "more than 4 entries", list_beneath, top, "a", 4)


def test_replaced_directories_do_not_lead_outside(top: Path) -> None:
    """What was opened stays the same if another takes its place."""
    directory = open_beneath(top, "a", LISTING)
    try:
        (top / "a").rename(top / "moved")
        (top / "a").symlink_to(top.parent)
        assert sorted(os.listdir(directory)) == ["b"]
    finally:
        os.close(directory)


def is_json(name: str) -> bool:
    return name.endswith(".json")


def test_many_files_are_read_like_each(top: Path) -> None:
    for name in ("b.json", "a.json", "c.txt"):
        (top / "a" / name).write_text(name)
    (top / "a/link.json").symlink_to("b/file")
    found = [("a.json", b"a.json"), ("b.json", b"b.json"), ("link.json", b"data")]
    assert list(read_all_beneath(top, "a", is_json)) == found
    expect_refusal(errno.EFBIG, "larger than 3 bytes", list, read_all_beneath(top, "a", is_json, 3))
    (top / "a/out.json").symlink_to("../../secret")
    expect_refusal(errno.ELOOP, "leads out", list, read_all_beneath(top, "a", is_json))
    (top / "a/out.json").unlink()
    os.mkfifo(top / "a/pipe.json")
    expect_refusal(errno.EINVAL, "not a regular file", list, read_all_beneath(top, "a", is_json))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to create files of another user")
def test_files_and_links_of_other_users_are_refused(top: Path) -> None:
    (top / "link").symlink_to("a/b/file")
    assert read_own_path(top / "link") == read_own_path(top / "a/b/file") == b"data"
    os.chown(top / "link", OTHER_USER, OTHER_USER, follow_symlinks=False)
    expect_refusal(errno.EPERM, "link is a link of the user", read_own_path, top / "link")
    assert read_beneath(top, "link") == b"data"
    os.chown(top / "a/b/file", OTHER_USER, OTHER_USER)
    expect_refusal(errno.EPERM, "it belongs to the user nobody", read_own_path, top / "a/b/file")
    refused = pytest.raises(PermissionError, match="it belongs to the user nobody")
    with opened_directory(top / "a/b") as parent, refused as caught:
        read_own_entry(Entry(parent, "file"))
    assert caught.value.errno == errno.EPERM
    assert read_file(top / "a/b/file") == b"data"
