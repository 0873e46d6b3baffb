"""Archives that are invalid, corrupted, or made by an attacker are refused, and nothing is left."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
import tracemalloc
import zipfile
from functools import partial
from pathlib import Path

import pytest

from scripts.maker import make
from snapper.archives import extract, normalize, reader, squashfs
from snapper.archives.importer import unpacked_archive
from snapper.archives.links import LeadsOutside, Links
from snapper.archives.origin import WorkLimit
from snapper.errors import InsufficientSpace, InvalidArchive, NotAnArchive, ProgramNotFound, SnapperError
from snapper.fs.space import FreeSpace
from snapper.process.progress import NO_PROGRESS
from tests.conftest import Machine
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
    "list with a placeholder that is no text": (
        member("bin/conda-unpack", b"_prefix_records = [\n('x', '/a\\ud800b', 'text')\n]\n"),
        member("x", b"/a"),
    ),
    "list with a file many times": (
        member(
            "bin/conda-unpack",
            b"_prefix_records = [\n%s]\n" % b"".join(b"('x', '/%d', 'text'),\n" % n for n in range(20)),
        ),
        member("x", b"/1"),
    ),
    "deeply nested list": (member("bin/conda-unpack", b"_prefix_records = [\n" + b"(" * 9999 + b"\n]\n"),),
    "script without a list": (member("bin/conda-unpack", b"print('hello')\n"),),
    "malformed package record": (member("conda-meta/bad-1.0-0.json", b"[]"),),
}


def test_work_for_files_with_prefixes_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An occurrence of a prefix takes more time than its bytes do, and other names of a file take time, too."""
    listed = b"".join(b"('%s', '/a', 'binary'),\n" % name for name in (b"x", b"y", b"z"))
    links = [member(name, type=tarfile.LNKTYPE, linkname="x") for name in ("y", "z")]
    script = member("bin/conda-unpack", b"_prefix_records = [\n%s]\n" % listed)
    file = write_tar(tmp_path / "prefixes.tar", script, member("x", b"/a\0" * 1000), *links)
    with unpacked_archive(file, NO_PROGRESS):
        pass
    monkeypatch.setattr(normalize, "WorkLimit", partial(WorkLimit, 2500 * 2048))
    with (
        pytest.raises(
            InvalidArchive, match="z: to replace prefixes in it and the other files takes too long"
        ),
        unpacked_archive(file, NO_PROGRESS),
    ):
        pass


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


LONG: dict[str, tuple[tuple[tarfile.TarInfo, bytes], ...]] = {
    "path of many directories": (member("a/" * 257 + "b", b""),),
    "path": (member("a" * 5000, b""),),
    "target of a link": (member("l", type=tarfile.SYMTYPE, linkname="a/" * 50_000),),
    "target of a hard link": (member("l", type=tarfile.LNKTYPE, linkname="a/" * 50_000),),
    "extended header": (member("f", b"", pax_headers={"comment": "a" * 200_000}),),
}


@pytest.mark.parametrize("what", LONG)
def test_long_names_are_refused_and_not_printed(what: str, tmp_path: Path) -> None:
    file = write_tar(tmp_path / "long.tar", *LONG[what])
    with pytest.raises(InvalidArchive) as caught, unpacked_archive(file, NO_PROGRESS):
        pass
    assert len(caught.value.message) < 1000


EARLY, LATE = ("-inf", "-1e300", "-1e999999999", "nan"), ("inf", "1e300", "1e999999999", str(2**62))


@pytest.mark.parametrize("mtime", [*EARLY, *LATE])
def test_impossible_times_are_replaced(mtime: str, tmp_path: Path) -> None:
    """They remain outside of what a snapshot can hold, so that packing reports them."""
    file = write_tar(tmp_path / "times.tar", member("f", b"", pax_headers={"mtime": mtime}))
    with unpacked_archive(file, NO_PROGRESS) as unpacked:
        assert (unpacked.prefix / "f").stat().st_mtime == (-1 if mtime in EARLY else 2**33)


