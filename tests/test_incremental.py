"""Repacking reads only what has changed, and creates the same snapshot as reading everything."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snapper.commands.copy import CopyResult, copy_environments
from snapper.commands.pack import PackOptions, pack
from snapper.commands.pack_result import PackResult
from snapper.commands.restore import RestoreResult, restore
from snapper.commands.verify import verify_environment
from snapper.environment import clock, index, state
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.scan import scan
from snapper.environment.tree import File
from snapper.format.layout import Layout
from snapper.format.model import LAYER_SIZE
from snapper.fs import mounts
from snapper.packing import splitting
from snapper.packing.reuse import PreviousPack
from snapper.repository.snapshots import read_snapshot, require_layers
from snapper.repository.specs import SnapshotSpec
from snapper.restoring.requests import RestoreRequest
from snapper.store import Store, open_store
from snapper.store.local import LocalStore
from tests.conftest import Machine
from tests.support.environments import make_data
from tests.support.packs import previous_pack
from tests.support.stores import edit_ref, page_files, snapshot_document, write_snapshot

NOTE = "share/notes/note.txt"


@dataclass(frozen=True)
class RestoredEnvironment:
    """An environment that was restored from a store."""

    store: Store
    prefix: Path

    def pack(self, *, full: bool = False) -> PackResult:
        return pack(self.store, self.prefix, "env", PackOptions(full=full), jobs=1)

    def pack_full_elsewhere(self) -> PackResult:
        """Pack into another store, reading everything, and leave the environment's state as it was."""
        with tempfile.TemporaryDirectory(dir=self.prefix.parent) as other:
            shutil.copytree(self.prefix / ".snapper", f"{other}/state")
            store = open_store(f"{other}/store", create=True)
            result = pack(store, self.prefix, "env", PackOptions(full=True), jobs=1)
            shutil.rmtree(self.prefix / ".snapper")
            shutil.move(f"{other}/state", self.prefix / ".snapper")
            return result

    def previous(self) -> PreviousPack:
        found = previous_pack(self.prefix)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def packed(pristine: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with an environment of two packages, one of them compiled, a distribution, and other files."""
    top = tmp_path_factory.mktemp("packed")
    prefix = copy_environment(pristine("no-python"), top, "first")
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


def copy_environment(source: Path, top: Path, name: str) -> Path:
    """Copy an environment by packing and restoring it."""
    store = open_store(str(top / f"store-{name}"), create=True)
    pack(store, source, "env", jobs=1)
    return restore_env(store, top / name)


def restore_env(store: Store, prefix: Path) -> Path:
    (done,) = restore(store, [RestoreRequest(SnapshotSpec("env"), prefix=prefix)], jobs=1)
    assert isinstance(done, RestoreResult), done
    return prefix


@pytest.fixture
def env(packed: Path, scratch: Path) -> RestoredEnvironment:
    shutil.copytree(packed, scratch / "store")
    store = open_store(str(scratch / "store"))
    return RestoredEnvironment(store, restore_env(store, scratch / "env"))


def mtimes(store: Path) -> dict[str, int]:
    """Return the mtime of every file in a store."""
    return {str(file): file.stat().st_mtime_ns for file in store.rglob("*") if file.is_file()}


def test_repacking_unchanged_environment_writes_nothing(env: RestoredEnvironment, scratch: Path) -> None:
    """After a restore, a pack, and a full pack. Packing under another name only adds that name to the store."""
    assert env.previous().is_unchanged()
    before = mtimes(scratch / "store")
    assert env.pack().unchanged
    assert env.pack(full=True).unchanged
    assert env.previous().is_unchanged()
    assert env.pack().unchanged
    assert mtimes(scratch / "store") == before
    other = pack(env.store, env.prefix, "other", jobs=1)
    assert (other.unchanged, other.added_layers, other.added_size) == (False, 0, 0)
    current = state.read(env.prefix)
    assert current and current.environment == "other"


def test_full_pack_of_a_restored_environment_replaces_nobody_elses_snapshot(env: RestoredEnvironment) -> None:
    (env.prefix / NOTE).write_text("two\n")
    assert env.pack(full=True).replaced is None


def test_files_the_index_vouches_for_are_not_read(env: RestoredEnvironment) -> None:
    """A false index is trusted, except by a full pack."""
    env.pack()
    file = env.prefix / NOTE
    file.write_text("two\n")
    data = (env.prefix / ".snapper" / "index").read_bytes()
    true_index = index.decode(data)
    entries = true_index.entries_by_layer()
    now = next(file for file in scan(env.prefix).files if file.path == NOTE)
    layer = true_index.layer_of(now)
    entries[layer] = [each if each[0] != NOTE else index.index_entry(now) for each in entries[layer]]
    header = index.IndexHeader(
        true_index.header.snapshot, true_index.header.prefix, clock.next_tick(env.prefix)
    )
    blocks = [index.encode_block(number, each) for number, each in sorted(entries.items())]
    (env.prefix / ".snapper" / "index").write_bytes(index.encode(header, blocks))
    assert env.pack().unchanged
    assert not env.pack(full=True).unchanged


def test_change_in_the_same_instant_is_detected(env: RestoredEnvironment) -> None:
    """It is detected even if the size is the same and the old mtime is restored."""
    file = env.prefix / NOTE
    ids = set()
    for number in range(20):
        file.write_text(f"{number:03}\n")
        os.utime(file, (1, 1))
        ids.add(env.pack().snapshot_id)
    assert len(ids) == 20


def test_permission_of_others_to_write_is_neither_packed_nor_restored(env: RestoredEnvironment) -> None:
    """Nothing counts as changed after a restore, and packing the restored environment gives the same snapshot."""
    before = env.pack()
    for path in (env.prefix, *env.prefix.rglob("*")):
        if not path.is_symlink() and ".snapper" not in path.parts:
            path.chmod(path.stat().st_mode | 0o022)
    packed = env.pack(full=True)
    assert packed.snapshot_id == before.snapshot_id
    assert not verify_environment(env.store, env.prefix, jobs=1).different
    again = RestoredEnvironment(env.store, restore_env(env.store, env.prefix.parent / "again"))
    for relative in ("", NOTE, "share/notes", "conda-meta"):
        mode = (env.prefix / relative).stat().st_mode
        assert (again.prefix / relative).stat().st_mode == mode & ~0o022
    drift = InstalledEnvironment(again.prefix).drift()
    assert drift is not None
    assert not drift.paths
    assert again.previous().is_unchanged()
    for full in (False, True):
        assert again.pack(full=full).snapshot_id == packed.snapshot_id


@pytest.mark.parametrize("seconds", [2**34 - 2**31 - 1, 2**40, -(2**31)])
def test_times_far_from_now_are_packed_as_the_nearest_possible(
    env: RestoredEnvironment, seconds: int
) -> None:
    """The index cannot hold times after 2262, nor layers times after 2242 or before 1970."""
    os.utime(env.prefix / NOTE, (seconds, seconds))
    first = env.pack()
    assert env.pack().snapshot_id == first.snapshot_id
    restored = restore_env(env.store, env.prefix.parent / "again")
    assert (restored / NOTE).stat().st_mtime == (0 if seconds < 0 else 8**11 - 1)


def test_index_vouches_only_for_unchanged_files_older_than_itself() -> None:
    file = File("a", "file", 1, 0o644, 5, 7, 9, 11, 1)
    for taken, vouched in ((6, False), (7, False), (8, True)):
        known = index.Index(index.IndexHeader("0" * 64, "/p", taken), {"a": (1, 0o644, 5, 7, 9, 0)})
        assert known.vouches(file, 11) is vouched
    assert not known.vouches(file, 12)
    changed = (
        *(file._replace(size=1000), file._replace(mode=0o755), file._replace(mtime_ns=1000)),
        *(file._replace(ctime_ns=1000), file._replace(ctime_ns=1), file._replace(inode=1000)),
    )
    assert not any(known.vouches(each, 11) for each in changed)


def test_index_distinguishes_what_was_packed_from_what_a_restore_writes() -> None:
    file = File("a", "file", 1, 0o644, 5, 7, 9, 11, 1)
    for number, vouched, layer, restored in (
        (3, True, 3, [("a", 1, 0o644, 5, 7, 9)]),
        (index.rewritten(3), True, 3, []),
        (index.NO_LAYER, False, index.NO_LAYER, []),
    ):
        known = index.Index(index.IndexHeader("0" * 64, "/p", 8), {"a": (1, 0o644, 5, 7, 9, number)})
        assert known.vouches(file, 11) is vouched
        assert known.layer_of(file) == layer
        assert known.entries_by_layer()[3] == restored


def test_coarse_clock_causes_one_more_read(env: RestoredEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock has not advanced since the files were written, for example because it has only whole seconds."""
    newest = max(file.ctime_ns for file in scan(env.prefix).files)
    monkeypatch.setattr(clock, "now", lambda _: newest)
    monkeypatch.setattr(clock, "next_tick", lambda *_, **__: newest)
    env.pack(full=True)
    assert not env.previous().is_unchanged()
    monkeypatch.undo()
    assert env.pack().unchanged
    assert env.previous().is_unchanged()


def test_objects_missing_from_the_store_are_written_again(env: RestoredEnvironment, scratch: Path) -> None:
    """The objects are layers that are missing or truncated, the snapshot, and each of its pages."""
    whole = env.pack().snapshot.layers
    for lost in whole[::2]:
        file = scratch / "store" / Layout.layer(lost.digest)
        os.truncate(file, 5) if lost.kind == "link" else file.unlink()
    again = env.pack()
    assert again.unchanged
    require_layers(env.store, whole)
    shutil.rmtree(scratch / "store" / "snapshots")
    assert env.pack().unchanged
    assert read_snapshot(env.store, again.snapshot_id) == again.snapshot
    for page in page_files(scratch / "store"):
        page.unlink()
        assert env.pack().unchanged
        assert page.exists()


def test_state_files_of_different_packs_are_not_combined(env: RestoredEnvironment) -> None:
    directory = env.prefix / ".snapper"
    env.pack()
    old = {file.name: file.read_bytes() for file in directory.iterdir()}
    (env.prefix / "conda-meta" / "new").write_text("new\n")
    changed = env.pack()
    new = {file.name: file.read_bytes() for file in directory.iterdir()}
    for name, data in old.items():
        (directory / name).write_bytes(data)
        assert env.pack().snapshot_id == changed.snapshot_id, name
        for other, original in new.items():
            (directory / other).write_bytes(original)


def test_pack_command_stores_only_new_files(machine: Machine, pristine: Callable[[str], Path]) -> None:
    machine.run_json("pack", "-p", pristine("no-python"), "-n", "env")
    machine.run_json("restore", "env", "--envs-dir", machine.envs)
    (machine.envs / "env" / "share" / "new").write_text("new\n")
    changed = machine.run_json("pack", "env")
    assert (changed["unchanged"], changed["added_layers"]) == (False, 1)
    assert machine.run_json("pack", "env", "--full")["snapshot"] == changed["snapshot"]


Change = Callable[[Path, str], None]


def rewrite(prefix: Path, path: str) -> None:
    """Change the file in env, keeping size and mtime."""
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


def add_hard_link(prefix: Path, path: str) -> None:
    (prefix / f"{path}.twin").unlink(missing_ok=True)
    (prefix / f"{path}.twin").hardlink_to(prefix / path)


def make_symlink(prefix: Path, path: str) -> None:
    (prefix / path).unlink()
    (prefix / path).symlink_to("elsewhere")


def add_beside(prefix: Path, path: str) -> None:
    (prefix / path).with_name("new").write_text(f"{prefix}\n")


def empty_directory(prefix: Path, path: str) -> None:
    shutil.rmtree((prefix / path).parent)
    (prefix / path).parent.mkdir()


def restrict_directory(prefix: Path, path: str) -> None:
    (prefix / path).parent.chmod(0o700)


def remove_record(prefix: Path, path: str) -> None:
    for record in sorted(prefix.glob("conda-meta/*.json"))[:1]:
        record.unlink()


def compile_beside(prefix: Path, path: str) -> None:
    """Add a module compiled from a source that another owner has."""
    file = prefix / path
    module = file.parent / "__pycache__" / f"{file.name.partition('.')[0]}.cpython-311.pyc"
    module.parent.mkdir(exist_ok=True)
    time = int(file.stat().st_mtime) & 0xFFFFFFFF
    module.write_bytes(b"\xa7\r\r\n\0\0\0\0" + time.to_bytes(4, "little") + b"\0" * 4 + b"\xe3")


CHANGES: list[Change] = [
    *(rewrite, replace, touch, remove, protect, add_hard_link, make_symlink, add_beside, empty_directory),
    *(restrict_directory, remove_record, compile_beside),
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
def test_incremental_pack_equals_full_pack(packed: Path, rounds: list[list[tuple[Change, str]]]) -> None:
    """After each round of changes to a restored environment, the snapshot is the same as that of a full pack."""
    with tempfile.TemporaryDirectory(dir=packed.parent) as top:
        shutil.copytree(packed, f"{top}/store")
        store = open_store(f"{top}/store")
        env = RestoredEnvironment(store, restore_env(store, Path(top, "env")))
        for changes in rounds:
            for change, path in changes:
                if (env.prefix / path).is_file() and not (env.prefix / path).is_symlink():
                    change(env.prefix, path)
            assert env.pack().snapshot == env.pack_full_elsewhere().snapshot


def test_hard_links_to_rewritten_files_are_rewritten(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They get their data from another layer."""
    monkeypatch.setattr(splitting, "LAYER_SIZE", 1000)
    (scratch / "env/conda-meta").mkdir(parents=True)
    (scratch / "env/conda-meta/history").touch()
    (scratch / "link").symlink_to("env")
    (scratch / "env/one").write_text(f"{scratch}/env/bin")
    (scratch / "env/second").write_bytes(bytes(1000))
    (scratch / "env/third").hardlink_to(scratch / "env/one")
    pack(open_store(str(scratch / "store"), create=True), scratch / "link", "env", jobs=1)
    known = state.read_index(scratch / "link")
    assert known
    assert {path: row[5] for path, row in known.rows.items()} == {
        "conda-meta/history": 0,
        "one": index.rewritten(0),
        "second": 1,
        "third": index.rewritten(2),
    }


def test_files_with_a_prefix_that_is_found_later_are_read_again(scratch: Path) -> None:
    """A distribution's file that has not changed since contains it. It is announced by each pack."""

    def install(name: str, program: str) -> None:
        metadata = prefix / f"lib/python3.11/site-packages/{name}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Name: {name}\nVersion: 1.0\nHome-page: file:///volume/env/{name}"
        )
        (metadata / "RECORD").write_text(f"{metadata.name}/METADATA,,\n../../../bin/{name},,\n")
        (prefix / "bin" / name).write_text(f"#!{program}\n")

    prefix = scratch / "env"
    env = RestoredEnvironment(open_store(str(scratch / "store"), create=True), prefix)
    for directory in ("conda-meta", "bin"):
        (prefix / directory).mkdir(parents=True)
    (prefix / "conda-meta/history").touch()
    for name in ("one", "two"):
        install(name, f"{prefix}/bin/{name}")
    assert env.pack().found_prefixes == ()
    install("three", "/volume/env/bin/three")
    after = env.pack()
    assert after.snapshot == env.pack_full_elsewhere().snapshot
    assert after.found_prefixes == env.pack().found_prefixes == (str(prefix), "/volume/env")


def test_layers_of_others_are_shared_only_if_they_have_the_stated_content(
    new_machine: Callable[[str], Machine],
) -> None:
    """Whoever publishes another environment can state any content for a layer, also that of a future environment."""
    victim = new_machine("victim")
    prefix = victim.envs / "work"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta" / "history").touch()
    (prefix / "tool").write_text("what the victim has packed")
    digest = victim.run_json("pack", "work")["snapshot"]
    document = snapshot_document(victim.store, digest)
    for layer in document["layers"]:
        forged = zstandard.compress(_contents(victim.store, layer).replace(b"victim", b"forger"))
        layer.update(digest=hashlib.sha256(forged).hexdigest(), size=len(forged))
        (victim.store / Layout.layer(layer["digest"])).parent.mkdir(exist_ok=True)
        (victim.store / Layout.layer(layer["digest"])).write_bytes(forged)
    forged_digest = write_snapshot(victim.store, document)
    edit_ref(victim.store, "work", lambda ref: _name_other(ref, forged_digest))
    (victim.store / "environments" / "work.json").rename(victim.store / "environments" / "other.json")

    colleague = new_machine("colleague")
    shutil.copytree(prefix, colleague.envs / "mine", ignore=shutil.ignore_patterns(".snapper"))
    colleague.run_json("pack", "mine")
    colleague.run_json("restore", "mine", "--prefix", colleague.home / "restored")
    assert (colleague.home / "restored" / "tool").read_text() == "what the victim has packed"


def _contents(store: Path, layer: dict[str, Any]) -> bytes:
    """Return the decompressed contents of the layer."""
    stored = (store / Layout.layer(layer["digest"])).read_bytes()
    return zstandard.ZstdDecompressor().decompress(stored, max_output_size=layer["diff_size"])


def _name_other(ref: dict[str, Any], digest: str) -> None:
    """Make the document that of the environment `other`, whose only snapshot has this digest."""
    ref.update(name="other", current=digest)
    ref["history"] = [{**ref["history"][-1], "snapshot": digest}]


def test_layers_of_others_that_have_the_stated_content_are_shared(
    new_machine: Callable[[str], Machine],
) -> None:
    """They are read once, and not again by the next pack."""
    first, second = new_machine("first"), new_machine("second")
    prefix = first.envs / "work"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta" / "history").touch()
    (prefix / "tool").write_text("shared")
    first.run_json("pack", "work")
    shutil.copytree(prefix, second.envs / "mine", ignore=shutil.ignore_patterns(".snapper"))
    assert second.run_json("pack", "mine")["added_layers"] == 0
    checked = second.home / ".local" / "state" / "snapper" / "checked-layers"
    before = checked.read_bytes()
    assert second.run_json("pack", "mine", "--name", "again", "--full")["added_layers"] == 0
    assert checked.read_bytes() == before


# --- file systems that give all files one owner -----------------------------------------------------------


@pytest.fixture
def one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all file systems counted as NFS, as an access point of EFS is."""
    mounts_file = tmp_path / "mountinfo"
    mounts_file.write_text(re.sub(r" - \S+ ", " - nfs4 ", Path("/proc/self/mountinfo").read_text()))
    monkeypatch.setattr(mounts, "_MOUNTS", mounts_file)


def layers_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the keys of layers are added that this process reads from any store."""
    read: list[str] = []

    def counted(store: LocalStore, key: str, *limit: int, original: Any = LocalStore.read) -> Any:
        read.extend([key] if key.startswith("layers/") else [])
        return original(store, key, *limit)

    monkeypatch.setattr(LocalStore, "read", counted)
    return read


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the kind of a file system")
@pytest.mark.usefixtures("one_owner")
@pytest.mark.parametrize("command", ["pack", "push"])
def test_layers_of_an_unknown_writer_are_read_once(
    command: str, env: RestoredEnvironment, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may have planted layers that look like this user's own."""

    def publish() -> int:
        if command == "pack":
            return pack(target, env.prefix, "env", jobs=1).added_layers
        (copied,) = copy_environments(env.store, target, [SnapshotSpec("env")], force=True)
        assert isinstance(copied, CopyResult)
        return copied.added_layers

    target = open_store(str(scratch / "target"), create=True)
    source = Path(env.store.url)
    for layer in source.glob("layers/*/*"):
        planted = scratch / "target" / layer.relative_to(source)
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_bytes(bytes(layer.stat().st_size))
    read = layers_read(monkeypatch)
    assert publish() == len([*source.glob("layers/*/*")])
    restore_env(target, scratch / "copy")
    read.clear()
    (scratch / "target/environments/env.json").unlink()
    assert publish() == 0
    assert read == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the kind of a file system")
@pytest.mark.usefixtures("one_owner")
def test_layers_that_others_replace_while_they_are_written_are_not_taken_for_own_ones(
    env: RestoredEnvironment, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = LocalStore.put

    def put_and_replace(store: LocalStore, key: str, data: bytes | memoryview) -> str:
        written = put(store, key, data)
        if key.startswith(Layout.LAYERS):
            other = store.root / f"{key}.other"
            other.write_bytes(bytes(len(data)))
            other.rename(store.root / key)
        return written

    pushed = open_store(str(scratch / "pushed"), create=True)
    packed = open_store(str(scratch / "packed"), create=True)
    for replaced in (True, False):
        monkeypatch.setattr(LocalStore, "put", put_and_replace if replaced else put)
        (copied,) = copy_environments(env.store, pushed, [SnapshotSpec("env")], force=True)
        assert isinstance(copied, CopyResult) and copied.added_layers > 1
        assert pack(packed, env.prefix, "env", jobs=1).added_layers == copied.added_layers
        (scratch / "pushed/environments/env.json").unlink()


@pytest.mark.parametrize("owners", ["true", "one"])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the kind of a file system")
def test_layers_that_were_restored_are_not_read_again(
    owners: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if owners == "one":
        request.getfixturevalue("one_owner")
    env: RestoredEnvironment = request.getfixturevalue("env")
    (env.prefix / "new").write_text("new")
    read = layers_read(monkeypatch)
    assert env.pack().added_layers == 1
    assert read == []


# --- where layers end -------------------------------------------------------------------------------------


def test_files_stay_in_their_layers_at_other_prefixes(scratch: Path, machine: Machine) -> None:
    """The sizes of a distribution's and the user's files depend on the prefix, and where layers end does not."""
    prefix = make_data(scratch / "original")
    site = prefix / "lib/python3.12/site-packages"
    (site / "big-1.0.dist-info").mkdir(parents=True)
    (site / "big-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: big\nVersion: 1.0\n")
    (site / "big-1.0.dist-info/RECORD").write_text("".join(f"big/{number}.txt,,\n" for number in range(5)))
    # Four files of `big` fit in a layer, but would not at a longer prefix; those of `mine` would at a shorter one.
    for top, size in (("big", LAYER_SIZE // 4 - 1_000), ("mine", LAYER_SIZE // 4 + 1_000)):
        (site / top).mkdir()
        for number in range(5):
            paths = f"{prefix}/bin\n" * 500
            (site / top / f"{number}.txt").write_text(paths + "x" * (size - len(paths)))
    packed = machine.run_json("pack", "-p", prefix, "--name", "env")
    for target in ("s", "a-prefix-that-is/much/longer/than/before"):
        moved = scratch / target
        machine.run_json("restore", "env", "--prefix", moved)
        again = machine.run_json("pack", "-p", moved, "--name", "env", "--full")
        assert (again["snapshot"], again["added_layers"]) == (packed["snapshot"], 0)
    for top in ("big", "mine"):
        (moved / "lib/python3.12/site-packages" / top / "1.txt").write_text("changed")
    assert machine.run_json("pack", "-p", moved, "--name", "env")["added_layers"] == 2
    (moved / "lib/python3.12/site-packages/mine/0.txt").unlink()
    for name in ("2b.txt", "2c.txt"):
        (moved / "lib/python3.12/site-packages/mine" / name).write_text("new")
    assert machine.run_json("pack", "-p", moved, "--name", "env")["added_layers"] == 1
