"""The small world that commands are killed in: a store, an environment, and what both may be afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support.crash.children import Child, Kill, begin
from tests.support.environments import make_data
from tests.support.reader import Reader, Tree, tree_at

NAME = "data"


class Shelf(Protocol):
    """Where the store is: made from a directory each time anew, and read without snapper."""

    def fill(self, source: Path) -> None: ...

    def reader(self) -> Reader: ...

    @property
    def variables(self) -> Mapping[str, str]: ...


@dataclass
class Directory:
    """A store in a directory."""

    top: Path

    @property
    def variables(self) -> Mapping[str, str]:
        return {"SNAPPER_STORE": str(self.top)}

    def fill(self, source: Path) -> None:
        shutil.rmtree(self.top, ignore_errors=True)
        shutil.copytree(source, self.top)

    def reader(self) -> Reader:
        return Reader.of_directory(self.top)

    def left_over(self) -> list[str]:
        return [path.name for path in self.top.rglob(".*")]


@dataclass
class Bucket:
    """A store at a prefix of a bucket, each time another one; `client` is boto3's, not snapper's."""

    client: Any
    bucket: str
    settings: Mapping[str, str]
    number: int = 0

    @property
    def prefix(self) -> str:
        return f"crash{os.getpid()}/{self.number}/"

    @property
    def variables(self) -> Mapping[str, str]:
        return {**self.settings, "SNAPPER_STORE": f"s3://{self.bucket}/{self.prefix}"}

    def fill(self, source: Path) -> None:
        self.number += 1
        for path in source.rglob("*"):
            if path.is_file():
                key = self.prefix + str(path.relative_to(source))
                self.client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())

    def reader(self) -> Reader:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
        keys = [each["Key"][len(self.prefix) :] for page in pages for each in page.get("Contents", ())]

        def read(key: str) -> bytes:
            data: bytes = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()
            return data

        return Reader(frozenset(keys), read)


@dataclass
class World:
    """A home, an envs directory and a store. `ids` and `trees` are of the snapshots 1 to 3, of which the last is
    current, and 4, which is what packing gives.
    """

    top: Path
    shelf: Shelf
    ids: list[str] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    imported: str = ""

    @property
    def prefix(self) -> Path:
        return self.top / "work" / "envs" / NAME

    @property
    def archive(self) -> Path:
        return self.top / "archive.tar"

    @property
    def temporary(self) -> Path:
        return self.top / "work" / "tmp"

    def begin(self, arguments: tuple[str, ...], kill: Kill, name: str) -> Child:
        variables = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.top / "work" / "home"),
            "TMPDIR": str(self.temporary),
            "CONDA_ENVS_PATH": str(self.top / "work" / "envs"),
            **self.shelf.variables,
        }
        return begin(arguments, variables, kill, self.top, name)

    def done(self, *arguments: str) -> None:
        """Runs a command that must succeed."""
        child = self.begin(arguments, Kill(), "done")
        code = child.wait()
        assert code == 0, (arguments, code, child.output.read_text())

    def make(self) -> None:
        """Makes what `reset` goes back to."""
        for name in ("envs", "home", "tmp"):
            (self.top / "work" / name).mkdir(parents=True)
        store = Directory(self.top / "store")
        shelf, self.shelf = self.shelf, store
        make_data(self.prefix)
        for number in range(4):
            self.become(number)
            if number == 3:
                shutil.copytree(store.top, self.top / "three")
            self.done("pack", NAME)
            self.ids.append(store.reader().check(locks=False)[NAME])
            self.trees.append(tree_at(self.prefix))
            if number == 2:
                self.done("export", NAME, "-o", str(self.archive))
        self.done("import", str(self.archive), "--name", "imported")
        self.imported = store.reader().check(locks=False)["imported"]
        for snapshot_id, tree in zip(self.ids, self.trees, strict=True):
            _same(store.reader().unpack(snapshot_id, str(self.prefix)), tree)
        store.fill(self.top / "three")
        self.done("restore", f"{NAME}@{self.ids[2]}", "--replace")
        assert tree_at(self.prefix) == self.trees[2]
        shutil.copytree(self.top / "work", self.top / "base", symlinks=True)
        self.shelf = shelf

    def become(self, number: int) -> None:
        """Makes the environment that of a snapshot, to the last file's time, from the one before."""
        (self.prefix / f"only{number - 1}").unlink(missing_ok=True)
        (self.prefix / "which").write_text(f"{number} of {self.prefix}\n")
        (self.prefix / f"only{number}").write_bytes(bytes([number]) * 3000)
        for name in ("which", f"only{number}"):
            os.utime(self.prefix / name, (1_700_000_000 + number,) * 2)

    def reset(self) -> None:
        """The store has snapshots 1 to 3, and the environment is the third."""
        shutil.rmtree(self.top / "work")
        shutil.copytree(self.top / "base", self.top / "work", symlinks=True)
        self.shelf.fill(self.top / "three")

    def tree(self) -> Tree | None:
        """What the environment is; None where there is none."""
        return tree_at(self.prefix) if self.prefix.exists() else None

    def left_over(self) -> list[str]:
        """What only interrupted work leaves."""
        found = [path.name for path in self.prefix.parent.glob(".*")]
        found += [path.name for path in self.temporary.iterdir()]
        found += [path.name for path in (self.prefix / ".snapper").glob(".*")]
        found += [key for key in self.shelf.reader().keys if key.startswith("locks/")]
        return found + (self.shelf.left_over() if isinstance(self.shelf, Directory) else [])


def _same(unpacked: Tree, there: Tree) -> None:
    """What the independent reader makes of a snapshot is what is on disk, but for checksums in conda's records."""
    assert unpacked.keys() == there.keys(), unpacked.keys() ^ there.keys()
    for path, found in there.items():
        if not path.startswith("conda-meta/"):
            assert unpacked[path] == found, path
