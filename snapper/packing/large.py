"""Files larger than a layer, split inside their data so that several processes can pack and restore one file.

Pieces are as large as a layer, but never end inside what relocation replaces: each piece is relocated on its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import NamedTuple

from snapper.environment.conda import FileFacts
from snapper.format.canonicalize import (
    TEXT_PLACEHOLDERS,
    CanonicalFile,
    candidate_originals,
    canonicalize_program,
    is_package_placeholder,
    replace_directory,
    search_patterns,
)
from snapper.format.constraints import is_placeholder, path_bytes
from snapper.format.encodings import WIDE_ENCODINGS
from snapper.format.member import padding
from snapper.format.model import LAYER_SIZE, Continuation, Kind, Mode
from snapper.format.object_code import is_program
from snapper.format.placeholders import is_own_placeholder
from snapper.format.relocate import is_for_loader, replace_placeholder
from snapper.format.text import is_text
from snapper.packing.collect import layer_builder, member_of, store_layer
from snapper.packing.context import PackContext
from snapper.packing.files import open_checked, read_file, read_range, read_range_into
from snapper.packing.items import CollectedGroup, FoundPrefixes, PackItem, RelocatedFacts
from snapper.process.worker import Deferred

#: How many bytes after a cut are searched for the end of what began before it.
_LOOK_AHEAD = 64 * 1024

#: How many bytes of a file are read at a time when it is surveyed.
_READ_SIZE = 1024 * 1024

#: The largest program that is read as a whole to find out what its loader reads.
_LARGEST_PROGRAM = 1 << 30

#: How many bytes around a prefix decide whether it is a path of its own.
_CONTEXT = 4


class RelocationMethod(NamedTuple):
    """How a file is relocated: `everywhere`, as conda does it, or only where the prefix is a path of its own.

    `wide` includes strings in UTF-16 and UTF-32, as newer versions of conda do.
    """

    mode: Mode
    placeholder: str
    everywhere: bool = False
    wide: bool = False


class Edit(NamedTuple):
    """Bytes that replace as many bytes of a file from `start` on."""

    start: int
    data: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class PieceStart(NamedTuple):
    """Where a piece begins: in the file on disk, in the canonical file, and after how many placeholders."""

    position: int
    offset: int
    replaced: int


@dataclass(frozen=True)
class LargeFileScan:
    """How to pack a large file. `starts` has one more element than there are pieces: the end of the file.

    `proved` says whether the file is its package's, `method` how it is relocated, if it is, and `kept` which prefix it
    contains apart from that. What the loader of a program reads is replaced by `edits`; the placeholder is only
    `for_loader` if it is nowhere else. `prefix` is the one that is replaced. A file that is `rewritten` is restored
    with other contents, even at the same prefix, or reported then. It contains the `prefixes` besides the usual one.
    """

    item: PackItem
    proved: bool
    method: RelocationMethod | None
    starts: tuple[PieceStart, ...]
    unrelocated: bool
    facts: RelocatedFacts | None = None
    kept: str = ""
    edits: tuple[Edit, ...] = ()
    prefix: str = ""
    for_loader: bool = False
    rewritten: bool = False
    prefixes: FoundPrefixes = field(default_factory=FoundPrefixes)

    @property
    def size(self) -> int:
        return self.starts[-1].offset


@dataclass(frozen=True)
class Piece:
    """The part of a scanned file that goes into one layer."""

    kind: Kind
    owner: str
    scan: LargeFileScan
    number: int

    @property
    def size(self) -> int:
        return self.scan.starts[self.number + 1].offset - self.scan.starts[self.number].offset


def scan_large_file(context: PackContext, item: PackItem) -> LargeFileScan:
    """Read the file, possibly several times: prove that it is its package's, or find a way to relocate it.

    The paths of included sources are not replaced.
    """
    entry = item.entry
    views = {prefix: replace(context, prefix=prefix, other_prefixes=()) for prefix in context.prefixes}
    if entry and entry.sha256 and entry.placeholder:
        for view, wide in product(views.values(), (False, True) if entry.mode == "binary" else (False,)):
            method = RelocationMethod(entry.mode, entry.placeholder, everywhere=True, wide=wide)
            original = _relocate(view, item, method)
            if original.stored.sha256 == entry.sha256:
                facts = RelocatedFacts(original.disk, original.stored)
                scan = LargeFileScan(item, True, method, original.starts, False, facts, prefix=view.prefix)
                is_relocated = original.disk != original.stored
                return replace(
                    scan,
                    rewritten=not is_relocated or view.prefix != context.prefix,
                    prefixes=FoundPrefixes({view.prefix}),
                )
    survey, found = _without_others(context, item, _survey(context, item))
    proved = bool(entry and entry.sha256 == survey.sha256)
    if proved or not (survey.prefixes or survey.kept or survey.has_placeholder):
        refers_to_source = survey.has_source_path and not proved
        scan = LargeFileScan(item, proved, None, survey.starts, refers_to_source, rewritten=refers_to_source)
        return replace(scan, prefixes=found)
    prefix, *others = survey.prefixes or (context.prefix,)
    scan = replace(_scan_with_prefix(views[prefix], item, survey), prefix=prefix)
    has_others = any(not f"{prefix}/".startswith(f"{other}/") for other in others)
    is_reported = scan.unrelocated and scan.kept not in ("", prefix)
    return replace(
        scan,
        unrelocated=scan.unrelocated or survey.has_source_path or has_others,
        rewritten=scan.rewritten or is_reported or survey.has_source_path or prefix != context.prefix,
        prefixes=found,
    )


def _without_others(context: PackContext, item: PackItem, survey: _Survey) -> tuple[_Survey, FoundPrefixes]:
    """Return what a file contains, without paths by which it means other environments, and its prefixes."""
    path = item.file.path
    named = tuple(prefix for prefix in context.others.get(path, ()) if prefix in survey.prefixes)
    own = tuple(prefix for prefix in survey.prefixes if prefix not in named)
    return replace(survey, prefixes=own), FoundPrefixes({*own}, {path: named} if named else {})


def _scan_with_prefix(context: PackContext, item: PackItem, survey: _Survey) -> LargeFileScan:
    """Find a way to relocate a file that is not its package's."""
    for method in _relocation_methods(context, item, survey):
        relocated = _relocate(context, item, method)
        if relocated.reversible:
            return LargeFileScan(item, False, method, relocated.starts, False)
    if survey.is_program and item.file.size <= _LARGEST_PROGRAM:
        return _scan_program(context, item, survey)
    kept = survey.kept or context.prefix
    kept = kept if is_placeholder(kept) else ""
    return LargeFileScan(item, False, None, survey.starts, True, kept=kept)


