"""Deribit's public answers as records of a market.

- Prices are in USD. An inverse option's mark is in coins and counts at the index; what is quoted in
  USDC or USDT counts at the index of that coin, 1 where there is none.
- An instrument has the newest of its quotes. One without a quote is left out.
- An index is what an answer says of it, else what tickers say, else what book summaries estimate
  for the delivery; of several the middle one.
- A forward is the middle one of the underlying prices of an expiry's options, inverse ones where
  there are such; else the mark of its future. In the last half hour part of it is fixed: the venue
  delivers at the mean of the index over that time.
- The market's time is that of the newest quote.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any

from gpu_margin.failures import Failure, failure_table
from gpu_margin.io.crypto_json import Record, escaped
from gpu_margin.io.crypto_market import FeedRecords
from gpu_margin.io.deribit_answers import (
    FEEDS,
    INDEX,
    INSTRUMENT,
    QUOTE,
    SIMULATION,
    Item,
    Name,
    number,
    parsed,
    scaled,
)

# Coins that are worth a USD where nothing is said of them.
DOLLAR_COINS = ("USDC", "USDT")
# Kinds of instruments in which there are no positions.
_NO_POSITIONS = ("spot", "future_combo", "option_combo")
_AVERAGED = 1_800.0
_INDEX_NAME = re.compile(r"(?:^|[^a-z0-9])([a-z0-9]+)_(usd[ct]?)(?![a-z0-9])")


@dataclass(frozen=True)
class _Said:
    """A number, how much it counts against others (the highest rank does), and where it stands."""

    rank: int
    value: float
    source: str
    pointer: str


@dataclass(frozen=True)
class _Quoted:
    """An instrument, and its newest quote."""

    name: str
    terms: Name
    item: Item
    names: Mapping[str, str]


@dataclass
class _Gathered:
    """What answers say, by name of index and of instrument."""

    indices: dict[str, list[_Said]] = field(default_factory=dict)
    instruments: dict[str, Item] = field(default_factory=dict)
    quotes: dict[str, Item] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    lost: list[Failure] = field(default_factory=list)

    def say(self, index: str, rank: int, value: Any, source: str, pointer: str) -> None:
        """What is no number greater than 0 is a failure, and does not count."""
        found = number(value)
        if isinstance(found, float) and math.isfinite(found) and found > 0.0:
            said = _Said(rank, found, source, pointer)
            self.indices.setdefault(index, []).append(said)
        elif value is not None:
            reason = "an index price is no number greater than 0"
            self.lost.append(Failure(reason, source, None, pointer, str(value)))


def feed_records(items: Sequence[Item], time: float | None = None) -> FeedRecords:
    """What the answers say of the market at `time`, in seconds since 1970, else at their own."""
    gathered = _Gathered()
    for item in items:
        if item.kind in FEEDS:
            _read(gathered, item)
    sent = [item.sent for item in items if item.sent is not None]
    known = gathered.times or sent
    at = max(known) / 1e3 if time is None and known else time
    quoted = _quoted(gathered)
    _read_indices(gathered, quoted)
    prices = _Prices(gathered.indices)
    dollars = {coin: prices.of(coin) or 1.0 for coin in DOLLAR_COINS}
    bases = sorted({one.terms.base for one in quoted} | prices.coins())
    instruments = [_instrument(one, prices) for one in quoted]
    source = items[0].source if items else ""
    return FeedRecords(
        head=Record(source, "", {"time": at, "stable": dollars["USDC"]}),
        underlyings=tuple(prices.record(base) for base in bases if base not in DOLLAR_COINS),
        expiries=tuple(_expiries(quoted, prices, at)),
        instruments=(*instruments, *_coins(bases, prices)),
        failures=failure_table(gathered.lost),
    )


def _read(gathered: _Gathered, item: Item) -> None:
    values = item.values
    if item.kind == INDEX:
        _read_index(gathered, item)
    elif item.kind == INSTRUMENT:
        gathered.instruments.setdefault(str(values["instrument_name"]), item)
    elif item.kind == QUOTE:
        _add_quote(gathered, item)
    elif item.kind == SIMULATION:
        general = values.get("model_params", {}).get("general")
        at = number(general.get("timestamp")) if isinstance(general, Mapping) else None
        for index, price in _mapping(values.get("index_price")).items():
            where = f"{item.pointer}/index_price/{escaped(index)}"
            gathered.say(str(index).lower(), 3, price, item.source, where)
        for name, quote in _mapping(values.get("ticker")).items():
            if isinstance(quote, Mapping):
                told = {"instrument_name": name, "timestamp": at, **quote}
                where = f"{item.pointer}/ticker/{escaped(name)}"
                _add_quote(gathered, Item(QUOTE, item.source, where, told, None, item.sent))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _read_index(gathered: _Gathered, item: Item) -> None:
    name = item.values.get("index_name")
    if not isinstance(name, str):
        told = _INDEX_NAME.search(item.stem.lower())
        name = "_".join(told.groups()) if told else None
    key = "index_price" if "index_price" in item.values else "price"
    if name is None:
        reason = "an index price of what? name the file after its index, as btc_usd.json"
        where = f"{item.pointer}/{key}"
        gathered.lost.append(Failure(reason, item.source, None, where, str(item.values[key])))
        return
    gathered.say(name.lower(), 3, item.values[key], item.source, f"{item.pointer}/{key}")


def _time_of(item: Item) -> float:
    """When a quote was made, in milliseconds since 1970; 0 where nothing says."""
    for key in ("timestamp", "creation_timestamp"):
        found = number(item.values.get(key))
        if isinstance(found, float) and math.isfinite(found):
            return found
    return 0.0


def _add_quote(gathered: _Gathered, item: Item) -> None:
    name, at = str(item.values["instrument_name"]), _time_of(item)
    if at:
        gathered.times.append(at)
    other = gathered.quotes.get(name)
    if other is None or at > _time_of(other):
        gathered.quotes[name] = item


def _quoted(gathered: _Gathered) -> list[_Quoted]:
    """Instruments with quotes, in byte order of their names."""
    found = []
    for name, item in sorted(gathered.quotes.items()):
        told = gathered.instruments.get(name)
        kind = _mapping(told.values if told else {}).get("kind")
        if kind in _NO_POSITIONS or ("-" not in name and kind is None):
            continue
        terms = _terms(parsed(name), told)
        if terms is None:
            reason = "an unknown form of name: add the answer of public/get_instruments"
            where = f"{item.pointer}/instrument_name"
            gathered.lost.append(Failure(reason, item.source, None, where, name))
            continue
        found.append(_Quoted(name, terms, item, {"volatility": "mark_iv", "price": "mark_price"}))
    return found


def _terms(name: Name | None, told: Item | None) -> Name | None:
    """What an instrument is: as its own answer says, else as its name does."""
    if told is None:
        return name
    values, known = told.values, name or Name("future", "", "", False, None, None, None)
    base, kind = values.get("base_currency") or known.base, known.kind
    if not isinstance(base, str) or not base:
        return None
    settled = values.get("settlement_currency") or known.settlement or base
    way = values.get("instrument_type") or values.get("future_type")
    if values.get("kind") in ("future", "option"):
        kind = values["kind"]
    if kind == "future" and values.get("settlement_period") == "perpetual":
        kind = "perpetual"
    expiry = scaled(values.get("expiration_timestamp"), 1e-3)
    strike, right = number(values.get("strike")), values.get("option_type")
    return Name(
        kind=kind,
        base=base.upper(),
        settlement=str(settled).upper(),
        inverse=way == "reversed" if way in ("reversed", "linear") else settled == base,
        expiry=None if kind == "perpetual" else known.expiry if expiry is None else expiry,
        strike=known.strike if strike is None else strike,
        right=known.right if right is None else right,
    )


def _read_indices(gathered: _Gathered, quoted: Sequence[_Quoted]) -> None:
    """Indices that quotes mention."""
    for one in quoted:
        index = f"{one.terms.base}_{'USD' if one.terms.inverse else one.terms.settlement}".lower()
        for rank, key in ((2, "index_price"), (1, "estimated_delivery_price")):
            where = f"{one.item.pointer}/{key}"
            gathered.say(index, rank, one.item.values.get(key), one.item.source, where)


class _Prices:
    """Prices in USD of coins, from indices."""

    def __init__(self, indices: Mapping[str, list[_Said]]) -> None:
        self._said = {}
        for index, said in indices.items():
            best = max(one.rank for one in said)
            same = [one for one in said if one.rank == best]
            middle = median_low(one.value for one in same)
            self._said[index] = next(one for one in same if one.value == middle)

    def of(self, coin: str) -> float | None:
        """None where nothing is said of it; its index in USD, else in a dollar coin."""
        said = self._found(coin)
        if said is None:
            return None
        return said[0].value * said[1]

    def _found(self, coin: str) -> tuple[_Said, float] | None:
        own = self._said.get(f"{coin.lower()}_usd")
        if own is not None:
            return own, 1.0
        for dollar in DOLLAR_COINS:
            own = self._said.get(f"{coin.lower()}_{dollar.lower()}")
            if own is not None and coin not in DOLLAR_COINS:
                return own, self.settled(dollar) or 1.0
        return None

    def settled(self, coin: str) -> float | None:
        """The same of a settlement currency: a dollar coin of which nothing is said is worth 1."""
        found = self.of(coin)
        return 1.0 if found is None and coin in DOLLAR_COINS else found

    def coins(self) -> set[str]:
        """Coins with a price in USD or a dollar coin."""
        names = {index.rpartition("_")[0].upper() for index in self._said}
        return {name for name in names if self.of(name) is not None}

    def record(self, base: str) -> Record:
        """An underlying."""
        found = self._found(base)
        values = {"underlying": base, "spot": self.of(base)}
        if found is None:
            return Record("", f"/index_price/{base.lower()}_usd", values)
        said = found[0]
        above, _, name = said.pointer.rpartition("/")
        return Record(said.source, above, values, {"spot": name, "underlying": name})


def _instrument(one: _Quoted, prices: _Prices) -> Record:
    terms, values = one.terms, one.item.values
    unit = 1.0 if terms.inverse else prices.settled(terms.settlement)
    if terms.inverse and terms.kind == "option":
        unit = prices.of(terms.base)
    return Record(
        one.item.source,
        one.item.pointer,
        {
            "instrument_id": one.name,
            "kind": terms.kind,
            "underlying": terms.base,
            "expiry": terms.expiry,
            "strike": terms.strike,
            "right": terms.right,
            "volatility": scaled(values.get("mark_iv"), 0.01) if terms.kind == "option" else None,
            "price": scaled(values.get("mark_price"), unit),
            "inverse": terms.inverse,
            "settlement": terms.settlement,
        },
        one.names,
    )


def _expiries(quoted: Sequence[_Quoted], prices: _Prices, time: float | None) -> list[Record]:
    """One of each underlying and time of expiry, with its forward."""
    by_date = dict[tuple[str, float], list[_Quoted]]()
    for one in quoted:
        # What is no number fails with its instrument.
        if isinstance(one.terms.expiry, float):
            by_date.setdefault((one.terms.base, one.terms.expiry), []).append(one)
    return [_expiry(base, at, held, prices, time) for (base, at), held in by_date.items()]


def _expiry(
    base: str, at: float, held: Sequence[_Quoted], prices: _Prices, time: float | None
) -> Record:
    found = list[tuple[tuple[bool, bool], Any, Item, str]]()
    for one in held:
        option = one.terms.kind == "option"
        key = "underlying_price" if option else "mark_price"
        unit = 1.0 if one.terms.inverse else prices.settled(one.terms.settlement)
        forward = scaled(one.item.values.get(key), unit)
        if isinstance(forward, float) and math.isfinite(forward) and forward > 0.0:
            rank = (option, one.terms.inverse)
            found.append((rank, forward, one.item, key))
    values = {"underlying": base, "expiry": at}
    if not found:
        names = {"forward": "underlying_price", "expiry": "expiration_timestamp"}
        return Record(held[0].item.source, held[0].item.pointer, values, names)
    best = max(rank for rank, *_ in found)
    same = [one for one in found if one[0] == best]
    forward = median_low(one[1] for one in same)
    _, _, item, key = next(one for one in same if one[1] == forward)
    left = _AVERAGED if time is None else at - time
    moving = min(max(left, 0.0), _AVERAGED) / _AVERAGED
    rate = item.values.get("interest_rate")
    values = {
        **values,
        "forward": forward * moving,
        "fixed": forward * (1.0 - moving),
        "rate": rate if isinstance(number(rate), float) else None,
    }
    names = {"forward": key, "rate": "interest_rate", "expiry": "instrument_name"}
    return Record(item.source, item.pointer, values, names)


def _coins(bases: Sequence[str], prices: _Prices) -> list[Record]:
    """Coins that accounts may hold: all that have a price, and the dollar coins but for cash."""
    found = []
    for coin in sorted({*bases, "USDT"} - {"USDC"}):
        price = prices.settled(coin)
        if price is None:
            continue
        values = {
            "instrument_id": coin,
            "kind": "coin",
            "underlying": None if coin in DOLLAR_COINS else coin,
            "price": price,
            "settlement": coin,
        }
        found.append(Record(prices.record(coin).source, "", values))
    return found
