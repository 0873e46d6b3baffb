"""A store in a directory that several users may write to: one of them replaces its parts."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from tests.support.processes import forking
from tests.support.redteam import prefixes, publisher
from tests.support.redteam.accounts import Account, withstood
from tests.support.redteam.publisher import encode, file
from tests.support.redteam.variants import variants
from tests.support.redteam.world import World

_DAY = 24 * 3600
_DIRECTORIES = ("environments", "snapshots", "pages", "layers", "locks")


def _make_old(store: Path) -> None:
    """Give all objects a time before any grace period."""
    for path in store.rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - 30 * _DAY,) * 2)


def _own_store(world: World) -> Path:
    """Make a store of the victim's own, with objects that nothing refers to; return it."""
    own = world.victim.home / "own"
    publisher.publish(own, "mine", file("share/mine"))
    publisher.put_layer(own, file("share/not-needed-yet"))
    _make_old(own)
    return world.victim.owns(own)


# --- directories of the store that are links --------------------------------------------------------------


@variants("part", [*_DIRECTORIES, "layers/aa"], usually=("environments", "layers"))
@pytest.mark.parametrize("command", ["prune --keep-last 1 --yes", "pack work"])
def test_link_in_place_of_a_directory(command: str, part: str, world: World) -> None:
    """A directory of the store is a link to that of another store, which only the victim may change."""
    own = _own_store(world)
    world.publish("work", prefix=world.victim.envs / "work")
    prefixes.make(world.victim.envs / "work", {})
    world.victim.owns(world.victim.envs)
    place = world.store / part
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        place.rename(world.top / "moved")
    source = own / part
    if part == "layers/aa":
        source = next((own / "layers").iterdir())
        place = world.store / "layers" / source.name
        if place.exists():
            place.rename(world.top / "moved")
    source.mkdir(exist_ok=True)
    place.symlink_to(source)
    _make_old(world.store)
    before = _contents(own)
    world.victim.owns(world.store)
    world.victim.snapper(*command.split())
    withstood(_contents(own) == before, f"changed the other store: {sorted(before ^ _contents(own))[:3]}")


def _contents(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}


# --- objects under false names ----------------------------------------------------------------------------


def _pack_elsewhere(world: World) -> Path:
    """Pack an environment into a store of the victim's own, which tells what it will store; return that store."""
    world.publish("other")
    own = world.victim.home / "own"
    prefixes.make(world.victim.envs / "work", {"lib/data": "data"})
    world.victim.owns(world.victim.envs)
    world.victim.snapper("pack", "work", SNAPPER_STORE=str(own))
    return own


