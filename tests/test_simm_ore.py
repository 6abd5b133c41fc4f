"""Every level of SIMM beside ORE's, another calculator, on random portfolios.

Skipped where ORE is not installed: `pip install gpu-margin[ore]`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from math import isclose
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
from crif_case import crif_of

from gpu_margin import backend
from gpu_margin.crif import Crif
from gpu_margin.models.simm import tables
from gpu_margin.models.simm.calculation import Parameters, calculate

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import simm_book
import simm_ore

try:
    simm_ore.load()
except ImportError:
    pytest.skip("no ORE: install gpu-margin[ore]", allow_module_level=True)

Row = dict[str, str]

COLUMNS = (
    *("PortfolioID", "TradeID", "ProductClass", "RiskType", "Qualifier", "Bucket", "Label1"),
    *("Label2", "Amount", "AmountCurrency", "AmountUSD", "IMModel"),
)
CLASSES = ("RatesFX", "Credit", "Equity", "Commodity")
CURRENCIES = ("USD", "EUR", "JPY", "BRL", "TRY", "SEK", "KRW", "ZAR")
CURVES = ("OIS", "Libor1m", "Libor3m", "Libor6m", "Libor12m")
TENORS = ("2w", "1m", "3m", "6m", "1y", "2y", "3y", "5y", "10y", "15y", "20y", "30y")
CREDIT_TENORS = ("1y", "2y", "3y", "5y", "10y")
# Not SEC, with which ORE's application fails.
REGULATIONS = ("ESA", "USPR", "CFTC", "SEC-unseg")
PORTFOLIOS = 25
TOTAL = ("All", "All", "All")


class Wild:
    """Random rows: every risk type and bucket, few names and many rows of each, of all sizes."""

    def __init__(self, version: str, seed: int) -> None:
        known, self.random = tables.load(version), Random(seed)
        self.delta = {name: tuple(own) for name, own in known.at("10d").delta.items()}
        self.vega = {name: tuple(own) for name, own in known.at("10d").vega.items()}

    def rows(self, portfolios: int) -> list[Row]:
        found = []
        for number in range(portfolios):
            kinds = self.random.sample(list(self.kinds), self.random.randint(1, len(self.kinds)))
            size = 10.0 ** self.random.uniform(3.0, 9.0)
            for kind in kinds:
                for _ in range(self.random.choice((1, 2, 12))):
                    row = self.kinds[kind](self) | self.amount(size)
                    found.append({"PortfolioID": f"W{number:03d}", "RiskType": kind, **row})
            found += [{"PortfolioID": f"W{number:03d}", **row} for row in self.added(size)]
        self.random.shuffle(found)
        return [self.complete(row, number) for number, row in enumerate(found)]

    def complete(self, row: Row, number: int) -> Row:
        trade = {"TradeID": f"T{number // 3}", "IMModel": "SIMM"}
        product = self.random.choice(CLASSES) if row["RiskType"].startswith("Risk_") else ""
        return dict.fromkeys(COLUMNS, "") | {"ProductClass": product} | trade | row

    def added(self, size: float) -> list[Row]:
        """Some add-ons and notionals of a portfolio."""
        amount = {"Amount": f"{abs(size):.2f}", "AmountUSD": f"{abs(size):.2f}"}
        amount["AmountCurrency"] = "USD"
        ratio, product = f"{self.random.uniform(1.0, 2.0):.3f}", self.pick(CLASSES)[0]
        every = [
            {"RiskType": "Param_ProductClassMultiplier", "Qualifier": product, "Amount": ratio},
            {"RiskType": "Param_AddOnNotionalFactor", "Qualifier": "Range", "Amount": ratio},
            {"RiskType": "Notional", "Qualifier": "Range", **amount},
            {"RiskType": "Notional", "Qualifier": "Other", **amount},
            {"RiskType": "Param_AddOnFixedAmount", **amount},
        ]
        return [row for row in every if self.random.random() < 0.5]

    def regulated(self, rows: list[Row]) -> list[Row]:
        """The same with regulations of each side, or none, in every row."""
        names = ("CollectRegulations", "PostRegulations")
        sets = ("", *REGULATIONS, ",".join(REGULATIONS[:2]), ",".join(REGULATIONS[1:]))
        several = [self.pick(sets, sets) for _ in rows]
        return [
            row | dict(zip(names, own, strict=True)) for row, own in zip(rows, several, strict=True)
        ]

    def amount(self, size: float) -> Row:
        text = f"{self.random.gauss(0.0, size):.4f}"
        return {"Amount": text, "AmountUSD": text, "AmountCurrency": "USD"}

    def pick(self, *several: Iterable[str]) -> list[str]:
        return [self.random.choice(tuple(values)) for values in several]

    def rates(self) -> Row:
        return dict(zip(("Qualifier", "Label1"), self.pick(CURRENCIES, TENORS), strict=True))

    def curve(self) -> Row:
        (curve,) = self.pick((*CURVES, "Libor3m"))
        return self.rates() | {"Label2": curve, "Bucket": "1"}

    def currency(self) -> Row:
        return {"Qualifier": self.pick(CURRENCIES)[0]}

    def pair(self) -> Row:
        pair = "".join(self.random.sample(CURRENCIES[:5], 2))
        return {"Qualifier": pair, "Label1": self.pick(TENORS)[0]}

    def name(self, risk_class: str, volatility: bool = False) -> Row:
        """ORE wants one bucket per name: the name says which."""
        buckets = self.delta[risk_class]
        bucket = self.random.choice([b for b in buckets if not volatility or b in self._vega_of])
        name = f"{risk_class}-{bucket}-{self.random.randint(1, 3)}"
        return {"Qualifier": name, "Bucket": bucket}

    @property
    def _vega_of(self) -> set[str]:
        return {bucket for own in self.vega.values() for bucket in own}

    def credit(self) -> Row:
        tenor, currency = self.pick(CREDIT_TENORS, ("EUR", "USD"))
        return self.name("CreditQualifying") | {"Label1": tenor, "Label2": currency}

    def tranche(self) -> Row:
        tenor, group = self.pick(CREDIT_TENORS, ("ABX", "CMBX", "TLOCK"))
        return self.name("CreditNonQualifying") | {"Label1": tenor, "Label2": group}

    def share(self) -> Row:
        return self.name("Equity")

    def share_volatility(self) -> Row:
        return self.name("Equity", True) | {"Label1": self.pick(TENORS)[0]}

    def goods(self) -> Row:
        return self.name("Commodity")

    def goods_volatility(self) -> Row:
        return self.name("Commodity", True) | {"Label1": self.pick(TENORS)[0]}

    def index(self) -> Row:
        return {"Qualifier": self.pick(("CDX IG", "CDX HY", "iTraxx Main"))[0]}

    kinds: dict[str, Any] = {  # noqa: RUF012
        "Risk_IRCurve": curve,
        "Risk_Inflation": currency,
        "Risk_XCcyBasis": currency,
        "Risk_IRVol": rates,
        "Risk_InflationVol": rates,
        "Risk_FX": currency,
        "Risk_FXVol": pair,
        "Risk_CreditQ": credit,
        "Risk_CreditVol": credit,
        "Risk_CreditNonQ": tranche,
        "Risk_CreditVolNonQ": tranche,
        "Risk_BaseCorr": index,
        "Risk_Equity": share,
        "Risk_EquityVol": share_volatility,
        "Risk_Commodity": goods,
        "Risk_CommodityVol": goods_volatility,
    }


def margins(crif: Crif, device: str = "numpy", **settings: Any) -> simm_ore.Figures:
    """(portfolio, side) -> level -> USD, of levels that are not 0."""
    result = calculate(crif, Parameters(**settings), backend.load(device))
    assert result.failures.is_empty()
    found: simm_ore.Figures = {}
    for portfolio, side, _, *level, _, margin in result.table().iter_rows():
        own = found.setdefault((portfolio, side), {})
        if margin:
            own[level[0], level[1], level[2]] = margin
    return found


def assert_equal(ours: simm_ore.Figures, theirs: simm_ore.Figures) -> None:
    """On every level, to 1e-9; near 0 to 1e-6 USD, or what is left when large ones cancel.

    A side without calculations has no rows in ORE's report.
    """
    assert set(ours) >= set(theirs)
    wrong = []
    for place, own in ours.items():
        their = theirs.get(place, {})
        near = max(1e-6, 1e-15 * their.get(TOTAL, 0.0))
        for level in sorted(own.keys() | their.keys()):
            pair = own.get(level, 0.0), their.get(level, 0.0)
            if not isclose(*pair, rel_tol=1e-9, abs_tol=near):
                wrong.append((*place, *level, *pair))
    assert not wrong, f"{len(wrong)} of them, the first {wrong[:5]}"


def wild_table(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(rows[0], pl.String))


@pytest.mark.parametrize("horizon", ["10d", "1d"])
@pytest.mark.parametrize("version", simm_ore.IN_MEMORY)
def test_the_benchmarks_book_in_memory(version: str, horizon: str) -> None:
    crif = simm_book.book(50, seed=7)
    ore = simm_ore.Calculator(simm_book.frame(crif), version, horizon)
    ours = margins(crif, "numba", version=version, horizon=horizon)
    assert_equal(ours, ore.figures(ore.calculate()))


@pytest.mark.parametrize("horizon", ["10d", "1d"])
@pytest.mark.parametrize("version", simm_ore.IN_MEMORY)
def test_wild_portfolios_in_memory(version: str, horizon: str) -> None:
    rows = Wild(version, seed=11).rows(PORTFOLIOS)
    ore = simm_ore.Calculator(wild_table(rows), version, horizon)
    assert_equal(
        margins(crif_of(rows), version=version, horizon=horizon), ore.figures(ore.calculate())
    )


@pytest.mark.parametrize("currency", ["USD", "BRL"])
@pytest.mark.parametrize("horizon", ["10d", "1d"])
@pytest.mark.parametrize("version", simm_ore.BY_APPLICATION)
def test_wild_portfolios_by_its_application(
    version: str, horizon: str, currency: str, tmp_path: Path
) -> None:
    wild = Wild(version, seed=13)
    rows = wild.regulated(wild.rows(PORTFOLIOS))
    rates = {} if currency == "USD" else {currency: 0.2}
    ore = simm_ore.Application(tmp_path, version, horizon, currency, rates)
    simm_ore.write_text(wild_table(rows), ore.crif)
    ore.run()
    settings = {"version": version, "horizon": horizon, "calculation_currency": currency}
    assert_equal(margins(crif_of(rows), **settings), ore.figures())
