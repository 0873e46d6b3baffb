"""Run py-rattler in separate processes.

It can crash while its process exits, after all work is done, so success is judged by the report that it writes and not
by its exit code. Importing it takes ten times as long as making a small environment, so one process imports it, and
forks for each request.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from scripts.maker.cache import REPOSITORY, Cache
from scripts.maker.errors import MakerError


def run_engine(cache: Cache, verb: str, **arguments: object) -> None:
    """Have `engine_process` carry out `verb`. Raise MakerError if it fails."""
    packages = cache.root / "rattler"
    with tempfile.TemporaryDirectory(prefix="maker-") as directory:
        report, output = Path(directory) / "report.json", Path(directory) / "output"
        output.touch()
        variables = {**os.environ, "RATTLER_CACHE_DIR": str(packages)}
        request = {"verb": verb, "cache": str(packages), "report": str(report), **arguments}
        _engine(os.getpid()).run({**request, "output": str(output), "variables": variables})
        if not report.exists():
            raise MakerError(f"py-rattler could not {verb}:\n{output.read_text(encoding='utf-8')}")


class _Engine:
    """A process that forks for each request. It ends with this process."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.maker.engine_process"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        atexit.register(self._stop)

    def run(self, request: dict[str, object]) -> None:
        """Return when the request has been carried out, or has failed."""
        assert self._process.stdin
        assert self._process.stdout
        with self._lock:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            self._process.stdout.readline()

    def _stop(self) -> None:
        if os.getpid() == self._owner:
            self._process.communicate()


@functools.cache
def _engine(_pid: int) -> _Engine:
    """Return the engine of this process: forks need their own."""
    return _Engine()
