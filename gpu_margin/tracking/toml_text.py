"""A configuration as TOML: Python reads it and does not write it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from typing import Any


def toml_text(config: Mapping[str, Any]) -> str:
    """Settings as TOML, with a table for each nested dict; what is None is left out.

    Raises `TypeError` for what TOML has no word for.
    """
    return "\n".join(_lines(config, ())) + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """A table: its own values, then the tables in it."""
    given = {key: value for key, value in table.items() if value is not None}
    tables = {key: value for key, value in given.items() if isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in given.items() if key not in tables]
    if path and (lines or not tables):
        lines = ["", f"[{'.'.join(_key(part) for part in path)}]", *lines]
    for key, value in tables.items():
        lines += _lines(value, (*path, key))
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, Mapping):
        pairs = (f"{_key(key)} = {_value(one)}" for key, one in value.items() if one is not None)
        return f"{{{', '.join(pairs)}}}"
    raise TypeError(f"{type(value).__name__} cannot be written as TOML")


def _text(text: str) -> str:
    """A TOML string: what JSON writes, but for a character that only TOML escapes."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)
