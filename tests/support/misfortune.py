"""What misfortune needs: other users, commands that are still running, and a look at stores of its own.

`check_store` shares no code with snapper: it knows docs/format.md only.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import zstandard

from scripts.maker import make
from tests.conftest import Machine, Outcome


def make_data(prefix: Path) -> Path:
    """The smallest environment, with files of its own that may be changed."""
    make("data", prefix, copy=True)
    return prefix


def make_many(prefix: Path) -> Path:
    """An environment with so many files, in so many layers, that a command can be met at work on it."""
    make_data(prefix)
    for number in range(16):
        metadata = prefix / "lib" / f"many{number}-1.0.dist-info"
        package = prefix / "lib" / f"many{number}"
        for directory in (metadata, package):
            directory.mkdir(parents=True)
        (package / "random.bin").write_bytes(random.Random(number).randbytes(1024 * 1024))
        for count in range(200):
            (package / f"module{count}.py").write_text(f"# {prefix}\nnumber = {count}\n" * 50)
        listed = [f"{path.parent.name}/{path.name},," for path in package.iterdir()]
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: many{number}\nVersion: 1.0\n\n")
        (metadata / "RECORD").write_text("\n".join([*listed, f"{metadata.name}/METADATA,,", ""]))
    return prefix


def forget_state(prefix: Path) -> None:
    """Makes an environment one that snapper has never seen."""
    shutil.rmtree(prefix / ".snapper")


# --- stores -----------------------------------------------------------------------------------------------


def check_store(store: Path, *, killed: bool = False) -> dict[str, str]:
    """Asserts that everything in the store is whole and nothing else is there; each environment's current
    snapshot. Who was `killed` may have left files behind whose names begin with a dot, and locks."""
    files = {str(path.relative_to(store)) for path in store.rglob("*") if not path.is_dir()}
    if killed:
        files = {file for file in files if not Path(file).name.startswith(".")}
    assert json.loads((store / "snapper.json").read_bytes()) == {"format": 1}
    expected = {"snapper.json"}
    current: dict[str, str] = {}
    for file in files:
        kind, _, name = file.partition("/")
        if kind == "environments":
            document = json.loads((store / file).read_bytes())
            assert name == f"{document['name']}.json"
            current[document["name"]] = document["current"]
            assert document["history"][-1]["snapshot"] == document["current"]
            for digest in [move["snapshot"] for move in document["history"]] + [*document["tags"].values()]:
                assert f"snapshots/{digest}.json" in files, f"{file} names a snapshot that is not there"
        elif kind == "snapshots":
            _check_snapshot(store, file)
        elif kind == "pages":
            digest = Path(file).name.removesuffix(".json")
            assert file == f"pages/{digest[:2]}/{digest}.json"
            assert hashlib.sha256((store / file).read_bytes()).hexdigest() == digest
        elif kind == "layers":
            digest = Path(file).name.removesuffix(".tar.zst")
            assert file == f"layers/{digest[:2]}/{digest}.tar.zst"
            assert hashlib.sha256((store / file).read_bytes()).hexdigest() == digest
        elif kind == "locks" and killed:
            assert json.loads((store / file).read_bytes())["format"] == 1
        else:
            assert file in expected, f"{file} does not belong in a store"
    return current


def _check_snapshot(store: Path, file: str) -> None:
    data = (store / file).read_bytes()
    assert file == f"snapshots/{hashlib.sha256(data).hexdigest()}.json"
    for page in json.loads(data)["packages"] + json.loads(data)["layers"]:
        assert page_file(store, page["digest"]).stat().st_size == page["size"]
    for layer in snapshot_in(store, Path(file).stem)["layers"]:
        stored = (store / "layers" / layer["digest"][:2] / f"{layer['digest']}.tar.zst").read_bytes()
        assert len(stored) == layer["size"]
        segment = zstandard.ZstdDecompressor().decompress(stored, max_output_size=layer["diff_size"])
        assert len(segment) == layer["diff_size"]
        assert hashlib.sha256(segment).hexdigest() == layer["diff_id"]


def change_environment(store: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes an environment's entry in the store behind snapper's back."""
    file = store / "environments" / f"{name}.json"
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document))


def page_file(store: Path, digest: str) -> Path:
    return store / "pages" / digest[:2] / f"{digest}.json"


def snapshot_in(store: Path, digest: str) -> dict[str, Any]:
    """What a snapshot says, with what its pages hold in their place."""
    document: dict[str, Any] = json.loads((store / "snapshots" / f"{digest}.json").read_bytes())
    for name in ("packages", "layers"):
        pages = [json.loads(page_file(store, page["digest"]).read_bytes()) for page in document[name]]
        document[name] = [item for page in pages for item in page]
    return document


