"""Find kernelspecs outside of an environment that start it: the user's own, the system's, those of other environments.

`python -m ipykernel install --user`, IRkernel, and IJulia write such kernelspecs. The environment is named by its path,
in the command itself or in a script that the command runs, or by the name that `conda run` or `conda activate` finds.
"""

from __future__ import annotations

import errno
import json
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from snapper.environment.dependencies import Dependency
from snapper.environment.managed import managed_environments
from snapper.format.paths import contains_path
from snapper.fs.own_directory import list_directory, own_directory
from snapper.fs.pinned import PinnedDirectory
from snapper.kernels import withheld
from snapper.kernels.jupyter import kernel_directories, user_kernels_directory
from snapper.kernels.kernelspecs import (
    ASSETS,
    CARRIED,
    KERNEL_JSON,
    KERNELSPEC_ERRORS,
    TO_PREFIX,
    Kernelspec,
    find_kernelspecs,
    parse_kernelspec,
)
from snapper.kernels.registered import registered_kernel_of

#: The largest kernelspec, script, or logo, in bytes.
_LARGEST = 64 << 10

#: Names that Jupyter accepts.
_VALID_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")

_CONDA = ("conda", "mamba", "micromamba", "conda.exe")

#: Options of `conda run` that are followed by a value.
_WITH_VALUE = ("-p", "--prefix", "-n", "--name", "--cwd", "-e", "--env", "-r", "--root-prefix")

_SEPARATORS = re.compile(rb"""[\s'\";&|()=]+""")


@dataclass(frozen=True)
class OutsideKernel:
    """A kernelspec in the directory `path` that starts an environment, as it is to be there: with relative paths.

    `files` are logos and scripts that belong beside it. It does not have the `secret_variables`, which look like
    credentials. Those of its `private` files also contain credentials, or only this user may read them.
    """

    name: str
    path: Path
    spec: Kernelspec
    files: dict[str, bytes] = field(default_factory=dict)
    secret_variables: tuple[str, ...] = ()
    private: tuple[str, ...] = ()

    def without_secrets(self, *, modes: bool) -> OutsideKernel:
        """Return it without variables that look like credentials, and state which of its files are private.

        The `modes` of files can tell. May raise OSError.
        """
        variables = self.spec.variables()
        secret = withheld.secret_variables(variables)
        kept = {name: value for name, value in variables.items() if name not in secret}
        spec = replace(self.spec, fields={**self.spec.fields, "env": kept})
        kernel = replace(self, spec=spec, secret_variables=secret)
        private = {*withheld.files_with_secrets(spec, kernel.kernel_json(), self.files)}
        if modes:
            private |= {*withheld.private_files(self.path, (KERNEL_JSON, *self.files))}
        return replace(kernel, private=tuple(sorted(private)))

    def dependencies(self) -> Iterator[Dependency]:
        """Yield what is not packed of it."""
        yield from withheld.dependencies(self.path, self.private, self.secret_variables)

    def kernel_json(self) -> bytes:
        """Return the text of its `kernel.json` in the environment."""
        fields = {**self.spec.fields, "argv": list(self.spec.command)}
        fields["display_name"] = self.spec.kernel.display_name
        return json.dumps(fields, indent=1, sort_keys=True).encode("ascii")


def find_outside_kernels(environment: PinnedDirectory) -> list[OutsideKernel]:
    """Return the kernelspecs outside of the environment that start it, unless snapper has registered them; by name.

    Of several with one name, only the one that Jupyter finds first counts. Files of other users do not count.
    """
    found: dict[str, OutsideKernel | None] = {}
    names = _Names(environment)
    for directory in _search_path(environment):
        for name in list_directory(directory):
            if _VALID_NAME.fullmatch(name) and name.lower() not in found:
                with suppress(*KERNELSPEC_ERRORS):
                    found[name.lower()] = names.read(directory / name)
    return [kernel for _, kernel in sorted(found.items()) if kernel]


def _search_path(environment: PinnedDirectory) -> Iterator[Path]:
    """Yield the directories with kernelspecs outside of the environment, those that Jupyter looks in first.

    Kernelspecs in environments that snapper manages do not count: their publishers would decide what is packed with
    this one, and what colleagues start.
    """
    top = os.path.realpath(environment.path) + "/"
    for directory in dict.fromkeys([str(user_kernels_directory()), *kernel_directories()]):
        path = Path(directory)
        if not os.path.realpath(path).startswith(top) and not managed_environments(path):
            yield path


