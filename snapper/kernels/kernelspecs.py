"""Find the kernelspecs that an environment ships in `share/jupyter/kernels`.

Whoever published the environment wrote them. They are read only from the environment, up to a limit, and only fields
with a known meaning are taken over.
"""

from __future__ import annotations

import json
import logging
import math
import shlex
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapper.environment import conda
from snapper.environment.dependency import KernelCommand
from snapper.environment.names import can_be_in_envs_dir
from snapper.format.model import Kernel
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.small_files import list_beneath, read_beneath
from snapper.process.shell import is_variable_name, quote

logger = logging.getLogger(__name__)

KERNEL_JSON = "kernel.json"

#: The most kernels that an environment can have.
MOST_KERNELS = 100

#: The script beside the `kernel.json` of a registered kernel.
LAUNCH_SCRIPT = "launch.sh"

#: What leads from the directory of a kernelspec that the environment carries to the environment.
TO_PREFIX = "../../../.."

#: What parsing a kernelspec can raise. It may be any file: deeply nested JSON, not UTF-8, or of unexpected types.
KERNELSPEC_ERRORS = (OSError, ValueError, KeyError, TypeError, RecursionError)

#: Logos and front-end files that can be next to it.
ASSETS = ("logo-32x32.png", "logo-64x64.png", "logo-svg.svg", "kernel.js", "kernel.css")

#: The directory in an environment for the kernelspecs that it ships.
SHIPPED = "share/jupyter/kernels"

#: The directory in an environment for kernelspecs that were outside of it, and are to be registered by their own names.
CARRIED = "share/snapper/kernels"

#: The largest `kernel.json`, and the largest logo or front-end file, in bytes.
LARGEST_SPEC = 64 * 1024
_LARGEST_ASSET = 1 << 20

#: The most bytes in all logos and front-end files of an environment. Usual logos have a few thousand.
_MOST_ASSETS = 16 << 20

_LONGEST_FILE_NAME = 255
_LONGEST_TEXT = 1000

#: How deeply metadata may be nested.
_DEEPEST = 16

#: The metadata with which a kernelspec chooses the code of Jupyter's server that starts it, and its configuration.
_PROVISIONER = "kernel_provisioner"


@dataclass(frozen=True)
class Kernelspec:
    """A kernelspec of an environment, which is in `directory` below it.

    `fields` are those of its `kernel.json` besides the command and the names: metadata, variables, and how to interrupt
    the kernel.
    """

    kernel: Kernel
    environment: PinnedDirectory
    directory: str
    command: tuple[str, ...]
    fields: dict[str, Any]

    @property
    def is_carried(self) -> bool:
        """Whether it was outside of the environment when that was packed."""
        return self.directory.startswith(f"{CARRIED}/")

    @property
    def is_registered(self) -> bool:
        """Whether snapper has registered it there: Jupyter's data directory can be in an environment."""
        return (
            "snapper" in self.fields["metadata"]
            and self.command[1:2] != ()
            and (self.command[1].endswith(f"/{self.kernel.name}/{LAUNCH_SCRIPT}"))
        )

    @property
    def prefix(self) -> Path:
        return self.environment.path

    def variables(self) -> dict[str, str]:
        """Return the environment variables that the kernelspec sets."""
        variables: dict[str, str] = self.fields["env"]
        return variables

    def assets(self) -> Iterator[tuple[str, bytes]]:
        """Yield the names and contents of the logos and front-end files next to `kernel.json`.

        A link does not count: it may lead to a file with secrets.
        """
        for name in ASSETS:
            status = self.environment.stat(f"{self.directory}/{name}", follow=False)
            if status is None or not stat.S_ISREG(status.st_mode):
                continue
            data = _read(self.environment, f"{self.directory}/{name}", _LARGEST_ASSET)
            if data is not None:
                yield name, data


def find_kernelspecs(environment: PinnedDirectory) -> Iterator[Kernelspec]:
    """Yield the valid kernelspecs that the environment ships, sorted by name, and then those that it carries."""
    directories = [f"{top}/{name}" for top in (SHIPPED, CARRIED) for name in _list(environment, top)]
    for directory in directories[:MOST_KERNELS]:
        data = _read(environment, f"{directory}/{KERNEL_JSON}", LARGEST_SPEC)
        try:
            spec = None if data is None else parse_kernelspec(environment, directory, data)
        except KERNELSPEC_ERRORS as error:
            reason = f"{type(error).__name__}: {error}"
            logger.info("ignored the kernel in %s/%s: %s", environment, directory, reason)
            continue
        if spec and not spec.is_registered:
            yield spec


def shipped_kernels(environment: PinnedDirectory) -> tuple[Kernel, ...]:
    """Return the kernels that the environment ships, sorted by name."""
    return tuple(spec.kernel for spec in find_kernelspecs(environment) if not spec.is_carried)


