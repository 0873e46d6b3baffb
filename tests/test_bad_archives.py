"""Archives that are invalid, corrupted, or made by an attacker are refused, and nothing is left."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts.maker import make
from snapper.archives.importer import unpacked_archive
from snapper.errors import InvalidArchive, NotAnArchive
from snapper.process.progress import NO_PROGRESS
from tests.support.archives import FORMATS, archives_of, member, need_tools, write_tar


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    prefix = tmp_path_factory.mktemp("archives") / "tools"
    make("no-python", prefix)
    return archives_of(prefix)


@pytest.mark.parametrize(
    "what", ["missing", "directory", "text", "empty", "no environment", "no environment.zip"]
)
def test_files_that_are_not_conda_pack_archives_are_refused(what: str, tmp_path: Path) -> None:
    file = tmp_path / what
    if what == "directory":
        file.mkdir()
    elif what in ("text", "empty"):
        file.write_text("" if what == "empty" else "Not an archive, whatever its name says.\n" * 20)
    elif what == "no environment":
        with tarfile.open(file, "w:gz") as archive:
            archive.addfile(member("readme.txt")[0])
    elif what.endswith("zip"):
        with zipfile.ZipFile(file, "w") as zipped:
            zipped.writestr("readme.txt", "")
    with pytest.raises(NotAnArchive) as caught, unpacked_archive(file, NO_PROGRESS):
        pass
    assert str(file) in caught.value.message


HOSTILE: dict[str, tuple[tuple[tarfile.TarInfo, bytes], ...]] = {
    "path with dot-dot components": (member("share/../../escaped", b"bad"),),
    "absolute path": (member("/tmp/snapper-escaped", b"bad"),),
    "empty path": (member(".", b"bad"),),
    "device": (member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),),
    "pipe": (member("pipe", type=tarfile.FIFOTYPE),),
    "link to an absolute path outside": (member("passwd", type=tarfile.SYMTYPE, linkname="/etc/passwd"),),
    "link to a parent of the environment": (member("up", type=tarfile.SYMTYPE, linkname="../escaped"),),
    "links that lead outside together": (
        member("a/b/down", type=tarfile.SYMTYPE, linkname="../.."),
        member("out", type=tarfile.SYMTYPE, linkname="a/b/down/../escaped"),
    ),
    "hard link to an absolute path": (member("passwd", type=tarfile.LNKTYPE, linkname="/etc/passwd"),),
    "hard link to a parent of the environment": (member("up", type=tarfile.LNKTYPE, linkname="../escaped"),),
    "hard link to a missing file": (member("up", type=tarfile.LNKTYPE, linkname="missing"),),
    "file through a link": (
        member("link", type=tarfile.SYMTYPE, linkname="/tmp"),
        member("link/snapper-escaped", b"bad"),
    ),
    "file below a file": (member("file", b"x"), member("file/below", b"x")),
    "list of code": (
        member(
            "bin/conda-unpack", b"_prefix_records = [\n(open('/tmp/snapper-escaped', 'w'), '/x', 'text')\n]\n"
        ),
    ),
    "list with a path outside": (
        member("bin/conda-unpack", b"_prefix_records = [\n('../x', '/x', 'text')\n]\n"),
    ),
    "list with an unknown mode": (
        member("bin/conda-unpack", b"_prefix_records = [\n('x', '/x', 'exec')\n]\n"),
    ),
    "deeply nested list": (member("bin/conda-unpack", b"_prefix_records = [\n" + b"(" * 9999 + b"\n]\n"),),
    "script without a list": (member("bin/conda-unpack", b"print('hello')\n"),),
    "malformed package record": (member("conda-meta/bad-1.0-0.json", b"[]"),),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    file = write_tar(tmp_path / "hostile.tar", *HOSTILE[what])
    with pytest.raises(InvalidArchive), unpacked_archive(file, NO_PROGRESS):
        pass
    assert list(temporary.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"hostile.tar", "tmp"}
    assert not os.path.lexists("/tmp/snapper-escaped")


@pytest.mark.parametrize("name", ["../escaped", "/tmp/snapper-escaped", "a/../../escaped"])
def test_hostile_zips_are_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "hostile.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("conda-meta/history", "")
        archive.writestr(name, "bad")
    with pytest.raises(InvalidArchive), unpacked_archive(file, NO_PROGRESS):
        pass


@pytest.mark.parametrize("mode", [stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_zips_with_special_files_are_refused(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "hostile.zip"
    info = zipfile.ZipInfo("thing")
    info.external_attr = (mode | 0o644) << 16
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("conda-meta/history", "")
        archive.writestr(info, "")
    with pytest.raises(InvalidArchive), unpacked_archive(file, NO_PROGRESS):
        pass


def test_last_member_of_a_repeated_path_counts(tmp_path: Path) -> None:
    file = write_tar(
        tmp_path / "twice.tar",
        member("twice", b"first"),
        member("link", type=tarfile.SYMTYPE, linkname="twice"),
        member("hard", type=tarfile.LNKTYPE, linkname="twice"),
        member("twice", b"second", mode=0o600),
        member("link", b"a file now"),
    )
    with unpacked_archive(file, NO_PROGRESS) as unpacked:
        prefix = unpacked.prefix
        assert (prefix / "twice").read_bytes() == b"second"
        assert (prefix / "hard").read_bytes() == b"first"
        assert not (prefix / "link").is_symlink()
        assert stat.S_IMODE((prefix / "twice").stat().st_mode) == 0o600
    assert not prefix.exists()


@pytest.mark.parametrize("form", [*FORMATS, "tar.xz"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_corrupted_archives_are_refused(
    form: str, damage: str, archives: dict[str, Path], tmp_path: Path
) -> None:
    need_tools(form)
    data = bytearray(archives[form].read_bytes())
    if damage == "cut":
        del data[len(data) * 2 // 3 :]
    elif form in ("tar", "squashfs"):
        pytest.skip(f"a {form} has no checksums of data")
    else:
        data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    file = tmp_path / f"damaged.{form}"
    file.write_bytes(data)
    with pytest.raises(InvalidArchive), unpacked_archive(file, NO_PROGRESS):
        pass


def test_tar_with_other_data_between_members_is_refused(archives: dict[str, Path], tmp_path: Path) -> None:
    with tarfile.open(archives["tar"]) as archive:
        third = archive.getmembers()[3].offset
    data = archives["tar"].read_bytes()
    file = tmp_path / "mixed.tar"
    file.write_bytes(data[:third] + b"x" * 512 + data[third:])
    with pytest.raises(InvalidArchive, match="no valid member"), unpacked_archive(file, NO_PROGRESS):
        pass


def test_tar_without_its_end_is_refused(archives: dict[str, Path], tmp_path: Path) -> None:
    with tarfile.open(archives["tar"]) as archive:
        third = archive.getmembers()[3].offset
    file = tmp_path / "cut.tar"
    file.write_bytes(archives["tar"].read_bytes()[:third])
    with pytest.raises(InvalidArchive, match="it is truncated"), unpacked_archive(file, NO_PROGRESS):
        pass
