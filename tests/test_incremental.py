"""Packing again reads only what has changed, and what comes of it is what reading everything would give."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapper.commands.pack import PackResult, pack
from snapper.commands.restore import RestoreResult, restore
from snapper.environment import clock, index, state
from snapper.environment.scan import scan
from snapper.environment.tree import File
from snapper.format.layout import Layout
from snapper.packing.reuse import PreviousPack
from snapper.repository.snapshots import read_snapshot, stored_layers
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.store import Store, open_store
from tests.conftest import Machine
from tests.support.packs import previous_pack
from tests.support.stores import page_files

NOTE = "share/notes/note.txt"


@dataclass(frozen=True)
class Place:
    """An environment that was restored from a store."""

    store: Store
    prefix: Path

    def pack(self, *, full: bool = False) -> PackResult:
        return pack(self.store, self.prefix, "env", full=full, jobs=1)

    def pack_full_elsewhere(self) -> PackResult:
        """What reading everything gives, of which nothing is remembered."""
        with tempfile.TemporaryDirectory(dir=self.prefix.parent) as other:
            shutil.copytree(self.prefix / ".snapper", f"{other}/kept")
            found = pack(open_store(f"{other}/store", create=True), self.prefix, "env", full=True, jobs=1)
            shutil.rmtree(self.prefix / ".snapper")
            shutil.move(f"{other}/kept", self.prefix / ".snapper")
            return found

    def kept(self) -> PreviousPack:
        previous = previous_pack(self.prefix)
        assert previous is not None
        return previous


@pytest.fixture(scope="module")
def packed(pristine: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an environment of two packages, one of them compiled, and files that are nobody's."""
    top = tmp_path_factory.mktemp("packed")
    prefix = restored(pristine("no-python"), top, "first")
    (prefix / NOTE).parent.mkdir(parents=True)
    (prefix / NOTE).write_text("one\n")
    site = prefix / "lib" / "python3.11" / "site-packages"
    dist = site / "thing-1.0.dist-info"
    dist.mkdir(parents=True)
    (site / "thing.py").write_text(f"HOME = {str(prefix)!r}\n")
    (dist / "METADATA").write_text("Name: thing\nVersion: 1.0\n")
    (dist / "RECORD").write_text("thing.py,,\nthing-1.0.dist-info/METADATA,,\nthing-1.0.dist-info/RECORD,,\n")
    os.link(site / "thing.py", prefix / "share" / "notes" / "thing.py")
    pack(open_store(str(top / "store"), create=True), prefix, "env", jobs=1)
    return top / "store"


def restored(source: Path, top: Path, name: str) -> Path:
    """A copy of an environment, made by packing and restoring it."""
    store = open_store(str(top / f"store-{name}"), create=True)
    pack(store, source, "env", jobs=1)
    return _restored(store, top / name)


def _restored(store: Store, prefix: Path) -> Path:
    (done,) = restore(store, [RestoreRequest(SnapshotSpec("env"), prefix=prefix)], jobs=1)
    assert isinstance(done, RestoreResult), done
    return prefix


@pytest.fixture
def place(packed: Path, scratch: Path) -> Iterator[Place]:
    shutil.copytree(packed, scratch / "store")
    store = open_store(str(scratch / "store"))
    yield Place(store, _restored(store, scratch / "env"))


def objects(store: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in store.rglob("*") if file.is_file()}


def test_what_was_restored_is_known_without_reading(place: Place, scratch: Path) -> None:
    """Also after it was packed, and under another name; nothing is written to the store but that name."""
    assert place.kept().is_unchanged()
    before = objects(scratch / "store")
    assert place.pack().unchanged
    assert place.pack(full=True).unchanged
    assert place.kept().is_unchanged()
    assert place.pack().unchanged
    assert objects(scratch / "store") == before
    other = pack(place.store, place.prefix, "other", jobs=1)
    assert (other.unchanged, other.added_layers, other.added_size) == (False, 0, 0)
    found = state.read(place.prefix)
    assert found and found.environment == "other"


