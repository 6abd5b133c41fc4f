"""What is asked of a benchmark, in plain words that another process can be told."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_margin import backend as backends
from gpu_margin.bench.cases import Size
from gpu_margin.failures import ConfigError

# Seconds that the rounds of one contender may take, and one call of it.
PATIENCE, LIMIT = 120.0, 600.0


def command_line() -> str:
    """How this process was started."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def now() -> str:
    """The moment (UTC) in ISO format, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Request:
    """The arguments of `run_bench`, backends by name; `created` is when it was asked for (UTC)."""

    workloads: tuple[str, ...]
    sizes: tuple[Size, ...]
    backends: tuple[str, ...]
    rounds: int
    precisions: tuple[str, ...]
    patience: float
    limit: float
    command: str = field(default_factory=command_line)
    created: str = field(default_factory=now)

    def to_dict(self) -> dict[str, Any]:
        """As plain lists and dicts, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Request:
        """What `to_dict` gave, also after JSON."""
        parts: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        parts["sizes"] = tuple(Size(**size) for size in plain["sizes"])
        return cls(**parts)


def backend_choice(text: str) -> tuple[str, ...]:
    """Names from a comma-separated list; `ConfigError` where one is unknown. Loads none."""
    names = [name.strip() for name in text.split(",")]
    known = ["auto", "all", *backends.backend_names()]
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown backend {name!r}; choose some of {', '.join(known)}")
    return tuple(dict.fromkeys(names))
