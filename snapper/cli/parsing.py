"""How the words of a command line become values."""

from __future__ import annotations

from typing import Any

from snapper.cli import help
from snapper.errors import empty_value

#: Values that are empty, written `--prefix ""`, `--prefix=`, and `-p=`.
_EMPTY = frozenset(["", "="])


class Command(help.Command):
    """A command that refuses empty values: they would count as not given, or as the current directory."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words; raise UsageError if the value of an option or argument is empty."""
        if not ctx.resilient_parsing:  # for completion, the last word can be empty
            self._refuse_empty_values(ctx, args)
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def _refuse_empty_values(self, ctx: Any, args: list[str]) -> None:
        """Raise UsageError for an empty value. Parsed values show them before they are converted: Path("") is `.`."""
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for param in self.params:
            value = given.get(param.name)
            if not _EMPTY.isdisjoint(value if isinstance(value, list | tuple) else [value]):
                raise empty_value(_written(param), _advice(param))


def _written(param: Any) -> str:
    """Return how help texts write an option or argument, without the brackets and dots around an argument."""
    if param.param_type_name == "option":
        return str(param.opts[0])
    name = str(param.metavar).removesuffix("...")
    return name[1:-1] if name.startswith("[") else name


def _advice(param: Any) -> str:
    return "Give a value." if param.required else f"Give a value, or omit the {param.param_type_name}."