def _scan_program(context: PackContext, item: PackItem, survey: _Survey) -> LargeFileScan:
    """Read the whole program: its pieces do not tell what its loader reads."""
    file = item.file
    data = read_file(context.place_of(file), file)
    # A kept prefix is not replaced by one that is as long: when pieces are restored, that is not possible.
    kept = tuple(path for path in context.kept_in(file, data) if path_bytes(path) in data)
    canonical = canonicalize_program(data, context.prefix, context.earlier_placeholders(file), kept)
    if canonical is None:
        return LargeFileScan(item, False, None, survey.starts, False)
    edits = tuple(_edits(data, canonical.data))
    method = RelocationMethod(canonical.mode, canonical.placeholder) if canonical.mode else None
    starts = tuple(PieceStart(cut, cut, 0) for cut in (*_cuts_between(edits, len(data)), len(data)))
    return LargeFileScan(
        item,
        False,
        method,
        starts,
        canonical.unrelocated,
        kept=canonical.kept,
        edits=edits,
        for_loader=bool(method) and is_for_loader(canonical.data, canonical.placeholder),
        rewritten=bool(method) and not edits,  # there was a placeholder before
    )


def _edits(before: bytes, after: bytes) -> Iterator[Edit]:
    """Yield the differences of two files of one size, each up to the end of a NUL-terminated string."""
    at = 0
    for start in range(0, len(before), _READ_SIZE):
        end, at = start + _READ_SIZE, max(start, at)
        while before[at:end] != after[at:end]:
            first = next(i for i in range(at, end) if before[i] != after[i])
            at = max(before.find(0, first), after.find(0, first)) + 1
            yield Edit(first, after[first:at])


