"""Write a staged directory as a conda package: one `.conda` file."""

import hashlib
import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zstandard

# The modification time of every file in every package (2024-01-01), so that a package's bytes depend only on its
# contents, and .pyc files remain valid wherever the package is extracted.
TIMESTAMP = 1_704_067_200

PLACEHOLDER_LENGTH = 255


@dataclass(frozen=True)
class Package:
    """The metadata of a package."""

    name: str
    version: str
    build: str
    subdir: str
    depends: tuple[str, ...] = ()
    summary: str = ""
    home: str = ""
    license: str | None = None
    entry_points: tuple[str, ...] = ()

    @property
    def noarch(self) -> bool:
        return self.subdir == "noarch"


def placeholder(name: str) -> str:
    """Return the prefix that package `name` was built in, with the length and format that conda-build uses."""
    start = f"/home/conda/feedstock_root/build_artifacts/{name}_{TIMESTAMP}000/_h_env"
    return (start + "_placehold" * PLACEHOLDER_LENGTH)[:PLACEHOLDER_LENGTH]


def write_package(root: Path, package: Package, directory: Path) -> None:
    """Write everything under `root` as `package` into `directory`/SUBDIR/."""
    stem = f"{package.name}-{package.version}-{package.build}"
    target = directory / package.subdir / f"{stem}.conda"
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(
            zipfile.ZipInfo("metadata.json", (2024, 1, 1, 0, 0, 0)), '{"conda_pkg_format_version": 2}'
        )
        with _tar_member(archive, f"pkg-{stem}.tar.zst") as tar:
            _add_files(tar, root)
        with _tar_member(archive, f"info-{stem}.tar.zst") as tar:
            for name, data in sorted(_info(root, package).items()):
                header = _header(f"info/{name}", 0o644)
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))


@contextmanager
def _tar_member(archive: zipfile.ZipFile, name: str) -> Iterator[tarfile.TarFile]:
    with (
        archive.open(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), "w", force_zip64=True) as member,
        zstandard.ZstdCompressor(level=3).stream_writer(member, closefd=False) as compressed,
        tarfile.open(fileobj=compressed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        yield tar


def _files(root: Path) -> list[Path]:
    """Return every file and symbolic link under `root`, sorted by name."""
    return sorted(path for path in root.rglob("*") if path.is_symlink() or not path.is_dir())


def _add_files(tar: tarfile.TarFile, root: Path) -> None:
    first_names: dict[int, str] = {}
    for path in _files(root):
        status = path.lstat()
        name = path.relative_to(root).as_posix()
        header = _header(name, _mode(status.st_mode))
        if path.is_symlink():
            header.type = tarfile.SYMTYPE
            header.linkname = str(path.readlink())
            tar.addfile(header)
        elif first_names.setdefault(status.st_ino, name) != name:
            header.type = tarfile.LNKTYPE
            header.linkname = first_names[status.st_ino]
            tar.addfile(header)
        else:
            header.size = status.st_size
            with path.open("rb") as file:
                tar.addfile(header, file)


def _header(name: str, mode: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.mode = mode
    header.mtime = TIMESTAMP
    return header


def _mode(mode: int) -> int:
    """Return the mode without the effects of the umask."""
    if stat.S_ISLNK(mode):
        return 0o777
    executable = 0o111 if mode & 0o100 else 0
    writable = mode & 0o200
    return 0o444 | executable | writable


def _info(root: Path, package: Package) -> dict[str, bytes]:
    """Return the files of the package's `info/` directory, by name."""
    prefix = placeholder(package.name)
    entries = [_path_entry(root, path, prefix) for path in _files(root)]
    relocated = [entry for entry in entries if "prefix_placeholder" in entry]
    documents: dict[str, object] = {
        "about.json": {"home": package.home, "license": package.license, "summary": package.summary},
        "index.json": _index(package),
        "paths.json": {"paths": entries, "paths_version": 1},
    }
    if package.noarch:
        documents["link.json"] = {
            "noarch": {"entry_points": list(package.entry_points), "type": "python"},
            "package_metadata_version": 1,
        }
    lists = {
        "files": [f"{entry['_path']}\n" for entry in entries],
        "has_prefix": [f'"{prefix}" "{entry["file_mode"]}" "{entry["_path"]}"\n' for entry in relocated],
    }
    info = {name: json.dumps(document, indent=2).encode() for name, document in documents.items()}
    return info | {name: "".join(lines).encode() for name, lines in lists.items() if lines}


def _index(package: Package) -> dict[str, object]:
    index: dict[str, object] = {
        "arch": None,
        "build": package.build,
        "build_number": 0,
        "depends": list(package.depends),
        "license": package.license,
        "name": package.name,
        "platform": None,
        "subdir": package.subdir,
        "timestamp": TIMESTAMP * 1000,
        "version": package.version,
    }
    if package.noarch:
        return index | {"noarch": "python"}
    platform, _, arch = package.subdir.partition("-")
    return index | {"arch": "x86_64" if arch == "64" else arch, "platform": platform}


def _path_entry(root: Path, path: Path, prefix: str) -> dict[str, str | int]:
    data = path.read_bytes() if path.is_file() else b""
    entry: dict[str, str | int] = {"_path": path.relative_to(root).as_posix()}
    if path.is_symlink():
        entry["path_type"] = "softlink"
    else:
        entry["path_type"] = "hardlink"
        if prefix.encode() in data and path.suffix != ".pyc":
            entry["file_mode"] = "binary" if b"\0" in data else "text"
            entry["prefix_placeholder"] = prefix
    return entry | {"sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}