@variants("kind", ["layers", "pages", "snapshots"], usually=("layers", "snapshots"))
@pytest.mark.parametrize("command", ["pack work", "pack work --full", "push work"])
@variants("before", ["nothing", "the same"], usually=("nothing", "the same"))
def test_objects_planted_in_advance(before: str, command: str, kind: str, world: World) -> None:
    """The attacker knows what the victim will store, and stores something else of the same size under these names.

    The victim may have stored the same before, and deleted it.
    """
    own = _pack_elsewhere(world)
    if before == "the same":
        world.victim.owns(world.store)
        for _ in range(2):
            world.victim.snapper("pack", "work")
            for path in world.store.rglob("*"):
                path.chmod(0o777 if path.is_dir() else 0o666)
        (world.store / "environments/work.json").unlink()
    for source in (own / kind).rglob("*"):
        if source.is_file():
            planted = world.store / source.relative_to(own)
            planted.parent.mkdir(exist_ok=True)
            planted.unlink(missing_ok=True)
            planted.write_bytes(bytes(source.stat().st_size))
    world.attacker.owns(world.store)
    for path in (world.store, *world.store.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    if "push" in command:
        world.victim.snapper("push", "work", "--to", world.store, SNAPPER_STORE=str(own))
    else:
        world.victim.snapper(*command.split())
    done = world.root.snapper("verify", "--data")
    withstood(done.code == 0, "published a snapshot of which objects are corrupted")
    withstood((world.store / "environments/work.json").exists(), "prevented the victim from publishing")


@variants("kind", ["layers", "pages", "snapshots"], usually=("layers",))
@pytest.mark.parametrize("command", ["pack work", "push work"])
@pytest.mark.parametrize("planted", ["unreadable file", "directory"])
def test_unreadable_objects_planted_in_advance(planted: str, command: str, kind: str, world: World) -> None:
    """The same, but what has these names cannot be read."""
    own = _pack_elsewhere(world)
    for source in filter(Path.is_file, (own / kind).rglob("*")):
        path = world.store / source.relative_to(own)
        path.parent.mkdir(exist_ok=True)
        if planted == "directory":
            path.mkdir()
            (path / "file").touch()
        else:
            path.write_bytes(bytes(source.stat().st_size))
            path.chmod(0)
    world.attacker.owns(world.store)
    for path in filter(Path.is_dir, (world.store, *world.store.rglob("*"))):
        path.chmod(0o777)
    if "push" in command:
        world.victim.snapper("push", "work", "--to", world.store, SNAPPER_STORE=str(own))
    else:
        world.victim.snapper(*command.split())
    withstood((world.store / "environments/work.json").exists(), "prevented the victim from publishing")
    done = world.victim.snapper("restore", "work", "--prefix", world.victim.home / "copy")
    withstood(done.code == 0, "published a snapshot that cannot be restored")


# --- objects that are not files ---------------------------------------------------------------------------


def _objects(world: World) -> dict[str, Path]:
    """Publish an environment `evil`; return an object of each kind that only it needs."""
    world.publish("good", prefix=world.victim.envs / "good")
    before = {path for path in world.store.rglob("*") if path.is_file()}
    world.publish("evil", file("share/evil"), prefix=world.victim.envs / "evil")
    new = [path for path in world.store.rglob("*") if path.is_file() and path not in before]
    return {path.relative_to(world.store).parts[0]: path for path in new}


@variants("kind", ["environments", "snapshots", "pages", "layers"], usually=("environments", "layers"))
@variants("hazard", ["pipe", "zero", "secret", "directory", "sparse"], usually=("pipe", "zero"))
def test_object_that_is_no_file(hazard: str, kind: str, world: World) -> None:
    """An object of one environment is a pipe, a link to a device, a link to a secret, a directory, or huge."""
    path = _objects(world)[kind]
    path.unlink()
    _plant(hazard, path, world)
    with world.unharmed("good", "evil"):
        world.victim.snapper("restore", "--all")
        for command in ("list", "verify --data", "log evil", "status"):
            world.victim.snapper(*command.split())
    withstood((world.victim.envs / "good/conda-meta").is_dir(), "other environments are not restored")
    withstood(
        not (world.victim.envs / "evil/conda-meta").is_dir(), "the environment was restored all the same"
    )


def _plant(hazard: str, path: Path, world: World) -> None:
    """Put something other than a small file at the path."""
    if hazard == "pipe":
        os.mkfifo(path, 0o666)
    elif hazard == "zero":
        path.symlink_to("/dev/zero")
    elif hazard == "secret":
        path.symlink_to(world.secrets[0])
    elif hazard == "directory":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 2 << 30)


@variants("hazard", ["pipe", "zero", "secret", "directory", "sparse"], usually=("pipe", "zero"))
def test_marker_that_is_no_file(hazard: str, world: World) -> None:
    """The marker of the store is not a small file."""
    world.publish("work")
    (world.store / "snapper.json").unlink()
    _plant(hazard, world.store / "snapper.json", world)
    prefixes.make(world.victim.envs / "mine", {})
    world.victim.owns(world.victim.envs)
    with world.unharmed("mine"):
        for command in ("restore --all", "list", "pack mine", "doctor"):
            world.victim.snapper(*command.split())


@variants("hazard", ["pipe", "zero", "sparse"], usually=("pipe",))
@pytest.mark.parametrize("name", ["pack-0123456789abcdef.json", "prune.json"])
def test_lock_that_is_no_file(name: str, hazard: str, world: World) -> None:
    """A lock in the store is not a small file."""
    world.publish("work")
    (world.store / "locks").mkdir()
    lock = world.store / "locks" / name
    _plant(hazard, lock, world)
    _make_old(world.store)
    os.utime(lock, (time.time() - 30 * _DAY,) * 2, follow_symlinks=False)
    world.victim.owns(world.store)
    withstood(world.victim.snapper("prune", "--yes").code == 0, "blocked prunes for good")


