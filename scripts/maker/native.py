"""Build conda packages that do not need Python: `whereami` (compiled from C) and `textdata`."""

import os
import shutil
import subprocess
from pathlib import Path

from scripts.maker.errors import MakerError
from scripts.maker.package import Package, placeholder

LIBRARY_SOURCE = """\
const char *whereami_prefix(void) { return PREFIX; }
"""

PROGRAM_SOURCE = """\
#include <stdio.h>

const char *whereami_prefix(void);

static const char *const data = PREFIX "/share/whereami/data.txt";
static const char *const path = PREFIX "/a:" PREFIX "/b";

int main(void) {
    printf("%s\\n%s\\n%s\\n%s\\n", PREFIX, data, path, whereami_prefix());
    return 0;
}
"""


def stage_whereami(root: Path, subdir: str, build: str) -> Package:
    """Compile a program and a library that contain the prefix, and lay them out under `root`."""
    prefix = placeholder("whereami")
    _compile(
        LIBRARY_SOURCE,
        root / "lib" / "libwhereami.so.1.0",
        prefix,
        "-shared",
        "-fPIC",
        "-Wl,-soname,libwhereami.so.1",
    )
    for link in ("libwhereami.so.1", "libwhereami.so"):
        (root / "lib" / link).symlink_to("libwhereami.so.1.0")
    link_options = (str(root / "lib" / "libwhereami.so"), "-Wl,-rpath,$ORIGIN/../lib")
    _compile(PROGRAM_SOURCE, root / "bin" / "whereami", prefix, *link_options)
    _write(
        root / "lib/pkgconfig/whereami.pc",
        f"prefix={prefix}\nName: whereami\nVersion: 1.0\nLibs: -L${{prefix}}/lib\n",
    )
    _write(root / "share/whereami/data.txt", f"The prefix is {prefix}, or {prefix}/.\n")
    _write_activation(root, "whereami")
    return Package(
        "whereami", "1.0", build, subdir, summary="Prints the prefix it was installed in", license="MIT"
    )


def stage_textdata(root: Path, subdir: str, build: str) -> Package:
    """Lay out data files under `root`: every kind of file and name that a package may contain, but no code."""
    prefix = placeholder("textdata")
    share = root / "share" / "textdata"
    _write(share / "config.ini", f"[paths]\nhome = {prefix}\nsearch = {prefix}/a:{prefix}/b\n")
    _write(share / "empty", "")
    _write(share / "read only.txt", "Nobody writes here.\n")
    (share / "read only.txt").chmod(0o444)
    _write(share / "déjà vu.txt", "A name with a space, in more than ASCII.\n")
    _write(share / "original.txt", "Two names, one file.\n")
    os.link(share / "original.txt", share / "twin.txt")
    (share / "link.txt").symlink_to("original.txt")
    (root / "share" / "textdata-current").symlink_to("textdata")
    _write(share / "numbers.bin", "".join(f"{number}\0" for number in range(100_000)))
    _write(root / "bin" / "textdata-home", f'#!/bin/sh\necho "{prefix}"\n')
    (root / "bin" / "textdata-home").chmod(0o755)
    _write_activation(root, "textdata")
    return Package("textdata", "1.0", build, subdir, summary="Every kind of file, and no code", license="MIT")


def _compile(source: str, target: Path, prefix: str, *options: str) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        raise MakerError("the package whereami needs a C compiler, but cc is not installed")
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [
        compiler,
        "-x",
        "c",
        "-",
        "-x",
        "none",
        "-O1",
        f'-DPREFIX="{prefix}"',
        *options,
        "-o",
        str(target),
    ]
    done = subprocess.run(command, input=source, check=False, capture_output=True, text=True)
    if done.returncode:
        raise MakerError(f"cc could not compile {target.name}:\n{done.stderr}")


def _write_activation(root: Path, name: str) -> None:
    variable = f"{name.upper()}_HOME"
    _write(root / f"etc/conda/activate.d/{name}.sh", f'export {variable}="$CONDA_PREFIX/share/{name}"\n')
    _write(root / f"etc/conda/deactivate.d/{name}.sh", f"unset {variable}\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