def _cuts_between(edits: tuple[Edit, ...], size: int) -> Iterator[int]:
    """Yield where the pieces of a file begin, none of them within an edit."""
    cut = 0
    while cut < size:
        yield cut
        end = cut + LAYER_SIZE
        cut = next((edit.start for edit in edits if cut < edit.start < end < edit.end), end)


def collect_piece(context: PackContext, piece: Piece) -> Deferred[CollectedGroup]:
    """Pack one piece, and store its layer in the background."""
    scan, builder = piece.scan, layer_builder(context.level)
    item, start, end = scan.item, scan.starts[piece.number], scan.starts[piece.number + 1]
    at_link = scan.proved and scan.method is not None
    member = member_of(item, piece.kind, scan.size, at_link=at_link) if piece.number == 0 else None
    tail = padding(scan.size) if piece.number == len(scan.starts) - 2 else b""
    place = context.place_of(item.file)

    if scan.method is None or scan.edits:
        view = builder.make_piece(member, end.position - start.position, tail)
        with open_checked(place, item.file) as descriptor:
            read_range_into(descriptor, start.position, view, place)
        for edit in scan.edits:
            if start.position <= edit.start < end.position:
                at = edit.start - start.position
                view[at : at + len(edit.data)] = edit.data
    else:
        with open_checked(place, item.file) as descriptor:
            data = read_range(descriptor, start.position, end.position - start.position, place)
        data = _canonical(data, scan.method, scan.prefix)
        builder.add_piece(member, data, tail)
        del data
    mode, placeholder = (scan.method.mode, scan.method.placeholder) if scan.method else (None, "")
    builder.note(item.file.path, CanonicalFile(b"", mode, placeholder, scan.kept))
    if scan.for_loader:  # readers have only pieces, which do not show that
        builder.note(item.file.path, CanonicalFile(b"", None, "", kept=placeholder))
    begins = Continuation(item.file.path, start.offset, scan.size, start.replaced) if piece.number else None
    sealed = builder.seal(piece.kind, piece.owner, context.find_stored, begins)
    layer, written = sealed.layer, store_layer(context, sealed)
    rewritten = (item.file.path,) if scan.rewritten and piece.number == 0 else ()
    return Deferred(lambda: CollectedGroup((layer,), (written(),), rewritten=rewritten))


@dataclass(frozen=True)
class _Survey:
    """What a file contains, and where its pieces start if it is packed as it is.

    `prefixes` are those that it may contain. `kept` is one that it, or another file, kept in an earlier snapshot, and
    it `has_placeholder`, one of that snapshot that was not replaced in a program.
    """

    starts: tuple[PieceStart, ...]
    sha256: str
    prefixes: tuple[str, ...]
    kept: str
    has_placeholder: bool
    has_nul: bool
    is_program: bool
    has_source_path: bool


@dataclass(frozen=True)
class _Relocated:
    """A file on disk and as it is stored when it is relocated, and whether that can be undone exactly."""

    starts: tuple[PieceStart, ...]
    disk: FileFacts
    stored: FileFacts
    reversible: bool


