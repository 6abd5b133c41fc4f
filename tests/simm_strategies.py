"""Hypothesis strategies for small CRIFs of every risk type, and how near two SIMM figures must be.

Rows are dicts as `crif_case` and the slow oracle read them, amounts in USD.

Figures are compared bit for bit where the arithmetic is the same by design, and else to rounding:
1e-9 of the figure, as all of SIMM's vectors are held to, 1e-6 USD, or `ROUNDING` x the gross
margin: long and short sensitivities that cancel leave a small figure with the rounding of large
ones. The gross margin is the level's own with every sensitivity taken as long. It bounds all that
is added up; the worst seen of 35,000 portfolios of cancelling rows is 2.7e-16 of it. (A square that
cancels to nothing would leave the root of its rounding, 1e-8 of the gross. The correlations leave
no such square: within a bucket all are positive forms.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any

import simm_oracle
from crif_case import crif_of, factor_of
from hypothesis import strategies as st
from simm_case import Level

from gpu_margin.backend import Backend, load
from gpu_margin.crif import PRODUCT_CLASSES
from gpu_margin.models.simm import tables
from gpu_margin.models.simm.calculation import Parameters, SimmResult, calculate
from gpu_margin.models.simm.kinds import HORIZONS, RISK_CLASSES, STREAM_OF, STREAMS, risk_class

Row = dict[str, Any]
Levels = dict[tuple[str, str], dict[Level, float]]
"""(portfolio, side) -> level -> USD; what is 0 may be left out."""

NUMPY = load("numpy")
CALCULATION_CURRENCIES = ("USD", "EUR", "JPY", "ARS", "BRL")
# Of every volatility and concentration group of some version; PLN is in none by name.
CURRENCIES = ("USD", "EUR", "JPY", "AUD", "BRL", "ARS", "TRY", "ZMW", "PLN")
NAMES, CURVES, GROUPS = ("A", "B", "C"), ("OIS", "Libor3m", ""), ("G1", "G2", "")
CURVED = {kind for kind in STREAM_OF if kind.endswith(("Vol", "VolNonQ"))}
ROUNDING = 1e-14
SIDES = ("Call", "Post")
TOTAL: Level = ("All", "All", "All")
NEWEST = tables.versions()[-1]
WITHOUT_BUCKET = {"InterestRate", "FX"}
PLAIN = ("Param_ProductClassMultiplier", "Param_AddOnNotionalFactor")


@dataclass(frozen=True)
class Book:
    """Rows of some portfolios, and what SIMM they are to be margined by."""

    rows: tuple[Row, ...]
    version: str
    horizon: str
    currency: str

    @property
    def parameters(self) -> Parameters:
        return Parameters(
            version=self.version, horizon=self.horizon, calculation_currency=self.currency
        )

    def of(self, rows: Any) -> Book:
        """Other rows under the same rules."""
        return replace(self, rows=tuple(rows))

    def portfolios(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row["PortfolioID"], []).append(row)
        return found

    def result(self, backend: Backend = NUMPY) -> SimmResult:
        """The engine's, which must find nothing wrong."""
        result = calculate(crif_of(self.rows), self.parameters, backend)
        assert result.failures.is_empty() and not result.incomplete.any()
        return result

    def levels(self, backend: Backend = NUMPY) -> Levels:
        """The engine's, a total for each portfolio and side."""
        result = self.result(backend)
        found: Levels = {(name, side): {} for name in result.crif.portfolios for side in SIDES}
        for portfolio, side, _, *level, _, margin in result.table().iter_rows():
            found[portfolio, side][tuple(level)] = margin
        return found

    def oracle(self, rows: list[Row] | None = None) -> dict[str, dict[Level, float]]:
        """side -> level -> USD of one portfolio."""
        held = self.rows if rows is None else rows
        return simm_oracle.margins(held, self.version, self.horizon, self.currency)


def row(kind: str, amount: float, product: str = "RatesFX", **others: str) -> Row:
    """A row; what is left out is of a plain factor that every version knows."""
    name = risk_class_of(kind)
    bucket = "" if name in WITHOUT_BUCKET or kind == "Risk_BaseCorr" else "1"
    plain = {"Qualifier": "EUR", "Bucket": bucket, "Label1": "5y", "Label2": ""}
    if kind == "Risk_FXVol":
        plain["Qualifier"] = "EURUSD"
    keys = {"PortfolioID": "P", "ProductClass": product, "RiskType": kind}
    return {**keys, **plain, **others, "Amount": amount}