def kernel_commands(environment: PinnedDirectory) -> list[KernelCommand]:
    """Return the commands of the environment's kernels, and the variables that the kernelspecs set."""
    return [
        KernelCommand(spec.kernel.name, spec.command, spec.variables())
        for spec in find_kernelspecs(environment)
    ]


def read_assets(specs: Sequence[Kernelspec]) -> list[dict[str, bytes]]:
    """Return the contents of the assets of each kernelspec, by name.

    Those that exceed the limit for all together are left out: they are copied into the user's home directory.
    """
    remaining = _MOST_ASSETS
    found: list[dict[str, bytes]] = []
    for spec in specs:
        found.append({})
        for name, data in spec.assets():
            if len(data) > remaining:
                logger.warning(
                    "ignored %s/%s/%s: too many large files", spec.environment, spec.directory, name
                )
                continue
            found[-1][name] = data
            remaining -= len(data)
    return found


def has_kernels(environment: PinnedDirectory) -> bool:
    """Return whether the environment ships or carries a kernel."""
    return any(True for _ in find_kernelspecs(environment))


def possible_kernels(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Return those of the kernels in a snapshot that can be in an environment, with texts of limited size."""
    return [
        Kernel(kernel.name, kernel.display_name[:_LONGEST_TEXT], kernel.language[:_LONGEST_TEXT])
        for kernel in kernels[:MOST_KERNELS]
        if len(kernel.name) <= _LONGEST_FILE_NAME
        and "/" not in kernel.name
        and kernel.name not in ("", ".", "..")
    ]


def install_hint(prefix: Path) -> str:
    """Return the command that installs a kernel into an environment without one."""
    try:
        packages = conda.installed_names(prefix)
    except OSError:
        packages = set()
    package = "r-irkernel" if "r-base" in packages and "python" not in packages else "ipykernel"
    has_name = prefix.parent.name == "envs" and can_be_in_envs_dir(prefix.name)
    where = f"-n {shlex.quote(prefix.name)}" if has_name else f"-p {shlex.quote(str(prefix))}"
    return f"conda install {where} {package}"


def parse_kernelspec(environment: PinnedDirectory, directory: str, data: bytes) -> Kernelspec | None:
    """Return the kernelspec, or None if it has no command; may raise KERNELSPEC_ERRORS."""
    found = json.loads(str(data, "utf-8-sig"))
    argv = found["argv"]
    if not (isinstance(argv, list) and argv and all(isinstance(word, str) for word in argv)):
        return None
    if argv[0].startswith("-"):  # an option of the shell's `exec`
        return None
    name = directory.rpartition("/")[2]
    display_name, language = str(found.get("display_name", name)), str(found.get("language", ""))
    f"{display_name}{language}".encode()  # raise UnicodeEncodeError for what Jupyter could not display
    kernel = Kernel(name, display_name, language)
    return Kernelspec(kernel, environment, directory, tuple(argv), _known_fields(found))


def check_words(command: Sequence[str]) -> None:
    """Raise ValueError if a word of a command cannot be passed to a program."""
    for word in command:
        quote(word).encode("utf-8", "surrogateescape")


def _known_fields(found: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a `kernel.json` that are taken over, with values of the types that Jupyter expects."""
    fields: dict[str, Any] = {
        "env": {
            name: value
            for name, value in _object(found.get("env")).items()
            if is_variable_name(name) and isinstance(value, str)
        },
        "metadata": {
            name: value
            for name, value in _object(found.get("metadata")).items()
            if name != _PROVISIONER and _is_plain(value, _DEEPEST)
        },
    }
    if isinstance(found.get("language"), str):
        fields["language"] = found["language"]
    if found.get("interrupt_mode") in ("signal", "message"):
        fields["interrupt_mode"] = found["interrupt_mode"]
    if isinstance(found.get("kernel_protocol_version"), str):
        fields["kernel_protocol_version"] = found["kernel_protocol_version"]
    return fields


def _is_plain(value: object, depth: int) -> bool:
    """Return whether a JSON value is not too deep and has no infinite numbers.

    Jupyter's server puts the fields of all kernelspecs into one document, and shows no kernels if that fails.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(environment: PinnedDirectory, top: str) -> list[str]:
    """Return the names of the directories with kernelspecs in a directory, sorted."""
    try:
        return list_beneath(environment, top, MOST_KERNELS)
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("ignored %s: %s", error.filename, error.strerror)
        return []


def _read(environment: PinnedDirectory, path: str, limit: int) -> bytes | None:
    """Return the contents of a file of the environment, or None if there is none."""
    try:
        return read_beneath(environment, path, limit)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        logger.warning("ignored %s: %s", error.filename, error.strerror)
        return None
