"""`snapper kernels`: list, register and remove Jupyter kernels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli import help
from snapper.cli.completion import complete_any_environment, complete_installed
from snapper.cli.options import JsonOption, with_general_options
from snapper.cli.parsing import Command
from snapper.cli.render import output
from snapper.errors import ExitCode, KernelNotRegistered
from snapper.format.canonical import to_jsonable
from snapper.settings.directories import absolute_directory

if TYPE_CHECKING:
    from snapper.fs.pinned import PinnedDirectory
    from snapper.kernels import KernelRegistration, RegisteredKernel

app = typer.Typer(
    help="""List, register and remove the Jupyter kernels of environments.

Examples:
    snapper kernels
    snapper kernels register myenv
    snapper kernels remove myenv
""",
    cls=help.Group,
    rich_markup_mode=None,
    add_completion=False,
)

NamesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="ENV...",
        help="Environments whose kernels to remove.",
        autocompletion=complete_any_environment,
    ),
]


@app.callback(invoke_without_command=True)
@with_general_options
def _default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_(as_json)


@app.command(name="list", cls=Command)
@with_general_options
def list_(as_json: JsonOption = False) -> None:
    """List the kernels that snapper has registered.

    Examples:
        snapper kernels list
    """
    from snapper import kernels

    registered = kernels.registered_kernels()
    if as_json:
        output.print_json({"kernels": [to_jsonable(kernel) for kernel in registered]})
    elif not registered:
        output.echo(
            "No kernels are registered. Register the kernels of an environment with: snapper kernels register ENV"
        )
    else:
        output.print_table(
            ("KERNEL", "DISPLAY NAME", "ENVIRONMENT", "STATE", "PREFIX"),
            [
                (kernel.name, kernel.display_name, kernel.environment, _state(kernel), kernel.prefix)
                for kernel in registered
            ],
            right=(),
        )


@app.command(cls=Command)
@with_general_options
def register(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENV]...", help="Environments on this machine.", autocompletion=complete_installed
        ),
    ] = None,
    prefix: Annotated[
        Path | None,
        typer.Option("--prefix", "-p", metavar="DIR", help="Directory of an environment, instead of names."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Register the kernels of environments on this machine.

    Examples:
        snapper kernels register myenv
        snapper kernels register -p ~/work/env
    """
    from snapper.environment.conda import pin_environment
    from snapper.environment.locations import pin_own_environment
    from snapper.errors import UsageError

    if bool(names) == (prefix is not None):
        raise UsageError(
            "give environment names, or a directory with --prefix",
            "See: snapper kernels register --help.",
        )
    if prefix:
        environments = [pin_environment(absolute_directory(prefix))]
    else:
        environments = [pin_own_environment(name) for name in names or []]
    results = []
    for environment in environments:
        result = _register(environment)
        results.append(result)
        if not as_json:
            _print_result(result)
    if as_json:
        output.print_json({"environments": to_jsonable(results)})
    return ExitCode.DONE if all(result.is_complete for result in results) else ExitCode.PARTIAL


@app.command(cls=Command)
@with_general_options
def remove(names: NamesArgument, as_json: JsonOption = False) -> None:
    """Unregister the kernels of environments; the environments are kept.

    Examples:
        snapper kernels remove myenv
    """
    from snapper import kernels

    registered = {kernel.environment for kernel in kernels.registered_kernels()}
    for name in names:
        if name not in registered:
            raise KernelNotRegistered(name, tuple(sorted(registered)))
    removed = [kernel for name in dict.fromkeys(names) for kernel in kernels.remove(name)]
    if as_json:
        output.print_json({"removed": [to_jsonable(kernel) for kernel in removed]})
        return
    for kernel in removed:
        output.echo(f"Removed {kernel.name} ({kernel.display_name})")


@dataclass(frozen=True)
class _Registration:
    """The kernels of an environment that were registered, or if it has none, how to install one."""

    environment: str
    kernels: tuple[KernelRegistration, ...]
    suggestion: str

    @property
    def is_complete(self) -> bool:
        return bool(self.kernels) and not any(kernel.problem for kernel in self.kernels)


def _register(environment: PinnedDirectory) -> _Registration:
    from snapper import kernels
    from snapper.environment import state

    known = state.read(environment)
    name = known.environment if known else _valid_name(environment.path.name)
    registered = kernels.register(environment, name)
    return _Registration(name, registered, "" if registered else kernels.install_hint(environment.path))


def _valid_name(directory: str) -> str:
    """Return the name of a directory without characters that names of environments cannot have."""
    return re.sub(r"[^\w.+-]|^[.+-]", "_", directory)[:40]


def _print_result(result: _Registration) -> None:
    for kernel in result.kernels:
        if kernel.problem:
            output.print_kernel_problem(kernel)
        else:
            taken = (
                f": another kernel has, or could get, the name {kernel.instead_of}"
                if kernel.instead_of
                else ""
            )
            edited = ", with your changes to its kernel.json" if kernel.edited else ""
            output.echo(f"{result.environment}: {kernel.display_name}, as {kernel.name}{taken}{edited}")
    if not result.kernels:
        output.warn(f"{result.environment} has no kernel. Install one with: {result.suggestion}")


def _state(entry: RegisteredKernel) -> str:
    from snapper.kernels.waiting import is_being_restored

    if entry.ready:
        return "ready"
    return "waiting" if is_being_restored(entry.environment) else "missing"