def risk_class_of(kind: str) -> str:
    return RISK_CLASSES[risk_class(STREAM_OF[kind])]


def is_parameter(one: Row) -> bool:
    """No sensitivity."""
    return one["RiskType"] not in STREAM_OF


def key_of(one: Row) -> tuple[str, ...]:
    """Of rows that net it is the same."""
    return one["PortfolioID"], one["ProductClass"], *factor_of(one)


def scaled(one: Row, by: float) -> Row:
    return {**one, "Amount": one["Amount"] * by}


@cache
def buckets(version: str, name: str) -> tuple[str, ...]:
    """The residual one too, where there is one."""
    return tuple(tables.load(version).at("10d").delta[name])


# ---------------------------------------------------------------- figures


def book_of(rows: Any, horizon: str = "10d", version: str = NEWEST, currency: str = "USD") -> Book:
    return Book(tuple(rows), version, horizon, currency)


def total(rows: Any, *rules: str, side: str = "Call") -> float:
    """Of the one portfolio P."""
    return book_of(rows, *rules).levels()["P", side][TOTAL]


def gross(book: Book) -> Levels:
    """The margins with every sensitivity taken as long, of the dearer side: nothing offsets."""
    levels = book.of([{**one, "Amount": abs(one["Amount"])} for one in book.rows]).levels()
    together: Levels = {}
    for (name, side), own in levels.items():
        other = levels[name, "Post" if side == "Call" else "Call"]
        together[name, side] = {
            level: max(own.get(level, 0.0), other.get(level, 0.0))
            for level in own.keys() | other.keys()
        }
    return together


def near(found: Levels, expected: Levels, most: Levels, relative: float = 1e-9) -> None:
    """At every level, to `relative` or 1e-6 USD, or to the rounding of the gross margin."""
    assert found.keys() == expected.keys()
    for place, ours in found.items():
        theirs = expected[place]
        for level in ours.keys() | theirs.keys():
            pair = ours.get(level, 0.0), theirs.get(level, 0.0)
            room = 1e-6 + ROUNDING * most[place].get(level, 0.0)
            assert math.isfinite(room)
            assert math.isclose(*pair, rel_tol=relative, abs_tol=room), (place, level, pair, room)


def is_oracle(book: Book) -> None:
    expected = {
        (name, side): levels
        for name, rows in book.portfolios().items()
        for side, levels in book.oracle(rows).items()
    }
    near(book.levels(), expected, gross(book))


# ---------------------------------------------------------------- strategies

AMOUNTS = st.one_of(
    st.sampled_from((0.0, 1e-3, 1.0, 1e6, 1e9, 1e13, -1e-3, -1e6, -1e9, -1e13)),
    st.builds(
        lambda sign, size, exponent: sign * size * 10.0**exponent,
        st.sampled_from((1.0, -1.0)),
        st.floats(1.0, 10.0),
        st.integers(-3, 12),
    ),
)
SIZES = st.integers(0, 10**6).map(lambda number: number * 1000.0)
KINDS = st.sampled_from(sorted(STREAM_OF))


@st.composite
def sensitivities(draw: Any, version: str, kinds: Any = KINDS) -> Row:
    """One row of any risk type, in any product class."""
    kind = draw(kinds)
    name = risk_class_of(kind)
    if kind == "Risk_FXVol":
        qualifier = "".join(draw(st.permutations(CURRENCIES))[:2])
    else:
        qualifier = draw(st.sampled_from(CURRENCIES if name in WITHOUT_BUCKET else NAMES))
    known = () if name in WITHOUT_BUCKET else buckets(version, name)
    # Few, so that rows meet; the residual and the last are the odd ones.
    few = st.sampled_from((*known[:2], *known[-2:])) if known else st.just("")
    second = ""
    if kind == "Risk_IRCurve":
        second = draw(st.sampled_from(CURVES))
    elif name.startswith("Credit"):
        second = draw(st.sampled_from(GROUPS))
    return row(
        kind,
        draw(AMOUNTS),
        draw(st.sampled_from(PRODUCT_CLASSES)),
        Qualifier=qualifier,
        Bucket=draw(few | st.sampled_from(known)) if known else "",
        Label1=draw(st.sampled_from(tables.load(version).tenors)),
        Label2=second,
    )


