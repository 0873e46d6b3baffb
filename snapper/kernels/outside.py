"""Find kernelspecs outside of an environment that start it: the user's own, the system's, those of other environments.

`python -m ipykernel install --user`, IRkernel, and IJulia write such kernelspecs. The environment is named by its path,
in the command itself or in a script that the command runs, or by the name that `conda run` or `conda activate` finds.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from snapper.environment.conda import is_environment
from snapper.environment.conda_directories import envs_dirs, find_roots
from snapper.environment.dependency import Dependency
from snapper.environment.locations import installed_environments
from snapper.environment.managed import managed_environments
from snapper.environment.names import ROOT_NAMES
from snapper.environment.outside_paths import Surroundings
from snapper.format.constraints import path_bytes
from snapper.format.paths import contains_path, replace_path
from snapper.fs.own_directory import list_directory
from snapper.fs.pinned import PinnedDirectory
from snapper.fs.small_files import read_own_path
from snapper.kernels import withheld
from snapper.kernels.jupyter import (
    kernel_directories,
    kernel_directories_elsewhere,
    kernels_of_prefixes,
    user_kernels_directory,
)
from snapper.kernels.kernelspec_files import KernelspecFiles, read_files, read_logos
from snapper.kernels.kernelspecs import (
    CARRIED,
    KERNEL_JSON,
    KERNELSPEC_ERRORS,
    TO_PREFIX,
    Kernelspec,
    find_kernelspecs,
    parse_kernelspec,
)
from snapper.kernels.registered import registered_kernel_of
from snapper.settings.directories import home_directory

#: The largest kernelspec or script, in bytes.
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

    `files` are the others in that directory, by path. It does not have the `secret_variables`, which look like
    credentials. Those of its `private` files also contain credentials, or only this user may read them. `problem` says
    why it cannot be carried.
    """

    name: str
    path: Path
    spec: Kernelspec
    files: dict[str, bytes] = field(default_factory=dict)
    secret_variables: tuple[str, ...] = ()
    private: tuple[str, ...] = ()
    problem: str = ""

    @property
    def can_be_carried(self) -> bool:
        return not self.problem and not self.private

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
        if self.problem:
            yield Dependency("kernel", str(self.path), (self.problem,))
        else:
            yield from withheld.dependencies(self.path, self.private, self.secret_variables)

    def kernel_json(self) -> bytes:
        """Return the text of its `kernel.json` in the environment."""
        fields = {**self.spec.fields, "argv": list(self.spec.command)}
        fields["display_name"] = self.spec.kernel.display_name
        return json.dumps(fields, indent=1, sort_keys=True).encode("ascii")


def find_outside_kernels(environment: PinnedDirectory) -> list[OutsideKernel]:
    """Return the kernelspecs where Jupyter looks that start the environment, unless snapper has registered them.

    They are sorted by name. Of several with one name, only the one that Jupyter finds first counts. Files of other
    users do not count.
    """
    return _find(environment, search_path())


def find_kernels_of_environments(environment: PinnedDirectory) -> list[OutsideKernel]:
    """Return the kernelspecs in other environments that start this one, sorted by name.

    They are not carried: whoever published these environments would decide what colleagues start. Those in managed
    environments do not count, because they are packed with these.
    """
    known = {os.path.realpath(directory) for directory in search_path()}
    others = kernels_of_prefixes(installed_environments())
    found = _find(environment, [path for path in others if os.path.realpath(path) not in known])
    return [replace(kernel, problem="it is in another environment") for kernel in found]


def _find(environment: PinnedDirectory, directories: Iterable[str]) -> list[OutsideKernel]:
    top = os.path.realpath(environment.path) + "/"
    found: dict[str, OutsideKernel | None] = {}
    names = _Names(environment)
    for path in map(Path, directories):
        if os.path.realpath(path).startswith(top):
            continue
        for name in list_directory(path):
            is_own = not managed_environments(path / name)
            if is_own and _VALID_NAME.fullmatch(name) and name.lower() not in found:
                with suppress(*KERNELSPEC_ERRORS):
                    found[name.lower()] = names.read(path / name)
    return [kernel for _, kernel in sorted(found.items()) if kernel]


