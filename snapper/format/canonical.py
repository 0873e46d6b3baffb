"""Encode frozen dataclasses as canonical JSON, and decode untrusted JSON.

Canonical JSON has sorted keys, no white space, escapes for everything outside ASCII, no floats, and no fields that are
None. Bytes of file names that are not UTF-8 are lone surrogates (PEP 383), as in Python's file functions. Equal values
have equal bytes, so the sha256 of the bytes can be their name.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

#: The maximum size of a document, in bytes: a multiple of what an environment of a million files needs.
LARGEST_DOCUMENT = 32 * 1024 * 1024

_INTEGERS = range(-(2**63), 2**63)


class MalformedDocument(ValueError):
    """A document does not have the form of its type; the message says where and why."""


def encode(value: object) -> bytes:
    """Return a dataclass instance, or a list of instances, as canonical JSON."""
    return json.dumps(to_jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode(
        "ascii"
    )


def to_jsonable(value: object) -> Any:
    """Return the value as dicts, lists, strings, numbers and booleans; fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_jsonable(item) for name, item in pairs if item is not None}
    if isinstance(value, tuple | list):
        return [to_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    return value


def decode(kind: type[T], document: object, name: str = "") -> T:
    """Return an instance of the dataclass `kind`, or a tuple of instances, from parsed JSON that errors call `name`.

    Raise MalformedDocument unless it has exactly the declared fields with values of their types. Dataclasses check
    further constraints in `__post_init__`, by raising ValueError.
    """
    value: T = _build(kind, document, name or kind.__name__.lower())
    return value


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


def _unique(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    unique: dict[str, object] = {}
    for key, value in pairs:
        if key in unique:
            raise MalformedDocument(f"key {key!r} appears twice")
        unique[key] = value
    return unique


def _no_float(text: str) -> object:
    raise MalformedDocument(f"{text} is not an integer")


@cache
def _shape(kind: type) -> dict[str, tuple[Any, bool]]:
    """Return, by field name, the type and whether the field is required."""
    hints = get_type_hints(kind)
    return {
        field.name: (hints[field.name], field.default is dataclasses.MISSING)
        for field in dataclasses.fields(kind)
    }


def _build(kind: Any, value: object, where: str) -> Any:
    if kind is int or kind is str or kind is bool:
        if type(value) is not kind:
            raise MalformedDocument(f"{where} must be {kind.__name__}")
        if kind is int and value not in _INTEGERS:
            raise MalformedDocument(f"{where} does not fit into 64 bits")
        return value
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)  # type: ignore[arg-type]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise MalformedDocument(f"{where} must be one of {', '.join(arguments)}")
        return value
    if origin is tuple:
        return _build_tuple(arguments[0], value, where)
    if origin is dict:
        return _build_dict(arguments[1], value, where)
    if origin is Union or origin is types.UnionType:
        return _build(arguments[0], value, where)
    raise TypeError(f"{kind} has no JSON form")


def _build_tuple(kind: Any, value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise MalformedDocument(f"{where} must be a list")
    return tuple(_build(kind, item, f"{where}[{number}]") for number, item in enumerate(value))


def _build_dict(kind: Any, value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedDocument(f"{where} must be an object")
    return {key: _build(kind, item, f"{where}[{key!r}]") for key, item in value.items()}


def _build_dataclass(kind: type, value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise MalformedDocument(f"{where} must be an object")
    shape = _shape(kind)
    unknown = value.keys() - shape.keys()
    if unknown:
        raise MalformedDocument(f"{where} has unknown field {min(unknown)!r}")
    missing = [name for name, (_, required) in shape.items() if required and name not in value]
    if missing:
        raise MalformedDocument(f"{where} lacks field {missing[0]!r}")
    built = {name: _build(shape[name][0], entry, f"{where}.{name}") for name, entry in value.items()}
    try:
        return kind(**built)
    except MalformedDocument:
        raise
    except ValueError as error:
        raise MalformedDocument(f"{where}: {error}") from None