def meeting_rows(rng: Random, version: str, stream: int) -> list[Row]:
    """Rows of a stream, of few names and sizes near the thresholds: they net, offset, meet."""
    kinds = [kind for kind, number in STREAM_OF.items() if number == stream]
    name, size = RISK_CLASSES[risk_class(stream)], 10.0 ** rng.uniform(5, 10)
    known = () if name in WITHOUT_BUCKET else buckets(version, name)
    held = rng.sample(known, min(2, len(known))) or [""]
    held = [*held, "Residual"] if "Residual" in known else held
    names = rng.sample(CURRENCIES if name in WITHOUT_BUCKET else NAMES, 3)
    pairs = [one + other for one in names for other in names if one != other]
    seconds = GROUPS if "Risk_IRCurve" in kinds or name.startswith("Credit") else ("",)
    return [
        row(
            rng.choice(kinds),
            rng.choice((size, -size, rng.gauss(0.0, size))),
            rng.choice(PRODUCT_CLASSES[:2]),
            Qualifier=rng.choice(pairs if kinds == ["Risk_FXVol"] else names),
            Bucket=rng.choice(held),
            Label1=rng.choice(tables.load(version).tenors[1:8:2]),
            Label2=rng.choice(seconds),
        )
        for _ in range(12)
    ]


def meeting_book(version: str = NEWEST, horizon: str = "10d", size: int = 2) -> Book:
    """The same in every run: `size` portfolios of each stream alone."""
    rng = Random(f"{version} {horizon}")
    rows = [
        {**one, "PortfolioID": f"P{number}{stream:02d}"}
        for number in range(size)
        for stream in range(STREAMS)
        for one in meeting_rows(rng, version, stream)
    ]
    return book_of(rows, horizon, version, rng.choice(CALCULATION_CURRENCIES))


@st.composite
def add_ons(draw: Any) -> list[Row]:
    """Fixed amounts, multipliers, factors and notionals, of each at most one per qualifier."""
    found = [("Param_AddOnFixedAmount", "", amount) for amount in draw(st.lists(SIZES, max_size=2))]
    multiplied = draw(st.sets(st.sampled_from(PRODUCT_CLASSES), max_size=2))
    found += [(PLAIN[0], name, draw(st.floats(1.0, 3.0))) for name in sorted(multiplied)]
    for product in sorted(draw(st.sets(st.sampled_from(NAMES), max_size=2))):
        found += [(PLAIN[1], product, draw(st.floats(0.0, 20.0)))] * draw(st.integers(0, 1))
        found += [("Notional", product, size) for size in draw(st.lists(SIZES, max_size=2))]
    empty = dict.fromkeys(("ProductClass", "Bucket", "Label1", "Label2"), "")
    return [
        {"PortfolioID": "P", "RiskType": kind, "Qualifier": name, **empty, "Amount": amount}
        for kind, name, amount in found
    ]


@st.composite
def portfolios(draw: Any, version: str, kinds: Any = KINDS, with_add_ons: bool = True) -> list[Row]:
    """At least a row; some rows are met by their opposites."""
    held = draw(st.lists(sensitivities(version, kinds), min_size=1, max_size=9))
    held += [scaled(one, -1.0) for one in held if draw(st.integers(0, 7)) == 0]
    if with_add_ons and draw(st.booleans()):
        held += draw(add_ons())
    return held


VERSIONS = st.sampled_from(tables.versions())


@st.composite
def books(draw: Any, size: int = 3, horizon: str | None = None, **others: Any) -> Book:
    """Some portfolios, named in order, their rows mixed."""
    version = draw(VERSIONS)
    held = draw(st.lists(portfolios(version, **others), min_size=1, max_size=size))
    rows = [{**one, "PortfolioID": f"P{n}"} for n, some in enumerate(held) for one in some]
    return Book(
        tuple(rows),
        version,
        horizon or draw(st.sampled_from(HORIZONS)),
        draw(st.sampled_from(CALCULATION_CURRENCIES)),
    )
