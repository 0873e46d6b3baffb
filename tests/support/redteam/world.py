"""A machine with several users and a store, and what has changed on it after an attack."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.support.redteam import publisher
from tests.support.redteam.accounts import ATTACKER, ROOT, VICTIM, Account, withstood

#: What only the victim may read: in files that are secrets in every format that snapper reads.
SECRET = b"secret-of-the-victim"
_SECRET_JSON = (
    b'{"env_vars": {"TOKEN": "%s"}, "TOKEN": "%s", "argv": ["%s"], "display_name": "%s", "language": "%s", '
    b'"name": "%s", "version": "1", "build": "0", "channel": "%s"}'
)
_SECRET_FILES = {
    ".ssh/id_json": _SECRET_JSON.replace(b"%s", SECRET),
    ".ssh/id_text": b"Name: %s\nVersion: 1\n\n%s\n" % (SECRET, SECRET),
}

#: What snapper may write in a home: registered kernels, conda's list of environments, and its own state.
_OWN_PLACES = (".local/share/jupyter/kernels", ".conda/environments.txt", ".local/state/snapper")

_LARGEST_SEARCHED = 16 << 20


@dataclass(frozen=True)
class World:
    """A directory that everyone may read, with homes and a store that the attacker publishes in."""

    top: Path
    python: str

    @property
    def store(self) -> Path:
        return self.top / "store"

    @property
    def temporary(self) -> Path:
        """A directory like /tmp: everyone may create something in it, and only remove what is their own."""
        return self.top / "tmp"

    @property
    def victim(self) -> Account:
        """The user who restores. If the tests do not run as root, it is the one who runs them."""
        return self._account("victim", VICTIM if os.geteuid() == ROOT else os.geteuid())

    @property
    def attacker(self) -> Account:
        """Another user; skip the test if there cannot be one."""
        _need_root()
        return self._account("attacker", ATTACKER)

    @property
    def root(self) -> Account:
        """The administrator, who works like a user; skip the test if the tests are not run by root."""
        _need_root()
        return self._account("root", ROOT)

    @property
    def secrets(self) -> list[Path]:
        """Files that only the victim may read: JSON of many formats in one, and text with mail headers."""
        return [self.victim.home / name for name in _SECRET_FILES]

    def _account(self, name: str, uid: int) -> Account:
        home = self.top / name
        return Account(home, home / "envs", self.store, uid, self.python)

    def publish(self, name: str, *members: bytes, **options: Any) -> str:
        """Publish an environment as the attacker; see `publisher.publish`."""
        digest = publisher.publish(self.store, name, *members, **options)
        self._account("attacker", ATTACKER).owns(self.store)
        return digest

    @contextmanager
    def unharmed(
        self, *environments: str, account: Account | None = None, also: Collection[Path] = ()
    ) -> Iterator[None]:
        """Check that nothing changes except these environments in the user's envs directory, and what belongs to them.

        That is snapper's own state, registered kernels, and conda's list of environments; `also` are other places that
        may change. Check as well that the victim's secret is nowhere else afterwards.
        """
        user = account or self.victim
        allowed = [user.home / place for place in _OWN_PLACES]
        allowed += [*(user.envs / name for name in environments), *also]
        before = self._listing()
        yield
        after = self._listing()
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        harmed = sorted(path for path in changed if not any(_is_related(path, place) for place in allowed))
        withstood(not harmed, f"changed {', '.join(os.path.relpath(path, self.top) for path in harmed[:5])}")
        copies = [os.path.relpath(path, self.top) for path in changed if _holds_secret(path)]
        withstood(not copies, f"copied the victim's secret to {', '.join(copies)}")

    def _listing(self) -> dict[str, object]:
        """Return what can be observed of each path without reading it; for directories, only mode and owner."""
        found: dict[str, object] = {}
        for directory, names, files in os.walk(self.top):
            for name in names + files:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                contents = (status.st_ino, status.st_size, status.st_mtime_ns)
                found[path] = status.st_mode, status.st_uid, not stat.S_ISDIR(status.st_mode) and contents
        return found


def _holds_secret(path: str) -> bool:
    if not os.path.isfile(path) or os.path.islink(path) or os.path.getsize(path) > _LARGEST_SEARCHED:
        return False
    data = Path(path).read_bytes()
    if path.endswith(".zst"):
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return SECRET in data


@contextmanager
def new_world(python: str) -> Iterator[World]:
    """Make a world for the snapper of that interpreter, and remove it at the end."""
    top = Path(tempfile.mkdtemp(prefix="snapper-world-", dir=_readable_directory()))
    try:
        top.chmod(0o755)
        world = World(top, python)
        for name, uid in (("root", ROOT), ("victim", VICTIM), ("attacker", ATTACKER)):
            _make_home(world._account(name, uid))
        world.temporary.mkdir()
        world.temporary.chmod(0o1777)
        for name, data in _SECRET_FILES.items():
            path = world.victim.home / name
            path.write_bytes(data)
            path.chmod(0o600)
            world.victim.owns(path)
        yield world
    finally:
        _remove(top)


def _make_home(account: Account) -> None:
    for directory in (".aws", ".ssh", ".jupyter", ".conda", ".local/share", "envs", "work"):
        (account.home / directory).mkdir(parents=True)
    (account.home / ".ssh").chmod(0o700)
    (account.home / ".profile").write_text("# as it was\n")
    account.owns(account.home)


def _is_related(path: str, place: Path) -> bool:
    """Return whether the path is the place, or below it, or above it."""
    return f"{path}/".startswith(f"{place}/") or f"{place}/".startswith(f"{path}/")


def _readable_directory() -> str:
    """Return a directory for temporary files that all users can reach."""
    for candidate in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        path = Path(candidate).resolve()
        if all(directory.stat().st_mode & stat.S_IXOTH for directory in (path, *path.parents)):
            return str(path)
    pytest.skip("there is no directory that all users can reach")


def _need_root() -> None:
    if os.geteuid() != ROOT:
        pytest.skip("only root can run commands as several users")


def _remove(top: Path) -> None:
    """Remove the directory with programs that do not mind read-only directories and paths of any depth."""
    subprocess.run(["chmod", "-R", "u+rwx", str(top)], check=False, capture_output=True)
    subprocess.run(["rm", "-rf", str(top)], check=True)