def search_path() -> list[str]:
    """Return the directories in which Jupyter looks for kernelspecs, in its order.

    Kernelspecs in environments that snapper manages do not count: their publishers would decide what is packed with
    others, and what colleagues start.
    """
    directories = (str(user_kernels_directory()), *kernel_directories(), *kernel_directories_elsewhere())
    return [path for path in dict.fromkeys(directories) if not managed_environments(Path(path))]


class _Names:
    """The ways in which a kernelspec can name an environment."""

    def __init__(self, environment: PinnedDirectory) -> None:
        self._environment = environment
        self._around = Surroundings(environment)
        path = environment.path
        self._prefix = str(path)
        self._spellings = tuple(dict.fromkeys((os.path.realpath(path), os.path.abspath(path))))
        self._in_home = _in_home(self._spellings)

    def read(self, directory: Path) -> OutsideKernel | None:
        """Return the kernelspec in a directory if it starts the environment. May raise KERNELSPEC_ERRORS."""
        data = read_own_path(directory / KERNEL_JSON, _LARGEST)
        spec = parse_kernelspec(self._environment, f"{CARRIED}/{directory.name}", data)
        if spec is None:
            return None
        registered = registered_kernel_of(json.loads(data))
        if registered:
            return self._copy(directory, spec, *registered)
        words = (word.replace("{resource_dir}", str(directory)) for word in spec.command)
        variables, command = _without_env(
            [self._with_home(_without_detour(word, directory)) for word in words]
        )
        variables = {
            name: self._with_home(_without_detour(value, directory))
            for name, value in {**spec.variables(), **variables}.items()
        }
        target, inner = _without_conda_run(command)
        is_named = bool(target and inner and self._is_named(target))
        command = inner if is_named else command
        uses_files = any(
            contains_path(path_bytes(text), str(directory)) for text in (*command, *variables.values())
        )
        found = read_files(directory) if uses_files else read_logos(directory)
        beside = found.files.values() if uses_files else ()
        script = self._script_elsewhere(command, directory)
        if not (is_named or script or self._starts(command, beside) or self._is_used(command, variables)):
            return None
        problem = f"it runs {script}, which is not beside it" if script else found.problem
        found = replace(found, problem=problem)
        return self._relocatable(directory, spec, command, variables, found).without_secrets(modes=True)

    def _relocatable(
        self,
        directory: Path,
        spec: Kernelspec,
        command: Sequence[str],
        variables: dict[str, str],
        found: KernelspecFiles,
    ) -> OutsideKernel:
        """Return the kernelspec with paths of the environment, and of its own directory, as they will be there."""
        own, new = str(directory), f"{self._prefix}/{CARRIED}/{directory.name}"
        words = [_replace(self._relative(word), own, "{resource_dir}") for word in command]
        variables = {name: _replace(value, own, new) for name, value in variables.items()}
        fields = {**spec.fields, "env": variables}
        spec = replace(spec, command=(self._program(words[0]), *words[1:]), fields=fields)
        files = {
            path: data
            if b"\0" in data
            else replace_path(self._with_home_in(data), path_bytes(own), path_bytes(new))
            for path, data in found.files.items()
        }
        return OutsideKernel(directory.name, directory, spec, files, problem=found.problem)

    def _copy(
        self, directory: Path, spec: Kernelspec, name: str, kernel: str, prefix: str
    ) -> OutsideKernel | None:
        """Return a copy of a registered kernel that the user has changed; its command is that of the environment."""
        if directory.name == name or prefix not in (*self._spellings, self._prefix):
            return None
        for shipped in find_kernelspecs(self._environment):
            if shipped.kernel.name == kernel:
                metadata = {key: value for key, value in spec.fields["metadata"].items() if key != "snapper"}
                # Those of the environment apply as well, but are not in the registered kernelspec.
                variables = {**shipped.variables(), **spec.variables()}
                fields = {**spec.fields, "metadata": metadata, "env": variables}
                own = replace(spec, command=shipped.command, fields=fields)
                found = read_logos(directory)
                copy = OutsideKernel(directory.name, directory, own, found.files, problem=found.problem)
                return copy.without_secrets(modes=False)  # the modes are those that snapper has chosen
        return None

    def _script_elsewhere(self, command: Sequence[str], directory: Path) -> str:
        """Return the path of a script that a command runs, and that starts the environment; "" if there is none.

        Scripts in the kernelspec's directory or in the environment do not count.
        """
        for path in command:
            if self._around.has(path) and not path.startswith(f"{directory}/"):
                with suppress(OSError):
                    if self._is_mentioned(self._with_home_in(read_own_path(path, _LARGEST))):
                        return path
        return ""

    def _starts(self, command: Sequence[str], scripts: Iterable[bytes]) -> bool:
        """Return whether a command, or one of the scripts that it runs, starts the environment."""
        words = (self._own_path(word).encode("utf-8", "surrogateescape") for word in command)
        return any(map(self._is_mentioned, (*words, *map(self._with_home_in, scripts))))

    def _is_used(self, command: Sequence[str], variables: dict[str, str]) -> bool:
        """Return whether variables name the environment, and the command is none of another environment."""
        prefix = Path(command[0]).parent.parent
        is_of_another = os.path.isabs(command[0]) and is_environment(prefix)
        values = (value.encode("utf-8", "surrogateescape") for value in variables.values())
        return not is_of_another and any(map(self._is_mentioned, values))

    def _is_mentioned(self, text: bytes) -> bool:
        """Return whether a text contains the path of the environment, or activates it by name."""
        if b"\0" in text:
            return False
        if any(contains_path(text, spelling) for spelling in self._spellings):
            return True
        words = _SEPARATORS.split(text)
        named = {
            word
            for before, word in pairwise(words)
            if posixpath.basename(before) == b"activate" or (before in (b"-n", b"--name") and b"run" in words)
        }
        return any(self._is_named(word.decode("utf-8", "surrogateescape")) for word in named)

    def _is_named(self, target: str) -> bool:
        """Return whether a name or path that conda accepts is the environment's."""
        if "/" in target:
            return os.path.realpath(os.path.expanduser(target)) == self._spellings[0]
        path = self._environment.path
        if target in ROOT_NAMES:
            return path in find_roots()
        return target == path.name and (path.parent.name == "envs" or path.parent in envs_dirs())

    def _with_home(self, text: str) -> str:
        """Return the text with the path of the environment where it begins with `~` or `$HOME`."""
        return os.fsdecode(self._with_home_in(os.fsencode(text)))

    def _with_home_in(self, text: bytes) -> bytes:
        return self._in_home.sub(os.fsencode(self._prefix), text) if self._in_home else text

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


