"""The command line as a whole: its commands, and how errors are reported.

Each command is a module of this package. Modules import what they need beyond parsing only when a command runs.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Annotated, ClassVar

import typer

from snapper.cli import completion, help, logs
from snapper.cli.options import with_general_options
from snapper.cli.parsing import Command
from snapper.cli.render import output
from snapper.errors import (
    ExitCode,
    FileOperationFailed,
    Interrupted,
    SnapperError,
    UsageError,
    suggest_name,
)
from snapper.version import __version__

logger = logging.getLogger(__name__)

#: The commands in the sections of `snapper --help`.
SECTIONS = {
    "Everyday commands": ("pack", "restore", "list", "status"),
    "History": ("log", "show", "diff", "rollback", "tag", "remove"),
    "Sharing": ("push", "pull", "export", "import"),
    "Store maintenance": ("verify", "prune"),
    "This machine": ("kernels", "lifecycle", "doctor", "config"),
}

#: Where commands are defined if not in the module and function of their name: a function, or a typer of subcommands.
_DEFINED = {
    "list": ("list", "list_"),
    "import": ("import_", "import_"),
    "kernels": ("kernels", "app"),
    "config": ("config", "app"),
}

#: The variable by which the shell asks for completions.
_COMPLETE = "_SNAPPER_COMPLETE"

#: click's UsageError, of the click that the installed typer uses.
_ParsingError: type[Exception] = typer.BadParameter.__mro__[1]


def run(arguments: list[str]) -> int:
    """Run one command line and return the exit code. Unexpected exceptions are raised."""
    as_json = "--json" in arguments
    try:
        logs.reset()
        _check_command(arguments)
        arguments = [
            "--data=all" if word == "--data" else word for word in arguments
        ]  # its value is optional
        app = make_app(arguments)
        with completion.completing() if _COMPLETE in os.environ else nullcontext():
            code = int(app(arguments, prog_name="snapper", standalone_mode=False) or 0)
        if code == ExitCode.INTERRUPTED:  # typer catches Ctrl-C itself, and reports nothing
            raise Interrupted
        sys.stdout.flush()
        return code
    except SnapperError as error:
        return _report(error, as_json)
    except (KeyboardInterrupt, typer.Abort):
        return _report(Interrupted(), as_json)
    except _ParsingError as error:
        return _report(_usage_error(error), as_json)
    except BrokenPipeError:
        _discard_output()
        return ExitCode.FAILED
    except OSError as error:
        _discard_output()
        on_output = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
        where = str(error.filename or ("standard output" if on_output else "the operating system"))
        failure = FileOperationFailed(where, error.strerror or str(error))
        return _report(failure, as_json and bool(error.filename))


def make_app(arguments: list[str]) -> typer.Typer:
    """Return the command line with the command that the arguments begin with, or else with all commands.

    Importing and building all of them takes longer than running most commands.
    """
    app = typer.Typer(
        name="snapper",
        cls=_Snapper,
        help=_DESCRIPTION,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(with_general_options(_without_command))
    names = [name for section in SECTIONS.values() for name in section]
    first = arguments[0] if arguments else ""
    for name in [first] if first in names else names:
        module, attribute = _DEFINED.get(name, (name, name))
        command = getattr(import_module(f"snapper.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name=name, cls=Command)(with_general_options(command))
    return app


_DESCRIPTION = """Save conda environments to a store and restore them with their Jupyter kernels.

Examples:
    snapper pack myenv          save an environment
    snapper restore --all       restore all environments, for example at every start
    snapper status              compare environments on this machine with the store
"""


class _Snapper(help.Group):
    sections: ClassVar[Mapping[str, Sequence[str]]] = SECTIONS


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"snapper {__version__}")
        raise typer.Exit


def _without_command(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _check_command(arguments: list[str]) -> None:
    """Raise UsageError for a misspelled command."""
    known = [name for names in SECTIONS.values() for name in names]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in known:
        suggestion = suggest_name(arguments[0], known)
        raise UsageError(f"no such command: {arguments[0]!r}", f"{suggestion}See: snapper --help.")


def _usage_error(error: Exception) -> UsageError:
    """Return click's error about a command line that it cannot parse, in words that do not depend on its version."""
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", "")
    known = [name for param in context.command.params for name in param.opts] if context else []
    names: list[str] = []
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    see = f"See: {' '.join(['snapper', *names])} --help."
    if type(error).__name__ == "NoSuchOption" and not names:
        return UsageError(f"no such option: {option}", f"Put options of a command after it. {see}")
    if type(error).__name__ == "NoSuchOption":
        return UsageError(f"no such option: {option}", suggest_name(option, known) + see)
    text: str = getattr(error, "format_message", error.__str__)()
    message = " ".join(text.split()).replace(": Value error, ", ": ")  # which pydantic adds
    for pattern, replacement in _REWORDED:
        message = re.sub(pattern, replacement, message)
    message = message.rstrip(".")
    return UsageError(message[:1].lower() + message[1:], see)


#: How versions of typer differ in what they say about arguments and values.
_REWORDED = (
    (r"Input should be a valid (integer|number).*", r"not a valid \1"),
    (r"'[^']*' is not a valid (?:int|float)\w* range", "not a valid number"),
    (r"^Got unexpected extra argument(?:\(s\)|s)? \((.*)\)", r"too many arguments: \1"),
    (r"Input should be (less|greater) than or equal to", r"must be \1 than or equal to"),
)


def _report(error: SnapperError, as_json: bool) -> int:
    logger.debug("the command failed", exc_info=error)
    output.print_error(error, as_json)
    return error.code


def _discard_output() -> None:
    """Redirect stdout to /dev/null, so that Python does not fail when it flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
