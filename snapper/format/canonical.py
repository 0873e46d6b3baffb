"""Encode frozen dataclasses as canonical JSON, and decode untrusted JSON.

Canonical JSON has sorted keys, no white space, escapes for everything outside ASCII, no floats, and no fields that are
None. Bytes of file names that are not UTF-8 are lone surrogates (PEP 383), as in Python's file functions. Equal values
have equal bytes, so the sha256 of the bytes can be their name.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections import Counter
from collections.abc import Callable, Set
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

#: The maximum size of a document, in bytes: a multiple of what an environment of a million files needs.
LARGEST_DOCUMENT = 32 * 1024 * 1024

_LEAST_INTEGER, _LARGEST_INTEGER = -(2**63), 2**63 - 1

_SCALARS = frozenset((str, int, bool, type(None)))


class MalformedDocument(ValueError):
    """A document does not have the form of its type; the message says where and why."""


def encode(value: object) -> bytes:
    """Return a dataclass instance, or a list of instances, as canonical JSON."""
    return json.dumps(to_jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode(
        "ascii"
    )


def to_jsonable(value: object) -> Any:
    """Return the value as dicts, lists, strings, numbers and booleans; fields that are None are left out."""
    if type(value) in _SCALARS:
        return value
    if isinstance(value, tuple | list):
        return [to_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((name, getattr(value, name)) for name in _field_names(type(value)))
        return {name: to_jsonable(item) for name, item in pairs if item is not None}
    return value


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def parse(data: bytes) -> object:
    """Return the JSON value in `data`; raise MalformedDocument if it is too large or deep, or repeats a key."""
    if len(data) > LARGEST_DOCUMENT:
        raise MalformedDocument(f"document of {len(data):,} bytes is larger than {LARGEST_DOCUMENT:,}")
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_float=_no_float, parse_constant=_no_float)
    except MalformedDocument:
        raise
    except ValueError as error:
        raise MalformedDocument(f"not JSON: {error}") from None
    except RecursionError:
        raise MalformedDocument("nested too deeply") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise MalformedDocument(f"key {key!r} appears twice")
    return unique


def _no_float(text: str) -> object:
    raise MalformedDocument(f"{text} is not an integer")


def decode(kind: type[T], document: object, name: str = "") -> T:
    """Return an instance of the dataclass `kind`, or a tuple of instances, from parsed JSON that errors call `name`.

    Raise MalformedDocument unless it has exactly the declared fields with values of their types. Dataclasses check
    further constraints in `__post_init__`, by raising ValueError.
    """
    try:
        value: T = _decoder(cast("Any", kind))(document)
    except _Mismatch as mismatch:
        raise MalformedDocument(f"{name or kind.__name__.lower()}{mismatch.place}{mismatch.reason}") from None
    return value


class _Mismatch(Exception):
    """A value does not have the form of its type: where it is below the value that is decoded, and why."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = place

    def below(self, step: str) -> _Mismatch:
        """Return the same for the value that has this one at `step`."""
        return _Mismatch(self.reason, step + self.place)


_Decoder = Callable[[Any], Any]


@cache
def _decoder(kind: Any) -> _Decoder:
    """Return a function that makes a value of this type from JSON, or raises _Mismatch.

    Documents can have millions of values, so that whatever depends only on their types is done once.
    """
    if kind in _SCALAR_DECODERS:
        return _SCALAR_DECODERS[kind]
    if dataclasses.is_dataclass(kind):
        return _dataclass_decoder(kind)  # type: ignore[arg-type]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _literal_decoder(arguments)
    if origin is tuple:
        return _tuple_decoder(_decoder(arguments[0]))
    if origin is dict:
        return _dict_decoder(_decoder(arguments[1]))
    if origin is Union or origin is types.UnionType:
        return _decoder(arguments[0])
    raise TypeError(f"{kind} has no JSON form")


def _decode_integer(value: Any) -> int:
    if type(value) is not int:
        raise _Mismatch(" must be int")
    if not _LEAST_INTEGER <= value <= _LARGEST_INTEGER:
        raise _Mismatch(" does not fit into 64 bits")
    return value


def _decode_text(value: Any) -> str:
    if type(value) is not str:
        raise _Mismatch(" must be str")
    return value


def _decode_boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise _Mismatch(" must be bool")
    return value


_SCALAR_DECODERS: dict[Any, _Decoder] = {int: _decode_integer, str: _decode_text, bool: _decode_boolean}


def _literal_decoder(choices: tuple[str, ...]) -> _Decoder:
    def decode_literal(value: Any) -> Any:
        if value not in choices:
            raise _Mismatch(f" must be one of {', '.join(choices)}")
        return value

    return decode_literal


def _tuple_decoder(decode_item: _Decoder) -> _Decoder:
    def decode_tuple(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _Mismatch(" must be a list")
        decoded: list[Any] = []
        try:
            for item in value:
                decoded.append(decode_item(item))  # its length tells which item is wrong
        except _Mismatch as mismatch:
            raise mismatch.below(f"[{len(decoded)}]") from None
        return tuple(decoded)

    return decode_tuple


def _dict_decoder(decode_item: _Decoder) -> _Decoder:
    def decode_dict(value: Any) -> dict[str, Any]:
        if type(value) is not dict:
            raise _Mismatch(" must be an object")
        decoded: dict[str, Any] = {}
        for key, item in value.items():
            try:
                decoded[key] = decode_item(item)
            except _Mismatch as mismatch:
                raise mismatch.below(f"[{key!r}]") from None
        return decoded

    return decode_dict


def _dataclass_decoder(kind: type) -> _Decoder:
    hints, fields = get_type_hints(kind), dataclasses.fields(kind)
    decoders = {field.name: _decoder(hints[field.name]) for field in fields}
    required = frozenset(field.name for field in fields if field.default is dataclasses.MISSING)

    def decode_dataclass(value: Any) -> Any:
        if type(value) is not dict:
            raise _Mismatch(" must be an object")
        if not required <= value.keys() <= decoders.keys():
            raise _wrong_fields(value.keys(), required, decoders.keys())
        decoded: dict[str, Any] = {}
        for name, item in value.items():
            try:
                decoded[name] = decoders[name](item)
            except _Mismatch as mismatch:
                raise mismatch.below(f".{name}") from None
        try:
            return kind(**decoded)
        except MalformedDocument:
            raise
        except ValueError as error:
            raise _Mismatch(f": {error}") from None

    return decode_dataclass


def _wrong_fields(found: Set[str], required: Set[str], known: Set[str]) -> _Mismatch:
    unknown, missing = found - known, required - found
    if unknown:
        return _Mismatch(f" has unknown field {min(unknown)!r}")
    return _Mismatch(f" lacks field {min(missing)!r}")
