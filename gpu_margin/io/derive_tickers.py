"""Derive's tickers and signed feeds as records of a market; of several on one thing, the newest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from gpu_margin.io.crypto_json import Record, escaped
from gpu_margin.io.crypto_market import FeedRecords
from gpu_margin.io.crypto_rules import STABLE, SVI

_YEAR = 365 * 86_400.0
# The settlement price is the average of the last half hour before expiry.
_AVERAGING = 1_800.0
_NAME = re.compile(r"(?P<coin>[^-]+)-(?P<day>\d{8})-(?P<strike>[\d._]+)-(?P<right>[CP])")
_KINDS = {"perp": "perpetual", "option": "option", "erc20": "coin"}
_SVI_KEYS = ("SVI_a", "SVI_b", "SVI_rho", "SVI_m", "SVI_sigma", "SVI_fwd", "SVI_refTau")
_SVI_PAIRS = tuple(zip(SVI, _SVI_KEYS, strict=True))
_SIGNED = ("spot_data", "fwd_data", "rate_data", "vol_data", "perp_data")
# Parts of what is said of an expiry.
_TICKER, _FORWARD, _RATE, _SMILE = "ticker", "forward", "rate", "smile"

Said = Mapping[str, Any]


def is_ticker(value: Said) -> bool:
    """Whether an object is a ticker of Derive's: with the type of its instrument or short keys."""
    if isinstance(value.get("instrument_ticker"), Mapping):
        return True
    priced = any(key in value for key in ("mark_price", "M", "index_price", "I"))
    return priced and (str(value.get("instrument_type")) in _KINDS or "option_pricing" in value)


def is_signed(value: Said) -> bool:
    """Whether an object is signed feeds."""
    return any(isinstance(value.get(key), Mapping) for key in _SIGNED)


@dataclass
class _Newest:
    """Records by key; one of a later time takes the place of an earlier one."""

    found: dict[Any, tuple[float, Record]] = field(default_factory=dict)

    def keep(self, key: Any, at: float, record: Record) -> None:
        if key not in self.found or at > self.found[key][0]:
            self.found[key] = (at, record)

    def of(self, key: Any) -> Record | None:
        return self.found[key][1] if key in self.found else None


