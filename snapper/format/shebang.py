"""Make scripts executable whose first line (`#!`) is too long, or has white space in the interpreter's path.

Before version 5.1, Linux reads only 127 bytes of that line, and all versions split it at white space. Such a script is
started by `/bin/sh` instead, which executes the interpreter with the same options and arguments. The interpreter then
reads the same file, so the lines for the shell must mean nothing in its language. Where no such form is known, the
interpreter is looked up on PATH, as conda does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

MAX_LENGTH = 127

#: The greatest length of what is examined at the beginning of a script, in bytes. No system reads as much of a first
#: line, and the words of a longer one could take up the memory.
_LONGEST = 64 * 1024

#: Files may come from an attacker, so matching any of these takes linear time: nothing is tried again after a failure.
_COOKIE = re.compile(rb"[^\n]*\n(?=[^\n]*\n)([ \t\f]*#.*?coding[:=][ \t]*[-\w.][^\n]*\n)")
#: What must stay the first statement of a script in Python: a docstring, or an import of a future feature.
_FIRST_STATEMENT = re.compile(rb"[rRuU]?[\"']|from[ \t]+__future__\b")
#: The beginning of a line that is not empty and has no comment. A group that is repeated would need memory each time.
_CODE = re.compile(rb"^(?![ \t\f]*(?:#|\r?$))", re.MULTILINE)
_BLANKS = re.compile(rb"[ \t]+")
#: How `env` is told to split its argument, maybe with other options, and options of `env` that another word follows.
_SPLIT_OPTION = re.compile(rb"(?:-(?P<flags>[i0v]*)S|--split-string(?:=|(?=[ \t])))[ \t]*")
_OPTIONS_WITH_WORD = (b"-u", b"-C")
_BY_ENV = re.compile(rb"#!/usr/bin/env (?:-S )?(?P<name>[^\s]+)(?P<options>(?:[^\S\n][^\n]*)?)\n")
_COMMAND = rb'"(?P<program>[^"\n]*)"(?P<options>[^\n]*?) "\$0" "\$@"'
#: What pip writes: newer versions without quotes, if the path has no space.
_BY_SHELL = re.compile(
    rb"#!/bin/sh\n(?:[ \t\f]*#[^\n]*\n)?'''exec' "
    rb"(?:\"(?P<double>[^\"\n]*)\"|'(?P<single>[^'\n]*)'|(?P<bare>[^\s\"']+)) "
)
_QUOTED = re.compile(rb'"([^"\n]*)"')
_SAFE = re.compile(rb"[\w@%+=:,./-]+\Z")

#: What the shell treats differently in each kind of quotes.
_UNSAFE = {
    "double": re.compile(rb'["$`\\]'),
    "single": re.compile(rb"'"),
    "bare": re.compile(rb"[^\w@%+=:,./-]"),
}


@dataclass(frozen=True)
class _Language:
    """How a file starts that both the shell and a certain kind of interpreter can read.

    `lines` follow `#!/bin/sh`, with `%b` for the command. `option` is one that the interpreter needs for that. A line
    is a comment if `comment` is in front of `/bin/`.
    """

    programs: re.Pattern[bytes]
    lines: bytes
    option: bytes = b""
    comment: bytes = b"#"

    @property
    def pattern(self) -> re.Pattern[bytes]:
        before, _, after = self.lines.partition(b"%b")
        comment = rb"(?:[ \t\f]*#[^!\n][^\n]*\n)?" if self.programs is _PYTHON.programs else b""
        return re.compile(
            rb"#!(?P<space> ?)/bin/sh\n" + comment + re.escape(before) + _COMMAND + re.escape(after)
        )


_PYTHON = _Language(re.compile(rb"(?:python|pypy)[\d.]*w?\Z"), b"'''exec' %b\n' '''\n")
#: A form feed is a blank for Python, so that the line is a comment, and part of the name of a program for the shell.
_PYTHON_WITH_DOCSTRING = _Language(_PYTHON.programs, b"\f# 2>/dev/null; exec %b\n")
_PYTHONS = (_PYTHON, _PYTHON_WITH_DOCSTRING)
_LANGUAGES = (
    *_PYTHONS,
    # These skip everything up to a line that begins with `#!` and contains their name.
    _Language(re.compile(rb"perl[\d.]*\Z"), b"exec %b\n#!perl\n", b"-x"),
    _Language(re.compile(rb"ruby[\d.]*\Z"), b"exec %b\n#!ruby\n", b"-x"),
    # These read the line again, as the same process.
    _Language(
        re.compile(rb"(?:ba|da|a|k|mk|z)?sh\Z"),
        b'[ "$SNAPPER_EXEC" = $$ ] || SNAPPER_EXEC=$$ exec %b\nunset SNAPPER_EXEC\n',
    ),
    _Language(re.compile(rb"(?:node|nodejs|deno|bun)\Z"), b"':' //; exec %b\n", comment=b"/"),
    # For these, it is an assignment and a comment.
    _Language(re.compile(rb"(?:Rscript|julia)\Z"), b"snapper=0#; exec %b\n"),
    _Language(re.compile(rb"(?:tclsh|wish|expect)[\d.]*\Z"), b"# \\\nexec %b\n"),
    _Language(re.compile(rb"lua(?:jit)?[\d.]*\Z"), b"_=[[\nexec %b\n]]\n", comment=b"--"),
)
#: Languages in which a line that begins with `#` is not a comment.
_OTHER_COMMENTS = re.compile(rb"(?:php|guile|racket|sbcl|ghc|runghc|runhaskell|ocaml|scala)[\d.]*\Z")

_PATTERNS = tuple((language, language.pattern) for language in _LANGUAGES)


class Beginning(NamedTuple):
    """What the first `length` bytes of a script are replaced with."""

    text: bytes
    length: int


class _Invocation(NamedTuple):
    """What a first line executes: a program, and words before the script's name.

    `interpreter` is the name of what runs the script, which `env` may start. The options for it come after as many
    words as `before`.
    """

    program: bytes
    words: tuple[bytes, ...]
    interpreter: bytes
    before: int = 0


def fit_shebang(script: bytes, placeholder: bytes, prefix: bytes) -> Beginning | None:
    """Return what replaces the beginning of a script, to start its interpreter below `prefix`.

    `script` has the placeholder there. Return None if replacing the placeholder is enough, or if no system executes it.
    """
    end = script.find(b"\n") if b"\n" in script else len(script)
    if end > _LONGEST:
        return None
    line = script[:end]
    if placeholder not in line:
        return _quote_program(script, placeholder, prefix)
    invocation, is_split = _parse(line)
    program = invocation.program.replace(placeholder, prefix)
    has_blank = re.search(rb"\s", program) or (is_split and re.search(rb"\s", prefix))
    if not has_blank and len(line.replace(placeholder, prefix)) <= MAX_LENGTH:
        return None
    words = tuple(word.replace(placeholder, prefix) for word in invocation.words)
    return Beginning(_start_by_shell(invocation._replace(program=program, words=words), script), end + 1)


class PortableScript(NamedTuple):
    """A script that looks for its interpreter on PATH until `stand_in` is replaced by a prefix.

    `beginning` is what it begins with.
    """

    beginning: Beginning
    stand_in: bytes


def portable_shebang(script: bytes, placeholder: bytes) -> PortableScript | None:
    """Return the script for an archive; None if its interpreter is not in `bin` of the environment.

    The interpreter's path becomes a comment, which the replacement turns into the first line that the script had.
    """
    end = script.find(b"\n", 0, _LONGEST)
    blank = script[2 : 2 + len(script[2:end]) - len(script[2:end].lstrip(b" \t"))]
    start = b"#!" + blank + placeholder + b"/bin/"
    if end < 0 or not script.startswith(start):
        return None
    invocation, _ = _parse(script[:end])
    name, language = _name(invocation.program), _language_of(_name(invocation.program))
    if invocation.program != placeholder + b"/bin/" + name or _OTHER_COMMENTS.match(name):
        return None
    env = _Invocation(b"/usr/bin/env", (name, *invocation.words), name, 1)
    comment = language.comment if language else b"#"
    cookie = _COOKIE.match(script) if language in _PYTHONS else None
    if invocation.words:
        first = _start_by_shell(env, script).removeprefix(b"#!").lstrip(b" ")
    else:
        first = b"/usr/bin/env " + name + b"\n"
        comment = cookie[1].rstrip(b"\r\n") + b" " if cookie else comment
    stand_in = first + comment
    if not stand_in.isascii():
        return None
    beginning = b"#!" + blank + stand_in + script[len(start) - len(b"/bin/") : end + 1]
    if placeholder in stand_in or (beginning + script[end + 1 :]).count(stand_in) != 1:
        return None
    return PortableScript(Beginning(beginning, end + 1), stand_in)


def original_shebangs(script: bytes, prefix: bytes) -> Iterator[bytes]:
    """Yield the scripts, with their interpreter below `prefix`, that may have been changed into this one.

    That is done by `fit_shebang`, by conda, and by conda-pack.
    """
    language, match = next(
        ((language, match) for language, pattern in _PATTERNS if (match := _match(pattern, script))),
        (None, None),
    )
    if language and match:
        options = _QUOTED.sub(rb"\1", match["options"])
        options = options.replace(b" " + language.option, b"", 1) if language.option else options
        start = match["program"] + options
        if match["program"].endswith(b"/env") and options.count(b" ") > 1:
            yield _with_shebang(script, match, match["program"] + b" -S" + options, match["space"])
        yield _with_shebang(script, match, start, match["space"])
        yield _with_shebang(script, match, start, b" ")  # 0.1.0 did not keep the space
    by_shell = _match(_BY_SHELL, script)
    if by_shell and by_shell["double"]:
        first, last = by_shell.span("double")
        yield script[: first - 1] + by_shell["double"] + script[last + 1 :]
    by_env = _match(_BY_ENV, script)
    if by_env:
        start = prefix + b"/bin/" + by_env["name"] + by_env["options"]
        yield _with_shebang(script, by_env, start)
        yield _with_shebang(script, by_env, start, b" ")


def program_of(script: bytes) -> str:
    """Return the program that a script's first lines start, as far as it can be told."""
    lines = script[:4096].split(b"\n", 4)
    command = lines[0][2:].strip()
    if command == b"/bin/sh":
        command = next((line.partition(b"exec")[2] for line in lines[1:4] if b"exec" in line), b"").lstrip(
            b"' "
        )
    elif command.startswith(b"/usr/bin/env "):
        command = command.removeprefix(b"/usr/bin/env ").removeprefix(b"-S ").lstrip()
    is_quoted = command[:1] in (b'"', b"'")
    words = command[1:].split(command[:1], 1) if is_quoted else command.split(None, 1)
    return words[0].decode("utf-8", "surrogateescape") if words else ""


