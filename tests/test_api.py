"""The public Python API: what `import snapper` exposes, on a real environment."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import snapper
from snapper.errors import EnvironmentNotFound, NotInStore, TargetOccupied

ROOT = Path(__file__).parent.parent


class Recording:
    """Progress that records its calls."""

    def __init__(self) -> None:
        self.total = self.size = 0
        self.ended = False

    def start(self, task: str, total: int) -> None:
        self.total, self.size = total, 0

    def advance(self, size: int) -> None:
        self.size += size

    def note(self, text: str) -> None: ...

    def done(self) -> None:
        self.ended = True


@pytest.fixture
def store(tmp_path: Path) -> snapper.Store:
    return snapper.open_store(str(tmp_path / "store"), create=True)


@pytest.fixture
def environment(pristine: Callable[[str], Path], tmp_path: Path) -> Path:
    """An environment that tests may change: packing writes its state into it."""
    return Path(shutil.copytree(pristine("data"), tmp_path / "environment", symlinks=True))


def test_every_public_name_exists_and_has_documentation() -> None:
    for name in snapper.__all__:
        value = getattr(snapper, name)
        if callable(value):
            assert inspect.getdoc(value), name


def test_every_public_function_is_described_in_the_documentation() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    functions = [name for name in snapper.__all__ if inspect.isfunction(getattr(snapper, name))]
    assert len(functions) >= 20
    for name in functions:
        assert re.search(rf"`{name}\(", text), name


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        snapper.nothing  # noqa: B018


def test_import_loads_neither_boto3_nor_typer_nor_the_commands() -> None:
    code = "import sys, snapper; print([m for m in sys.modules if m.startswith(('boto', 'typer', 'rich', 'snapper.'))])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['snapper.version']"


def test_packing_and_restoring_report_progress_and_typed_results(
    store: snapper.Store, environment: Path, tmp_path: Path
) -> None:
    packing, restoring = Recording(), Recording()
    packed = snapper.pack(store, environment, name="work", message="hello", progress=packing)
    assert isinstance(packed, snapper.PackResult)
    assert packed.environment == "work"
    assert packing.ended
    assert packing.size > 0 < packing.total

    restored = snapper.restore(store, "work", prefix=tmp_path / "restored", progress=restoring)
    assert isinstance(restored, snapper.RestoreResult)
    assert (restored.snapshot_id, restored.present) == (packed.snapshot_id, False)
    assert restoring.ended
    assert 0 < restoring.size == restoring.total
    assert not snapper.verify_environment(store, tmp_path / "restored").different

    again = snapper.restore(store, "work", prefix=tmp_path / "restored")
    assert again.present


def test_history_and_contents_of_a_store(store: snapper.Store, environment: Path, tmp_path: Path) -> None:
    packed = snapper.pack(store, environment, name="work", message="hello")
    (stored,) = snapper.environments(store)
    assert stored.ref is not None
    assert (stored.name, stored.ref.current) == ("work", packed.snapshot_id)
    (step,) = snapper.snapshots(store, "work")
    assert (step.entry.message, step.current) == ("hello", True)
    snapper.tag(store, "work", "first")
    assert snapper.read_snapshot(store, "work@first") == packed.snapshot
    assert snapper.untag(store, "work", "first").before == packed.snapshot_id

    other = snapper.open_store(str(tmp_path / "other"), create=True)
    (copied,) = snapper.copy(store, other)
    assert isinstance(copied, snapper.CopyResult)
    assert snapper.read_snapshot(other, "work") == packed.snapshot
    snapper.remove(other, "work")
    assert snapper.environments(other) == ()


def test_errors_are_typed_and_carry_their_data(store: snapper.Store, environment: Path) -> None:
    snapper.pack(store, environment, name="work")
    with pytest.raises(NotInStore) as missing:
        snapper.read_snapshot(store, "wrok")
    assert missing.value.known == ("work",)
    assert "work" in missing.value.hint
    with pytest.raises(EnvironmentNotFound):
        snapper.pack(store, "no-such-environment")


def test_restore_raises_what_is_in_the_way_and_restore_all_yields_it(
    store: snapper.Store, environment: Path, tmp_path: Path
) -> None:
    snapper.pack(store, environment, name="work")
    envs = tmp_path / "envs"
    (envs / "work").mkdir(parents=True)
    (envs / "work" / "mine.txt").write_text("mine")
    with pytest.raises(TargetOccupied):
        snapper.restore(store, "work", envs_dir=envs)
    (failure,) = snapper.restore_all(store, envs_dir=envs)
    assert isinstance(failure, snapper.RestoreFailure)
    assert isinstance(failure.error, TargetOccupied)
    assert (envs / "work" / "mine.txt").read_text() == "mine"


def test_prune_applies_only_when_asked(store: snapper.Store, environment: Path) -> None:
    snapper.pack(store, environment, name="work")
    snapper.remove(store, "work")
    assert snapper.prune(store, grace=-1).size > 0
    assert snapper.prune(store, grace=-1, apply=True).size > 0
    assert snapper.prune(store, grace=-1).size == 0
    assert not snapper.verify(store).problems