class Quotes:
    """What answers have said so far.

    Of prices of an underlying, one of the signed feeds comes before those of tickers.
    """

    def __init__(self) -> None:
        self.time = -math.inf
        self._spots, self._signed, self._perpetuals = _Newest(), _Newest(), _Newest()
        self._expiries, self._instruments, self._coins = _Newest(), _Newest(), _Newest()

    def add_ticker(self, source: str, pointer: str, said: Said) -> None:
        """A ticker with long or short keys, which has `instrument_name`."""
        inner = said.get("instrument_ticker")
        if isinstance(inner, Mapping):
            outer = {key: value for key, value in said.items() if key != "instrument_ticker"}
            self.add_ticker(source, f"{pointer}/instrument_ticker", {**outer, **inner})
            return
        at = _milliseconds(said.get("timestamp", said.get("t")))
        self.time = max(self.time, at)
        name, coin = said.get("instrument_name"), said.get("base_currency")
        if not isinstance(coin, str):
            coin = str(name).split("-")[0]
        record = _instrument(source, pointer, said, coin)
        index = "index_price" if "index_price" in said else "I"
        # A coin alone is no underlying.
        if said.get(index) is not None and record.values["kind"] != "coin":
            spot = {"underlying": coin, "spot": said[index]}
            self._spots.keep(coin, at, Record(source, pointer, spot, {"spot": index}))
        self._instruments.keep(str(record.values["instrument_id"]), at, record)
        expiry = _number(record.values.get("expiry"))
        if expiry is not None:
            self._expiries.keep((coin, expiry, _TICKER), at, _priced(source, pointer, said))

    def add_signed(self, source: str, pointer: str, said: Said) -> None:
        """Feeds as they are signed for the chain."""
        for coin, one, where, at in self._each(pointer, said, "spot_data"):
            spot = {"underlying": coin, "spot": one.get("price"), **_sure(one, "confidence")}
            self._signed.keep(coin, at, Record(source, where, spot, {"spot": "price"}))
        for coin, kinds, where, at in self._each(pointer, said, "perp_data"):
            one = kinds.get("P", kinds)
            if isinstance(one, Mapping):
                self._perpetuals.keep(coin, at, Record(source, where, one))
        for part, key in ((_FORWARD, "fwd_data"), (_RATE, "rate_data"), (_SMILE, "vol_data")):
            for coin, dates, where, _ in self._each(pointer, said, key):
                for expiry, one in dates.items():
                    if isinstance(one, Mapping) and _number(expiry) is not None:
                        at = _milliseconds(one.get("timestamp"))
                        self.time = max(self.time, at)
                        there = Record(source, f"{where}/{escaped(expiry)}", one)
                        self._expiries.keep((coin, _number(expiry), part), at, there)

    def add_coin(self, source: str, pointer: str, said: Said) -> None:
        """The price of a coin as a subaccount has it."""
        name = said.get("asset_name")
        if isinstance(name, str) and name != STABLE:
            values = {"instrument_id": name, "kind": "coin", "price": said.get("mark_price")}
            names = {"instrument_id": "asset_name", "price": "mark_price"}
            self._coins.keep(name, 0.0, Record(source, pointer, values, names))

    def _each(self, pointer: str, said: Said, key: str) -> list[tuple[str, Said, str, float]]:
        """Currency, object, pointer and time of everything under a key of the signed feeds."""
        listed, found = said.get(key), []
        for coin, one in listed.items() if isinstance(listed, Mapping) else ():
            if isinstance(one, Mapping):
                at = _milliseconds(one.get("timestamp"))
                self.time = max(self.time, at)
                found.append((coin, one, f"{pointer}/{key}/{escaped(coin)}", at))
        return found

    # ------------------------------------------------------------ records

    def records(self, failures: pl.DataFrame) -> FeedRecords:
        """All that was said, of the time of the newest answer."""
        stable = self._signed.of(STABLE)
        said = {} if stable is None else stable.values
        head = {
            "time": self.time if math.isfinite(self.time) else None,
            "stable": said.get("spot", 1.0),
            "confidence": said.get("confidence"),
        }
        pointer = "" if stable is None else stable.pointer
        source = "" if stable is None else stable.source
        spots = {**self._spots.found, **self._signed.found}
        spots.pop(STABLE, None)
        return FeedRecords(
            head=Record(source, pointer, head, {"time": "timestamp", "stable": "price"}),
            underlyings=tuple(record for _, record in spots.values()),
            expiries=tuple(self._dates()),
            instruments=tuple(self._held({name for name in spots if isinstance(name, str)})),
            failures=failures,
        )

    def _held(self, underlyings: set[str]) -> list[Record]:
        """Instruments; perpetuals with the confidence of their feed; coins without a ticker."""
        listed = []
        for _, record in self._instruments.found.values():
            feed = self._perpetuals.of(record.values.get("underlying"))
            if feed is not None and record.values.get("kind") == "perpetual":
                sure = {**record.values, **_sure(feed.values, "confidence")}
                record = Record(record.source, record.pointer, sure, record.names)
            listed.append(record)
        known = set(self._instruments.found)
        for name, (_, record) in self._coins.found.items():
            if name not in known:
                listed.append(record)
        known |= set(self._coins.found)
        for name in sorted(underlyings - known):
            spot = self._signed.of(name) or self._spots.of(name)
            assert spot is not None
            coin = {"instrument_id": name, "kind": "coin", "price": spot.values.get("spot")}
            coin |= {key: said for key, said in spot.values.items() if key == "confidence"}
            listed.append(Record(spot.source, spot.pointer, coin, {"price": spot.names["spot"]}))
        return listed

    def _dates(self) -> list[Record]:
        """Expiries: forwards, rates and smiles of the signed feeds, else of a ticker."""
        keys = dict.fromkeys(key[:2] for key in self._expiries.found)
        return [self._date(coin, expiry) for coin, expiry in keys]

    def _date(self, coin: str, expiry: float) -> Record:
        ticker, forward, rate, smile = (
            self._expiries.of((coin, expiry, part)) for part in (_TICKER, _FORWARD, _RATE, _SMILE)
        )
        first = next(one for one in (forward, ticker, smile, rate) if one is not None)
        left = expiry - self.time
        values: dict[str, Any] = {"underlying": coin, "expiry": expiry}
        names = {} if ticker is None else {key: ticker.at(key) for key in ticker.names}
        if ticker is not None:
            values |= _moving(ticker.values.get("forward"), left)
            values["rate"] = _rate(ticker.values.get("discount"), left)
        if forward is not None:
            values |= self._settling(coin, forward.values, left)
            values |= _sure(forward.values, "forward_confidence")
            names |= {"forward": forward.at("fwd_diff"), "forward_confidence": _sure_at(forward)}
        if rate is not None:
            values["rate"] = rate.values.get("rate")
            values |= _sure(rate.values, "rate_confidence")
            names |= {"rate": rate.at("rate"), "rate_confidence": _sure_at(rate)}
        if smile is not None:
            values |= _surface(smile.values) | _sure(smile.values, "volatility_confidence")
            names |= {f"svi_{name}": smile.at(f"vol_data/{key}") for name, key in _SVI_PAIRS}
            names["volatility_confidence"] = _sure_at(smile)
        return Record(first.source, first.pointer, values, names)

    def _settling(self, coin: str, said: Said, left: float) -> dict[str, Any]:
        """The forward from its difference to spot; near expiry, what of its average is known."""
        base = self._signed.of(coin) or self._spots.of(coin)
        spot = _number(None if base is None else base.values.get("spot"))
        diff = _number(said.get("fwd_diff"))
        if spot is None or diff is None:
            return {"forward": None}
        start, latest = (
            _number(said.get(key)) for key in ("spot_aggregate_start", "spot_aggregate_latest")
        )
        if left >= _AVERAGING or start is None or latest is None:
            return {"forward": spot + diff, "fixed": 0.0}
        moving = max(left, 0.0) / _AVERAGING
        return {"forward": (spot + diff) * moving, "fixed": (latest - start) / _AVERAGING}