def _replace(text: str, old: str, new: str) -> str:
    """Return the text with `new` for `old` wherever that is a path, or the beginning of one."""
    return os.fsdecode(replace_path(path_bytes(text), path_bytes(old), path_bytes(new)))


def _without_detour(text: str, directory: Path) -> str:
    """Return a path that begins with the directory and has `..` in it as a normal one; other texts as they are."""
    if not text.startswith(f"{directory}/") or "/../" not in text or ":" in text:
        return text
    normal, real = posixpath.normpath(text), os.path.realpath(text)
    return normal if os.path.realpath(normal) == real else real


def _in_home(spellings: Iterable[str]) -> re.Pattern[bytes] | None:
    """Return a pattern for paths in the home directory that a shell completes; None if there is none of them in it."""
    homes = {str(home_directory()), os.path.realpath(home_directory())}
    inside = {
        spelling[len(home) :] for spelling in spellings for home in homes if spelling.startswith(f"{home}/")
    }
    if not inside:
        return None
    paths = b"|".join(re.escape(os.fsencode(path)) for path in sorted(inside, key=len, reverse=True))
    return re.compile(rb"(?:(?<![^\s=:\"'(])~|\$HOME|\$\{HOME\})(?:" + paths + rb")(?![\w.~+-])")


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
    if command[1:3] == ["-m", "conda"]:
        command = command[2:]
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
