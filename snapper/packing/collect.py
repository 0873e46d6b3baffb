"""Read the files of an environment into layers: what a packing worker does.

A file that a package has a checksum of is proved to be the package's: its canonical bytes hash to what the package's
record says. Files that cannot be proved are returned, to be packed with link-time and altered files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

from snapper.environment.conda import FileFacts
from snapper.environment.record_text import with_facts
from snapper.environment.tree import File
from snapper.errors import FileOperationFailed
from snapper.format import bytecode
from snapper.format.canonicalize import (
    BINARY_PLACEHOLDER,
    CanonicalFile,
    candidate_originals,
    canonicalize,
    search_patterns,
    with_one_prefix,
)
from snapper.format.constraints import LONGEST_TARGET, check_target, directory_mode, file_mode, path_bytes
from snapper.format.encodings import find_wide_encoding
from snapper.format.escapes import contains_escaped, halves
from snapper.format.layer_builder import LayerBuilder, SealedLayer
from snapper.format.layout import Layout
from snapper.format.member import Member
from snapper.format.model import LAYER_SIZE, Kind, Layer, Mode
from snapper.format.paths import contained_paths, contains_path
from snapper.format.times import LINK_TIME, NANOSECONDS, RESTORED_LINK_TIME, stored_time
from snapper.packing.context import PackContext
from snapper.packing.files import read_file, read_into
from snapper.packing.items import CollectedGroup, FileGroup, FoundPrefixes, PackItem, RelocatedFacts
from snapper.packing.uploads import upload_queue
from snapper.process.worker import Deferred

#: What the prefix in a symlink's target is replaced with.
_LINK_PLACEHOLDER = "/opt/snapper_prefix_placehold"


@dataclass
class _Collection:
    """The state of one group's collection."""

    context: PackContext
    builder: LayerBuilder
    group: FileGroup
    layers: list[Layer] = field(default_factory=list)
    written: list[Callable[[], str]] = field(default_factory=list)
    unproved: list[PackItem] = field(default_factory=list)
    facts: dict[str, RelocatedFacts] = field(default_factory=dict)
    unrelocated: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    prefixes: FoundPrefixes = field(default_factory=FoundPrefixes)

    def seal(self) -> None:
        if not self.builder.empty:
            sealed = self.builder.seal(self.group.kind, self.group.owner, self.context.find_stored)
            self.layers.append(sealed.layer)
            self.written.append(store_layer(self.context, sealed))

    def make_room(self, size: int) -> None:
        if not self.builder.has_room(size):
            self.seal()

    def result(self) -> CollectedGroup:
        """Wait until all layers are stored, and return what was collected."""
        return CollectedGroup(
            tuple(self.layers),
            tuple(identity() for identity in self.written),
            tuple(self.unproved),
            self.facts,
            tuple(self.unrelocated),
            tuple(self.rewritten),
            self.prefixes,
        )

    def context_of(self, file: File, data: memoryview) -> PackContext:
        """Return what is known for a file, without prefixes by which it means other environments; note these."""
        candidates = self.context.others.get(file.path, ())
        if not candidates:
            return self.context
        content = bytes(data)
        is_compiled = file.path.endswith(".pyc")  # what precedes a path in it can be any byte
        paths = {*self.context.prefixes, *candidates}
        contained = paths if is_compiled else {*contained_paths(content, paths)}
        named = tuple(
            path
            for path in candidates
            if (path in contained or find_wide_encoding(content, path))
            and not self.context.is_copy(path, file.path, content)
        )
        if named and not is_compiled:  # its source names them
            self.prefixes.others[file.path] = named
        return self.context.without(named) if named else self.context


def collect_group(context: PackContext, group: FileGroup) -> Deferred[CollectedGroup]:
    """Pack a group of files, none of them larger than a layer, and store its layers in the background."""
    collection = _Collection(context, layer_builder(context.level), group, facts=dict(group.facts))
    unproved: set[str] = set()
    for item in group.items:
        if item.file.type != "file":
            _add_without_data(collection, item)
        elif item.file.path in group.records:
            _add_record(collection, item)
        elif item.linked and item.linked not in unproved:
            collection.make_room(0)
            is_retimed = item.made_at_link or bool(item.entry and item.entry.placeholder)
            collection.builder.add(member_of(item, group.kind, at_link=is_retimed))
        elif group.kind != "package":
            _add_as_is(collection, item)
        elif not _add_proved(collection, item):
            unproved.add(item.file.path)
    collection.seal()
    return Deferred(collection.result)