def _match(pattern: re.Pattern[bytes], script: bytes) -> re.Match[bytes] | None:
    """Match the beginning of a script; return None if what matches is too long."""
    match = pattern.match(script)
    return match if match and match.end() <= _LONGEST else None


def _with_shebang(script: bytes, replaced: re.Match[bytes], line: bytes, space: bytes = b"") -> bytes:
    return b"#!" + space + line + b"\n" + script[replaced.end() :]


def _parse(line: bytes) -> tuple[_Invocation, bool]:
    """Return what the line executes, and whether that is `env`, which splits its argument into words."""
    program, *rest = _BLANKS.split(line[2:].strip(b" \t"), maxsplit=1)
    argument = rest[0] if rest else b""
    split = _SPLIT_OPTION.match(argument) if _name(program) == b"env" else None
    if split:
        return _parse_split(program, argument, split)
    is_single = re.search(rb"[\"'\\]", argument)
    words = (argument,) if is_single else tuple(_BLANKS.split(argument)) if argument else ()
    if _name(program) == b"env" and words:
        return _Invocation(program, words, _name(words[0]), 1), False
    return _Invocation(program, words, _name(program)), False


def _parse_split(program: bytes, argument: bytes, split: re.Match[bytes]) -> tuple[_Invocation, bool]:
    """Do the same for a line of `env -S`; an argument with quotes or variables is left to `env`."""
    text = argument[split.end() :]
    if re.search(rb"[\"'\\$#]", text):
        words = [word.strip(b"\"'") for word in _BLANKS.split(text)]
        return _Invocation(program, (argument,), _name(words[_command_index(words)]), 1), False
    flags = (b"-" + split["flags"],) if split["flags"] else ()
    words = [*flags, *_BLANKS.split(text)]
    index = _command_index(words)
    return _Invocation(program, tuple(words), _name(words[index]), index + 1), True


