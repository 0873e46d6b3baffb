"""Read the envs directories in a `.condarc` file, which someone else may have written."""

from __future__ import annotations

import os
from pathlib import Path

from snapper.fs.small_files import read_file

_KEYS = ("envs_dirs", "envs_path")

#: The largest file that is read, in bytes: parsing takes a second for each 100,000.
_LIMIT = 1 << 16

#: How deep lists and mappings are read. Parsing takes quadratic time in the depth.
_DEEPEST = 20


def configured_envs_dirs(file: Path) -> list[str]:
    """Return the envs directories as the file has them, none if it is unreadable or malformed."""
    try:
        data = read_file(file, _LIMIT)
        return _parse(data) if any(key.encode() in data for key in _KEYS) else []
    except (OSError, ValueError):
        return []


def _parse(data: bytes) -> list[str]:
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
        document = yaml.compose(data, Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError("not YAML") from error
    entries = document.value if isinstance(document, yaml.MappingNode) else []
    values = {key.value: value for key, value in entries if isinstance(key, yaml.ScalarNode)}
    for value in map(values.get, _KEYS):
        items = value.value if isinstance(value, yaml.SequenceNode) else []
        texts = [item.value for item in items if item.tag == "tag:yaml.org,2002:str"]
        if texts:
            return [text for text in texts if _is_path(text)]
    return []


def _is_path(value: object) -> bool:
    """Return whether the value is a text that a path can have."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False
