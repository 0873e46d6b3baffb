"""Verify: check a store, repair it, or compare an environment on disk with its snapshot."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from snapper.checks.compare import compare_environment
from snapper.checks.store import Problem, StoreCheck
from snapper.commands.repair import RepairedObject, local_sources, repair_objects
from snapper.environment.installed import InstalledEnvironment
from snapper.errors import UsageError
from snapper.format.compression import DEFAULT_LEVEL
from snapper.format.layout import Layout
from snapper.process.pool import WorkerPool
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.snapshots import read_snapshot
from snapper.repository.specs import SnapshotSpec, resolve_spec
from snapper.restoring.layer_comparison import FileDifference
from snapper.store import Store


@dataclass(frozen=True)
class LayerSample:
    """Which layers to read: a random `share` of them, or part `number` (from 0) of `of` parts.

    The parts are disjoint and together are all layers. The same `seed` always draws the same layers.
    """

    share: float = 1.0
    number: int = 0
    of: int = 1
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> LayerSample:
        """Return the sample for `all`, `5%` or `1/7`; raise UsageError for anything else."""
        if text == "all":
            return cls()
        percent = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%", text)
        if percent and 0 < float(percent[1]) <= 100:
            return cls(share=float(percent[1]) / 100, seed=secrets.randbits(64))
        fraction = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if fraction and 1 <= int(fraction[1]) <= int(fraction[2]):
            return cls(number=int(fraction[1]) - 1, of=int(fraction[2]))
        raise UsageError(
            f"--data={text}: not a valid fraction",
            "Use --data, --data=5%, or one of N parts such as --data=1/7.",
        )

    def choose(self, digests: Iterable[str]) -> list[str]:
        """Return the digests in the sample, in order; at least one unless the part is empty."""
        part = [digest for digest in sorted(digests) if int(digest[-8:], 16) % self.of == self.number]
        if self.share == 1.0:
            return part
        shuffled = sorted(part, key=lambda digest: sha256(f"{self.seed} {digest}".encode()).digest())
        return sorted(shuffled[: max(1, round(len(part) * self.share))])


@dataclass(frozen=True)
class VerifyResult:
    """How many objects a store has, how many of its layers were read (`size` bytes), and the problems found."""

    environments: int
    snapshots: int
    layers: int
    read: int
    size: int
    problems: tuple[Problem, ...]

    def without(self, keys: Collection[str]) -> VerifyResult:
        """Return the result without problems of these objects."""
        return replace(self, problems=tuple(problem for problem in self.problems if problem.key not in keys))


@dataclass(frozen=True)
class RepairResult:
    """A store after its repair, and the objects that were replaced."""

    verified: VerifyResult
    repaired: tuple[RepairedObject, ...]


@dataclass(frozen=True)
class EnvironmentCheck:
    """How an environment on disk differs from its snapshot."""

    environment: str
    prefix: str
    snapshot_id: str
    different: tuple[FileDifference, ...]


def verify_store(
    store: Store,
    sample: LayerSample | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> VerifyResult:
    """Check the store's objects against their names and each other, and read the layers of a sample, if one is given.

    Problems are checked twice, so that packs and prunes may run at the same time. Raise what the store raises.
    """
    check = StoreCheck(store)
    digests = sample.choose(check.layers) if sample else []
    if digests:
        check.check_layers(digests, jobs, progress)
    if check.problems:
        check.confirm()
    return VerifyResult(
        environments=check.environments,
        snapshots=len(check.snapshots),
        layers=len(check.layers),
        read=len(digests),
        size=sum(check.layers[digest].size for digest in digests),
        problems=check.problems,
    )


def verify_and_repair(
    store: Store,
    sample: LayerSample | None = None,
    sources: Mapping[str, Store] | None = None,
    *,
    level: int = DEFAULT_LEVEL,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> RepairResult:
    """Verify the store, replace corrupted objects by good copies, and verify again while that reveals new problems.

    Copies come from `sources`, by their names, or by default from the environments on this machine, which are packed
    at `level` for that. Raise what the store raises.
    """
    result = verify_store(store, sample, jobs=jobs, progress=progress)
    repaired: dict[str, RepairedObject] = {}
    while result.problems:
        keys = [problem.key for problem in result.problems]
        with _sources_for(result.problems, sources, level, jobs, progress) as copies:
            replaced = repair_objects(store, keys, copies)
        new = {item.key: item for item in replaced if item.key not in repaired}
        repaired.update(new)
        if all(key.startswith(Layout.LAYERS) for key in new):
            result = result.without(new)
            break
        # What repaired snapshots and pages refer to has not been checked yet.
        result = verify_store(store, sample, jobs=jobs, progress=progress)
    return RepairResult(result, tuple(repaired.values()))


@contextmanager
def _sources_for(
    problems: Iterable[Problem],
    sources: Mapping[str, Store] | None,
    level: int,
    jobs: int | None,
    progress: Progress,
) -> Iterator[Mapping[str, Store]]:
    if sources is not None:
        yield sources
        return
    environments = {name for problem in problems for name in problem.environments}
    with local_sources(environments, level=level, jobs=jobs, progress=progress) as local:
        yield local


def verify_environment(
    store: Store,
    prefix: Path,
    spec: SnapshotSpec | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> EnvironmentCheck:
    """Compare every byte of the environment at the prefix with a snapshot: the one that `spec` names, or by default the
    one that it was last packed as or restored from.

    Raise UsageError if there is no such snapshot, NotAnEnvironment, NotInStore, Corrupted, PermissionDenied,
    FileOperationFailed.
    """
    installed = InstalledEnvironment(prefix)
    _ = installed.tree  # raises NotAnEnvironment before anything is read from the store
    snapshot_id = _snapshot_to_verify(store, installed, spec)
    snapshot = read_snapshot(store, snapshot_id)
    with WorkerPool(store, jobs) as workers:
        progress.start(f"Verifying {prefix.name}", snapshot.size)
        differences = compare_environment(snapshot_id, snapshot, installed, workers, progress)
    progress.done()
    name = installed.state.environment if installed.state else prefix.name
    return EnvironmentCheck(name, str(prefix), snapshot_id, differences)


def _snapshot_to_verify(store: Store, installed: InstalledEnvironment, spec: SnapshotSpec | None) -> str:
    if spec is not None and spec.snapshot:
        return resolve_spec(store, spec)[1]
    if installed.state is None:
        raise UsageError(
            f"cannot tell which snapshot {installed.prefix} belongs to",
            "Give it: snapper verify ENV@SNAPSHOT --prefix DIR.",
        )
    return installed.state.snapshot
