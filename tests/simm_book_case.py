"""Random books of CRIF rows made of the demo's trades, with add-ons, Schedule and regulations."""

from __future__ import annotations

import numpy as np
import polars as pl

from gpu_margin import demo_crif

ROW = {
    **dict.fromkeys(("PortfolioID", "TradeID", "ProductClass", "RiskType", "Qualifier"), pl.String),
    **dict.fromkeys(("Bucket", "Label1", "Label2"), pl.String),
    "AmountUSD": pl.Float64,
    **dict.fromkeys(("IMModel", "CollectRegulations", "PostRegulations", "EndDate"), pl.String),
    "ValuationDate": pl.String,
}
_FIXED = {"RiskType": "Param_AddOnFixedAmount", "AmountUSD": 123_456.78}
_MULTIPLIER = {
    "RiskType": "Param_ProductClassMultiplier",
    "Qualifier": "Equity",
    "AmountUSD": 1.25,
}
_FACTOR = {"RiskType": "Param_AddOnNotionalFactor", "Qualifier": "exotic", "AmountUSD": 3.0}


def book(portfolios: int, seed: int = 1, trades: int = 6, first: int = 0) -> pl.DataFrame:
    """Portfolios P000, P001, ... of so many trades each, T0 to T30 or so; some ids are shared."""
    rng = np.random.default_rng(seed)
    every = demo_crif.crif().drop("PortfolioID", "Amount", "AmountCurrency")
    names = every["TradeID"].unique(maintain_order=True).to_list()
    parts = []
    for number in range(first, first + portfolios):
        portfolio = f"P{number:03d}"
        for place in rng.choice(len(names), trades, replace=False).tolist():
            own = every.filter(pl.col("TradeID") == names[place])
            size = rng.normal(0.0, 1.0, len(own)) * 10.0 ** rng.integers(-1, 2)
            parts.append(
                own.with_columns(
                    pl.lit(portfolio).alias("PortfolioID"),
                    pl.lit(f"T{place}").alias("TradeID"),
                    (pl.col("AmountUSD") * size).round(2),
                    *_regulations(number),
                )
            )
        parts += [pl.DataFrame([{**row, "PortfolioID": portfolio}]) for row in _others(number)]
    whole = pl.concat(parts, how="diagonal_relaxed")
    missing = [pl.lit(None).alias(name) for name in ROW if name not in whole.columns]
    return whole.with_columns(missing).select(pl.col(n).cast(kind) for n, kind in ROW.items())


def _regulations(number: int) -> list[pl.Expr]:
    """Rows of every fifth portfolio are under one regulation or two, alternating."""
    names = "SEC,CFTC" if number % 2 else "EMIR"
    text = pl.lit(names if number % 5 == 4 else None, pl.String)
    return [text.alias("CollectRegulations"), text.alias("PostRegulations")]


def _others(number: int) -> list[dict[str, object]]:
    """Add-ons of every third portfolio, Schedule of every fourth."""
    rows: list[dict[str, object]] = []
    if number % 3 == 0:
        notional = {"RiskType": "Notional", "Qualifier": "exotic", "AmountUSD": 5e6}
        rows += [_FIXED, _MULTIPLIER, _FACTOR, {**notional, "TradeID": "T-exotic"}]
    if number % 4 == 0:
        schedule = {"TradeID": "T-schedule", "ProductClass": "Rates", "IMModel": "Schedule"}
        dates = {"EndDate": "2031-06-30", "ValuationDate": "2026-11-23"}
        rows += [
            {**schedule, **dates, "RiskType": "Notional", "AmountUSD": 1e7 + number},
            {**schedule, **dates, "RiskType": "PV", "AmountUSD": -2e5},
        ]
    return rows
