"""Feeds of a crypto venue as JSON of ours.

    {"time": "2026-01-21T00:00:00Z",
     "stable": {"price": 1.0, "confidence": 1.0},
     "underlyings": {"BTC": {"spot": 90000, "confidence": 1.0, "expiries": [
         {"expiry": "2026-03-27T08:00:00Z", "forward": 90500, "fixed": 0, "forward_confidence": 1,
          "rate": 0.0, "rate_confidence": 1, "volatility_confidence": 1,
          "svi": {"a": .., "b": .., "rho": .., "m": .., "sigma": .., "forward": .., "tau": ..}}]}},
     "instruments": [
         {"instrument_id": "BTC-PERP", "kind": "perpetual", "underlying": "BTC", "price": 90010},
         {"instrument_id": "BTC-20260327-100000-C", "kind": "option", "underlying": "BTC",
          "expiry": "2026-03-27T08:00:00Z", "strike": 100000, "right": "call", "volatility": 0.6},
         {"instrument_id": "USDT", "kind": "coin", "price": 1.0}]}

Confidences and the stable price are 1, rates and `fixed` 0 where they are left out; a derivative
settles in USDC, an inverse one in its underlying, unless it says `settlement`. In place of `expiry`
there may be `seconds` from `time`. An option without a volatility has that of its expiry's `svi`.
The forward is `forward` + `fixed`: near expiry, `fixed` is what is known of the settlement average.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpu_margin.failures import Failure, failure_table
from gpu_margin.io.crypto_json import Document, Record, escaped, objects, shown
from gpu_margin.io.crypto_market import FeedRecords
from gpu_margin.io.crypto_rules import SVI

_HEAD = ("time", "stable", "underlyings", "instruments")
_UNDERLYING = ("spot", "confidence", "expiries")
_HEAD_NAMES = {"stable": "stable/price", "confidence": "stable/confidence"}
_SVI_NAMES = {f"svi_{name}": f"svi/{name}" for name in SVI}


def is_feeds(value: Any) -> bool:
    """Whether a document is feeds in the format of ours."""
    return isinstance(value, Mapping) and "underlyings" in value


def feed_records(document: Document) -> FeedRecords:
    """The objects of a document of ours."""
    source, value = document.source, document.value
    lost = _unknown(source, "", value, _HEAD)
    underlyings, expiries = list[Record](), list[Record]()
    for name, pointer, said in _named(source, value["underlyings"], lost):
        lost.extend(_unknown(source, pointer, said, _UNDERLYING))
        underlyings.append(Record(source, pointer, {**said, "underlying": name}))
        for at, one in objects(source, f"{pointer}/expiries", said.get("expiries"), lost):
            expiries.append(Record(source, at, _expiry(one, name), _SVI_NAMES))
    instruments = objects(source, "/instruments", value.get("instruments"), lost)
    return FeedRecords(
        head=_head(source, value),
        underlyings=tuple(underlyings),
        expiries=tuple(expiries),
        instruments=tuple(Record(source, pointer, one) for pointer, one in instruments),
        failures=failure_table(lost),
    )


def _unknown(
    source: str, pointer: str, value: Mapping[str, Any], known: tuple[str, ...]
) -> list[Failure]:
    reason = f"unknown key: correct it or leave it out; the keys are {', '.join(known)}"
    return [
        Failure(reason, source, None, f"{pointer}/{escaped(key)}", shown(said))
        for key, said in value.items()
        if key not in known
    ]


def _named(
    source: str, value: Any, lost: list[Failure]
) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Name, pointer and object of every underlying."""
    if not isinstance(value, Mapping):
        lost.append(Failure("not an object", source, None, "/underlyings", shown(value)))
        return []
    found = []
    for name, said in value.items():
        pointer = f"/underlyings/{escaped(name)}"
        if isinstance(said, Mapping):
            found.append((name, pointer, said))
        else:
            lost.append(Failure("not an object", source, None, pointer, shown(said)))
    return found


def _expiry(said: Mapping[str, Any], underlying: str) -> dict[str, Any]:
    """An expiry with its surface beside it; `svi` is whether there is one, or what is no object."""
    surface = said.get("svi")
    parts = surface if isinstance(surface, Mapping) else {}
    there = True if isinstance(surface, Mapping) else None if surface is None else shown(surface)
    return {
        **said,
        "underlying": underlying,
        "svi": there,
        **{f"svi_{name}": parts.get(name) for name in SVI},
    }


def _head(source: str, value: Mapping[str, Any]) -> Record:
    stable = value.get("stable", {})
    parts = stable if isinstance(stable, Mapping) else {"price": stable}
    head = {
        "time": value.get("time"),
        "stable": parts.get("price", 1.0),
        "confidence": parts.get("confidence"),
    }
    return Record(source, "", head, _HEAD_NAMES)
