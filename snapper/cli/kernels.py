"""`snapper kernels`: the kernels that snapper has put into Jupyter's menu."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snapper.cli.options import JsonOption
from snapper.cli.render import output
from snapper.errors import ExitCode, KernelNotRegistered, NotAnEnvironment
from snapper.format.canonical import to_jsonable
from snapper.settings.directories import absolute_directory

if TYPE_CHECKING:
    from snapper.kernels import RegisteredKernel

app = typer.Typer(
    help="List, register and remove Jupyter kernels of environments.",
    rich_markup_mode=None,
    add_completion=False,
)

NamesArgument = Annotated[list[str], typer.Argument(metavar="ENV...", help="Names of environments.")]


@app.callback(invoke_without_command=True)
def _default(context: typer.Context, as_json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_(as_json)


@app.command(name="list")
def list_(as_json: JsonOption = False) -> None:
    """List the kernels that snapper has registered."""
    from snapper import kernels

    found = kernels.registered_kernels()
    if as_json:
        output.print_json({"kernels": [to_jsonable(each) for each in found]})
    elif not found:
        output.echo(
            "No kernel is registered. They are when environments are restored, or: snapper kernels register ENV"
        )
    else:
        output.print_table(
            ("KERNEL", "DISPLAY NAME", "ENVIRONMENT", "STATE", "PREFIX"),
            [(each.name, each.display_name, each.environment, _state(each), each.prefix) for each in found],
            right=(),
        )


@app.command()
def register(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ENV]...", help="Names of environments.")
    ] = None,
    prefix: Annotated[
        Path | None,
        typer.Option("--prefix", "-p", metavar="DIR", help="An environment's directory, instead of names."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Register the kernels of environments that are on this machine."""
    from snapper import kernels
    from snapper.environment import conda, state
    from snapper.environment.locations import find_environment
    from snapper.errors import UsageError

    if bool(names) == (prefix is not None):
        raise UsageError(
            "name environments or give the directory of one with --prefix, and not both",
            "See: snapper kernels register --help.",
        )
    prefixes = [absolute_directory(prefix)] if prefix else [find_environment(name) for name in names or []]
    documents = []
    code = ExitCode.DONE
    for place in prefixes:
        if not conda.is_environment(place):
            raise NotAnEnvironment(str(place))
        known = state.read(place)
        environment = known.environment if known else place.name
        done = kernels.register(place, environment)
        code = ExitCode.PARTIAL if not done or any(each.problem for each in done) else code
        suggestion = "" if done else kernels.install_hint(place)
        documents.append({"environment": environment, "kernels": to_jsonable(done), "suggestion": suggestion})
        if not as_json:
            for each in done:
                if each.problem:
                    output.notice(
                        f"kernel {each.name} could not be registered at {each.path}: {each.problem}"
                    )
                else:
                    output.echo(f"{environment}: {each.display_name}, as {each.name}")
            if not done:
                output.notice(f"{environment} has no kernel. Add one with: {suggestion}")
    if as_json:
        output.print_json({"environments": documents})
    return code


@app.command()
def remove(names: NamesArgument, as_json: JsonOption = False) -> None:
    """Remove kernels from Jupyter's menu; their environments stay."""
    from snapper import kernels

    there = {each.environment for each in kernels.registered_kernels()}
    for name in names:
        if name not in there:
            raise KernelNotRegistered(name, tuple(sorted(there)))
    removed = [each for name in dict.fromkeys(names) for each in kernels.remove(name)]
    if as_json:
        output.print_json({"removed": [to_jsonable(each) for each in removed]})
        return
    for each in removed:
        output.echo(f"{each.name} ({each.display_name}) is removed")


def _state(entry: RegisteredKernel) -> str:
    from snapper.kernels.waiting import is_being_restored

    if entry.ready:
        return "ready"
    return "waiting" if is_being_restored(entry.environment) else "not there"