def _command_index(words: list[bytes]) -> int:
    """Return which of the words for `env` is the command; the last one if none is."""
    is_operand = False
    for index, word in enumerate(words):
        if not is_operand and not word.startswith(b"-") and b"=" not in word:
            return index
        is_operand = not is_operand and word in _OPTIONS_WITH_WORD
    return len(words) - 1


def _start_by_shell(invocation: _Invocation, script: bytes) -> bytes:
    """Return the first lines for the shell, or one that looks for the interpreter on PATH."""
    language = _language_of(invocation.interpreter)
    if language is None:
        before = invocation.words[: max(0, invocation.before - 1)]
        words = (*before, invocation.interpreter, *invocation.words[invocation.before :])
        return b"#!/usr/bin/env " + b" ".join([*([b"-S"] if words[1:] else []), *words]) + b"\n"
    if language is _PYTHON and _begins_with_fixed_statement(script):
        language = _PYTHON_WITH_DOCSTRING
    options = [_quote(word) for word in invocation.words]
    if language.option:
        options.insert(invocation.before, language.option)
    command = b" ".join([_in_quotes(invocation.program), *options, b'"$0" "$@"'])
    cookie = _COOKIE.match(script) if language in _PYTHONS else None
    start = b"#! /bin/sh\n" if script.startswith(b"#! ") else b"#!/bin/sh\n"
    return start + (cookie[1] if cookie else b"") + language.lines.replace(b"%b", command)


