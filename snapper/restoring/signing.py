"""Sign programs for macOS whose signatures relocation has made invalid, as conda does (conda/core/portability.py)."""

from __future__ import annotations

import os
import shutil
import subprocess

from snapper.format.model import LARGEST_LAYER
from snapper.fs.directories import closing_descriptor, write_all
from snapper.fs.small_files import read_own_path
from snapper.fs.temporary import temporary_directory

#: The largest signature, in bytes: it has a checksum of 32 bytes for each 4096 bytes of the program.
_LARGEST_SIGNATURE = LARGEST_LAYER // 64


def sign(program: bytes) -> bytes | None:
    """Return the program with an ad hoc signature; None if codesign is missing or fails. May raise OSError."""
    codesign = shutil.which("codesign")
    if codesign is None:
        return None
    with temporary_directory() as directory:
        file = directory / "program"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)
        with closing_descriptor(descriptor):
            write_all(descriptor, program)
        command = [codesign, "--sign", "-", "--force", str(file)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return None if done.returncode else read_own_path(file, len(program) + _LARGEST_SIGNATURE)
