"""Make scripts executable whose interpreter line is too long, or has white space in the interpreter's path.

Before version 5.1, Linux reads only 127 bytes of that line, and all versions split it at white space. Python scripts
get the form that pip and conda use, a shell command that Python reads as a string. Other scripts look up their
interpreter on PATH, as with conda.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_LENGTH = 127

#: Files may come from an attacker, so matching any of these takes linear time: nothing is tried again after a failure.
_COOKIE = re.compile(rb"[^\n]*\n(?=[^\n]*\n)([ \t\f]*#.*?coding[:=][ \t]*[-\w.][^\n]*\n)")
_PYTHON = re.compile(rb"(?:.*/)?(?:python|pypy)[\d.]*w?\Z", re.S)
_BY_SHELL = re.compile(
    rb"#!/bin/sh\n(?:[ \t\f]*#[^\n]*\n)?'''exec' \"(?P<program>[^\"\n]*)\"(?P<options>[^\n]*?) \"\$0\" \"\$@\"\n' '''\n"
)
_BY_ENV = re.compile(rb"#!/usr/bin/env (?P<name>[^\s]+)(?P<options>(?:[^\S\n][^\n]*)?)\n")


def fit_shebang(script: bytes, placeholder: bytes, prefix: bytes) -> bytes | None:
    """Return what replaces the script's first line, to start its interpreter below `prefix`.

    `script` has the placeholder in that line. Return None if replacing the placeholder is enough, or if there is no
    interpreter line.
    """
    match = re.match(rb"#![ \t]*" + re.escape(placeholder) + rb"(/[^\s]*)((?:[^\S\n][^\n]*)?)\n", script)
    if match is None:
        return None
    length = len(match.group()) - 1 - len(placeholder) + len(prefix)
    if length <= MAX_LENGTH and not re.search(rb"\s", prefix):
        return None
    program, options = prefix + match[1], match[2].rstrip()
    if not _PYTHON.match(program):
        return b"#!/usr/bin/env " + program.rpartition(b"/")[2] + options + b"\n"
    cookie = _COOKIE.match(script)
    # Quotes rather than backslashes: Python reads the line as a string, and warns about unknown escapes.
    quoted = re.sub(rb'["$`]+', rb'''"'\g<0>'"''', program.replace(b"\\", b"\\\\"))
    command = b"'''exec' \"" + quoted + b'"' + options + b' "$0" "$@"\n' + b"' '''\n"
    return b"#!/bin/sh\n" + (cookie[1] if cookie else b"") + command


def original_shebangs(script: bytes, placeholder: bytes, prefix: bytes) -> Iterator[bytes]:
    """Yield the scripts that `fit_shebang` can have changed into this one."""
    match = _BY_SHELL.match(script)
    if match and match["program"].startswith(prefix + b"/"):
        program, options = match["program"][len(prefix) :], match["options"]
    else:
        match = _BY_ENV.match(script)
        if match is None:
            return
        program, options = b"/bin/" + match["name"], match["options"]
    for space in (b"", b" "):
        yield b"#!" + space + placeholder + program + options + b"\n" + script[match.end() :]
