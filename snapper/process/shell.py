"""Write shell scripts: fill a template with values that the shell takes literally."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

_FIELD = re.compile("@([A-Z_]+)@")
_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")


class Code(str):
    """Shell code, which `fill` does not quote."""

    __slots__ = ()


def is_variable_name(text: str) -> bool:
    """Return whether a shell can export a variable of this name."""
    return _VARIABLE.fullmatch(text) is not None


def quote(text: str) -> str:
    """Return the text as one word of a shell; raise ValueError if it contains NUL, which none can hold."""
    if "\0" in text:
        raise ValueError("a value with a NUL character cannot be passed to a program")
    return shlex.quote(text)


def comment(text: str) -> Code:
    """Return the text as it can stand in a comment: on one line."""
    return Code("".join(char if char.isprintable() else "?" for char in text))


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return the template with each field `@NAME@` replaced by the value of that name, quoted unless it is `Code`.

    This happens in one pass, so a value that looks like a field stays as it is. Raise ValueError as `quote` does.
    """

    def replace(match: re.Match[str]) -> str:
        value = values[match[1]]
        return value if isinstance(value, Code) else quote(value)

    return _FIELD.sub(replace, template)
