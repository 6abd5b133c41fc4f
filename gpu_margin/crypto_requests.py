"""What-ifs on a crypto venue as they are asked: in the shape of Deribit's simulations.

A request has `simulated_positions`, a map of instrument to signed quantity in units of the
underlying, and `add_positions` (true by default): whether they come on top of the positions of the
base, or stand in for its derivatives. The base is `account` and, where it has several,
`netting_set` or `currency` (its market); without one the request is a portfolio by itself, in the
market `currency`. `prices` (instrument to USD) say what was paid; `cash` is paid in besides.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_margin.failures import ConfigError, Failure
from gpu_margin.settings import unknown_key

_SOURCE = "what-ifs"
# A number beyond this is a mistake, as in every input.
_LARGEST = 1e30
_ALIASES = {"market": "currency", "account_id": "account", "positions": "simulated_positions"}
_KEYS = (
    "whatif_id",
    "account",
    "netting_set",
    "currency",
    "simulated_positions",
    "add_positions",
    "prices",
    "cash",
)


@dataclass(frozen=True)
class Request:
    """One what-if, checked by itself; see the module."""

    name: str
    account: str | None
    netting_set: str | None
    currency: str
    positions: Mapping[str, float]
    add: bool
    prices: Mapping[str, float]
    cash: float


@dataclass(frozen=True)
class Requests:
    """What-ifs in their order: names of all, those that are good with their places, failures."""

    names: list[str]
    good: list[Request]
    place: list[int]
    failures: list[Failure]


def read(path: Path) -> Any:
    """The requests of a JSON file; `ConfigError` where it has none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error


def parsed(given: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> Requests:
    """One request, a list, or a list under `whatifs`; a bad one is a failure."""
    several = given.get("whatifs", [given]) if isinstance(given, Mapping) else given
    if isinstance(several, (str, bytes)) or not isinstance(several, Sequence) or not several:
        raise ConfigError("what-ifs: give one request, or a list of one or more")
    found, known = Requests([], [], [], []), set[str]()
    for number, one in enumerate(several, start=1):
        name = str(one.get("whatif_id", number)) if isinstance(one, Mapping) else str(number)
        again = name in known
        known.add(name)
        found.names.append(name)
        try:
            if again:
                raise _Bad("another what-if has this name", "whatif_id", name)
            request = _request(name, one)
        except _Bad as bad:
            found.failures.append(bad.failure(number))
            continue
        found.good.append(request)
        found.place.append(number - 1)
    return found


class _Bad(Exception):
    """What is wrong with a request: why, where, what was given."""

    def __init__(self, reason: str, field: str, value: Any) -> None:
        super().__init__(reason)
        self.reason, self.field, self.value = reason, field, value

    def failure(self, number: int) -> Failure:
        return Failure(self.reason, _SOURCE, number, self.field, str(self.value))


def failure(reason: str, number: int, field: str, value: object) -> Failure:
    """A failure of the what-if of that number, from 1."""
    return Failure(reason, _SOURCE, number, field, str(value))


def _request(name: str, one: Any) -> Request:
    if not isinstance(one, Mapping):
        raise _Bad("a what-if must be a table of keys", "whatif", one)
    keys = {_ALIASES.get(str(key), str(key)): value for key, value in one.items()}
    unknown = [key for key in keys if key not in _KEYS]
    if unknown:
        raise _Bad(unknown_key(unknown[0], list(_KEYS)), unknown[0], keys[unknown[0]])
    if "simulated_positions" not in keys and "cash" not in keys:
        raise _Bad("nothing is asked: give simulated_positions", "simulated_positions", None)
    add = keys.get("add_positions", True)
    if not isinstance(add, bool):
        raise _Bad("must be true or false", "add_positions", add)
    texts = {key: _text(keys, key) for key in ("account", "netting_set", "currency")}
    positions = _numbers(keys, "simulated_positions")
    prices = _numbers(keys, "prices")
    idle = [key for key in prices if key not in positions]
    if idle:
        raise _Bad("has a price, but is not among the simulated positions", "prices", idle[0])
    return Request(
        name=name,
        account=texts["account"],
        netting_set=texts["netting_set"],
        currency=texts["currency"] or "",
        positions=positions,
        add=add,
        prices=prices,
        cash=_number("cash", keys.get("cash", 0.0)),
    )


def _text(keys: Mapping[str, Any], key: str) -> str | None:
    value = keys.get(key)
    if value is not None and not isinstance(value, str):
        raise _Bad("must be text", key, value)
    return value


def _numbers(keys: Mapping[str, Any], key: str) -> dict[str, float]:
    given = keys.get(key) or {}
    if not isinstance(given, Mapping):
        raise _Bad("must be a map of instrument to number", key, given)
    return {str(name): _number(f"{key}.{name}", value) for name, value in given.items()}


def _number(field: str, value: Any) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or abs(value) > _LARGEST:
        raise _Bad("must be a finite number, at most 1e30", field, value)
    return float(value)
