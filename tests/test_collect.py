"""Collecting files into layers: size limits, and uploads from forked processes."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from snapper.environment.tree import walk
from snapper.format import layer_builder
from snapper.packing.collect import collect_group
from snapper.packing.context import PackContext
from snapper.packing.items import FileGroup, PackItem
from snapper.packing.uploads import upload_queue
from snapper.repository.locks import pack_intent
from snapper.store import open_store

SMALL = 64 * 1024


@pytest.mark.parametrize("kind", ["symlinks", "hard links", "directories", "empty files"])
def test_members_without_data_count_towards_the_layer_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each has a header of 512 bytes, and the unpacked size of a layer is limited."""
    monkeypatch.setattr(layer_builder, "LAYER_SIZE", SMALL)
    top = tmp_path / "env"
    top.mkdir()
    (top / "first").touch()
    for number in range(600):
        path = top / f"x{number:03}"
        if kind == "symlinks":
            path.symlink_to("nowhere")
        elif kind == "hard links":
            os.link(top / "first", path)
        elif kind == "directories":
            path.mkdir()
        else:
            path.touch()
    files = sorted(walk(top).files, key=lambda file: file.path)
    linked = "first" if kind == "hard links" else ""
    items = tuple(PackItem(file, linked="" if file.path == "first" else linked) for file in files)
    store = open_store(str(tmp_path / "store"), create=True)
    with pack_intent(store) as intent:
        context = PackContext(str(top), str(top), store, intent, 1, {}, {})
        collected = collect_group(context, FileGroup("files", "", 0, items)).finish()
    assert sum(layer.members for layer in collected.layers) == 601
    assert max(layer.diff_size for layer in collected.layers) <= SMALL + 1024


def test_forked_process_gets_its_own_upload_queue(tmp_path: Path) -> None:
    """Threads do not survive a fork, and a queue without its threads would never upload anything."""
    store = open_store(str(tmp_path / "store"), create=True)

    def upload(key: str) -> None:
        assert upload_queue().put(store, key, b"x").result(30)

    upload("layers/aa/first")
    process = multiprocessing.get_context("fork").Process(target=upload, args=("layers/aa/second",))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert list(store.list_keys("layers/")) == ["layers/aa/first", "layers/aa/second"]
