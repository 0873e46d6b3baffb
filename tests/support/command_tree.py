"""The commands of the command line, and their parameters, as typer has built them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from snapper.cli.app import SECTIONS, make_app


def commands() -> Iterator[tuple[str, ...]]:
    """Every command, as the words that call it; the empty one is snapper itself."""
    yield ()
    names = [name for names in SECTIONS.values() for name in names]
    for name in names:
        yield (name,)
        for subcommand in getattr(command_of(name), "commands", {}):
            yield name, subcommand


def command_of(*words: str) -> Any:
    command: Any = typer.main.get_command(make_app(list(words)))
    for word in words:
        command = command.commands[word]
    return command


def takes_value(param: Any) -> bool:
    return param.param_type_name == "argument" or not (param.is_flag or param.count)
