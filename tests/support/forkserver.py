"""Run `snapper` for tests without starting a Python interpreter each time.

A server that has imported all of snapper forks for each command. The fork adopts the command's arguments, environment
variables, directory, umask, user, memory limit and streams, runs what `python -m snapper` runs, and exits like Python.
Other commands, and those with environment variables that Python reads at startup, are started as usual.

Each interpreter has a server of its own, so another version of snapper can be tested as well. It runs this file as a
script, which therefore imports nothing of the tests before it needs to.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import resource
import runpy
import selectors
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tests.support.line_coverage import Measurement

#: The environment variables that Python reads at startup, with the values that the server is started with.
STARTUP_VARIABLES = {"LANG": "C.UTF-8", "PYTHONWARNINGS": "error"}

#: What snapper and its dependencies import in functions, in nearly every command, or in every one that uses S3.
_IMPORTED_LATER = ("platformdirs", "jupyter_core.paths", "multiprocessing.popen_fork", "encodings.idna")

_ROOT = Path(__file__).parents[2]
_PR_SET_DUMPABLE = 4


@dataclass(frozen=True)
class Conditions:
    """How a command is run.

    These are the user and the supplementary groups, the bytes of address space that each process may use in addition
    to what it has at the start, and the seconds that the command may take.
    """

    user: int | None = None
    groups: Sequence[int] = ()
    memory: int | None = None
    seconds: float = 300


def run(
    command: Sequence[str],
    variables: Mapping[str, str],
    directory: Path,
    conditions: Conditions = Conditions(),
) -> subprocess.CompletedProcess[str]:
    """Run a command to completion with an empty standard input, and capture its output.

    Raise TimeoutError if it takes too long. Only commands of the form `PYTHON -m snapper …` run under conditions.
    """
    if (
        list(command[1:3]) == ["-m", "snapper"]
        and _at_start(variables) == STARTUP_VARIABLES
        and sys.platform == "linux"
    ):
        return _run_forked(command, variables, directory, conditions)
    assert conditions == Conditions()
    return subprocess.run(
        command,
        env=variables,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=conditions.seconds,
        check=False,
    )


def _at_start(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in variables.items() if name.startswith(("PYTHON", "LANG", "LC_", "LD_"))
    }


# --- in the process of the tests --------------------------------------------------------------------------


def _run_forked(
    command: Sequence[str], variables: Mapping[str, str], directory: Path, conditions: Conditions
) -> subprocess.CompletedProcess[str]:
    os.umask(mask := os.umask(0o022))
    request = {
        "arguments": command[3:],
        "variables": dict(variables),
        "directory": str(directory),
        "umask": mask,
        "user": conditions.user,
        "groups": list(conditions.groups),
        "memory": conditions.memory,
    }
    pipes = [os.pipe() for _ in range(3)]
    try:
        writable = [write for _, write in pipes]
        try:
            socket.send_fds(_server(command[0]), [json.dumps(request).encode()], writable)
        finally:
            for write in writable:
                os.close(write)
        out, err, report = _read([read for read, _ in pipes], conditions.seconds)
    finally:
        for read, _ in pipes:
            os.close(read)
    _, code = report.split()
    return subprocess.CompletedProcess(command, int(code), out.decode(), err.decode())


def _read(pipes: list[int], seconds: float) -> list[bytes]:
    """Return what is read from each pipe until all are closed. What the last one sends begins with a PID."""
    read = {pipe: bytearray() for pipe in pipes}
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(max(0, end - time.monotonic())):
                if data := os.read(key.fd, 1 << 16):
                    read[key.fd] += data
                else:
                    selector.unregister(key.fd)
            if time.monotonic() > end:
                with suppress(ProcessLookupError):
                    os.killpg(int(read[pipes[-1]].split()[0]), signal.SIGKILL)
                raise TimeoutError(
                    f"the command did not end within {seconds} s; stderr: {read[pipes[1]].decode()}"
                )
    return [bytes(data) for data in read.values()]


@functools.cache
def _server(python: str) -> socket.socket:
    """Return the connection to this process's server for that interpreter, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        server = subprocess.Popen(
            [python, __file__, str(theirs.fileno()), _coverage_report(python)],
            env={"PATH": os.environ["PATH"], **STARTUP_VARIABLES},
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=theirs.fileno(),  # like a pipe: nothing is written before the fork
            pass_fds=[theirs.fileno()],
        )

    def stop() -> None:
        ours.close()
        server.wait()

    atexit.register(stop)
    return ours


def _coverage_report(python: str) -> str:
    """Return the file in which coverage is reported; empty if it is not measured with that interpreter."""
    from tests.support import line_coverage

    return os.environ.get(line_coverage.VARIABLE, "") if python == sys.executable else ""


# --- in the server ----------------------------------------------------------------------------------------


