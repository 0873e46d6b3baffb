"""The command line as a whole: its commands, and what becomes of errors.

Each command is a module beside this one. What it needs beyond parsing, it imports when it runs.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from itertools import zip_longest
from typing import Annotated

import typer

from snapper.cli.render import output
from snapper.errors import (
    ExitCode,
    FileOperationFailed,
    Interrupted,
    SnapperError,
    UnsupportedPlatform,
    UsageError,
)
from snapper.version import __version__

#: The commands, and where each is: a module beside this one, and a function or a typer of commands in it.
_COMMANDS = {
    "pack": ("pack", "pack"),
    "restore": ("restore", "restore"),
    "list": ("list", "list_"),
    "show": ("show", "show"),
    "log": ("log", "log"),
    "diff": ("diff", "diff"),
    "status": ("status", "status"),
    "rollback": ("rollback", "rollback"),
    "tag": ("tag", "tag"),
    "remove": ("remove", "remove"),
    "verify": ("verify", "verify"),
    "prune": ("prune", "prune"),
    "push": ("push", "push"),
    "pull": ("pull", "pull"),
    "export": ("export", "export"),
    "import": ("import_", "import_"),
    "lifecycle": ("lifecycle", "lifecycle"),
    "doctor": ("doctor", "doctor"),
    "kernels": ("kernels", "app"),
    "config": ("config", "app"),
}

#: The options that name a place.
_PLACES = ("--store", "--from", "--to", "--prefix", "-p", "--envs-dir", "--output", "-o", "--data")

#: click's UsageError, wherever the installed typer has its click from.
_ParsingError: type[Exception] = typer.BadParameter.__mro__[1]


def run(arguments: list[str]) -> int:
    """Runs one command line; returns the exit code. No error but a bug of ours leaves a traceback."""
    as_json = "--json" in arguments
    try:
        if sys.platform == "win32":
            raise UnsupportedPlatform("Windows")
        arguments = [
            "--data=all" if each == "--data" else each for each in arguments
        ]  # its value is optional
        _check_places(arguments)
        code = int(_app(arguments)(arguments, standalone_mode=False) or 0)
        if code == ExitCode.INTERRUPTED:  # typer catches Ctrl-C itself, and says nothing
            raise Interrupted
        sys.stdout.flush()
        return code
    except SnapperError as error:
        return _report(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _report(Interrupted(), as_json)
    except _ParsingError as error:
        return _report(_misuse(error), as_json)
    except BrokenPipeError:
        _silence()
        return ExitCode.FAILED
    except OSError as error:
        _silence()
        on_output = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
        where = str(error.filename or ("standard output" if on_output else "the operating system"))
        return _report(
            FileOperationFailed(where, error.strerror or str(error)), as_json and bool(error.filename)
        )


def _check_places(arguments: list[str]) -> None:
    """Raises UsageError for an option whose place or part is empty: it would be as if it had not been given."""
    for option, value in zip_longest(arguments, arguments[1:]):
        name = option[:-1] if option.endswith("=") else option
        if name in _PLACES and (value == "" or name != option):
            raise UsageError(
                f"{name} is empty", "Is a variable not set? Say what is meant, or leave the option out."
            )


def _silence() -> None:
    """Lets what is still to be written to standard output go nowhere, so that Python does not try at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _misuse(error: Exception) -> UsageError:
    """What click says of a command line that it cannot parse."""
    text: str = getattr(error, "format_message", error.__str__)()
    message = " ".join(text.split()).replace(": Value error, ", ": ")  # which pydantic puts before it
    context = getattr(error, "ctx", None)
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    command = " ".join(["snapper", *names])
    return UsageError(message.rstrip("."), f"See: {command} --help.")


def _report(error: SnapperError, as_json: bool) -> int:
    output.print_error(error, as_json)
    return error.code


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"snapper {__version__}")
        raise typer.Exit


def _options(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _app(arguments: list[str]) -> typer.Typer:
    """All commands, or that one alone which the arguments begin with: making all takes longer than many a command."""
    app = typer.Typer(
        name="snapper",
        help="Packs built conda environments into a store and brings them back, Jupyter kernels included.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback(invoke_without_command=True)(_options)
    first = arguments[0] if arguments else ""
    for name in [first] if first in _COMMANDS else _COMMANDS:
        module, attribute = _COMMANDS[name]
        command = getattr(import_module(f"snapper.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name=name)(command)
    return app