class _Names:
    """The ways in which a kernelspec can name an environment."""

    def __init__(self, environment: PinnedDirectory) -> None:
        self._environment = environment
        path = environment.path
        self._prefix = str(path)
        self._spellings = tuple(dict.fromkeys((os.path.realpath(path), os.path.abspath(path))))

    def read(self, directory: Path) -> OutsideKernel | None:
        """Return the kernelspec in a directory if it starts the environment. May raise KERNELSPEC_ERRORS."""
        data = _read(directory, KERNEL_JSON)
        spec = parse_kernelspec(self._environment, f"{CARRIED}/{directory.name}", data)
        if spec is None:
            return None
        registered = registered_kernel_of(json.loads(data))
        if registered:
            return self._copy(directory, spec, *registered)
        resources = str(directory)
        command = [word.replace("{resource_dir}", resources) for word in spec.command]
        variables, command = _without_env(command)
        target, inner = _without_conda_run(command)
        files = dict(_files(directory))
        if target and inner and self._is_named(target):
            command = inner
        elif not self._starts(command, resources, files):
            return None
        words = (self._relative(word.replace(resources, "{resource_dir}")) for word in command)
        fields = {**spec.fields, "env": {**spec.variables(), **variables}}
        own = replace(spec, command=(self._program(next(words)), *words), fields=fields)
        return OutsideKernel(directory.name, directory, own, files).without_secrets(modes=True)

    def _copy(
        self, directory: Path, spec: Kernelspec, name: str, kernel: str, prefix: str
    ) -> OutsideKernel | None:
        """Return a copy of a registered kernel that the user has changed; its command is that of the environment."""
        if directory.name == name or prefix not in (*self._spellings, self._prefix):
            return None
        for shipped in find_kernelspecs(self._environment):
            if shipped.kernel.name == kernel:
                metadata = {key: value for key, value in spec.fields["metadata"].items() if key != "snapper"}
                fields = {**spec.fields, "metadata": metadata}
                own = replace(spec, command=shipped.command, fields=fields)
                copy = OutsideKernel(directory.name, directory, own, dict(_files(directory)))
                return copy.without_secrets(modes=False)  # the modes are those that snapper has chosen
        return None

    def _starts(self, command: list[str], resources: str, files: dict[str, bytes]) -> bool:
        """Return whether a command starts the environment.

        Scripts of the user's that it runs are added to `files`, and replaced in the command by what will be there.
        """
        scripts = dict(_scripts(command, resources))
        words = (self._own_path(word).encode("utf-8", "surrogateescape") for word in command)
        texts = [*words, *scripts.values()]
        if not any(map(self._is_mentioned, texts)):
            return False
        for position, script in scripts.items():
            path = command[position]
            is_inside = self._own_path(path).startswith(f"{self._prefix}/")
            if not is_inside:
                name = posixpath.basename(path)
                files[name] = script
                command[position] = f"{{resource_dir}}/{name}"
        return True

    def _is_mentioned(self, text: bytes) -> bool:
        """Return whether a text contains the path of the environment, or activates it by name."""
        if any(contains_path(text, spelling) for spelling in self._spellings):
            return True
        words = _SEPARATORS.split(text)
        named = {
            word
            for before, word in pairwise(words)
            if before.endswith(b"activate") or (before in (b"-n", b"--name") and b"run" in words)
        }
        return any(self._is_named(word.decode("utf-8", "surrogateescape")) for word in named)

    def _is_named(self, target: str) -> bool:
        """Return whether a name or path that conda accepts is the environment's."""
        if "/" in target:
            return os.path.realpath(os.path.expanduser(target)) == self._spellings[0]
        path = self._environment.path
        return target == path.name and path.parent.name == "envs"

    def _own_path(self, word: str) -> str:
        """Return the path of the environment for another spelling of it, and other words as they are."""
        directory, name = posixpath.split(word)
        if word.startswith("/") and name:
            real = posixpath.join(os.path.realpath(directory), name)
            for spelling in self._spellings:
                for path in (word, real):
                    if path == spelling or path.startswith(f"{spelling}/"):
                        return self._prefix + path[len(spelling) :]
        return word

    def _relative(self, word: str) -> str:
        """Return a path in the environment relative to the kernelspec that it will carry; other words as they are."""
        path = self._own_path(word)
        inside = path.startswith(f"{self._prefix}/")
        return f"{{resource_dir}}/{TO_PREFIX}{path[len(self._prefix) :]}" if inside else word

    def _program(self, word: str) -> str:
        """Return the name of a program in the environment's `bin`, and other programs as they are."""
        directory, name = posixpath.split(word)
        return name if directory == f"{{resource_dir}}/{TO_PREFIX}/bin" else word


def _files(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of logos and front-end files beside a kernelspec."""
    for name in ASSETS:
        with suppress(OSError):
            yield name, _read(directory, name)


def _scripts(command: Sequence[str], resources: str) -> Iterator[tuple[int, bytes]]:
    """Yield the scripts beside a kernelspec that a command runs, by their positions in it.

    Scripts elsewhere may contain anything, and are not packed.
    """
    for position, word in enumerate(command):
        if posixpath.dirname(word) == resources:
            with suppress(OSError):
                script = _read(Path(resources), posixpath.basename(word))
                if b"\0" not in script:
                    yield position, script


def _read(directory: Path, name: str) -> bytes:
    """Return the contents of a regular file, and no link, of this user or root in a directory of theirs.

    May raise OSError.
    """
    with own_directory(directory) as opened:
        data = opened.read(name)
    if len(data) > _LARGEST:
        raise OSError(errno.EFBIG, f"it is larger than {_LARGEST:,} bytes", name)
    return data


def _without_env(command: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables that `env` sets at the beginning of a command, and the rest of the command."""
    if posixpath.basename(command[0]) != "env":
        return {}, command
    variables = {}
    for position, word in enumerate(command[1:], 1):
        name, separator, value = word.partition("=")
        if separator:
            variables[name] = value
        elif word.startswith("-"):
            return {}, command  # an option: leave it as it is
        else:
            return variables, command[position:]
    return {}, command


def _without_conda_run(command: list[str]) -> tuple[str, list[str]]:
    """Return the environment that `conda run` names, and what it runs there; nothing if it is another command."""
    if posixpath.basename(command[0]) not in _CONDA or "run" not in command:
        return "", []
    target, words = "", iter(command[command.index("run") + 1 :])
    for word in words:
        option, _, value = word.partition("=")
        if not word.startswith("-"):
            return target, [word, *words]
        if option in _WITH_VALUE:
            value = value or next(words, "")
            target = value if option in ("-p", "--prefix", "-n", "--name") else target
    return target, []