def import_all() -> None:
    """Import all of snapper, and what it and its dependencies import when they are first used."""
    package = importlib.import_module("snapper")
    for module in pkgutil.walk_packages(package.__path__, "snapper."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _IMPORTED_LATER:
        importlib.import_module(name)
    _load_description_of_s3()
    with redirect_stdout(io.StringIO()):
        importlib.import_module("snapper.cli.app").run(["list", "--help"])


def _load_description_of_s3() -> None:
    """Have all sessions of boto3 share what they read: large JSON files, which describe S3's requests."""
    loaders: Any = importlib.import_module("botocore.loaders")
    loaders.create_loader = functools.cache(loaders.create_loader)
    session = importlib.import_module("boto3.session").Session("a", "b", region_name="us-east-1")
    session.client("s3")


def _make_modules_reachable() -> None:
    """Have modules imported through open directories where only root can reach them by their paths.

    Forks that become another user also import modules, and Python may be installed in root's home.
    """
    opened: dict[str, str] = {}

    def reachable(path: str) -> str:
        if not os.path.isdir(path) or all(
            parent.stat().st_mode & stat.S_IXOTH for parent in (Path(path), *Path(path).resolve().parents)
        ):
            return path
        if path not in opened:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            opened[path] = f"/proc/self/fd/{descriptor}"
        return opened[path]

    sys.path[:] = map(reachable, sys.path)
    for module in list(sys.modules.values()):
        if isinstance(paths := getattr(module, "__path__", None), list):
            paths[:] = map(reachable, paths)


@dataclass(frozen=True)
class _Fork:
    """A fork that runs a command: a descriptor of its process, and the pipe to which its exit code is reported."""

    pid: int
    process: int
    report: int

    def close(self) -> None:
        os.close(self.process)
        os.close(self.report)

    def report_exit(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        _report(self.report, str(os.waitstatus_to_exitcode(status)))
        self.close()


def _report(pipe: int, text: str) -> None:
    """Write to the pipe of a request, unless whoever made that no longer reads it."""
    with suppress(BrokenPipeError):
        os.write(pipe, text.encode())


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Fork for each request, and report the exit codes of the forks; return in each fork, with the request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with channel, selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if isinstance(key.data, _Fork):
                    selector.unregister(key.fd)
                    key.data.report_exit()
                    continue
                request, descriptors, _, _ = socket.recv_fds(channel, 1 << 20, 3)
                if not request:
                    sys.exit()
                if (pid := os.fork()) == 0:
                    _adopt(descriptors, [other.data for other in selector.get_map().values() if other.data])
                    parsed: dict[str, Any] = json.loads(request)
                    return parsed
                fork = _started(pid, descriptors)
                selector.register(fork.process, selectors.EVENT_READ, fork)


def _started(pid: int, descriptors: list[int]) -> _Fork:
    out, err, report = descriptors
    os.close(out)
    os.close(err)
    _report(report, f"{pid} ")
    return _Fork(pid, os.pidfd_open(pid), report)


def _adopt(descriptors: list[int], others: list[_Fork]) -> None:
    """Use the streams, and a process group of this process's own; forget the other forks."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgid(0, 0)
    out, err, _ = descriptors
    os.dup2(out, 1)
    os.dup2(err, 2)
    for descriptor in descriptors:
        os.close(descriptor)
    for other in others:
        other.close()


def _run_snapper(request: dict[str, Any]) -> NoReturn:
    os.umask(request["umask"])
    if request["memory"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + request["memory"],) * 2)
    if request["user"] is not None:
        _become(request["user"], request["groups"])
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["variables"])
    time.tzset()
    sys.path[0] = request["directory"]
    sys.argv[1:] = request["arguments"]
    try:
        runpy.run_module("snapper", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    _exit(code)


def _exit(code: int) -> NoReturn:
    """Exit as Python does, but leave the memory to the system: clearing it takes longer than most commands."""
    threading._shutdown()  # type: ignore[attr-defined] # waits for threads
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:
        code = 120
    os._exit(code)


def _address_space() -> int:
    """Return how many bytes of address space this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _become(user: int, groups: Sequence[int]) -> None:
    """Become the user, in these supplementary groups; its own files in /proc stay accessible, as after an `exec`."""
    os.setgroups(groups)
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _import_and_measure(report: str) -> Measurement:
    """Import snapper, report the lines that this runs, and return a new measurement for the forks."""
    sys.path[0] = str(_ROOT)
    from tests.support import line_coverage

    imports = line_coverage.Measurement(report)
    import_all()
    imports.stop()
    imports.report()
    return line_coverage.Measurement(report)


def main(descriptor: str, coverage_report: str) -> None:
    sys.path[0] = str(
        Path(sys.executable).parent
    )  # not the directory of this file, whose modules are not for import
    _make_modules_reachable()
    measurement = None
    if coverage_report:
        measurement = _import_and_measure(coverage_report)
    else:
        import_all()
    gc.freeze()
    request = _serve(socket.socket(fileno=int(descriptor)))
    if measurement:
        measurement.report_at_exit()
    _run_snapper(request)


if __name__ == "__main__":
    main(*sys.argv[1:])
