"""A cache on disk of packages and channels: each is built once, however many processes need it."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def digest(*parts: str) -> str:
    """Return the cache key of something built from `parts`."""
    result = hashlib.sha256()
    for part in parts:
        result.update(f"{len(part)}:{part}".encode())
    return result.hexdigest()[:32]


def source_digest() -> str:
    """Return a digest of this package's source, so that nothing built by another version of it is reused."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return digest(*(source.read_text(encoding="utf-8") for source in sources))


@dataclass(frozen=True)
class Cache:
    """A directory of finished entries, `<root>/<kind>/<key>/`: an entry that exists is complete."""

    root: Path

    def entry(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """Return the directory of this entry. If it does not exist, call `build` to fill it first.

        Several processes or threads may call this at once: one builds in a temporary directory, the others wait.
        """
        directory = self.root / kind / key
        if directory.exists():
            return directory
        directory.parent.mkdir(parents=True, exist_ok=True)
        locks = self.root / "locks"
        locks.mkdir(exist_ok=True)
        with (locks / f"{kind}-{key}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not directory.exists():
                temporary = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=directory.parent))
                try:
                    temporary.chmod(0o755)
                    build(temporary)
                    temporary.rename(directory)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
        return directory


def open_cache(root: Path | None) -> Cache:
    """Open the cache at `root`. Default: `$SNAPPER_MAKER_CACHE`, or `.cache/maker` in the repository."""
    chosen = root or os.environ.get("SNAPPER_MAKER_CACHE") or REPOSITORY / ".cache" / "maker"
    directory = Path(chosen).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    return Cache(directory)