def test_headers_and_links_are_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [member(f"f{number}", b"", pax_headers={"comment": "a" * 100_000}) for number in range(200)]
    file = write_tar(tmp_path / "headers.tar", *members)
    tracemalloc.start()
    with unpacked_archive(file, NO_PROGRESS):
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    links = [member(f"l{number}", type=tarfile.SYMTYPE, linkname="a/" * 500) for number in range(10)]
    file = write_tar(tmp_path / "links.tar", *links)
    with unpacked_archive(file, NO_PROGRESS):
        pass
    monkeypatch.setattr(extract, "MOST_KEPT", 9000)
    with pytest.raises(InvalidArchive, match="more links"), unpacked_archive(file, NO_PROGRESS):
        pass


def test_global_headers_are_not_added_up(tmp_path: Path) -> None:
    file = tmp_path / "headers.tar"
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(3):
            header = tarfile.TarInfo.create_pax_global_header({f"comment{number}": "a" * 100_000})
            archive.fileobj.write(header)
            archive.offset += len(header)
            archive.addfile(member(f"f{number}")[0])
    with pytest.raises(InvalidArchive, match="global headers"), unpacked_archive(file, NO_PROGRESS):
        pass


@pytest.mark.parametrize("size", [5000, 10])
def test_links_of_zips_are_read_up_to_a_limit(size: int, tmp_path: Path) -> None:
    """Whatever size a zip states for them."""
    file = tmp_path / "links.zip"
    info = zipfile.ZipInfo("l")
    info.external_attr, info.compress_type = (stat.S_IFLNK | 0o777) << 16, zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("conda-meta/history", "")
        archive.writestr(info, b"a" * (50 << 20))
    data = bytearray(file.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.rindex(magic) + offset
        data[at : at + 4] = size.to_bytes(4, "little")
    file.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(InvalidArchive), unpacked_archive(file, NO_PROGRESS):
        pass
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_places_that_links_lead_to() -> None:
    targets = {
        "up": "..", "d/up": "..", "d/down": "up/d/e", "d/e/abs": "/p/d", "self": "self", "one": "two/x",
        "two": "one/..", "d/out": "down/../../..", "abs": "/q", "top": "/p", "near": "/pp", "long": "x/" * 2000,
    }  # fmt: skip
    chain = {f"l{number}": f"l{number + 1}" for number in range(5000)}
    links = Links({**targets, **chain, "l5000": "d/e/abs/up/x"}, "/p")
    places = {
        "d/up": "", "d/down": "d/e", "d/e/abs": "d", "self": None, "one": None, "top": "", "l0": "x", "l4999": "x",
        "long": "x/" * 1999 + "x",
    }  # fmt: skip
    assert {link: links.follow(link) for link in places} == places
    for link in ("up", "d/out", "abs", "near"):
        with pytest.raises(LeadsOutside):
            Links(targets, "/p").follow(link)
    growing = {f"l{number}": f"l{number - 1}/" + "a/" * 2000 for number in range(1, 3000)}
    assert Links({**growing, "l0": "x"}, "/p").follow("l2999") is None


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


# --- limits -----------------------------------------------------------------------------------------------


def refused(file: Path) -> SnapperError:
    """Return the error with which an archive is refused."""
    with pytest.raises(SnapperError) as caught, unpacked_archive(file, NO_PROGRESS):
        pass
    return caught.value


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zips_with_unusual_compression_are_refused(method: int, tmp_path: Path) -> None:
    """A kilobyte can take gigabytes to decompress, and zipfile does not let its callers limit that."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("conda-meta/history", "")
    error = refused(tmp_path / "x.zip")
    assert isinstance(error, InvalidArchive)
    assert "conda-meta/history' is not compressed with deflate" in error.message


def test_number_of_members_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_MOST_MEMBERS", 3)
    write_tar(tmp_path / "x.tar", *(member("conda-meta/history") for _ in range(4)))
    assert refused(tmp_path / "x.tar").message.endswith("it has more than 3 members")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.DIRTYPE])
def test_links_and_directories_are_limited(
    kind: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extract, "MOST_KEPT", 10_000)
    members = [member(f"d/{number}", type=kind, linkname="x") for number in range(60)]
    write_tar(tmp_path / "x.tar", member("conda-meta/history"), *members)
    assert refused(tmp_path / "x.tar").message.endswith(
        "it has more links and directories than any environment"
    )


def test_directories_of_paths_are_limited(tmp_path: Path) -> None:
    """Each of these files needs 200 directories of its own."""
    members = [member(f"{number}/{'a/' * 200}f") for number in range(20)]
    write_tar(tmp_path / "x.tar", member("conda-meta/history"), *members)
    assert "more directories than members" in refused(tmp_path / "x.tar").message


def test_members_that_replace_each_other_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together, they must fit on the disk, although only the last one remains."""
    monkeypatch.setattr(extract, "free_space", lambda _: FreeSpace(100_000, None))
    write_tar(tmp_path / "x.tar", *(member("conda-meta/history", bytes(60_000)) for _ in range(2)))
    assert isinstance(refused(tmp_path / "x.tar"), InsufficientSpace)


def test_directory_of_a_zip_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_LARGEST_ZIP_DIRECTORY", 1000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for number in range(30):
            archive.writestr(str(number), "")
    assert "its directory is too large" in refused(tmp_path / "x.zip").message


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """The directory of an environment to make a squashfs image of."""
    need_tools("squashfs")
    (tmp_path / "env/conda-meta").mkdir(parents=True)
    (tmp_path / "env/conda-meta/history").touch()
    return tmp_path / "env"


def squashed(directory: Path, *options: str) -> Path:
    file = directory.with_name("x.squashfs")
    command = ["mksquashfs", str(directory), str(file), "-no-progress", *options]
    subprocess.run(command, check=True, capture_output=True)
    return file


@pytest.mark.parametrize("special", ["pipe i 644 0 0 f", "null c 666 0 0 1 3", "disk b 666 0 0 7 0"])
def test_squashfs_with_special_files_is_not_unpacked(special: str, image: Path) -> None:
    """Root would create devices, if only for a moment: what the image lists is enough to refuse it."""
    assert "a device, a pipe, or a socket" in refused(squashed(image, "-p", special)).message


@pytest.mark.parametrize("free", [FreeSpace(1 << 20, None), FreeSpace(1 << 40, 3)], ids=["bytes", "inodes"])
def test_squashfs_without_space_is_not_unpacked(
    free: FreeSpace, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image / "large").touch()
    os.truncate(image / "large", 600_000)
    monkeypatch.setattr(squashfs, "free_space", lambda _: free)
    error = refused(squashed(image))
    assert isinstance(error, InsufficientSpace)
    assert error.needed


def test_unsquashfs_of_a_restored_environment_is_not_run(
    image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("conda-meta", ".snapper", "bin"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin/unsquashfs"
    program.touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert squashfs.squashfs_program("unsquashfs") != str(program)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    with pytest.raises(ProgramNotFound):
        squashfs.squashfs_program("unsquashfs")


def test_mksquashfs_of_a_restored_environment_is_not_run(
    image: Path, machine: Machine, tmp_path: Path
) -> None:
    """conda-pack looks for it in PATH, too."""
    (image / "bin").mkdir()
    base = tmp_path / "base"
    for name in ("conda-meta", ".snapper", "bin"):
        (base / name).mkdir(parents=True)
    program = base / "bin/mksquashfs"
    program.write_text('#!/bin/sh\n: >"$0.ran"\nexec /usr/bin/mksquashfs "$@"\n')
    program.chmod(0o755)
    machine.run_json("pack", "-p", image, "--name", "work")
    path = f"{base}/bin:{os.environ['PATH']}"
    machine.run_json("export", "work", "-o", tmp_path / "work.squashfs", PATH=path)
    assert not program.with_name("mksquashfs.ran").exists()


@pytest.mark.parametrize("hangs", ["-lln", "-d"])
def test_unsquashfs_that_hangs_is_killed(hangs: str, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = image.with_name("bin") / "unsquashfs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncase "$*" in *{hangs}*) exec sleep 600;; esac\n')
    program.chmod(0o755)
    file = squashed(image)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(squashfs, "_PATIENCE", 0.2)
    assert "unsquashfs did not end within 0 seconds" in refused(file).message
