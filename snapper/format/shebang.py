"""First lines that name an interpreter which the kernel would not start: too long, or with a space in its path.

Linux took 127 bytes of such a line before 5.1, and never splits it but at white space. Python scripts get the
form that pip and conda use, a shell command which Python reads as a string; others find their interpreter on
PATH, as conda has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_LENGTH = 127

_COOKIE = re.compile(rb"[^\n]*\n([ \t\f]*#.*?coding[:=][ \t]*[-\w.]+[^\n]*\n)")
_PYTHON = re.compile(rb"(?:.*/)?(?:python|pypy)[\d.]*w?\Z", re.S)
_BY_SHELL = re.compile(
    rb"#!/bin/sh\n(?:[ \t\f]*#[^\n]*\n)?'''exec' \"(?P<program>[^\"\n]*)\"(?P<options>[^\n]*?) \"\$0\" \"\$@\"\n' '''\n"
)
_BY_ENV = re.compile(rb"#!/usr/bin/env (?P<name>[^\s]+)(?P<options>[^\n]*)\n")


def fit_shebang(script: bytes, placeholder: bytes, prefix: bytes) -> bytes | None:
    """The script's beginning up to its second line, made to start with an interpreter below `prefix`.

    `script` has the placeholder in its first line. None where the line fits as it is, or is none.
    """
    match = re.match(rb"#![ \t]*" + re.escape(placeholder) + rb"(/[^\s]*)([^\n]*)\n", script)
    if match is None:
        return None
    length = len(match.group()) - 1 - len(placeholder) + len(prefix)
    if length <= MAX_LENGTH and not re.search(rb"\s", prefix):
        return None
    program, options = prefix + match[1], match[2].rstrip()
    if not _PYTHON.match(program):
        return b"#!/usr/bin/env " + program.rpartition(b"/")[2] + options + b"\n"
    cookie = _COOKIE.match(script)
    # Not by backslashes: Python, which reads the line as a string, would warn of those that it does not know.
    quoted = re.sub(rb'["$`]+', rb'''"'\g<0>'"''', program.replace(b"\\", b"\\\\"))
    command = b"'''exec' \"" + quoted + b'"' + options + b' "$0" "$@"\n' + b"' '''\n"
    return b"#!/bin/sh\n" + (cookie[1] if cookie else b"") + command


def original_shebangs(script: bytes, placeholder: bytes, prefix: bytes) -> Iterator[bytes]:
    """What a script may have been before its first line was made to fit."""
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
