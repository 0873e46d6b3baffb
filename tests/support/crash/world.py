"""The world in which commands are killed: a store, an environment, and the states that both may have afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support.crash.children import Child, Kill, start_command
from tests.support.environments import make_data
from tests.support.reader import Reader, Tree, tree_at

NAME = "data"

#: The staging directory inside of an environment whose directory has to stay where it is.
INSIDE = ".swap.snapper"


class StoreLocation(Protocol):
    """Where the store is. It is filled from a directory before each run, and read without snapper."""

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

    def leftovers(self) -> list[str]:
        return [path.name for path in self.top.rglob(".*") if path.name != ".lock"]


@dataclass
class Bucket:
    """A store in a bucket, with another prefix for each run; `client` is boto3's, not snapper's."""

    client: Any
    bucket: str
    settings: Mapping[str, str]
    number: int = 0
    _read: dict[tuple[str, str], bytes] = field(default_factory=dict)

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
        tags = {
            each["Key"][len(self.prefix) :]: each["ETag"]
            for page in pages
            for each in page.get("Contents", ())
        }

        def read(key: str) -> bytes:
            if (key, tags[key]) not in self._read:  # its ETag is a digest of its content
                body = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"]
                self._read[key, tags[key]] = body.read()
            return self._read[key, tags[key]]

        return Reader(frozenset(key for key in tags if not Path(key).name.startswith(".")), read)


@dataclass
class World:
    """A home directory, an envs directory and a store.

    `ids` and `trees` have the ids and files of snapshots 0 to 3. The store has the first three, of which the last is
    current; packing creates snapshot 3. `nested` has the files of environments below `envs/` of the environment. If the
    `place` is a "mount" or an "image", the environment is at a mount point, or part of a container image, so that its
    directory has to stay where it is.
    """

    top: Path
    location: StoreLocation
    ids: list[str] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    imported: str = ""
    nested: Tree = field(default_factory=dict)
    place: str = ""
    _held: Path | None = None

    @property
    def prefix(self) -> Path:
        return self.top / "work" / "envs" / NAME

    @property
    def archive(self) -> Path:
        return self.top / "archive.tar"

    @property
    def temporary(self) -> Path:
        return self.top / "work" / "tmp"

    def start(self, arguments: tuple[str, ...], kill: Kill, name: str) -> Child:
        variables = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.top / "work" / "home"),
            "TMPDIR": str(self.temporary),
            "CONDA_ENVS_PATH": str(self.top / "work" / "envs"),
            **self.location.variables,
        }
        return start_command(arguments, variables, kill, self.top, name)

    def run(self, *arguments: str) -> None:
        """Run a command, which must succeed."""
        child = self.start(arguments, Kill(), "run")
        code = child.wait()
        assert code == 0, (arguments, code, child.output.read_text())

    def make(self) -> None:
        """Create the state that `reset` returns to."""
        for name in ("envs", "home", "tmp"):
            (self.top / "work" / name).mkdir(parents=True)
        store = Directory(self.top / "store")
        location, self.location = self.location, store
        make_data(self.prefix)
        for number in range(4):
            self.become(number)
            if number == 3:
                shutil.copytree(store.top, self.top / "three")
            self.run("pack", NAME)
            self.ids.append(store.reader().check(locks=False)[NAME])
            self.trees.append(tree_at(self.prefix))
            if number == 2:
                self.run("export", NAME, "-o", str(self.archive))
        self.run("import", str(self.archive), "--name", "imported")
        self.imported = store.reader().check(locks=False)["imported"]
        for snapshot_id, tree in zip(self.ids, self.trees, strict=True):
            _assert_same(store.reader().unpack(snapshot_id, str(self.prefix)), tree)
        store.fill(self.top / "three")
        self.run("restore", f"{NAME}@{self.ids[2]}", "--replace")
        assert tree_at(self.prefix) == self.trees[2]
        shutil.copytree(self.top / "work", self.top / "base", symlinks=True)
        self.location = location

    def become(self, number: int) -> None:
        """Turn the environment from the previous snapshot into this one, with the same file times every time."""
        (self.prefix / f"only{number - 1}").unlink(missing_ok=True)
        (self.prefix / "which").write_text(f"{number} of {self.prefix}\n")
        (self.prefix / f"only{number}").write_bytes(bytes([number]) * 3000)
        for name in ("which", f"only{number}"):
            os.utime(self.prefix / name, (1_700_000_000 + number,) * 2)

    def hold(self) -> None:
        """Have the directory of the environment stay where it is."""
        if self.place == "mount":
            self.prefix.mkdir(exist_ok=True)
            self._held = self.prefix
            _run("mount", "--bind", self.prefix, self.prefix)
        elif self.place == "image":
            layers = {name: self.top / "layers" / name for name in ("lowerdir", "upperdir", "workdir")}
            for path in layers.values():
                path.mkdir(parents=True)
            envs = self.prefix.parent
            layers["lowerdir"].rmdir()
            envs.rename(layers["lowerdir"])
            envs.mkdir()
            self._held = envs
            options = ",".join(f"{name}={path}" for name, path in layers.items())
            _run("mount", "-t", "overlay", "overlay", "-o", f"{options},redirect_dir=off", envs)

    def release(self) -> None:
        """Undo `hold`."""
        if self._held:
            _run("umount", "-l", self._held)
            self._held = None
            shutil.rmtree(self.top / "layers", ignore_errors=True)

    def settle(self) -> None:
        """Have the next command look at an environment whose directory stays: it completes what a kill interrupted."""
        if self.place:
            self.run("status")

    def reset(self) -> None:
        """Reset the store to snapshots 0 to 2, and the environment to the last of them."""
        self.release()
        shutil.rmtree(self.top / "work")
        shutil.copytree(self.top / "base", self.top / "work", symlinks=True)
        self.location.fill(self.top / "three")
        self.nested = {}

    def nest(self) -> None:
        """Create an environment inside of the environment."""
        make_data(self.prefix / "envs/other")
        self.nested = self.nested_tree()

    def nested_tree(self) -> Tree:
        """Return the files of environments inside of the environment."""
        return tree_at(self.prefix / "envs")

    def tree(self) -> Tree | None:
        """Return the files of the environment, without those in it, None if there is none."""
        if not self.prefix.exists():
            return None
        inside = ("envs/", INSIDE)
        tree = {path: entry for path, entry in tree_at(self.prefix).items() if not path.startswith(inside)}
        return None if self.place and not tree else tree

    def leftovers(self) -> list[str]:
        """Return the names of files that only interrupted commands leave."""
        found = [path.name for path in self.prefix.parent.glob(".*")]
        found += [path.name for pattern in (INSIDE, "*.replaced-*") for path in self.prefix.glob(pattern)]
        found += [path.name for path in self.temporary.iterdir()]
        found += [path.name for path in (self.prefix / ".snapper").glob(".*")]
        found += [key for key in self.location.reader().keys if key.startswith("locks/")]
        return found + (self.location.leftovers() if isinstance(self.location, Directory) else [])


def _run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True)


def _assert_same(unpacked: Tree, on_disk: Tree) -> None:
    """Assert that what the reader unpacked equals the files on disk, except for conda's records."""
    assert unpacked.keys() == on_disk.keys(), unpacked.keys() ^ on_disk.keys()
    for path, found in on_disk.items():
        if not path.startswith("conda-meta/"):
            assert unpacked[path] == found, path