def _survey(context: PackContext, item: PackItem) -> _Survey:
    """Read the file once, in blocks that are small compared to a layer."""
    place, size = context.place_of(item.file), item.file.size
    digest, buffer, carried = hashlib.sha256(), bytearray(_READ_SIZE), b""
    needles: dict[str, tuple[bytes, ...]] = {}
    found: set[str] = set()
    own_kept, kept = context.kept_prefixes(item.file), ""
    sought_prefixes = dict.fromkeys((*context.prefixes, *context.others.get(item.file.path, ())))
    sought = [(path, path_bytes(path)) for path in own_kept or context.foreign_prefixes]
    placeholders = tuple(map(path_bytes, filter(is_own_placeholder, context.earlier_placeholders(item.file))))
    has_placeholder = has_nul = program = has_source_path = False
    with open_checked(place, item.file) as descriptor:
        for position in range(0, size, _READ_SIZE):
            view = memoryview(buffer)[: min(_READ_SIZE, size - position)]
            read_range_into(descriptor, position, view, place)
            digest.update(view)
            if position == 0:
                head = bytes(view)
                needles = {
                    prefix: search_patterns(prefix, head, has_nul=b"\0" in head, prebuilt=item.prebuilt)
                    for prefix in sought_prefixes
                }
                program = is_program(head)
            block = carried + bytes(view)
            for prefix in needles.keys() - found:
                if any(needle in block for needle in needles[prefix]):
                    found.add(prefix)
            kept = kept or next((path for path, encoded in sought if encoded in block), "")
            has_placeholder = has_placeholder or any(path in block for path in placeholders)
            has_nul = has_nul or b"\0" in block
            has_source_path = has_source_path or context.included.are_mentioned_in(block)
            longest = max(
                context.included.longest_path,
                *(len(encoded) for _, encoded in sought),
                *map(len, chain(placeholders, *needles.values())),
            )
            carried = block[len(block) - longest + 1 :]
    starts = tuple(PieceStart(position, position, 0) for position in (*range(0, size, LAYER_SIZE), size))
    prefixes = tuple(prefix for prefix in sought_prefixes if prefix in found)
    kept = kept if own_kept or has_nul else ""
    return _Survey(
        starts, digest.hexdigest(), prefixes, kept, has_placeholder, has_nul, program, has_source_path
    )


def _relocate(context: PackContext, item: PackItem, method: RelocationMethod) -> _Relocated:
    """Read the file once, in pieces that end where relocation allows it."""
    disk, stored = hashlib.sha256(), hashlib.sha256()
    starts, reversible = [PieceStart(0, 0, 0)], True
    for data in _pieces(context, item, method):
        canonical = _canonical(data, method, context.prefix)
        disk.update(data)
        stored.update(canonical)
        replaced = canonical.count(method.placeholder.encode()) if method.mode == "text" else 0
        last = starts[-1]
        starts.append(
            PieceStart(last.position + len(data), last.offset + len(canonical), last.replaced + replaced)
        )
        reversible = (
            reversible
            and len(canonical) <= LAYER_SIZE + LAYER_SIZE // 2
            and _is_exact(data, canonical, method, context.prefix)
        )
    end = starts[-1]
    disk_facts = FileFacts(disk.hexdigest(), end.position)
    return _Relocated(tuple(starts), disk_facts, FileFacts(stored.hexdigest(), end.offset), reversible)


def _is_exact(data: bytes, canonical: bytes, method: RelocationMethod, prefix: str) -> bool:
    """Return whether relocating a canonical piece gives the one on disk, and replaces all that it has to."""
    old = path_bytes(prefix)
    if method.mode == "text" and not method.everywhere and not is_text(data, old):
        return False
    if method.mode == "binary" and old in canonical:
        return False
    return replace_placeholder(canonical, method.mode, method.placeholder, prefix) == data


def _canonical(data: bytes, method: RelocationMethod, prefix: str) -> bytes:
    if method.mode == "text" and not method.everywhere:
        return replace_directory(data, prefix, method.placeholder)
    *_, everything = originals = list(candidate_originals(data, method.mode, method.placeholder, prefix))
    return everything if method.wide else originals[0]


