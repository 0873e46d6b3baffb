"""Opening and creating the stores that URLs name."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from snapper.errors import NotAStore, SnapperError, UnsupportedFormat
from snapper.store import open_store
from tests.support.processes import forking, run_simultaneously

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

KEY = "layers/ab/object.tar.zst"


def test_create_a_store_in_a_new_directory(tmp_path: Path) -> None:
    top = tmp_path / "a" / "b c"
    with pytest.raises(NotAStore) as caught:
        open_store(str(top))
    assert "there is no store at" in caught.value.message
    assert caught.value.code == 13
    assert not (tmp_path / "a").exists()
    store = open_store(str(top), create=True)
    assert json.loads((top / "snapper.json").read_bytes()) == {"format": 1}
    store.put(KEY, b"x")
    for again in (open_store(str(top)), open_store(str(top), create=True)):
        assert again.read(KEY) == b"x"


@pytest.mark.parametrize("neighbours", [[], ["config.toml"]])
def test_create_a_store_in_an_empty_directory(tmp_path: Path, neighbours: list[str]) -> None:
    for name in neighbours:
        (tmp_path / name).touch()
    open_store(str(tmp_path), create=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*neighbours, "snapper.json"]


def open_new(_number: int, url: str) -> bool:
    open_store(url, create=True).put(KEY, b"x")
    return True


def test_processes_create_one_store_simultaneously(tmp_path: Path) -> None:
    for turn in range(5):
        assert all(run_simultaneously(6, open_new, str(tmp_path / str(turn))))


def test_create_a_store_after_a_killed_attempt(tmp_path: Path) -> None:
    process = forking.Process(target=be_killed_while_creating, args=(str(tmp_path),))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(NotAStore):
        open_store(str(tmp_path))
    open_store(str(tmp_path), create=True)
    open_store(str(tmp_path))


def be_killed_while_creating(url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
        open_store(url, create=True)


def assert_not_a_store(url: str, create: bool) -> NotAStore:
    with pytest.raises(NotAStore) as caught:
        open_store(url, create=create)
    assert url in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("create", [False, True])
def test_directories_with_other_files_do_not_become_stores(tmp_path: Path, create: bool) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    assert "snapper.json" in assert_not_a_store(str(tmp_path), create).message
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


@pytest.mark.parametrize("create", [False, True])
def test_files_are_not_stores(tmp_path: Path, create: bool) -> None:
    (tmp_path / "file").write_text("mine")
    assert "file" in assert_not_a_store(str(tmp_path / "file"), create).reason
    with pytest.raises(SnapperError) as caught:
        open_store(str(tmp_path / "file" / "below"), create=create)
    assert caught.value.code == 13
    assert (tmp_path / "file").read_text() == "mine"


MARKERS = [
    b"",
    b"{",
    b"[]",
    b"1",
    b'{"format":"1"}',
    b'{"format":0}',
    b'{"format":true}',
    b'{"format":null}',
    b"{}",
]


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("marker", MARKERS)
def test_stores_with_an_invalid_marker_are_refused(tmp_path: Path, marker: bytes, create: bool) -> None:
    (tmp_path / "snapper.json").write_bytes(marker)
    assert "snapper.json" in assert_not_a_store(str(tmp_path), create).message
    assert (tmp_path / "snapper.json").read_bytes() == marker


@pytest.mark.parametrize("create", [False, True])
def test_stores_of_a_later_format_are_refused(tmp_path: Path, create: bool) -> None:
    (tmp_path / "snapper.json").write_bytes(b'{"format":2,"more":[]}')
    with pytest.raises(UnsupportedFormat) as caught:
        open_store(str(tmp_path), create=create)
    assert (caught.value.found, caught.value.known, caught.value.code) == (2, 1, 13)
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize("url", ["ftp://host/x", "gs://bucket", "S4://x", "://x", "http://x"])
def test_unknown_url_schemes_are_refused(url: str) -> None:
    assert_not_a_store(url, create=True)


@pytest.mark.parametrize("url", ["file://host/x", "file://", "file://relative", "file:///a%00b"])
def test_file_urls_without_an_absolute_path_are_refused(url: str) -> None:
    assert_not_a_store(url, create=True)


@pytest.mark.parametrize("form", ["file://{}", "file://localhost{}"])
def test_open_file_urls(tmp_path: Path, form: str) -> None:
    top = tmp_path / "with space, ü and %"
    url = form.format(str(top).replace("%", "%25").replace(" ", "%20").replace("ü", "%C3%BC"))
    open_store(url, create=True)
    assert (top / "snapper.json").is_file()
    assert open_store(url).url == str(top)


def test_paths_are_relative_to_the_users_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    store = open_store("~/one", create=True)
    assert store.url == str(tmp_path / "one")
    assert open_store("one").url == store.url
    with pytest.raises(SnapperError):
        open_store("~no-such-user/store", create=True)
