"""Collecting: what the limits of a layer are, whatever an environment is made of."""

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
def test_what_has_no_data_fills_layers_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each takes a header of 512 bytes, and what a layer unpacks to is limited."""
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
    files = sorted(walk(top).files, key=lambda each: each.path)
    linked = "first" if kind == "hard links" else ""
    items = tuple(PackItem(each, linked="" if each.path == "first" else linked) for each in files)
    store = open_store(str(tmp_path / "store"), create=True)
    with pack_intent(store) as intent:
        context = PackContext(str(top), str(top), store, intent, 1, {}, {})
        done = collect_group(context, FileGroup("files", "", 0, items)).finish()
    assert sum(each.members for each in done.layers) == 601
    assert max(each.diff_size for each in done.layers) <= SMALL + 1024


def test_a_forked_process_has_an_outbox_of_its_own(tmp_path: Path) -> None:
    """Threads do not go through a fork, and an outbox without its threads would never send."""
    store = open_store(str(tmp_path / "store"), create=True)

    def send(key: str) -> None:
        assert upload_queue().put(store, key, b"x").result(30)

    send("layers/aa/first")
    process = multiprocessing.get_context("fork").Process(target=send, args=("layers/aa/second",))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert list(store.list_keys("layers/")) == ["layers/aa/first", "layers/aa/second"]