# --- locks ------------------------------------------------------------------------------------------------


def _lock(**changes: object) -> bytes:
    fields = {
        "format": 1,
        "action": "prune",
        "user": "mallory",
        "host": "evil",
        "machine": "unknown",
        "pid": 1,
        "started": "",
        "time": "2026-01-01T00:00:00Z",
    }
    return encode({**fields, **changes})


_LOCKS = {
    "not JSON": b"{",
    "deep": b"[" * 1_000_000,
    "another action": _lock(action="erase"),
    "a negative process": _lock(pid=-1, machine=""),
    "a process that is too large": _lock(pid=2**62, machine=""),
    "an impossible time": _lock(time="9999-99-99T99:99:99Z"),
    "a higher format": _lock(format=2),
}


@variants("lock", _LOCKS, usually=("deep", "a negative process"))
def test_malformed_lock(lock: str, world: World) -> None:
    """The lock of a pack is malformed."""
    world.publish("work")
    publisher.put(world.store, "locks/pack-0123456789abcdef.json", _LOCKS[lock])
    world.victim.owns(world.store)
    world.victim.snapper("prune", "--yes")


@pytest.mark.parametrize("command", ["pack work", "tag work stable", "remove work --yes", "restore work"])
@variants("part", ["environments/work.json", "environments"], usually=("environments/work.json",))
def test_flock_of_a_reader(part: str, command: str, world: World) -> None:
    """A user who may only read the store holds a lock (flock) on the entry, or on its directory."""
    world.publish("work", prefix=world.victim.envs / "work")
    world.victim.owns(world.store)
    prefixes.make(world.victim.envs / "work", {})
    world.victim.owns(world.victim.envs)
    with _holding_flock(world.attacker, world.store / part):
        world.victim.snapper(*command.split())


class _holding_flock:  # noqa: N801 - used like a function
    """A process of the user that holds a lock on the file or directory, as a context manager."""

    def __init__(self, account: Account, path: Path) -> None:
        self._ready, self._account, self._path = forking.Event(), account, path
        self._process = forking.Process(target=self._hold, daemon=True)

    def _hold(self) -> None:
        self._account.become()
        fcntl.flock(os.open(self._path, os.O_RDONLY), fcntl.LOCK_EX)
        self._ready.set()
        time.sleep(600)

    def __enter__(self) -> None:
        self._process.start()
        assert self._ready.wait(20)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


# --- what a command leaves in a store ---------------------------------------------------------------------


def test_temporary_files_of_others(world: World) -> None:
    """The store's directories contain what looks like leftovers: links to files of the victim, and pipes."""
    world.publish("work", prefix=world.victim.envs / "work")
    for number, kind in enumerate(_DIRECTORIES):
        (world.store / kind).mkdir(exist_ok=True)
        (world.store / kind / f".x.{number:016x}").symlink_to(world.victim.home / ".profile")
        os.mkfifo(world.store / kind / f".y.{number:016x}", 0o666)
        os.link(world.victim.home / ".profile", world.store / kind / f".z.{number:016x}")
    prefixes.make(world.victim.envs / "work", {})
    world.victim.owns(world.victim.envs)
    world.victim.owns(world.store)
    with world.unharmed("work", also=(world.store,)):
        world.victim.snapper("pack", "work")
        world.victim.snapper("prune", "--yes")
    assert (world.victim.home / ".profile").read_text() == "# as it was\n"


def test_environment_of_another_user(world: World) -> None:
    """Another user restores a private environment: into an envs directory of his own, and private files stay so."""
    prefix = prefixes.make(world.victim.envs / "work", {"etc/token": "private"})
    (prefix / "etc/token").chmod(0o600)
    world.victim.owns(world.victim.envs)
    world.victim.owns(publisher.make_store(world.store))
    world.victim.snapper("pack", "work")
    with world.unharmed("work", account=world.attacker):
        world.attacker.snapper("restore", "work")
    restored = world.attacker.envs / "work/etc/token"
    withstood(restored.stat().st_mode & 0o077 == 0, "the restored file can be read by everyone")
