"""Archives that are none, are damaged, or were made by an attacker: each is refused, and nothing is left."""

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
def test_what_is_no_conda_pack_archive(what: str, tmp_path: Path) -> None:
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
    with pytest.raises(NotAnArchive) as refused, unpacked_archive(file, NO_PROGRESS):
        pass
    assert str(file) in refused.value.message


HOSTILE: dict[str, tuple[tuple[tarfile.TarInfo, bytes], ...]] = {
    "a name that climbs": (member("share/../../escaped", b"bad"),),
    "an absolute name": (member("/tmp/snapper-escaped", b"bad"),),
    "no name": (member(".", b"bad"),),
    "a device": (member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3),),
    "a pipe": (member("pipe", type=tarfile.FIFOTYPE),),
    "a link to elsewhere": (member("passwd", type=tarfile.SYMTYPE, linkname="/etc/passwd"),),
    "a link that climbs": (member("up", type=tarfile.SYMTYPE, linkname="../escaped"),),
    "links that climb together": (
        member("a/b/down", type=tarfile.SYMTYPE, linkname="../.."),
        member("out", type=tarfile.SYMTYPE, linkname="a/b/down/../escaped"),
    ),
    "a hard link to elsewhere": (member("passwd", type=tarfile.LNKTYPE, linkname="/etc/passwd"),),
    "a hard link that climbs": (member("up", type=tarfile.LNKTYPE, linkname="../escaped"),),
    "a hard link to nothing": (member("up", type=tarfile.LNKTYPE, linkname="missing"),),
    "a file behind a link": (
        member("link", type=tarfile.SYMTYPE, linkname="/tmp"),
        member("link/snapper-escaped", b"bad"),
    ),
    "a file below a file": (member("file", b"x"), member("file/below", b"x")),
    "a list that is code": (
        member(
            "bin/conda-unpack", b"_prefix_records = [\n(open('/tmp/snapper-escaped', 'w'), '/x', 'text')\n]\n"
        ),
    ),
    "a list that climbs": (member("bin/conda-unpack", b"_prefix_records = [\n('../x', '/x', 'text')\n]\n"),),
    "a list of other modes": (member("bin/conda-unpack", b"_prefix_records = [\n('x', '/x', 'exec')\n]\n"),),
    "a list that is too deep": (
        member("bin/conda-unpack", b"_prefix_records = [\n" + b"(" * 9999 + b"\n]\n"),
    ),
    "no list": (member("bin/conda-unpack", b"print('hello')\n"),),
    "a record that is none": (member("conda-meta/bad-1.0-0.json", b"[]"),),
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
def test_zips_with_other_things_than_files_are_refused(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "hostile.zip"
    info = zipfile.ZipInfo("thing")
    info.external_attr = (mode | 0o644) << 16
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("conda-meta/history", "")
        archive.writestr(info, "")
    with pytest.raises(InvalidArchive), unpacked_archive(file, NO_PROGRESS):
        pass


def test_a_path_that_comes_twice_is_the_last(tmp_path: Path) -> None:
    file = write_tar(
        tmp_path / "twice.tar",
        member("twice", b"first"),
        member("link", type=tarfile.SYMTYPE, linkname="twice"),
        member("hard", type=tarfile.LNKTYPE, linkname="twice"),
        member("twice", b"second", mode=0o600),
        member("link", b"a file now"),
    )
    with unpacked_archive(file, NO_PROGRESS) as unpacked:
        place = unpacked.prefix
        assert (place / "twice").read_bytes() == b"second"
        assert (place / "hard").read_bytes() == b"first"
        assert not (place / "link").is_symlink()
        assert stat.S_IMODE((place / "twice").stat().st_mode) == 0o600
    assert not place.exists()


@pytest.mark.parametrize("form", [*FORMATS, "tar.xz"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_archives_are_refused(
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


def test_a_tar_with_something_else_between_two_members_is_refused(
    archives: dict[str, Path], tmp_path: Path
) -> None:
    with tarfile.open(archives["tar"]) as archive:
        third = archive.getmembers()[3].offset
    data = archives["tar"].read_bytes()
    file = tmp_path / "mixed.tar"
    file.write_bytes(data[:third] + b"x" * 512 + data[third:])
    with pytest.raises(InvalidArchive, match="no valid member"), unpacked_archive(file, NO_PROGRESS):
        pass


def test_a_tar_that_ends_between_two_members_is_refused(archives: dict[str, Path], tmp_path: Path) -> None:
    with tarfile.open(archives["tar"]) as archive:
        third = archive.getmembers()[3].offset
    file = tmp_path / "cut.tar"
    file.write_bytes(archives["tar"].read_bytes()[:third])
    with pytest.raises(InvalidArchive, match="its end is missing"), unpacked_archive(file, NO_PROGRESS):
        pass
