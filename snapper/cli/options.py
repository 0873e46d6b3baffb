"""Arguments and options that several commands have."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import snapper
from snapper.cli import logs
from snapper.cli.completion import complete_environment, complete_snapshot

if TYPE_CHECKING:
    from snapper.store import Store

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Store to use: a directory, file:///DIRECTORY or s3://BUCKET/PREFIX (default: the setting 'store').",
    ),
]
NameArgument = Annotated[
    str,
    typer.Argument(metavar="ENV", help="Environment in the store.", autocompletion=complete_environment),
]
ReferenceArgument = Annotated[
    str,
    typer.Argument(
        metavar="ENV[@SNAPSHOT]",
        help="Environment in the store; SNAPSHOT is a tag, an id, or ~N (default: the current snapshot).",
        autocompletion=complete_snapshot,
    ),
]
ReferencesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ENV[@SNAPSHOT]]...",
        help="Environments in the store; SNAPSHOT is a tag, an id, or ~N (default: the current snapshot).",
        autocompletion=complete_snapshot,
    ),
]
PrefixOption = Annotated[
    Path | None,
    typer.Option("--prefix", "-p", metavar="DIR", help="Directory of the environment, instead of its name."),
]
EnvsDirOption = Annotated[
    Path | None,
    typer.Option(
        "--envs-dir",
        metavar="DIR",
        help="Directory to restore environments into (default: the setting 'envs_dir', else where each was packed "
        "from if you keep environments there, else conda's first writable envs directory).",
    ),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="PATTERN",
        help="With --all: only restore environments matching PATTERN (repeatable).",
    ),
]
ExceptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--except",
        metavar="PATTERN",
        help="With --all: do not restore environments matching PATTERN (repeatable).",
    ),
]
MessageOption = Annotated[
    str, typer.Option("--message", "-m", metavar="TEXT", help="Message to record in the history.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        min=1,
        max=64,
        metavar="N",
        help="Worker processes, 1 to 64 (default: the setting 'jobs', else one per CPU).",
    ),
]
LevelOption = Annotated[
    int | None,
    typer.Option(
        "--level",
        min=1,
        max=19,
        metavar="N",
        help="zstd compression level of new layers, 1 to 19 (default: the setting 'level', else 1).",
    ),
]
VerboseOption = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, help="Log details to stderr (-vv: also debug messages)."),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")]


def with_general_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with the options --verbose and --quiet, which configure logging."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, verbose: int = 0, quiet: bool = False, **options: Any) -> Any:
        logs.set_up(verbose, quiet)
        return command(*arguments, **options)

    signature = inspect.signature(command, eval_str=True)
    parameters = [
        *signature.parameters.values(),
        inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=0, annotation=VerboseOption),
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=QuietOption),
    ]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def open_store(option: str | None, *, create: bool = False, apart_from: Path | None = None) -> Store:
    """Open the store that the option names, or else the settings."""
    return snapper.open_store(option, create=create, apart_from=apart_from)