def _instrument(source: str, pointer: str, said: Said, coin: str) -> Record:
    name = said.get("instrument_name")
    parts = _NAME.fullmatch(str(name))
    kind = said.get("instrument_type")
    if str(kind) not in _KINDS:
        kind = "option" if parts else "perp" if str(name).endswith("-PERP") else "erc20"
    mark = "mark_price" if "mark_price" in said else "M"
    names = {"instrument_id": "instrument_name", "price": mark}
    values = {
        "instrument_id": name,
        "kind": _KINDS[str(kind)],
        "underlying": coin,
        "price": said.get(mark),
    }
    if kind == "erc20":
        base = {"instrument_id": coin, "kind": "coin", "price": said.get(mark)}
        return Record(source, pointer, base, {**names, "instrument_id": "base_currency"})
    if kind == "perp":
        return Record(source, pointer, values, names)
    details = said.get("option_details")
    option = dict(details) if isinstance(details, Mapping) else {}
    pricing = said.get("option_pricing")
    quoted = pricing if isinstance(pricing, Mapping) else {}
    volatility = "iv" if "iv" in quoted else "i"
    values |= {
        "expiry": option.get("expiry", _day(parts)),
        "strike": option.get("strike", parts and parts["strike"].replace("_", ".")),
        "right": option.get("option_type", parts and parts["right"]),
        "volatility": quoted.get(volatility),
    }
    own = {key: f"option_details/{key}" for key in option}
    names |= {
        "volatility": f"option_pricing/{volatility}",
        "expiry": own.get("expiry", "instrument_name"),
        "strike": own.get("strike", "instrument_name"),
        "right": own.get("option_type", "instrument_name"),
    }
    return Record(source, pointer, values, names)


def _priced(source: str, pointer: str, said: Said) -> Record:
    """Forward and discount factor of an option's expiry."""
    pricing = said.get("option_pricing")
    quoted = pricing if isinstance(pricing, Mapping) else {}
    forward = "forward_price" if "forward_price" in quoted else "f"
    discount = "discount_factor" if "discount_factor" in quoted else "df"
    names = {"forward": f"option_pricing/{forward}", "rate": f"option_pricing/{discount}"}
    values = {"forward": quoted.get(forward), "discount": quoted.get(discount)}
    return Record(source, pointer, values, names)


def _moving(forward: Any, left: float) -> dict[str, Any]:
    """A forward in the half hour before expiry: in part it is known already."""
    amount = _number(forward)
    if amount is None or left >= _AVERAGING:
        return {"forward": forward, "fixed": 0.0}
    share = max(left, 0.0) / _AVERAGING
    return {"forward": amount * share, "fixed": amount * (1.0 - share)}


def _rate(discount: Any, left: float) -> Any:
    """The rate of a discount factor, continuously compounded; NaN of one that is none."""
    if discount is None or left <= 0:
        return 0.0
    factor = _number(discount)
    if factor is None or not 0.0 < factor < math.inf:
        return math.nan
    # Minus nought is no rate.
    return -math.log(factor) * _YEAR / left + 0.0


def _surface(said: Said) -> dict[str, Any]:
    data = said.get("vol_data")
    parts = data if isinstance(data, Mapping) else {}
    return {
        "svi": True,
        **{f"svi_{name}": parts.get(key) for name, key in _SVI_PAIRS},
    }


def _sure(said: Said, name: str) -> dict[str, Any]:
    return {} if said.get("confidence") is None else {name: said["confidence"]}


def _sure_at(record: Record) -> str:
    return record.at("confidence")


def _day(parts: re.Match[str] | None) -> float | None:
    """Expiry of an option by its name, 08:00 UTC of the day; None for a day that there is not."""
    try:
        day = datetime.strptime(parts["day"] if parts else "", "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return None
    return day.timestamp() + 8 * 3600.0


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _milliseconds(value: Any) -> float:
    """Seconds since 1970 of a time in milliseconds; of one that is none, before all others."""
    number = _number(value)
    return -math.inf if number is None or not math.isfinite(number) else number / 1000.0
