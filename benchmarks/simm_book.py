"""Random books of CRIF rows: about 200 sensitivities per portfolio, all six risk classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crif import NO_DATE, PRODUCT_CLASSES, Crif
from gpu_margin.failures import failure_table

Ints = NDArray[np.int64]

TENORS = ("2w", "1m", "3m", "6m", "1y", "2y", "3y", "5y", "10y", "15y", "20y", "30y")
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CHF", "AUD", "CAD", "SEK", "NOK", "BRL", "ZAR", "MXN")
_CURVES = ("OIS", "Libor3m", "Libor6m")
# How many names there are of each class, and buckets to spread them over.
_NAMES = {"CreditQ": 300, "CreditNonQ": 60, "Equity": 1000, "Commodity": 17}
_CREDIT_TENORS = ("1y", "2y", "3y", "5y", "10y")

Key = tuple[str, str, str, str, str]


def _curve_points() -> list[tuple[str, str, str, str]]:
    return [(c, "", t, s) for c in CURRENCIES for s in _CURVES for t in TENORS]


def _keys() -> dict[str, list[Key]]:
    """Factors by what a portfolio holds of them."""
    pairs = ["".join(sorted((a, b))) for a in CURRENCIES[:8] for b in CURRENCIES[:8] if a < b]
    quality = [(f"ISIN{n:04d}", str(1 + n % 12)) for n in range(_NAMES["CreditQ"])]
    number = {name: range(count) for name, count in _NAMES.items()}
    junk = [(f"TRANCHE{n:03d}", str(1 + n % 2), f"GROUP{n % 9}") for n in number["CreditNonQ"]]
    bucket = {n: str(1 + n % 12) if n % 25 else "Residual" for n in number["Equity"]}
    shares = [(f"SHARE{n:04d}", bucket[n]) for n in number["Equity"]]
    goods = [(f"GOODS{n:02d}", str(1 + n)) for n in range(_NAMES["Commodity"])]
    vols = TENORS[2:9]
    return {
        "curve": [("Risk_IRCurve", *one) for one in _curve_points()],
        "inflation": [("Risk_Inflation", c, "", "", "") for c in CURRENCIES],
        "basis": [("Risk_XCcyBasis", c, "", "", "") for c in CURRENCIES],
        "fx": [("Risk_FX", c, "", "", "") for c in CURRENCIES],
        "rate vol": [("Risk_IRVol", c, "", t, "") for c in CURRENCIES for t in TENORS],
        "fx vol": [("Risk_FXVol", p, "", t, "") for p in pairs for t in vols],
        "credit": [("Risk_CreditQ", q, b, t, "") for q, b in quality for t in _CREDIT_TENORS],
        "credit vol": [("Risk_CreditVol", q, b, t, "") for q, b in quality for t in _CREDIT_TENORS],
        "tranche": [("Risk_CreditNonQ", q, b, t, g) for q, b, g in junk for t in _CREDIT_TENORS],
        "share": [("Risk_Equity", q, b, "", "") for q, b in shares],
        "share vol": [("Risk_EquityVol", q, b, t, "") for q, b in shares for t in vols],
        "goods": [("Risk_Commodity", q, b, "", "") for q, b in goods],
        "goods vol": [("Risk_CommodityVol", q, b, t, "") for q, b in goods for t in vols],
    }


# Rows of a portfolio, and the size (USD) of their amounts.
_HELD = {
    "curve": (60, 4e5),
    "inflation": (2, 2e5),
    "basis": (2, 2e5),
    "fx": (8, 3e7),
    "rate vol": (16, 2e6),
    "fx vol": (16, 4e6),
    "credit": (20, 1e5),
    "credit vol": (6, 1e6),
    "tranche": (6, 3e4),
    "share": (30, 4e6),
    "share vol": (20, 3e6),
    "goods": (8, 2e7),
    "goods vol": (6, 4e6),
}
_CLASS = {
    "credit": "Credit",
    "credit vol": "Credit",
    "tranche": "Credit",
    "share": "Equity",
    "share vol": "Equity",
    "goods": "Commodity",
    "goods vol": "Commodity",
}


def book(portfolios: int, seed: int = 1) -> Crif:
    """Portfolios of 200 rows each, in order of portfolio."""
    rng, keys = np.random.default_rng(seed), _keys()
    every = [key for some in keys.values() for key in some]
    rank = {key: place for place, key in enumerate(sorted(every))}
    factor, amount, product = [], [], []
    for name, (count, size) in _HELD.items():
        codes = np.array([rank[key] for key in keys[name]], dtype=np.int32)
        factor.append(codes[rng.integers(0, len(codes), (portfolios, count))])
        # Some are large enough to be concentrated.
        scale = np.exp(rng.normal(0, 1, (portfolios, 1)))
        amount.append(rng.normal(0.0, size, (portfolios, count)) * scale)
        code = PRODUCT_CLASSES.index(_CLASS.get(name, "RatesFX"))
        product.append(np.full((portfolios, count), code, dtype=np.int8))
    columns = np.concatenate(factor, axis=1)
    rows = columns.size
    none = np.zeros(rows, dtype=np.int32)
    return Crif(
        portfolios=pl.Series([f"P{n:07d}" for n in range(portfolios)]),
        trades=pl.Series([""]),
        factors=pl.DataFrame(
            sorted(every),
            schema=["risk_type", "qualifier", "bucket", "label1", "label2"],
            orient="row",
        ),
        regulations=((),),
        portfolio=np.repeat(np.arange(portfolios, dtype=np.int32), columns.shape[1]),
        trade=none,
        factor=columns.ravel(),
        product_class=np.concatenate(product, axis=1).ravel(),
        schedule_class=np.full(rows, -1, dtype=np.int8),
        model=np.zeros(rows, dtype=np.int8),
        amount=np.round(np.concatenate(amount, axis=1).ravel(), 2),
        collect=none,
        post=none,
        end_date=np.full(rows, NO_DATE, dtype=np.int32),
        valuation_date=np.full(rows, NO_DATE, dtype=np.int32),
        notional=np.zeros(rows),
        incomplete=np.zeros(portfolios, dtype=np.bool_),
        failures=failure_table(),
    )


def frame(crif: Crif) -> Any:
    """The same as a table in the spelling of CRIF files."""
    keys = crif.factors[crif.factor]
    return pl.DataFrame(
        {
            "PortfolioID": crif.portfolios[crif.portfolio],
            "TradeID": pl.Series(np.arange(len(crif)) // 20).cast(pl.String),
            "ProductClass": pl.Series(PRODUCT_CLASSES)[crif.product_class],
            "RiskType": keys["risk_type"],
            "Qualifier": keys["qualifier"],
            "Bucket": keys["bucket"],
            "Label1": keys["label1"],
            "Label2": keys["label2"],
            "Amount": crif.amount,
            "AmountCurrency": pl.repeat("USD", len(crif), eager=True),
            "AmountUSD": crif.amount,
            "IMModel": pl.repeat("SIMM", len(crif), eager=True),
        }
    )