def test_files_that_are_vouched_for_are_not_read(place: Place) -> None:
    """An index that lies is believed, but for a full pack."""
    place.pack()
    file = place.prefix / NOTE
    file.write_text("two\n")
    honest = (place.prefix / ".snapper" / "index").read_bytes()
    found = index.decode(honest)
    entries = found.entries_by_layer()
    now = next(file for file in scan(place.prefix).files if file.path == NOTE)
    layer = found.layer_of(now)
    entries[layer] = [each if each.path != NOTE else index.index_entry(now) for each in entries[layer]]
    header = index.IndexHeader(found.header.snapshot, found.header.prefix, clock.next_tick(place.prefix))
    blocks = [index.encode_block(number, each) for number, each in sorted(entries.items())]
    (place.prefix / ".snapper" / "index").write_bytes(index.encode(header, blocks))
    assert place.pack().unchanged
    assert not place.pack(full=True).unchanged


def test_a_change_in_the_same_instant_is_seen(place: Place) -> None:
    """Of the same size, and with the old mtime put back."""
    file = place.prefix / NOTE
    ids = set()
    for number in range(20):
        file.write_text(f"{number:03}\n")
        os.utime(file, (1, 1))
        ids.add(place.pack().snapshot_id)
    assert len(ids) == 20


def test_a_file_as_old_as_the_index_is_not_vouched_for() -> None:
    file = File("a", "file", 1, 0o644, 5, 7, 9, 11, 1)
    for taken, vouched in ((6, False), (7, False), (8, True)):
        found = index.Index(index.IndexHeader("0" * 64, "/p", taken), {"a": (1, 0o644, 5, 7, 9, 0)})
        assert found.vouches(file, 11) is vouched
    assert not found.vouches(file, 12)
    changed = (
        *(file._replace(size=1000), file._replace(mode=0o755), file._replace(mtime_ns=1000)),
        *(file._replace(ctime_ns=1000), file._replace(ctime_ns=1), file._replace(inode=1000)),
    )
    assert not any(found.vouches(each, 11) for each in changed)
    unknown = index.Index(found.header, {"a": (1, 0o644, 5, 7, 9, index.NO_LAYER)})
    assert not unknown.vouches(file, 11)


