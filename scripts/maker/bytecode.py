"""Compile the Python sources of noarch packages in a prefix.

conda and mamba do this when they link a package; py-rattler does not. Compiled files are added to the package's record
the way conda and mamba add them: as paths of type `pyc_file` without a digest.
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
    """Compile the noarch packages among those whose records are at `paths`."""
    records = {path: PrefixRecord.from_path(path) for path in paths}
    noarch = {path: record for path, record in records.items() if record.noarch.python}
    if not noarch:
        return
    _compile(prefix, [str(file) for record in noarch.values() for file in _sources(record)])
    for path, record in noarch.items():
        _record_compiled(prefix, record)
        record.write_to_path(path, pretty=True)


def _sources(record: PrefixRecord) -> list[Path]:
    return [file for file in record.files if file.suffix == ".py"]


def _compile(prefix: Path, sources: list[str]) -> None:
    """Compile with paths relative to the prefix, as conda does, so that the bytecode is the same in every prefix."""
    workers = os.cpu_count() or 1
    command = [str(prefix / "bin" / "python"), "-Wi", "-m", "compileall", "-qq", "-l", "-i", "-"]
    with ExitStack() as stack:
        for worker in range(workers):
            names = stack.enter_context(tempfile.TemporaryFile("w+"))
            names.write("".join(f"{source}\n" for source in sources[worker::workers]))
            names.seek(0)
            stack.enter_context(subprocess.Popen(command, cwd=prefix, stdin=names, stdout=subprocess.DEVNULL))


def _record_compiled(prefix: Path, record: PrefixRecord) -> None:
    expected = [Path(cache_from_source(str(source))) for source in _sources(record)]
    compiled = [path for path in expected if (prefix / path).exists()]
    data = record.paths_data
    data.paths = [*data.paths, *(PrefixPathsEntry(path, PrefixPathType("pyc_file")) for path in compiled)]
    record.paths_data = data
    record.files = [*record.files, *compiled]
