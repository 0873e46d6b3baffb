"""Where made things are kept, so that each is made once, however many processes ask for it."""

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
    """The key of something made from `parts`."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(f"{len(part)}:{part}".encode())
    return whole.hexdigest()[:32]


def source_digest() -> str:
    """A digest of the maker's own source: what another maker made is not reused."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return digest(*(source.read_text(encoding="utf-8") for source in sources))


@dataclass(frozen=True)
class Cache:
    """A directory of finished entries, `<root>/<kind>/<key>/`: an entry that exists is complete."""

    root: Path

    def entry(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The directory of this entry; where there is none, `build` fills one first.

        Several processes (or threads) may ask at once: one builds, aside, and the others wait for it.
        """
        place = self.root / kind / key
        if place.exists():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        locks = self.root / "locks"
        locks.mkdir(exist_ok=True)
        with (locks / f"{kind}-{key}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not place.exists():
                aside = Path(tempfile.mkdtemp(prefix=f".{key[:8]}-", dir=place.parent))
                try:
                    aside.chmod(0o755)
                    build(aside)
                    aside.rename(place)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
        return place


def open_cache(root: Path | None) -> Cache:
    """The cache at `root`; by default at `$SNAPPER_MAKER_CACHE`, else in the repository."""
    named = root or os.environ.get("SNAPPER_MAKER_CACHE") or REPOSITORY / ".cache" / "maker"
    place = Path(named).absolute()
    place.mkdir(parents=True, exist_ok=True)
    return Cache(place)
