"""Repair: replace corrupted objects of a store with good copies."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from snapper.commands.pack import PackOptions, pack
from snapper.environment.installed import InstalledEnvironment
from snapper.environment.locations import installed_environments
from snapper.environment.prefixes import ForeignPrefix
from snapper.errors import SnapperError
from snapper.format.compression import DEFAULT_LEVEL
from snapper.format.layout import Layout
from snapper.fs.temporary import temporary_directory
from snapper.process.progress import NO_PROGRESS, Progress
from snapper.repository.objects import is_intact, read_verified, write_pages
from snapper.repository.snapshots import write_snapshot
from snapper.store import Store, open_store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepairedObject:
    """An object that was replaced, and the name of the source of its good copy."""

    key: str
    source: str


def repair_objects(
    store: Store, keys: Iterable[str], sources: Mapping[str, Store]
) -> tuple[RepairedObject, ...]:
    """Replace those of the snapshots, pages and layers that are corrupted, each from the first source with a good copy.

    Objects without a good copy stay as they are, and so do objects of other kinds: nothing proves what they should be.
    Errors of the store are raised, those of sources are not.
    """
    repaired = []
    for key in keys:
        digest = Layout.digest_of(key)
        # An intact object must not disappear even for a moment: others may be reading it.
        if not digest or is_intact(store, key, digest):
            continue
        for name, source in sources.items():
            data = _read_good_copy(source, key, digest)
            if data is not None:
                store.delete(key)
                store.put(key, data)
                repaired.append(RepairedObject(key, name))
                break
    return tuple(repaired)


@contextmanager
def local_sources(
    environments: Collection[str],
    *,
    level: int = DEFAULT_LEVEL,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Iterator[Mapping[str, Store]]:
    """Pack the environments with these names that are on this machine; yield a temporary store for each, by its prefix.

    The prefixes of their earlier snapshots are replaced by the same placeholders as before, so unchanged files give
    the same layers.
    """
    with temporary_directory() as directory:
        sources: dict[str, Store] = {}
        for prefix in installed_environments():
            installed = InstalledEnvironment(prefix)
            state = installed.state
            if state is None or state.environment not in environments:
                continue
            previous = installed.previous
            if previous is None:
                continue
            copy = open_store(str(directory / str(len(sources))), create=True)
            sources[str(prefix)] = copy
            write_pages(copy, previous.encoded.pages)
            write_snapshot(copy, previous.encoded)
            placeholders, kept = previous.placeholders(), previous.kept_prefixes()
            try:
                foreign_prefix = ForeignPrefix(installed.prefix_in_files, placeholders, kept)
                options = PackOptions(level=level, editables="ignore", foreign_prefix=foreign_prefix)
                pack(copy, installed.directory, state.environment, options, jobs=jobs, progress=progress)
            except SnapperError as error:
                progress.note(f"{prefix} cannot be used for repair: {error.message}")
            except Exception as error:  # others chose what is in the environment
                logger.exception("%s could not be packed for repair", prefix)
                progress.note(f"{prefix} cannot be used for repair: {type(error).__name__}: {error}")
        yield sources


def _read_good_copy(source: Store, key: str, digest: str) -> bytes | None:
    try:
        return read_verified(source, key, digest)
    except SnapperError:
        return None
