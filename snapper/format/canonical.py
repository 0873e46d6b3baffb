"""Frozen dataclasses to canonical JSON and, distrustfully, back.

Canonical JSON: keys sorted, no white space, ASCII with escapes, no floats, fields that are None
left out. Bytes of file names that are not UTF-8 are lone surrogates (PEP 383), as Python's own file functions
have them. Equal values give equal bytes, so the bytes' sha256 can serve as a name.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

#: What is parsed at most, in bytes: some times what describes an environment of a million files.
LARGEST_DOCUMENT = 32 * 1024 * 1024


class MalformedDocument(ValueError):
    """A document is not of the form its type demands; says where and why."""


def encode(value: object) -> bytes:
    """Canonical JSON bytes of a dataclass instance, or a list of such."""
    return json.dumps(to_jsonable(value), sort_keys=True, separators=(",", ":"), allow_nan=False).encode(
        "ascii"
    )


def to_jsonable(value: object) -> Any:
    """The value as dicts, lists, strings, integers and booleans."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: to_jsonable(item) for name, item in pairs if item is not None}
    if isinstance(value, tuple | list):
        return [to_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    return value


def decode(kind: type[T], document: object, name: str = "") -> T:
    """An instance of the dataclass `kind`, or a tuple of such, from a parsed JSON document, which errors call `name`.

    Raises Malformed for anything but exactly the declared fields with values of their types; constraints that
    types cannot say are the dataclass's own (`__post_init__`, raising ValueError).
    """
    value: T = _build(kind, document, name or kind.__name__.lower())
    return value


def parse(data: bytes) -> object:
    """The JSON value in `data`; raises Malformed where it is too large, too deep, or names a key twice."""
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
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise MalformedDocument(f"key {key!r} appears twice")
        found[key] = value
    return found


def _no_float(text: str) -> object:
    raise MalformedDocument(f"{text} is not an integer")


@cache
def _shape(kind: type) -> dict[str, tuple[Any, bool]]:
    """Field name to its type and whether it must be present."""
    hints = get_type_hints(kind)
    return {
        field.name: (hints[field.name], field.default is dataclasses.MISSING)
        for field in dataclasses.fields(kind)
    }


def _build(kind: Any, value: object, where: str) -> Any:
    if kind is int or kind is str or kind is bool:
        if type(value) is not kind:
            raise MalformedDocument(f"{where} must be {kind.__name__}")
        return value
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)  # type: ignore[arg-type]
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise MalformedDocument(f"{where} must be one of {', '.join(get_args(kind))}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise MalformedDocument(f"{where} must be a list")
        item = get_args(kind)[0]
        return tuple(_build(item, entry, f"{where}[{number}]") for number, entry in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise MalformedDocument(f"{where} must be an object")
        return {key: _build(get_args(kind)[1], entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if origin is Union or origin is types.UnionType:
        return _build(get_args(kind)[0], value, where)
    raise TypeError(f"{kind} has no JSON form")


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
