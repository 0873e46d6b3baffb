"""Fixtures: machines on which `snapper` runs as a process with its own home, S3 servers, and environments."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from scripts.maker import make
from scripts.maker.cache import open_cache
from tests.support.faulty import Proxy, in_front_of
from tests.support.forkserver import STARTUP_VARIABLES, run
from tests.support.memory import MEMORY, has_room_in_memory
from tests.support.s3server import REAL_BUCKET, S3Server, running
from tests.support.sandbox import make_sandbox

#: The developer's pip configuration, which creating environments uses although tests have another home.
_PIP_SETTINGS = [Path.home() / name for name in (".config/pip/pip.conf", ".pip/pip.conf")]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="Run the longer form of the tests that have one.")
    parser.addoption(
        "--snapper", metavar="FILE", help="Test this `snapper` in the red-team suite, not this version."
    )
    parser.addoption("--update-golden", action="store_true", help="Record current output in tests/golden.")


def pytest_configure(config: pytest.Config) -> None:
    """Have Hypothesis try the same examples in every run, except with `--long`, and without a deadline.

    How long an example takes means nothing on a shared machine.
    """
    if has_room_in_memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
    settings.register_profile("snapper", deadline=None, derandomize=not config.getoption("--long"))
    settings.load_profile("snapper")


def pytest_report_header() -> str:
    return f"real bucket: {REAL_BUCKET or 'none (set SNAPPER_TEST_BUCKET=s3://BUCKET/PREFIX to test on one)'}"


@dataclass(frozen=True)
class Outcome:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Machine:
    """A user's machine: a home directory, a conda envs directory, and a store."""

    home: Path
    envs: Path
    store: Path

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables of commands on this machine; only PATH is the developer's."""
        return {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "CONDA_ENVS_PATH": str(self.envs),
            "SNAPPER_STORE": str(self.store),
            **STARTUP_VARIABLES,
        }

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "snapper", *map(str, arguments)]

    def snapper(self, *arguments: object, **variables: str) -> Outcome:
        """Run `snapper` to completion; fail if it prints a traceback."""
        done = run(self.command(*arguments), {**self.variables, **variables}, self.home)
        assert "Traceback" not in done.stderr, done.stderr
        assert "unexpected error: " not in done.stderr + done.stdout, done
        return Outcome(done.returncode, done.stdout, done.stderr)

    def run_json(self, *arguments: object, **variables: str) -> Any:
        """Run `snapper … --json`, which must succeed; return the parsed output."""
        outcome = self.snapper(*arguments, "--json", **variables)
        assert outcome.code == 0, outcome
        return outcome.json

    def expect_error(self, code: int, *arguments: object, **variables: str) -> dict[str, str]:
        """Run a command that must exit with `code`, without and with `--json`; return the error of the JSON output.

        Both runs must report the same message and hint.
        """
        plain = self.snapper(*arguments, **variables)
        assert plain.code == code, plain
        outcome = self.snapper(*arguments, "--json", **variables)
        assert outcome.code == code, outcome
        error: dict[str, str] = outcome.json["error"]
        assert error["message"] in plain.err
        assert error["hint"] in plain.err
        assert "\n" not in error["message"]
        return error


@dataclass(frozen=True)
class Instance(Machine):
    """A machine whose store is an S3 prefix; `settings` are additional environment variables."""

    url: str = ""
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        return {**super().variables, "SNAPPER_STORE": self.url, **self.settings}

    def with_variables(self, **settings: str) -> Instance:
        """Return the same machine with other environment variables."""
        return Instance(self.home, self.envs, self.store, self.url, {**self.settings, **settings})


