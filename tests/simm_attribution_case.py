"""Books whose margin is attributed, and their margins with concentration factors held."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from crif_case import crif_of

from gpu_margin import backend
from gpu_margin.crif import Crif
from gpu_margin.models.simm import margins, names, netting, rates, slopes, slopes_tables, tables
from gpu_margin.models.simm.factors import Factors, Rules, factors_of
from gpu_margin.models.simm.levels import Levels, over_classes
from gpu_margin.models.simm.netting import CLASSES, Netted
from gpu_margin.models.simm.segments import Device
from gpu_margin.models.simm.slopes_tables import BY_FACTOR

Row = dict[str, Any]
# Of both volatility groups in all versions that have them.
CURRENCIES = ("USD", "EUR", "JPY", "BRL", "ARS", "ZMW")
TENORS = ("2w", "3m", "1y", "2y", "5y", "10y", "30y")


@dataclass(frozen=True)
class Book:
    """Net sensitivities of a CRIF under one version, their margins and slopes."""

    device: Device
    rules: Rules
    factors: Factors
    netted: Netted
    levels: list[Levels]
    multiplier: Any
    slopes: list[slopes.Part]
    rows: tuple[Any, Any, Any]
    keys: pl.DataFrame

    @property
    def count(self) -> int:
        return len(self.multiplier)

    def total(self, side: int) -> Any:
        """[calculation] what is attributed."""
        return over_classes(self.levels[side].product_class * self.multiplier)

    def contributions(self) -> list[slopes.Part]:
        return slopes.contributions(self.netted, self.slopes)

    def steps(self) -> Any:
        """[stream + 1] where the entries of each begin, all taken together."""
        return np.cumsum([0, *(len(stream) for stream in self.netted.streams)])

    def together(self, side: int) -> tuple[Any, Any, Any]:
        """[entry of all streams] calculation, amount, and slope of the total of the side."""
        streams, steps = self.netted.streams, self.steps()
        slope = np.zeros(steps[-1])
        for part in self.slopes:
            slope[steps[part.stream] : steps[part.stream + 1]] += part.sides[side]
        group = np.concatenate([stream.group for stream in streams])
        return group // CLASSES, np.concatenate([stream.amount for stream in streams]), slope

    def by_calculation(self, side: int, size: bool = False) -> Any:
        """[calculation] sum of contributions, or of their sizes."""
        found = np.zeros(self.count)
        for part in self.contributions():
            value = np.abs(part.sides[side]) if size else part.sides[side]
            owner = self.netted.streams[part.stream].group // CLASSES
            found = found + np.bincount(owner, weights=value, minlength=self.count)
        return found


def attributed(
    crif: Crif,
    version: str = "latest",
    horizon: str = "10d",
    name: str | Any = "numpy",
    multiplier: Any = None,
    currency: str = "USD",
) -> Book:
    """The attribution of a CRIF, a calculation per portfolio; `name` is a backend or one's name."""
    device = Device(backend.load(name) if isinstance(name, str) else name)
    rules = Rules(tables.load(version), horizon, currency)
    factors = factors_of(rules, crif.factors)
    place = factors.place[crif.factor]
    known = np.flatnonzero(place >= 0)
    group = crif.portfolio[known].astype(np.int64) * CLASSES + crif.product_class[known]
    amount = crif.amount[known]
    netted = netting.net(group, place[known], amount, factors, True)
    count = len(crif.portfolios)
    if multiplier is None:
        multiplier = np.ones((count, CLASSES))
    levels = margins.margins(device, netted, factors, rules, count)
    found = slopes.slopes(device, netted, factors, rules, levels, multiplier)
    rows = group, crif.trade[known].astype(np.int64), amount
    return Book(device, rules, factors, netted, levels, multiplier, found, rows, crif.factors)


class Held:
    """`concentrations` of names and rates that give every stream what it had at first."""

    def __init__(self, patch: Any) -> None:
        self._known: dict[Any, Any] = {}
        for room in (names, rates):
            patch.setattr(room, "concentrations", self._holding(room, room.concentrations))

    def _holding(self, room: Any, real: Any) -> Any:
        def found(layout: Any, rules: Any, *rest: Any) -> Any:
            stream = layout.stream
            key = room.__name__, stream.group.tobytes(), stream.factor.tobytes()
            if key not in self._known:
                self._known[key] = real(layout, rules, *rest)
            return self._known[key]

        return found


def moved(book: Book, amount: Any) -> list[Any]:
    """[side][calculation] totals with other amounts [entry of all streams]."""
    steps = book.steps()
    streams = tuple(
        replace(stream, amount=amount[first:last])
        for stream, first, last in zip(book.netted.streams, steps[:-1], steps[1:], strict=True)
    )
    netted = Netted(streams, book.netted.entry)
    levels = margins.margins(book.device, netted, book.factors, book.rules, book.count)
    return [over_classes(one.product_class * book.multiplier) for one in levels]