@cache
def layer_builder(level: int) -> LayerBuilder:
    """Return this process's builder, whose buffers are reused."""
    return LayerBuilder(level)


def store_layer(context: PackContext, sealed: SealedLayer) -> Callable[[], str]:
    """Start storing the layer; return a function that waits for that and returns what `Store.put` does."""
    if sealed.data is None:
        return lambda: ""
    context.intent.declare()
    return upload_queue().put(context.store, Layout.layer(sealed.layer.digest), sealed.data).result


def member_of(item: PackItem, kind: Kind, size: int | None = None, *, at_link: bool = False) -> Member:
    """Return the tar member for a file or hard link, with canonical mode and time.

    `at_link` says that it got its time when it was installed. Times of other files from packages are whole seconds
    unless a cache depends on them: some installers round them, some do not.
    """
    file = item.file
    seconds, nanoseconds = divmod(stored_time(file.mtime_ns), NANOSECONDS)
    if at_link or item.made_at_link:
        seconds, nanoseconds = LINK_TIME, 0
    elif kind == "package" and not item.exact_time:
        nanoseconds = 0
    mode = file_mode(file.mode)
    if item.linked:
        return Member(file.path, "hardlink", mode, seconds, 0, item.linked, nanoseconds)
    return Member(file.path, "file", mode, seconds, file.size if size is None else size, "", nanoseconds)


def facts_of(disk: bytes, stored: bytes) -> RelocatedFacts:
    """Return checksums and sizes of a relocated file."""
    return RelocatedFacts(
        FileFacts(hashlib.sha256(disk).hexdigest(), len(disk)),
        FileFacts(hashlib.sha256(stored).hexdigest(), len(stored)),
    )


def _add_without_data(collection: _Collection, item: PackItem) -> None:
    """Add a directory or a symlink. Raise FileOperationFailed if no link can have the target."""
    file = item.file
    collection.make_room(0)
    if file.type == "directory":
        collection.builder.add(
            Member(file.path, "directory", directory_mode(file.path, file.mode), LINK_TIME)
        )
        return
    target, canonical = file.target, None
    prefix = _prefix_of_target(collection, file)
    if prefix is not None:
        relocated = _LINK_PLACEHOLDER + target[len(prefix) :]
        if len(path_bytes(relocated)) <= LONGEST_TARGET:
            target, canonical = relocated, CanonicalFile(b"", "link", _LINK_PLACEHOLDER)
        else:
            collection.unrelocated.append(file.path)
        if prefix != collection.context.prefix:
            collection.rewritten.append(file.path)
            collection.prefixes.own.add(prefix)
    try:
        check_target(target)
    except ValueError as error:  # one that leads to what is included has another target than on disk
        raise FileOperationFailed(f"{collection.context.directory}/{file.path}", str(error)) from None
    collection.builder.add(Member(file.path, "symlink", 0o777, LINK_TIME, 0, target), how=canonical)


def _prefix_of_target(collection: _Collection, link: File) -> str | None:
    """Return the longest prefix that a link's target is or begins with, if any; note another environment's."""
    context, target = collection.context, link.target
    others = context.others.get(link.path, ())
    prefixes = sorted({*context.prefixes, *others}, key=len, reverse=True)
    prefix = next((prefix for prefix in prefixes if f"{target}/".startswith(f"{prefix}/")), None)
    if prefix in others and not context.is_copy_of_link(prefix, link):
        collection.prefixes.others[link.path] = (prefix,)
        return None
    return prefix


