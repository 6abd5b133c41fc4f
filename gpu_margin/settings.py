"""The base of every parameter type: strict, frozen, and helpful about misspelt keys."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Settings(BaseModel):
    """Parameters read from a TOML table; unknown keys are errors that name the nearest one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        known = list(cls.model_fields)
        unknown = [key for key in data if key not in known] if isinstance(data, dict) else []
        if unknown:
            raise ValueError("; ".join(unknown_key(key, known) for key in unknown))
        return data


def unknown_key(key: str, known: list[str]) -> str:
    """What to say of an unknown key."""
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown key {key!r}{hint} (known: {', '.join(known)})"