def write_snapshot(store: Path, fields: dict[str, Any]) -> str:
    """Puts a snapshot that says this into the store, whatever it is, with a page for each list; its id."""
    document = {**fields}
    for name in ("packages", "layers"):
        data = json.dumps(fields[name], sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(data).hexdigest()
        page_file(store, digest).parent.mkdir(parents=True, exist_ok=True)
        page_file(store, digest).write_bytes(data)
        document[name] = [{"digest": digest, "size": len(data)}] if fields[name] else []
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    (store / "snapshots" / f"{digest}.json").write_bytes(data)
    return digest


def page_files(store: Path) -> list[Path]:
    return sorted((store / "pages").rglob("*.json"))


def layer_files(store: Path) -> list[Path]:
    return sorted((store / "layers").rglob("*.tar.zst"))


# --- other users ------------------------------------------------------------------------------------------

_WITHOUT_PRIVILEGES = """
import ctypes, os, sys
for capability in range(64):
    ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
os.execv(sys.argv[1], sys.argv[1:])
"""


class Unprivileged(Machine):
    """A machine whose user is not almighty, so that permissions count: root without capabilities, or whoever
    runs the tests."""

    def command(self, *arguments: object) -> list[str]:
        return _unprivileged(super().command(*arguments))


def unprivileged(machine: Machine) -> Unprivileged:
    """The machine for such a user; the test is skipped where there can be none."""
    closed = machine.home / "closed"
    closed.touch(mode=0)
    look = [sys.executable, "-c", f"import os, sys; sys.exit(os.access({str(closed)!r}, os.R_OK))"]
    done = subprocess.run(_unprivileged(look), check=False)
    closed.unlink()
    if done.returncode:
        pytest.skip("this user is almighty and cannot help it")
    return Unprivileged(machine.home, machine.envs, machine.store)


def _unprivileged(command: list[str]) -> list[str]:
    return [sys.executable, "-c", _WITHOUT_PRIVILEGES, *command] if os.geteuid() == 0 else command


# --- running commands -------------------------------------------------------------------------------------


def eventually(condition: Callable[[], object], *, seconds: float = 60) -> None:
    """Waits until the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


@dataclass
class Running:
    """A command that runs in a process group of its own, as a shell's jobs do."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    @property
    def err(self) -> str:
        return (self.log / "err").read_text()

    def reach(self, condition: Callable[[], object]) -> bool:
        """Waits until the condition holds, with True, or the command is over."""
        eventually(lambda: condition() or self.over)
        return not self.over

    def halt(self) -> bool:
        """Stops the command itself, but not its workers, where it is; False if it was over before."""
        self.process.send_signal(signal.SIGSTOP)
        eventually(lambda: self.over or _state(self.process.pid) == "T")
        return not self.over

    def send(self, number: int) -> None:
        """Sends a signal to the command and all its workers, as a terminal does; to none if all are gone."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self, *, seconds: float = 60) -> Outcome:
        """Waits for the command to end."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            raise
        out = (self.log / "out").read_text()
        assert "Traceback" not in self.err, self.err
        return Outcome(code, out, self.err)

    def has_workers(self) -> bool:
        return len(self.members()) > 1

    def gone(self) -> bool:
        """Whether the command and all its workers are no more."""
        return not self.members()

    def members(self) -> list[int]:
        """The processes of the group that are still there."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if fields[2] == str(self.process.pid) and fields[0] not in "ZX":
                    found.append(int(entry.name))
        return found


def _state(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def begin(machine: Machine, *arguments: object, **variables: str) -> Running:
    """Begins `snapper`, which is not waited for. An interrupt may leave files for Python to close: no error here."""
    log = Path(tempfile.mkdtemp(prefix="log", dir=machine.home))
    with (log / "out").open("wb") as out, (log / "err").open("wb") as err:
        process = subprocess.Popen(
            machine.command(*arguments),
            env={**machine.variables, "PYTHONWARNINGS": "", **variables},
            cwd=machine.home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    return Running(process, log)


def meet(start: Callable[[], Running], there: Callable[[], object], past: Callable[[], object]) -> Running:
    """Begins a command, and halts it once it is `there` but not yet `past`."""
    for _ in range(20):
        running = start()
        if running.reach(there) and running.halt() and not past():
            return running
        running.send(signal.SIGKILL)
        running.process.wait()
        eventually(running.gone)
    raise AssertionError("it was too fast every time")


def staged(target: Path, pattern: str) -> Callable[[], bool]:
    """Whether a restore to the target has made anything of that name yet."""
    holder = target.parent / f".{target.name}.snapper"
    return lambda: any(holder.glob(f"tree*/{pattern}"))


@contextmanager
def between_looking_and_reading(prefix: Path) -> Iterator[Path]:
    """A place in an environment where `snapper pack` waits until `let_go`: after it has listed the files and
    before it reads them, it looks for the snapshot that it made last."""
    pipe = prefix / ".snapper" / "snapshot"
    pipe.parent.mkdir(exist_ok=True)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    try:
        yield pipe
    finally:
        pipe.unlink(missing_ok=True)


def wait_for_reader(pipe: Path, running: Running) -> int:
    """Waits until the command reads from the pipe; it goes on when the descriptor that this returns is closed."""
    found: list[int] = []

    def opened() -> bool:
        try:
            found.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    assert running.reach(opened), running.err
    pid = running.process.pid
    # Not in the midst of opening it: a KeyboardInterrupt there can be lost in CPython's io.open.
    eventually(lambda: pipe in _open_files(pid) and _state(pid) == "S")
    return found[0]


def _open_files(pid: int) -> list[Path]:
    return [Path(os.readlink(entry)) for entry in (Path("/proc") / str(pid) / "fd").iterdir()]
