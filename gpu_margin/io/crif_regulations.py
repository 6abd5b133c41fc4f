"""The regulations that a row of a CRIF is under."""

from __future__ import annotations

import re


def names_in(text: str) -> tuple[str, ...]:
    """The names in "SEC, CFTC", "SEC;CFTC" or "[SEC, CFTC]": upper case, each once, by bytes."""
    inside = text.strip().removeprefix("[").removesuffix("]")
    names = {name.strip().upper() for name in re.split("[,;]", inside)}
    return tuple(sorted(names - {""}))
