"""Sign programs for macOS whose signatures relocation has made invalid, as conda does (conda/core/portability.py)."""

from __future__ import annotations

import subprocess

from snapper.environment.managed import find_program
from snapper.fs.atomic import write_entry
from snapper.fs.directories import opened_directory
from snapper.fs.moves import Entry
from snapper.fs.small_files import read_own_path
from snapper.fs.temporary import temporary_directory

#: The largest program that is signed, in bytes: it has to fit in memory.
LARGEST_SIGNED = 1 << 30

#: The largest signature, in bytes: it has a checksum of 32 bytes for each 4096 bytes of the program.
_LARGEST_SIGNATURE = LARGEST_SIGNED // 64


def sign(program: bytes) -> bytes | None:
    """Return the program with an ad hoc signature; None if codesign is missing or fails. May raise OSError."""
    codesign = find_program("codesign")
    if codesign is None:
        return None
    with temporary_directory() as directory:
        file = directory / "program"
        with opened_directory(directory) as opened:
            write_entry(Entry(opened, file.name), program, durable=False, mode=0o600)
        command = [codesign, "--sign", "-", "--force", str(file)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        return None if done.returncode else read_own_path(file, len(program) + _LARGEST_SIGNATURE)