def _relocation_methods(context: PackContext, item: PackItem, survey: _Survey) -> list[RelocationMethod]:
    """Return the methods to try, in order; none for data that is neither text nor a package's program."""
    earlier = context.earlier_placeholders(item.file)
    if not survey.has_nul:
        return [RelocationMethod("text", placeholder) for placeholder in (*earlier, *TEXT_PLACEHOLDERS)]
    if not survey.is_program:
        return []
    entry = item.entry
    recorded = (entry.placeholder,) if entry and entry.mode == "binary" and entry.placeholder else ()
    return [
        RelocationMethod("binary", placeholder, wide=True)
        for placeholder in filter(is_package_placeholder, (*earlier, *recorded))
    ]


def _pieces(context: PackContext, item: PackItem, method: RelocationMethod) -> Iterator[bytes]:
    """Yield the file's data in pieces."""
    place = context.place_of(item.file)
    with open_checked(place, item.file) as descriptor:
        position, size = 0, item.file.size
        while position < size:
            length = _largest_piece(method, context.prefix)
            data = read_range(descriptor, position, min(length + _LOOK_AHEAD, size - position), place)
            if method.mode == "text":
                is_last = position + len(data) == size
                length = _cut_of_layer_size(data, length, method, context.prefix, is_last=is_last)
            elif position + length < size:
                length = _safe_cut(data, length, method, context.prefix)
            data = data[:length]
            yield data
            position += len(data)


def _largest_piece(method: RelocationMethod, prefix: str) -> int:
    """Return how many bytes on disk a layer holds at most; a text may have longer prefixes there than in layers."""
    if method.mode != "text":
        return LAYER_SIZE
    largest = LAYER_SIZE * len(path_bytes(prefix)) // len(method.placeholder.encode())
    return min(max(largest, LAYER_SIZE), 2 * LAYER_SIZE)


def _cut_of_layer_size(
    data: bytes, most: int, method: RelocationMethod, prefix: str, *, is_last: bool
) -> int:
    """Return where to cut a text so that the piece is as large as a layer once it has placeholders, at any prefix.

    Of a text with many prefixes that are more than twice as long as placeholders, pieces have `most` bytes on disk.
    """
    canonical = _canonical(data, method, prefix)
    if is_last and len(canonical) <= LAYER_SIZE:
        return len(data)
    old, new = path_bytes(prefix), method.placeholder.encode()
    cut = _cut_in_text(canonical, LAYER_SIZE, new)
    on_disk = cut + canonical.count(new, 0, cut) * (len(old) - len(new))
    return _cut_in_text(data, min(on_disk, most), old)


def _safe_cut(data: bytes, length: int, method: RelocationMethod, prefix: str) -> int:
    """Return the last position up to `length` at which a cut splits nothing that relocation replaces.

    Return `length` if there is none.
    """
    paths = [(path_bytes(prefix), 1)]
    for encoding in WIDE_ENCODINGS:
        width = len("/".encode(encoding))
        paths += [(path.encode(encoding, "surrogatepass"), width) for path in (prefix, method.placeholder)]
    cut, previous = length, 0
    while cut != previous:
        previous = cut
        for path, width in paths:
            cut = _cut_in_strings(data, cut, path, width)
    return cut


def _cut_in_text(data: bytes, length: int, path: bytes) -> int:
    cut, reach = length, len(path) + _CONTEXT - 1
    while (start := data.find(path, max(0, cut - reach), cut + reach)) >= 0:
        cut = start - _CONTEXT
        if cut <= 0:
            return length
    return cut


def _cut_in_strings(data: bytes, length: int, path: bytes, width: int) -> int:
    """Return where to cut NUL-terminated strings, whose characters have `width` bytes, if they contain the path."""
    last = data.rfind(path, 0, length + len(path) - 1)
    if last < 0:
        return length
    nuls = re.compile(rb"\0{%d,}" % width).search(data, last + len(path))
    if nuls and nuls.end() < length:
        return length
    first = data.find(path, data.rfind(b"\0" * width, 0, last) + 1)
    return first if first > 0 else length