def _add_proved(collection: _Collection, item: PackItem) -> bool:
    """Add a file if its checksum proves that it is the package's; otherwise note it as unproved."""
    entry = item.entry
    assert entry is not None
    if not entry.placeholder:
        collection.make_room(item.file.size)
        view = collection.builder.stage(member_of(item, "package"))
        read_into(collection.context.place_of(item.file), item.file, view)
        sha256 = hashlib.sha256(view).hexdigest()
        if sha256 == entry.sha256:
            collection.builder.keep()
        else:
            collection.unproved.append(item._replace(made_at_link=sha256 == entry.sha256_in_prefix))
        return sha256 == entry.sha256
    data = read_file(collection.context.place_of(item.file), item.file)
    originals = (
        (prefix, original)
        for prefix in collection.context.prefixes
        for original in candidate_originals(data, entry.mode, entry.placeholder, prefix)
    )
    for prefix, original in originals:
        if hashlib.sha256(original).hexdigest() == entry.sha256:
            collection.make_room(len(original))
            canonical = None
            is_relocated = original != data
            if is_relocated or entry.placeholder.encode() in data:  # never relocated: an unpacked archive's
                canonical = CanonicalFile(original, entry.mode, entry.placeholder)
                collection.facts[item.file.path] = facts_of(data, original)
                if not is_relocated or prefix != collection.context.prefix:
                    collection.rewritten.append(item.file.path)
                    collection.prefixes.own.add(prefix)
            collection.builder.add(
                member_of(item, "package", len(original), at_link=True), original, canonical
            )
            return True
    as_linked = hashlib.sha256(data).hexdigest() == entry.sha256_in_prefix
    collection.unproved.append(item._replace(made_at_link=as_linked))
    return False


def _add_as_is(collection: _Collection, item: PackItem) -> None:
    """Add a file as it is on disk, relocated if it contains the prefix and relocation can be undone."""
    builder, file = collection.builder, item.file
    member = member_of(item, collection.group.kind)
    view = builder.stage(member)
    read_into(collection.context.place_of(file), file, view)
    context = collection.context_of(file, view)
    data = _rewritten(context, item, view)
    if _is_restored_otherwise(file.path, view, data):
        collection.rewritten.append(file.path)
    if data is not None or _may_be_relocated(context, builder, item, view):
        _add_canonical(collection, context, item, bytes(view) if data is None else data)
    elif builder.has_room(file.size):
        builder.keep()
    else:
        data = bytes(view)
        collection.seal()
        builder.add(member, data)


def _may_be_relocated(context: PackContext, builder: LayerBuilder, item: PackItem, view: memoryview) -> bool:
    """Return whether the staged file may contain a prefix, or had a placeholder or a kept prefix before."""
    if context.earlier_placeholders(item.file) or context.kept_prefixes(item.file):
        return True
    head, has_nul = bytes(view[:256]), builder.has_nul()
    prefixes = (*context.prefixes, *context.foreign_prefixes) if has_nul else context.prefixes
    patterns = (
        pattern
        for prefix in prefixes
        for pattern in search_patterns(prefix, head, has_nul=has_nul, prebuilt=item.prebuilt)
    )
    return any(map(builder.mentions, patterns)) or (
        not has_nul
        and any(
            any(map(builder.mentions, halves(prefix))) and contains_escaped(bytes(view), prefix)
            for prefix in prefixes
        )
    )


def _add_canonical(collection: _Collection, context: PackContext, item: PackItem, data: bytes) -> None:
    """Add a file with this data in canonical form."""
    usual, path = collection.context.prefix, item.file.path
    with_prefix = with_one_prefix(data, context.prefix, context.other_prefixes)
    canonical, prefix = _canonicalize(context, item, with_prefix)
    own = {*contained_paths(data, context.prefixes)} if canonical and context.other_prefixes else set[str]()
    own |= {prefix} if canonical else set()
    if with_prefix != data and path.endswith(".pyc"):  # what precedes a path in it can look like a part of it
        own |= {each for each in context.prefixes if path_bytes(each) in data}
    collection.prefixes.own |= own - {usual}
    if canonical is not None and len(canonical.data) > LAYER_SIZE:
        canonical = CanonicalFile(with_prefix, None, "", unrelocated=True)
    stored = with_prefix if canonical is None else canonical.data
    depends_on_included = context.included.are_mentioned_in(stored)
    if (canonical is not None and canonical.unrelocated) or depends_on_included:
        collection.unrelocated.append(path)
    if canonical is not None and item.made_at_link:
        collection.facts[path] = facts_of(data, canonical.data)
    if (
        depends_on_included
        or not own <= {usual}
        or with_prefix != data
        or (canonical is not None and not _is_restored_exactly(canonical, with_prefix, prefix))
    ):
        collection.rewritten.append(path)
    collection.make_room(len(stored))
    collection.builder.add(member_of(item, collection.group.kind, len(stored)), stored, canonical)


