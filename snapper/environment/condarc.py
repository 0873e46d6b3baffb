"""Read the envs directories in conda's configuration files, which someone else may have written, and merge them.

As in conda/common/configuration.py, a comment `#!final` after the key hides the files with more precedence, and `#!top`
and `#!bottom` after an item move it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from snapper.fs.small_files import read_file

if TYPE_CHECKING:
    import yaml

_KEYS = ("envs_dirs", "envs_path")

#: The largest file that is read, in bytes: parsing takes a second for each 100,000.
_LIMIT = 1 << 16

#: How deep lists and mappings are read. Parsing takes quadratic time in the depth.
_DEEPEST = 20


@dataclass(frozen=True)
class EnvsDirs:
    """The envs directories that a file or variable names, and those of them that have a flag."""

    directories: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    bottom: tuple[str, ...] = ()
    is_final: bool = False


def read_envs_dirs(file: Path) -> EnvsDirs:
    """Return the envs directories as the file has them, none if it is unreadable or malformed."""
    try:
        data = read_file(file, _LIMIT)
        return _parse(data.decode("utf-8-sig")) if any(key.encode() in data for key in _KEYS) else EnvsDirs()
    except (OSError, ValueError):
        return EnvsDirs()


def merge(sources: Sequence[EnvsDirs]) -> list[str]:
    """Return the directories of all sources, which are in the order of precedence, the lowest first."""
    before_final = [*takewhile(lambda source: not source.is_final, sources)]
    relevant = sources[: len(before_final) + 1]
    top = [*chain.from_iterable(source.top for source in relevant)]
    rest = [*chain.from_iterable(source.directories for source in reversed(relevant))]
    bottom = [*chain.from_iterable(source.bottom for source in reversed(relevant))]
    upper = [text for text in dict.fromkeys([*top, *rest]) if text not in bottom]
    return [*upper, *reversed([*dict.fromkeys(reversed(bottom))])]


def _parse(text: str) -> EnvsDirs:
    """Return the texts in the list of envs directories; raise ValueError.

    Nothing is constructed from the YAML document: its aliases and merge keys could stand for endless data.
    """
    import yaml  # noqa: PLC0415 - slow to import, and rarely needed

    class Loader(yaml.SafeLoader):
        """A loader that refuses deeply nested documents."""

        depth = 0

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.depth >= _DEEPEST:
                raise ValueError("nested too deeply")
            self.depth += 1
            try:
                return super().compose_node(parent, index)
            finally:
                self.depth -= 1

    try:
        document = yaml.compose(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError("not YAML") from error
    entries = document.value if isinstance(document, yaml.MappingNode) else []
    nodes = {key.value: (key, value) for key, value in entries if isinstance(key, yaml.ScalarNode)}
    for key, value in (nodes[name] for name in _KEYS if name in nodes):
        items = value.value if isinstance(value, yaml.SequenceNode) else []
        found = [item for item in items if item.tag == "tag:yaml.org,2002:str" and _is_path(item.value)]
        if found:
            return _with_flags(text.splitlines(), key, found)
    return EnvsDirs()


def _with_flags(lines: list[str], key: yaml.Node, items: Iterable[yaml.ScalarNode]) -> EnvsDirs:
    flagged = [(item.value, _flag(lines, item)) for item in items]
    return EnvsDirs(
        tuple(text for text, _ in flagged),
        tuple(text for text, flag in flagged if flag == "top"),
        tuple(text for text, flag in flagged if flag == "bottom"),
        _flag(lines, key) == "final",
    )


def _flag(lines: list[str], node: yaml.Node) -> str:
    """Return the flag in a comment behind the node in its line; empty if there is no comment."""
    line = lines[node.end_mark.line] if node.end_mark.line < len(lines) else ""
    return line[node.end_mark.column :].partition(" #")[2].rstrip().strip("!#")


def _is_path(value: object) -> bool:
    """Return whether the value is a text that a path can have."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False
