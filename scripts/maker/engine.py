"""Run py-rattler in a separate process.

It can crash while its process exits, after all work is done, so success is judged by the report that it writes and not
by its exit code.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.maker.cache import REPOSITORY, Cache
from scripts.maker.errors import MakerError


def run_engine(cache: Cache, verb: str, **arguments: object) -> None:
    """Have `engine_process` carry out `verb`. Raise MakerError if it fails."""
    packages = cache.root / "rattler"
    with tempfile.TemporaryDirectory(prefix="maker-") as directory:
        report = Path(directory) / "report.json"
        request = {"verb": verb, "cache": str(packages), "report": str(report), **arguments}
        done = subprocess.run(
            [sys.executable, "-m", "scripts.maker.engine_process", json.dumps(request)],
            check=False,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "RATTLER_CACHE_DIR": str(packages)},
        )
        if not report.exists():
            raise MakerError(f"py-rattler could not {verb}:\n{done.stderr}")