def _is_restored_otherwise(path: str, read: memoryview, data: bytes | None) -> bool:
    """Return whether a restore would write other bytes than were read if `data` is packed; None stands for these.

    Relocation does not count. Compiled modules become valid for the time that their sources get.
    """
    restored = data
    if path.endswith(".pyc"):
        stored = read if data is None else memoryview(data)
        restored = bytecode.with_source_mtime(stored, LINK_TIME, RESTORED_LINK_TIME) or data
    return restored is not None and restored != bytes(read)


def _is_restored_exactly(canonical: CanonicalFile, on_disk: bytes, prefix: str) -> bool:
    """Return whether a restore at the prefix writes the bytes that are on disk, with nothing to report.

    `canonicalize` has proved that, except for first lines, placeholders that were there before, and earlier prefixes.
    """
    if canonical.unrelocated and canonical.kept not in ("", prefix):
        return False
    is_proved = canonical.data != on_disk and not on_disk.startswith(b"#!")
    if (is_proved or not canonical.mode) and canonical.kept in ("", prefix):
        return True
    return canonical.restored(prefix) == on_disk


def _canonicalize(context: PackContext, item: PackItem, data: bytes) -> tuple[CanonicalFile | None, str]:
    """Return the file in canonical form, and the prefix that it contains, else the environment's.

    If it contains several, which a snapshot cannot note, it is unrelocated.
    """
    placeholders = (*context.earlier_placeholders(item.file), *_package_placeholders(item))
    kept = context.kept_in(item.file, data)
    result, prefix = canonicalize(data, context.prefix, placeholders, kept), context.prefix
    for other in context.other_prefixes:
        if result is None or not result.mode:
            candidate = canonicalize(data, other, placeholders, kept)
            if candidate is not None and (candidate.mode or result is None):
                result, prefix = candidate, other
        elif other != result.placeholder and contains_path(result.data, other):
            result = replace(result, unrelocated=True)
    return result, prefix


def _rewritten(context: PackContext, item: PackItem, view: memoryview) -> bytes | None:
    """Return the data if it changes when it is packed: a compiled module's, or with paths of included sources."""
    path = item.file.path
    data = _with_stored_source_mtime(item, view) if path.endswith(".pyc") else None
    if context.included.sources:
        return context.included.with_new_paths(bytes(view) if data is None else data, path)
    return data


def _with_stored_source_mtime(item: PackItem, view: memoryview) -> bytes | None:
    """Return the compiled module, valid for the time that its source gets in a layer if it is valid now.

    A module that is not valid now, but would be for the time that its source gets, becomes valid for no time.
    Return None if it does not change.
    """
    if item.source_mtime is None:
        return bytecode.with_source_mtime(view, RESTORED_LINK_TIME, LINK_TIME)
    changes = {LINK_TIME: 0, RESTORED_LINK_TIME: 0, item.source_mtime: LINK_TIME}
    modules = (bytecode.with_source_mtime(view, old, new) for old, new in changes.items() if old != new)
    return next((module for module in modules if module is not None), None)


def _package_placeholders(item: PackItem) -> tuple[str, ...]:
    """Return placeholders that the file may have been built with, to try before the default ones."""
    entry = item.entry
    if entry is None:
        return ()
    if entry.mode == "binary" and entry.placeholder:
        return (entry.placeholder,)
    return () if entry.sha256 else (BINARY_PLACEHOLDER,)


def _add_record(collection: _Collection, item: PackItem) -> None:
    """Add a conda record, with checksums and sizes of relocated files as these are stored."""
    data = read_file(collection.context.place_of(item.file), item.file)
    disk = {path: facts.disk for path, facts in collection.facts.items()}
    stored = {path: facts.stored for path, facts in collection.facts.items()}
    canonical = None
    modes: tuple[tuple[Mode, bool], ...] = (("sized-record", True), ("record", False))
    for mode, sizes in modes:
        text = with_facts(data, stored, sizes=sizes)
        if text != data and with_facts(text, disk, sizes=sizes) == data:
            canonical = CanonicalFile(text, mode, "")
            break
    text = data if canonical is None else canonical.data
    collection.make_room(len(text))
    collection.builder.add(member_of(item, "link", len(text), at_link=True), text, canonical)
