"""Recognize credentials in files: by the names of variables and settings, and by the forms that tokens have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, zip_longest
from typing import Any

_SECRET_NAME = re.compile(
    r"token(?!s|i[sz])|secret|passw|passphrase|passwd|credential|pgpass|(^|_)(pass|pwd|pat|sas)\Z"
    r"|(api|access|auth|private|account|storage|encryption)[-_]?key|connection[-_]?string|access[-_]?signature"
    r"|(?-i:(?<!PUBLIC)(?<!PRIMARY)(?<!FOREIGN)(?<!PARTITION)(?<!SORT)_KEY)\Z",
    re.I,
)

#: Names of what says where a secret is.
_PLACE = re.compile(r"(file|path|dir|directory|application_credentials)\Z", re.I)

#: Values that are no secrets: switches, and references to other variables.
_NO_SECRET = re.compile(r"(?:true|false|yes|no|on|off|none|null|[01]|\$\w+|\$\{\w+\})?\Z", re.I)

#: A variable that gets a value without `=`, in a script of csh or fish.
_DEFINITION = re.compile(
    r"""(?:^|[;&])[ \t]*(?:setenv|set(?:[ \t]+-\w+)*)[ \t]+([\w.]+)[ \t]+["']?([^\s"'$`;&|)]+)""",
    re.M,
)

#: A variable, setting, or option that gets a value anywhere in a line. The value may contain another one.
_ASSIGNMENT = re.compile(
    r"""(?<![^\s;&|?'"({,\[])([$\w.-]{1,100})['"\]]{0,2}[ \t]{0,4}[=:][ \t]{0,4}["']?(?=([^\s"'$`;&|)=]{1,100}))"""
)

#: An option that is followed by its value.
_OPTION = re.compile(
    r"""(?<![^\s;&|'"(])--?([A-Za-z][\w.-]{0,99})[ \t]{1,4}["']?([^\s"'$`;&|)-][^\s"'`;&|)]*)"""
)

#: A key in a header of HTTP, and a password in the form of `.netrc`.
_HEADER = re.compile(
    r"\b(?:bearer|basic)[ \t]+[\w.~+/-]{8,}"
    r"|\bauthorization['\"]?[ \t]{0,4}[=:][ \t]{0,4}['\"]?[\w-]{1,30}[ \t]{1,4}[\w.~+/-]{8,}"
    r"|\blogin\s{1,9}\S{1,200}\s{1,9}password\s{1,9}[^\s$]",
    re.I,
)

#: A user and a password in any URL.
_LOGIN_IN_URL = re.compile(r"://[^\s/@:]*:[^\s/@]+@")

#: Such a URL whose password is no example, or that has a token in place of a user.
_URL_WITH_SECRET = re.compile(
    rb"://(?:[^\s/@:\"'`<>{}$]*:(?!(?:my|your)?[-_]?(?:pass(?:w(?:or)?d)?|pwd?|secret|token|key|x+|\*+|\.+)@)"
    rb"[^\s/@\"'`<>{}$]+|(?=[^@\d]{0,60}\d)[\w.~-]{16,})@",
    re.I,
)

#: What texts with credentials of well-known forms contain, and these forms.
_FORMS = (
    (b"://", _URL_WITH_SECRET),
    (b"PRIVATE KEY-----", re.compile(rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----")),
    (b"sig=", re.compile(rb"[?&]sig=[\w%+/-]{30}")),
    (b"ghp_", re.compile(rb"\bghp_[A-Za-z0-9]{10}")),
    (b"github_pat_", re.compile(rb"\bgithub_pat_\w{10}")),
    (b"glpat-", re.compile(rb"\bglpat-[\w-]{10}")),
    (b"xox", re.compile(rb"\bxox[a-z]-[\w-]{10}")),
    (b"AKIA", re.compile(rb"\bAKIA[0-9A-Z]{16}\b")),
    (b"hf_", re.compile(rb"\bhf_[A-Za-z0-9]{30}")),
    (b"sk-", re.compile(rb"\bsk-(?=[A-Za-z_-]{0,40}\d)[\w-]{32}")),
)


def defines_secret(data: bytes) -> bool:
    """Return whether JSON or a script defines something that is named like a secret, or contains any credentials."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, (dict, list)):
        return _has_credentials(data.decode("utf-8", "replace"))
    return contains_token(data) or any(is_secret(name, value) for name, value in _members(document))


def is_secret(name: str, value: object) -> bool:
    """Return whether a variable or setting is named like a secret and has a value, or its value has credentials."""
    return isinstance(value, str) and (_is_named_secret(name, value) or _has_credentials(value))


def _has_credentials(text: str) -> bool:
    """Return whether a text, be it a script or a value, defines a secret or contains any credentials."""
    defined = chain(*(form.findall(text) for form in (_DEFINITION, _ASSIGNMENT, _OPTION)))
    return (
        contains_token(text.encode("utf-8", "replace"))
        or any(_is_named_secret(name, value) for name, value in defined)
        or bool(_LOGIN_IN_URL.search(text))
        or bool(_HEADER.search(text))
    )


def contains_token(data: bytes) -> bool:
    """Return whether a text contains a URL with a password or token, a private key, or a token of a well-known form."""
    return b"\0" not in data and any(mark in data and form.search(data) for mark, form in _FORMS)


def _members(value: Any) -> Iterator[tuple[str, object]]:
    """Yield the names and values in all objects of a JSON document, and the options in its lists of texts."""
    if isinstance(value, dict):
        yield from value.items()
        value = list(value.values())
    if isinstance(value, list):
        for item, following in zip_longest(value, value[1:]):
            if isinstance(item, str):
                option, equals, text = item.partition("=")
                yield option if option.startswith("-") else "", text if equals else following
                yield "", item
            else:
                yield from _members(item)


def _is_named_secret(name: str, value: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not (_PLACE.search(name) or _NO_SECRET.match(value))
