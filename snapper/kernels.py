"""Jupyter kernels: which an environment carries, and how they come to stand in the user's menu.

A registered kernel is a kernelspec in Jupyter's data directory whose argv runs a small launcher: it activates
the environment as `conda activate` does and then becomes the environment's own kernel command.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapper.model import Kernel

_CARRIED = "share/jupyter/kernels"
_LAUNCHER = "launch.sh"
_SPEC = "kernel.json"
_ASSETS = ("logo-32x32.png", "logo-64x64.png", "logo-svg.svg", "kernel.js", "kernel.css")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_LAUNCH = """\
#!/bin/sh
# Written by snapper. Activates an environment and becomes its kernel.
if [ -z "${{BASH_VERSION:-}}" ] && command -v bash >/dev/null 2>&1; then
    exec bash "$0" "$@"
fi
set +eu
if [ -n "${{CONDA_PREFIX:-}}" ]; then
    export "CONDA_PREFIX_${{CONDA_SHLVL:-1}}=$CONDA_PREFIX"
fi
export CONDA_SHLVL="$((${{CONDA_SHLVL:-0}} + 1))"
export CONDA_PREFIX={prefix}
export CONDA_DEFAULT_ENV={environment}
export PATH={bin}:"$PATH"
{variables}for snapper_script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
    if [ -r "$snapper_script" ]; then . "$snapper_script" >&2; fi
done
unset snapper_script
exec "$@"
"""


@dataclass(frozen=True)
class Registered:
    """A kernel in the user's menu. `problem` says why it could not be put there, if so."""

    name: str
    display_name: str
    path: str
    problem: str = ""


@dataclass(frozen=True)
class _Spec:
    """A kernelspec as the environment carries it."""

    kernel: Kernel
    directory: Path
    fields: dict[str, Any]


def carried(prefix: Path) -> tuple[Kernel, ...]:
    """The kernels of the environment at `prefix`, by name."""
    return tuple(spec.kernel for spec in _specs(prefix))


def register(prefix: Path, environment: str) -> tuple[Registered, ...]:
    """Puts the environment's kernels into the user's Jupyter; writes only what is not there already.

    A kernelspec of the same name that is not this environment's is left alone and reported.
    """
    from jupyter_core.paths import jupyter_data_dir  # noqa: PLC0415 - a slow import for what is seldom needed

    top = Path(jupyter_data_dir()) / "kernels"
    specs = list(_specs(prefix))
    return tuple(_register(top, prefix, environment, spec, specs) for spec in specs)


def _specs(prefix: Path) -> Iterator[_Spec]:
    for file in sorted((prefix / _CARRIED).glob(f"*/{_SPEC}")):
        if not _is_own(prefix, file):
            continue
        try:
            fields = json.loads(file.read_bytes())
            argv = fields["argv"]
            if not argv or not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
                continue
            if not isinstance(fields.get("metadata"), dict):
                fields["metadata"] = {}
            display_name, language = str(fields["display_name"]), str(fields.get("language", ""))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        yield _Spec(Kernel(file.parent.name, display_name, language), file.parent, fields)


def _is_own(prefix: Path, file: Path) -> bool:
    """Whether it is a file of the environment, and no link to one of the user's."""
    return file.is_file() and file.resolve().is_relative_to(prefix.resolve())


def _register(top: Path, prefix: Path, environment: str, spec: _Spec, specs: list[_Spec]) -> Registered:
    name = re.sub(r"[^a-z0-9._-]+", "-", f"{environment}-{spec.kernel.name}".lower())
    directory = top / name
    shown = _display_name(environment, spec, specs)
    done = Registered(name, shown, str(directory))
    try:
        if not _is_ours(directory, environment):
            return Registered(name, shown, str(directory), "another kernel of that name is there")
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory / _LAUNCHER, _launcher(prefix, environment).encode("utf-8", "surrogateescape"))
        for asset in _ASSETS:
            if _is_own(prefix, spec.directory / asset):
                _write(directory / asset, (spec.directory / asset).read_bytes())
        fields = {
            **spec.fields,
            "argv": ["/bin/sh", str(directory / _LAUNCHER), *_argv(prefix, spec)],
            "display_name": shown,
            "metadata": {
                **spec.fields["metadata"],
                "snapper": {"environment": environment, "prefix": str(prefix)},
            },
        }
        _write(directory / _SPEC, json.dumps(fields, indent=1).encode("ascii"))
    except OSError as error:
        return Registered(name, shown, str(directory), error.strerror or str(error))
    return done


def _display_name(environment: str, spec: _Spec, specs: list[_Spec]) -> str:
    """`Python (myenv)`; the kernel's own name in front where the environment has several of a language."""
    kernel = spec.kernel
    alike = [each for each in specs if each.kernel.language == kernel.language]
    plain = kernel.language[:1].upper() + kernel.language[1:]
    return f"{plain if plain and len(alike) == 1 else kernel.display_name} ({environment})"


def _is_ours(directory: Path, environment: str) -> bool:
    """Whether the kernelspec's place is free, or taken by an earlier registration of this environment."""
    if not (directory / _SPEC).exists():
        return True
    try:
        mark = json.loads((directory / _SPEC).read_bytes())["metadata"]["snapper"]
        return bool(mark["environment"] == environment)
    except (ValueError, KeyError, TypeError):
        return False


def _argv(prefix: Path, spec: _Spec) -> list[str]:
    """The kernel's command with the environment's own absolute program and resources."""
    argv = [word.replace("{resource_dir}", str(spec.directory)) for word in spec.fields["argv"]]
    program = prefix / "bin" / argv[0]
    if not os.path.isabs(argv[0]) and program.exists():
        argv[0] = str(program)
    return argv


def _launcher(prefix: Path, environment: str) -> str:
    variables = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in _variables(prefix))
    return _LAUNCH.format(
        prefix=shlex.quote(str(prefix)),
        environment=shlex.quote(environment),
        bin=shlex.quote(str(prefix / "bin")),
        variables=variables,
    )


def _variables(prefix: Path) -> Iterator[tuple[str, str]]:
    """What `conda env config vars` and packages set: etc/conda/env_vars.d and conda-meta/state."""
    found: dict[str, str] = {}
    for file in (*sorted((prefix / "etc/conda/env_vars.d").glob("*.json")), prefix / "conda-meta" / "state"):
        try:
            fields = json.loads(file.read_bytes())
            found.update(fields["env_vars"] if file.name == "state" else fields)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    for name, value in found.items():
        if _VARIABLE.match(name) and isinstance(value, str) and value != "***unset***":
            yield name, value


def _write(file: Path, data: bytes) -> None:
    """Replaces the file in one step, unless it is so already."""
    try:
        if file.read_bytes() == data:
            return
    except OSError:
        pass
    aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        aside.write_bytes(data)
        aside.rename(file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