def _begins_with_fixed_statement(script: bytes) -> bool:
    """Return whether the script has a statement behind its first line that must stay the first one."""
    code = _CODE.search(script, script.find(b"\n") + 1)
    return code is not None and _FIRST_STATEMENT.match(script, code.start()) is not None


def _language_of(name: bytes) -> _Language | None:
    return next((language for language in _LANGUAGES if language.programs.match(name)), None)


def _quote_program(script: bytes, placeholder: bytes, prefix: bytes) -> Beginning | None:
    """Return the beginning of a script that pip has made to be started by the shell, if the prefix needs quotes."""
    match = _match(_BY_SHELL, script)
    kind = match.lastgroup if match else None
    if not match or not kind or placeholder not in match[kind] or not _UNSAFE[kind].search(prefix):
        return None
    start, end = match.span(kind)
    quotes = 0 if kind == "bare" else 1
    program = match[kind].replace(placeholder, prefix)
    return Beginning(script[: start - quotes] + _in_quotes(program), end + quotes)


def _name(program: bytes) -> bytes:
    return program.rpartition(b"/")[2]


def _quote(word: bytes) -> bytes:
    return word if _SAFE.match(word) else _in_quotes(word)


def _in_quotes(text: bytes) -> bytes:
    """Quote text for the shell; without backslashes before other characters, about which Python would warn."""
    return b'"' + re.sub(rb'["$`]+', rb'''"'\g<0>'"''', text.replace(b"\\", b"\\\\")) + b'"'