@pytest.fixture(autouse=True, scope="session")
def _isolate_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep code that runs in the test process away from the developer's home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("CONFIG", "DATA", "STATE", "CACHE"):
            patch.delenv(f"XDG_{name}_HOME", raising=False)
        for file in _PIP_SETTINGS:
            if file.is_file():
                patch.setenv("PIP_CONFIG_FILE", str(file))
        yield


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """New directories. `mktemp` looks at all that it made before, each time."""
    top = tmp_path_factory.mktemp("homes")
    return (top / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _isolate_test(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a home directory of its own."""
    home = next(_homes)
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
def new_machine(tmp_path: Path) -> Callable[[str], Machine]:
    """Return a function that creates a machine by name; all share one store, like an EBS volume moved between them."""

    def make_machine(name: str) -> Machine:
        machine = Machine(tmp_path / name, tmp_path / name / "envs", tmp_path / "store")
        machine.envs.mkdir(parents=True)
        return machine

    return make_machine


@pytest.fixture
def machine(new_machine: Callable[[str], Machine]) -> Machine:
    return new_machine("one")


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store and a user's home with an environment `work` to be replaced, next to files that must not change."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "home" / "jupyter"))
    make_sandbox(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server, shared by all tests of a process."""
    with running() as server:
        yield server


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    """A proxy in front of the S3 server that injects faults."""
    with in_front_of(s3_server.endpoint) as running_proxy:
        yield running_proxy


@pytest.fixture
def url(s3_server: S3Server) -> str:
    return f"s3://{s3_server.bucket}/{secrets.token_hex(8)}"


@pytest.fixture
def new_instance(tmp_path: Path, s3_server: S3Server, url: str) -> Callable[[str], Instance]:
    """Return a function that creates an instance by name; all share one S3 prefix."""

    def make_instance(name: str) -> Instance:
        home = tmp_path / name
        (home / "envs").mkdir(parents=True)
        return Instance(home, home / "envs", tmp_path / "store", url, s3_server.variables())

    return make_instance


@pytest.fixture(scope="session")
def beside_packages() -> Iterator[Path]:
    """A directory on one file system with the package cache, from which files are linked, as conda links them."""
    cache = open_cache(None).root
    for left_over in cache.glob("environments-*"):  # by killed tests
        if left_over.stat().st_mtime < time.time() - 24 * 3600:
            shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="environments-", dir=cache) as directory:
        yield Path(directory)


@pytest.fixture(scope="session")
def pristine(beside_packages: Path) -> Callable[[str], Path]:
    """Return a function that creates an environment from a recipe, once per process. Tests must not change it."""

    @functools.cache
    def prefix(recipe: str) -> Path:
        make(recipe, beside_packages / recipe)
        return beside_packages / recipe

    return prefix


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the one recorded in tests/golden; `pytest --update-golden` records it."""
    directory = Path(__file__).parent / "golden"

    def check(name: str, text: str) -> None:
        if request.config.getoption("--update-golden"):
            directory.mkdir(exist_ok=True)
            (directory / name).write_text(text, encoding="utf-8")
        assert text == (directory / name).read_text(encoding="utf-8"), "pytest --update-golden records it"

    return check


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory with a short path, on a memory file system if there is one."""
    top = Path(tempfile.mkdtemp(prefix="s", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    yield top
    shutil.rmtree(top, ignore_errors=True)


def tree_of(top: Path) -> dict[str, tuple[str, int, bytes]]:
    """Return the type, mode and contents of every path below `top`, except snapper's own state."""
    found: dict[str, tuple[str, int, bytes]] = {}
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if Path(directory, name) != top / ".snapper"]
        for name in names + files:
            path = Path(directory, name)
            mode = path.lstat().st_mode
            if path.is_symlink():
                kind, data = "symlink", os.fsencode(os.readlink(path))
            elif path.is_dir():
                kind, data = "directory", b""
            elif path.is_file():
                kind, data = "file", path.read_bytes()
            else:
                kind, data = "special", b""
            found[str(path.relative_to(top))] = kind, mode & 0o7777, data
    return found


def without_run_records(tree: dict[str, tuple[str, int, bytes]]) -> dict[str, tuple[str, int, bytes]]:
    """Return the tree without what a failed restore records in the state directory for kernels that wait for it."""
    record = re.compile(r"(.*/)?\.local(/state(/snapper(/waiting(/.*)?)?)?)?\Z", re.S)
    return {path: entry for path, entry in tree.items() if not record.match(path)}