def random_rows(seed: int, portfolios: int = 6, rows: int = 60) -> list[Row]:
    """Portfolios of all risk types, with few names and buckets, so that much of them meets.

    Some of the amounts are large enough to be concentrated; those of every third portfolio are
    positive, of every third negative.
    """
    rng = random.Random(seed)
    return [
        _random_row(rng, f"P{number}", (0, 1, -1)[number % 3])
        for number in range(portfolios)
        for _ in range(rng.randrange(1, rows))
    ]


_SIZES = {
    "IRCurve": 3e7,
    "Inflation": 2e7,
    "XCcyBasis": 2e7,
    "IRVol": 3e8,
    "InflationVol": 3e8,
    "FX": 2e9,
    "FXVol": 1e9,
    "CreditQ": 2e6,
    "CreditVol": 3e8,
    "BaseCorr": 1e6,
    "CreditNonQ": 1e6,
    "CreditVolNonQ": 1e8,
    "Equity": 2e7,
    "EquityVol": 2e8,
    "Commodity": 1e8,
    "CommodityVol": 3e8,
}
_CLASSES = ("RatesFX", "Credit", "Equity", "Commodity")


def _random_row(rng: random.Random, portfolio: str, sign: int) -> Row:
    kind = rng.choice(list(_SIZES))
    size = abs(rng.gauss(0.0, 1.0)) * _SIZES[kind] * 10 ** rng.uniform(-2.0, 0.5)
    row: Row = {
        "PortfolioID": portfolio,
        "TradeID": f"T{rng.randrange(5)}",
        "ProductClass": rng.choice(_CLASSES),
        "RiskType": f"Risk_{kind}",
        "Label1": rng.choice(TENORS),
        "Amount": size * (sign or rng.choice((-1, 1))),
    }
    return row | _place(rng, kind)


def _place(rng: random.Random, kind: str) -> Row:
    currency = rng.choice(CURRENCIES)
    if kind in ("IRCurve", "Inflation", "XCcyBasis", "IRVol", "InflationVol", "FX"):
        return {"Qualifier": currency, "Label2": rng.choice(("OIS", "Libor3m"))}
    if kind == "FXVol":
        return {"Qualifier": "USD" + rng.choice(CURRENCIES[1:])}
    number = rng.randrange(4)
    if kind.startswith("CreditVolNonQ") or kind == "CreditNonQ":
        bucket = rng.choice(("1", "2", "Residual"))
        return {"Qualifier": f"C{number}", "Bucket": bucket, "Label2": f"G{rng.randrange(2)}"}
    bucket = rng.choice(("1", "2", "16" if kind.startswith("Commodity") else "Residual", "12"))
    return {"Qualifier": f"N{number}", "Bucket": bucket}


def row_of(kind: str, amount: float, **more: str) -> Row:
    classes = {"Credit": "Credit", "BaseCo": "Credit", "Equity": "Equity", "Commod": "Commodity"}
    row = {"ProductClass": classes.get(kind[:6], "RatesFX"), "RiskType": f"Risk_{kind}"}
    return row | {"Amount": amount} | more


SINGLE = [
    row_of("IRCurve", 1.0, Qualifier="EUR", Label1="5y", Label2="OIS"),
    row_of("Inflation", 1.0, Qualifier="EUR"),
    row_of("XCcyBasis", 1.0, Qualifier="EUR"),
    row_of("IRVol", 1.0, Qualifier="EUR", Label1="5y"),
    row_of("InflationVol", 1.0, Qualifier="EUR", Label1="5y"),
    row_of("FX", 1.0, Qualifier="EUR"),
    row_of("FXVol", 1.0, Qualifier="EURUSD", Label1="5y"),
    row_of("CreditQ", 1.0, Qualifier="A", Bucket="Residual", Label1="5y"),
    row_of("CreditVol", 1.0, Qualifier="A", Bucket="3", Label1="5y"),
    row_of("BaseCorr", 1.0, Qualifier="A"),
    row_of("CreditNonQ", 1.0, Qualifier="A", Bucket="1", Label1="5y", Label2="G"),
    row_of("CreditVolNonQ", 1.0, Qualifier="A", Bucket="1", Label1="5y", Label2="G"),
    row_of("Equity", 1.0, Qualifier="A", Bucket="Residual"),
    row_of("EquityVol", 1.0, Qualifier="A", Bucket="2", Label1="5y"),
    row_of("Commodity", 1.0, Qualifier="A", Bucket="16"),
    row_of("CommodityVol", 1.0, Qualifier="A", Bucket="2", Label1="5y"),
]


def table_of(book: Book, level: str = BY_FACTOR, chosen: Any = None) -> pl.DataFrame:
    if chosen is None:
        chosen = np.ones((book.count, 2), dtype=np.bool_)
    return slopes_tables.contribution_table(
        book.netted, book.contributions(), book.factors, book.keys, chosen, level
    )


def trades_of(book: Book, rows: Any, chosen: Any = None) -> pl.DataFrame:
    trades = (rows if isinstance(rows, Crif) else crif_of(rows)).trades
    if chosen is None:
        chosen = np.ones((book.count, 2), dtype=np.bool_)
    return slopes_tables.trade_table(book.netted, book.slopes, book.rows, trades, chosen)
