"""Help texts.

typer's own help differs between its versions and, with rich, takes long to start. This one is plain text, and the same
with all of them. A docstring's section "Examples:" is printed as it is.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup

from snapper.cli.render.style import styled

_WIDEST = 100
_NARROWEST = 40
_WIDEST_TERM = 28

#: Options that many commands have, listed after their own.
_GENERAL = ("--store", "--json", "--verbose", "--quiet", "--help")


class Command(TyperCommand):
    """A command with this module's help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write(_render(self, ctx, self.params, {}))


class Group(TyperGroup):
    """A group of commands with this module's help. Subclasses name the `sections` that it lists its commands in."""

    sections: ClassVar[Mapping[str, Sequence[str]]] = {}

    def format_help(self, ctx: Any, formatter: Any) -> None:
        commands = {name: _summary(self.commands[name].help) for name in self.list_commands(ctx)}
        sections = self.sections or {"Commands": tuple(commands)}
        formatter.write(
            _render(
                self,
                ctx,
                self.params,
                {title: [(name, commands[name]) for name in names] for title, names in sections.items()},
            )
        )


def _render(
    command: Any, ctx: Any, params: Iterable[Any], commands: Mapping[str, list[tuple[str, str]]]
) -> str:
    width = max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST))
    description, _, examples = (command.help or "").partition("\n\nExamples:\n")
    arguments = [param for param in params if param.param_type_name == "argument"]
    options = [param for param in params if param.param_type_name == "option" and not param.hidden]
    options.append(command.get_help_option(ctx))
    usage = [ctx.command_path, "[OPTIONS]", *(argument.metavar for argument in arguments)]
    if commands:
        usage.append("COMMAND [ARGUMENTS]...")
    blocks = [_heading("Usage") + " " + " ".join(usage)]
    blocks += [_wrap(" ".join(part.split()), width) for part in description.split("\n\n")]
    if examples:
        blocks.append(_heading("Examples") + "\n" + textwrap.indent(textwrap.dedent(examples).rstrip(), "  "))
    general = [option for option in options if option.opts[0] in _GENERAL or "--help" in option.opts]
    own = [option for option in options if option not in general]
    lists = {
        **commands,
        "Arguments": [(str(argument.metavar), argument.help or "") for argument in arguments],
        "Options": [_option(option) for option in own],
        "General options": [_option(option) for option in general],
    }
    widest = max((len(name) for rows in commands.values() for name, _ in rows), default=0)
    blocks += [
        f"{_heading(title)}\n{_definitions(rows, width, widest if title in commands else 0)}"
        for title, rows in lists.items()
        if rows
    ]
    return "\n\n".join(blocks) + "\n"


def _heading(title: str) -> str:
    return styled(f"{title}:", "bold")


def _option(option: Any) -> tuple[str, str]:
    """Return how an option is written, and what it does."""
    short = [name for name in option.opts if not name.startswith("--")]
    long = [name for name in option.opts if name.startswith("--")]
    written = f"{short[0]}, {long[0]}" if short else f"    {long[0]}"
    if not (option.is_flag or option.count):
        written += f"{'' if option.metavar.startswith('[=') else ' '}{option.metavar}"
    return written, "Show this help and exit." if "--help" in long else option.help or ""


def _definitions(rows: Sequence[tuple[str, str]], width: int, widest: int = 0) -> str:
    """Return terms with their explanations beside them, or below terms that are too long."""
    column = min(max(widest, *(len(term) for term, _ in rows)), _WIDEST_TERM) + 4
    lines: list[str] = []
    for term, text in rows:
        wrapped = _wrap(text, width - column).split("\n")
        name = styled(term, "cyan")
        if len(term) + 4 > column:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name}{' ' * (column - len(term) - 2)}{wrapped.pop(0)}".rstrip())
        lines += [f"{' ' * column}{line}" for line in wrapped]
    return "\n".join(lines)


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))


def _summary(text: str | None) -> str:
    """Return the first sentence of a command's help, without its period."""
    return " ".join((text or "").partition("\n\n")[0].split()).rstrip(".")
