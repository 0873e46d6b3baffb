"""Compile the Python sources of noarch packages in a prefix.

conda and mamba do so as they link a package; py-rattler does not. What is compiled is noted in the package's
record as they note it: a path of type `pyc_file` without a digest.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from importlib.util import cache_from_source
from pathlib import Path

from rattler import PrefixPathsEntry, PrefixPathType, PrefixRecord


def compile_noarch(prefix: Path, paths: Iterable[Path]) -> None:
    """Compile those packages that are noarch, of the packages whose records are at `paths`."""
    records = {path: PrefixRecord.from_path(path) for path in paths}
    noarch = {path: record for path, record in records.items() if record.noarch.python}
    if not noarch:
        return
    _compile(prefix, [str(file) for record in noarch.values() for file in _sources(record)])
    for path, record in noarch.items():
        _note_compiled(prefix, record)
        record.write_to_path(path, pretty=True)


def _sources(record: PrefixRecord) -> list[Path]:
    return [file for file in record.files if file.suffix == ".py"]


def _compile(prefix: Path, sources: list[str]) -> None:
    """Compile by paths relative to the prefix, as conda does: the code is the same in every prefix."""
    workers = os.cpu_count() or 1
    command = [str(prefix / "bin" / "python"), "-Wi", "-m", "compileall", "-qq", "-l", "-i", "-"]
    with ExitStack() as stack:
        for worker in range(workers):
            names = stack.enter_context(tempfile.TemporaryFile("w+"))
            names.write("".join(f"{source}\n" for source in sources[worker::workers]))
            names.seek(0)
            stack.enter_context(subprocess.Popen(command, cwd=prefix, stdin=names, stdout=subprocess.DEVNULL))


def _note_compiled(prefix: Path, record: PrefixRecord) -> None:
    places = [Path(cache_from_source(str(source))) for source in _sources(record)]
    compiled = [place for place in places if (prefix / place).exists()]
    data = record.paths_data
    data.paths = [*data.paths, *(PrefixPathsEntry(place, PrefixPathType("pyc_file")) for place in compiled)]
    record.paths_data = data
    record.files = [*record.files, *compiled]
