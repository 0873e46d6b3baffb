"""Download wheels with pip, and lay them out as conda packages."""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

import installer
from installer.destinations import SchemeDictionaryDestination
from installer.records import RecordEntry
from installer.scripts import Script
from installer.sources import WheelFile
from installer.utils import Scheme, parse_entrypoints
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.specifiers import Specifier, SpecifierSet
from pip._vendor.packaging.utils import canonicalize_name, parse_wheel_filename

from scripts.maker.cache import Cache, digest
from scripts.maker.errors import MakerError
from scripts.maker.interpreter import SHORT_VERSION, SITE_PACKAGES, STDLIB, compile_sources, identity
from scripts.maker.package import Package, placeholder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from installer.scripts import ScriptSection
    from installer.sources import WheelContentElement


@dataclass(frozen=True)
class Wheel:
    """A wheel on disk, and its metadata."""

    path: Path
    digest: str
    name: str
    version: str
    pure: bool
    metadata: Message


def fetch_wheels(requirements: tuple[str, ...], cache: Cache, *, dependencies: bool = True) -> list[Wheel]:
    """Return the wheels of `requirements` and, by default, of their dependencies. They are downloaded only once."""

    def build(directory: Path) -> None:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", str(directory)]
        options = [] if dependencies else ["--no-deps"]
        done = subprocess.run(
            [*command, *options, *requirements], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise MakerError(f"pip could not get wheels for {' '.join(requirements)}:\n{done.stderr}")

    key = digest(identity(), str(dependencies), *requirements)
    return [_read_wheel(path) for path in sorted(cache.entry("wheels", key, build).glob("*.whl"))]


def _read_wheel(path: Path) -> Wheel:
    name, version, _, tags = parse_wheel_filename(path.name)
    with zipfile.ZipFile(path) as archive, WheelFile.open(path) as source:
        text = archive.read(f"{source.dist_info_dir}/METADATA").decode()
    pure = any(tag.platform == "any" and tag.abi == "none" and tag.interpreter == "py3" for tag in tags)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel(path, sha256, str(name), str(version), pure, Parser().parsestr(text))


def match_specs(wheel: Wheel, others: dict[str, Wheel]) -> tuple[str, ...]:
    """Return the dependencies of `wheel` on this platform, as conda match specs."""
    if wheel.pure:
        python = SpecifierSet(wheel.metadata["Requires-Python"] or "")
        needed = {_match_spec("python", python)}
    else:
        following = f"{sys.version_info.major}.{sys.version_info.minor + 1}"
        needed = {f"python >={SHORT_VERSION},<{following}.0a0"}
    return tuple(sorted(needed | _required(wheel, "", others)))


def _required(wheel: Wheel, extra: str, others: dict[str, Wheel]) -> set[str]:
    """Return the requirements of `wheel`. conda has no extras, so an extra is replaced by its requirements."""
    specs: set[str] = set()
    for line in wheel.metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        marker = requirement.marker
        if marker and not marker.evaluate({"extra": extra}):
            continue
        if extra and (not marker or marker.evaluate({"extra": ""})):
            continue
        name = canonicalize_name(requirement.name)
        if name != wheel.name:
            specs.add(_match_spec(name, requirement.specifier))
        for other_extra in requirement.extras:
            if name in others:
                specs |= _required(others[name], other_extra, others)
    return specs


def _match_spec(name: str, specifiers: SpecifierSet) -> str:
    clauses = sorted(_clause(cast(Specifier, specifier)) for specifier in specifiers)
    return f"{name} {','.join(clauses)}".rstrip()


def _clause(specifier: Specifier) -> str:
    if specifier.operator in ("==", "===") and not specifier.version.endswith("*"):
        return f"=={specifier.version}"
    if specifier.operator == "==":
        return specifier.version
    return f"{specifier.operator}{specifier.version}"


class _Destination(SchemeDictionaryDestination):
    """Write entry points with a plain shebang, as conda-build does, however long it is."""

    def write_script(self, name: str, module: str, attr: str, section: "ScriptSection") -> RecordEntry:
        _, data = Script(name, module, attr, section).generate("python", "posix")
        return self.write_file(Scheme("scripts"), name, BytesIO(data), is_executable=True)


class _Source(WheelFile):
    """Leave out `__pycache__`, about which `installer` warns. Sources are compiled later."""

    def get_contents(self) -> "Iterator[WheelContentElement]":
        return (element for element in super().get_contents() if "__pycache__/" not in element[0][0])


def stage_wheel(wheel: Wheel, others: dict[str, Wheel], root: Path, subdir: str, build: str) -> Package:
    """Lay out `wheel` under `root`, as conda-forge's recipes do with pip."""
    prefix = placeholder(wheel.name)
    scheme = {
        "purelib": root / SITE_PACKAGES,
        "platlib": root / SITE_PACKAGES,
        "scripts": root / "bin",
        "data": root,
        "headers": root / "include" / f"python{SHORT_VERSION}" / wheel.name,
    }
    destination = _Destination(
        {name: str(path) for name, path in scheme.items()}, f"{prefix}/bin/python", "posix"
    )
    with _Source.open(wheel.path) as source:
        installer.install(source, destination, {"INSTALLER": b"conda", "REQUESTED": b""})
        entry_points = _entry_points(source)
    _relocate_kernels(root, prefix)
    if wheel.pure:
        _make_noarch(root, [line.partition(" = ")[0] for line in entry_points])
    else:
        compile_sources(root)
    return Package(
        name=wheel.name,
        version=wheel.version,
        build=f"py{build}" if wheel.pure else f"py{SHORT_VERSION.replace('.', '')}{build}",
        subdir="noarch" if wheel.pure else subdir,
        depends=match_specs(wheel, others),
        summary=wheel.metadata["Summary"] or "",
        home=wheel.metadata["Home-page"] or "",
        license=wheel.metadata["License-Expression"],
        entry_points=entry_points if wheel.pure else (),
    )


def _entry_points(source: WheelFile) -> tuple[str, ...]:
    if "entry_points.txt" not in source.dist_info_filenames:
        return ()
    entry_points = parse_entrypoints(source.read_dist_info("entry_points.txt"))
    return tuple(f"{name} = {module}:{attribute}" for name, module, attribute, _ in entry_points)


def _make_noarch(root: Path, entry_points: list[str]) -> None:
    """Move site-packages and programs to where a noarch package keeps them. Remove entry points: they are generated."""
    (root / SITE_PACKAGES).rename(root / "site-packages")
    for name in entry_points:
        (root / "bin" / name).unlink()
    for directory in (root / STDLIB, root / "lib", root / "bin"):
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
    if (root / "bin").is_dir():
        (root / "bin").rename(root / "python-scripts")


def _relocate_kernels(root: Path, prefix: str) -> None:
    """Make kernels start with the environment's own Python, as conda-forge does."""
    for path in root.glob("share/jupyter/kernels/*/kernel.json"):
        kernel = json.loads(path.read_text(encoding="utf-8"))
        if re.fullmatch(r"python[0-9.]*", kernel["argv"][0]):
            kernel["argv"][0] = f"{prefix}/bin/python"
            path.write_text(json.dumps(kernel, indent=1), encoding="utf-8")
