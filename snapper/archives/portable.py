"""Prepare an unpacked snapshot for an archive with conda-unpack.

conda-unpack replaces placeholders by the prefix, in text and binaries. It does not know about links, records, or
compiled modules. It opens every file for writing, and stops at the first error.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from snapper.archives import unpacked
from snapper.environment import conda
from snapper.environment.conda_unpack import PrefixRecord
from snapper.environment.record_text import without_facts_of
from snapper.environment.tree import File, walk
from snapper.format import shebang, zipapp
from snapper.format.model import LAYER_SIZE, RECORD_MODES, Kind, Layer, Relocation
from snapper.format.owners import OwnedPaths, order_by_owner
from snapper.format.placeholders import is_own_placeholder, paths_for_loader
from snapper.format.relocate import is_complete, is_for_loader

#: What conda-pack omits from conda-unpack's list, because the running program cannot be written to.
_PYTHON = re.compile("bin/python")

_SCRIPTS = "bin/"


def make_portable(tree: Path, layers: tuple[Layer, ...]) -> tuple[PrefixRecord, ...]:
    """Change the files at `tree`, which contain placeholders, so that conda-unpack can relocate them.

    Links into the environment become relative. Files to be changed become writable, and package records no longer
    contain their checksums (nor their sizes, if they had those of relocated files). Return the files to be changed;
    those most likely not to fit come last, so that everything else is relocated if conda-unpack stops there.
    """
    files = {file.path: file for file in walk(tree).files}
    relocations = {
        path: relocation
        for layer in layers
        for relocation in layer.relocations
        for path in relocation.paths
        if _is_applicable(relocation, files.get(path))
    }
    for path in _programs_to_keep(tree, files, layers):
        del relocations[path]
    records = sorted(
        _prefix_records(tree, files, relocations),
        key=lambda record: (record.mode == "binary", -record.max_prefix_length),
    )
    for record in records:
        file = tree / record.path
        file.chmod(file.stat().st_mode & 0o777 | 0o200)
    changed = {os.path.normpath(record.path) for record in records}
    for path, relocation in relocations.items():
        if relocation.mode == "link":
            _make_link_relative(tree, path, relocation.placeholder)
        elif relocation.mode in RECORD_MODES:
            text = conda.read_record_text(tree, path)
            sizes = relocation.mode == "sized-record"
            unpacked.rewrite(tree, path, without_facts_of(text, changed, sizes=sizes))
    return tuple(records)


def files_with_other_prefixes(tree: Path, layers: tuple[Layer, ...]) -> OwnedPaths:
    """Return the files that contain a prefix in a form that cannot be changed: conda-unpack leaves it there."""
    files = {file.path: file for file in walk(tree).files}
    found = {
        file.path: kind
        for kind, relocation, file in _relocations_of_files(files, layers)
        if relocation.mode == "link" and _depends_on(tree, file, relocation.placeholder)
    }
    return order_by_owner(found | _programs_to_keep(tree, files, layers))


def _programs_to_keep(tree: Path, files: Mapping[str, File], layers: tuple[Layer, ...]) -> dict[str, Kind]:
    """Return the kinds of programs by path in which conda-unpack would shorten more than what their loaders read."""
    return {
        file.path: kind
        for kind, relocation, file in _relocations_of_files(files, layers)
        if relocation.mode == "binary"
        and is_own_placeholder(relocation.placeholder)
        and not (
            file.size <= LAYER_SIZE and is_for_loader(unpacked.read(tree, file.path), relocation.placeholder)
        )
    }


def _relocations_of_files(
    files: Mapping[str, File], layers: tuple[Layer, ...]
) -> Iterator[tuple[Kind, Relocation, File]]:
    """Yield how regular files are relocated, except split programs with placeholders only for their loaders."""
    for layer in layers:
        for_loader = paths_for_loader(layer)
        for relocation in layer.relocations:
            for path in relocation.paths:
                file = files.get(path)
                is_marked = (path, relocation.placeholder) in for_loader
                if file and file.type == "file" and not is_marked:
                    yield layer.kind, relocation, file


def _depends_on(tree: Path, file: File, prefix: str) -> bool:
    """Return whether anything can depend on the prefix in a file. Files larger than a layer are not read."""
    return file.size > LAYER_SIZE or not is_complete(unpacked.read(tree, file.path), prefix)


def _is_applicable(relocation: Relocation, file: File | None) -> bool:
    """Return whether the path has the type that the relocation is for; if not, it may be a link that leads outside."""
    return file is not None and file.type == ("symlink" if relocation.mode == "link" else "file")


def _prefix_records(
    tree: Path, files: Mapping[str, File], relocations: Mapping[str, Relocation]
) -> Iterator[PrefixRecord]:
    """Yield what conda-unpack must change: every name of a file, as hard links in a zip become separate files.

    Scripts get a first line that works until then.
    """
    names: dict[int, list[str]] = {}
    for file in files.values():
        if file.type == "file" and file.links > 1:
            names.setdefault(file.inode, []).append(file.path)
    done: set[int] = set()
    for path, relocation in sorted(relocations.items()):
        mode, inode = relocation.mode, files[path].inode
        if mode not in ("text", "binary") or inode in done:
            continue
        done.add(inode)
        all_names = names.get(inode, [path])
        placeholders = [relocation.placeholder]
        if mode == "text" and any(name.startswith(_SCRIPTS) for name in all_names):
            placeholders = _make_script_portable(tree, path, relocation.placeholder)
        for name, placeholder in itertools.product(all_names, placeholders):
            if not _PYTHON.match(name):
                yield PrefixRecord(name, placeholder, mode)
            elif mode == "text":
                yield PrefixRecord(f"./{name}", placeholder, mode)


def _make_script_portable(tree: Path, path: str, placeholder: str) -> list[str]:
    """Have a script look for its interpreter on PATH until it is relocated; return what has to be replaced in it."""
    if not unpacked.read_head(tree, path, len(b"#!")).startswith(b"#!"):
        return [placeholder]
    script = unpacked.read(tree, path)
    archive = zipapp.start_of_archive(script)
    portable = shebang.portable_shebang(script[: archive or len(script)], placeholder.encode())
    if portable is None:
        return [placeholder]
    beginning, rest = portable.beginning, script[portable.beginning.length :]
    if archive:  # conda-unpack could make it shorter
        text = beginning.text[: beginning.text.index(portable.stand_in) + len(portable.stand_in)]
        text = text[: text.rindex(b"\n") + 1] + script[portable.beginning.length : archive]
        unpacked.rewrite(tree, path, zipapp.padded(text, archive) + script[archive:])
        return [placeholder] if placeholder.encode() in text else []
    unpacked.rewrite(tree, path, beginning.text + rest)
    stand_in = portable.stand_in.decode()
    return [stand_in, placeholder] if placeholder.encode() in rest else [stand_in]


def _make_link_relative(tree: Path, path: str, placeholder: str) -> None:
    link = tree / path
    inside = os.readlink(link)[len(placeholder) :].lstrip("/")
    parents = [".."] * path.count("/")
    link.unlink()
    link.symlink_to("/".join([*parents, inside] if inside else parents) or ".")