def test_a_slow_clock_makes_files_be_read_once_more(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose clock has not gone on since the files were written, as with times in whole seconds."""
    newest = max(file.ctime_ns for file in scan(place.prefix).files)
    monkeypatch.setattr(clock, "now", lambda _: newest)
    place.pack(full=True)
    assert not place.kept().is_unchanged()
    monkeypatch.undo()
    assert place.pack().unchanged
    assert place.kept().is_unchanged()


def test_layers_that_the_store_has_lost_are_made_again(place: Place, scratch: Path) -> None:
    """Also those that it has in part only."""
    whole = place.pack().snapshot.layers
    for lost in whole[::2]:
        file = scratch / "store" / Layout.layer(lost.digest)
        os.truncate(file, 5) if lost.kind == "link" else file.unlink()
    again = place.pack()
    assert again.unchanged
    assert len(stored_layers(place.store, whole)) == len(whole)
    shutil.rmtree(scratch / "store" / "snapshots")
    assert place.pack().unchanged
    assert read_snapshot(place.store, again.snapshot_id) == again.snapshot
    for page in page_files(scratch / "store"):
        page.unlink()
        assert place.pack().unchanged
        assert page.exists()


def test_state_of_different_moments_is_not_put_together(place: Place) -> None:
    kept = place.prefix / ".snapper"
    place.pack()
    old = {file.name: file.read_bytes() for file in kept.iterdir()}
    (place.prefix / "conda-meta" / "new").write_text("new\n")
    changed = place.pack()
    new = {file.name: file.read_bytes() for file in kept.iterdir()}
    for name, data in old.items():
        (kept / name).write_bytes(data)
        assert place.pack().snapshot_id == changed.snapshot_id, name
        for other, original in new.items():
            (kept / other).write_bytes(original)


def test_the_command(machine: Machine, pristine: Callable[[str], Path]) -> None:
    machine.run_json("pack", "-p", pristine("no-python"), "-n", "env")
    machine.run_json("restore", "env", "--envs-dir", machine.envs)
    (machine.envs / "env" / "share" / "new").write_text("new\n")
    changed = machine.run_json("pack", "env")
    assert (changed["unchanged"], changed["added_layers"]) == (False, 1)
    assert machine.run_json("pack", "env", "--full")["snapshot"] == changed["snapshot"]


Change = Callable[[Path, str], None]


def rewrite(prefix: Path, path: str) -> None:
    """In place, of the same size and with the same time."""
    file = prefix / path
    times = os.stat(file)
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:] if data else b"")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(prefix: Path, path: str) -> None:
    (prefix / "aside").write_bytes((prefix / path).read_bytes() + str(prefix).encode())
    os.replace(prefix / "aside", prefix / path)


def touch(prefix: Path, path: str) -> None:
    os.utime(prefix / path, (1_700_000_000, 1_700_000_000))


def remove(prefix: Path, path: str) -> None:
    (prefix / path).unlink()


def protect(prefix: Path, path: str) -> None:
    (prefix / path).chmod(0o640)


def name_again(prefix: Path, path: str) -> None:
    (prefix / f"{path}.twin").unlink(missing_ok=True)
    (prefix / f"{path}.twin").hardlink_to(prefix / path)


def link(prefix: Path, path: str) -> None:
    (prefix / path).unlink()
    (prefix / path).symlink_to("elsewhere")


def add_beside(prefix: Path, path: str) -> None:
    (prefix / path).with_name("new").write_text(f"{prefix}\n")


def empty_directory(prefix: Path, path: str) -> None:
    shutil.rmtree((prefix / path).parent)
    (prefix / path).parent.mkdir()


def close_directory(prefix: Path, path: str) -> None:
    (prefix / path).parent.chmod(0o700)


def take_away_record(prefix: Path, path: str) -> None:
    for record in sorted(prefix.glob("conda-meta/*.json"))[:1]:
        record.unlink()


def compile_beside(prefix: Path, path: str) -> None:
    """A compiled module, which is valid for a source that others own."""
    file = prefix / path
    module = file.parent / "__pycache__" / f"{file.name.partition('.')[0]}.cpython-311.pyc"
    module.parent.mkdir(exist_ok=True)
    time = int(file.stat().st_mtime) & 0xFFFFFFFF
    module.write_bytes(b"\xa7\r\r\n\0\0\0\0" + time.to_bytes(4, "little") + b"\0" * 4 + b"\xe3")


CHANGES: list[Change] = [
    *(rewrite, replace, touch, remove, protect, name_again, link, add_beside, empty_directory),
    *(close_directory, take_away_record, compile_beside),
]

PATHS = [
    NOTE,
    "share/notes/thing.py",
    "lib/python3.11/site-packages/thing.py",
    "lib/python3.11/site-packages/thing-1.0.dist-info/RECORD",
    "share/textdata/config.ini",
    "share/textdata/numbers.bin",
    "share/textdata/twin.txt",
    "share/textdata/empty",
    "etc/conda/activate.d/whereami.sh",
    "bin/whereami",
    "bin/textdata-home",
    "lib/libwhereami.so.1.0",
]


@given(
    rounds=st.lists(
        st.lists(st.tuples(st.sampled_from(CHANGES), st.sampled_from(PATHS)), max_size=4),
        min_size=1,
        max_size=3,
    )
)
@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_what_is_not_read_makes_no_difference(packed: Path, rounds: list[list[tuple[Change, str]]]) -> None:
    """After each round of changes to a restored environment, the snapshot is that of one who reads everything."""
    with tempfile.TemporaryDirectory(dir=packed.parent) as top:
        shutil.copytree(packed, f"{top}/store")
        store = open_store(f"{top}/store")
        place = Place(store, _restored(store, Path(top, "env")))
        for changes in rounds:
            for change, path in changes:
                if (place.prefix / path).is_file() and not (place.prefix / path).is_symlink():
                    change(place.prefix, path)
            assert place.pack().snapshot == place.pack_full_elsewhere().snapshot
