"""Variants of attacks: there are many of some, which are not all needed to see that a fix is still there."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def variants(name: str, values: Iterable[Any], *, usually: Collection[Any]) -> pytest.MarkDecorator:
    """Parametrize an attack by the values; those that are not tried `usually` are with `--long`."""
    values = list(values)
    assert set(usually) <= set(values), set(usually) - set(values)
    parameters = [
        value if value in usually else pytest.param(value, marks=pytest.mark.long) for value in values
    ]
    return pytest.mark.parametrize(name, parameters, ids=_id)


def _id(value: object) -> str | None:
    """Name functions; leave other values to pytest."""
    return str(getattr(value, "__name__", "")).removeprefix("_plant_") or None
