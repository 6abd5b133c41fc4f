"""`Crif` objects from rows written as dicts, in plain Python: for tests that need no file.

A row has the names of CRIF columns: PortfolioID ("P" where it is left out), TradeID, ProductClass,
RiskType, Qualifier, Bucket, Label1, Label2, Amount, AmountUSD, IMModel, CollectRegulations,
PostRegulations, EndDate and ValuationDate (ISO text, or a date; end_date and valuation_date do,
too). What is left out is empty. Amounts are text or numbers, regulations text or a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.crif import FACTOR_COLUMNS, MODELS, NO_DATE, PRODUCT_CLASSES, SCHEDULE_CLASSES, Crif
from gpu_margin.failures import failure_table

Row = Mapping[str, Any]

NO_LABELS = {
    "Risk_Inflation",
    "Risk_XCcyBasis",
    "Risk_FX",
    "Risk_Equity",
    "Risk_Commodity",
    "Risk_BaseCorr",
}
BOTH_LABELS = {
    "Risk_IRCurve",
    "Risk_CreditQ",
    "Risk_CreditVol",
    "Risk_CreditNonQ",
    "Risk_CreditVolNonQ",
}
NO_BUCKET = {"Risk_IRCurve", "Risk_BaseCorr"}
PLAIN_AMOUNT = {"Param_ProductClassMultiplier", "Param_AddOnNotionalFactor"}
CLASS_OF = {"Rates": "RatesFX", "FX": "RatesFX"}


def crif_of(rows: Iterable[Row]) -> Crif:
    """The rows in their order."""
    rows = list(rows)
    portfolios, portfolio = coded([_text(row, "PortfolioID") or "P" for row in rows])
    trades, trade = coded([_text(row, "TradeID") for row in rows])
    keys, factor = coded([factor_of(row) for row in rows])
    sets = [[_names(row, side) for row in rows] for side in ("Collect", "Post")]
    regulations, either = coded([(), *sets[0], *sets[1]])
    collect, post = either[1 : len(rows) + 1], either[len(rows) + 1 :]
    columns = list(zip(*keys, strict=True)) or [()] * len(FACTOR_COLUMNS)
    classes = [_text(row, "ProductClass") for row in rows]
    return Crif(
        portfolios=pl.Series("portfolio_id", portfolios, pl.String),
        trades=pl.Series("trade_id", trades, pl.String),
        factors=pl.DataFrame(
            dict(zip(FACTOR_COLUMNS, map(list, columns), strict=True)),
            schema=dict.fromkeys(FACTOR_COLUMNS, pl.String),
        ),
        regulations=tuple(regulations),
        portfolio=portfolio,
        trade=trade,
        factor=factor,
        product_class=_places([CLASS_OF.get(name, name) for name in classes], PRODUCT_CLASSES),
        schedule_class=_places(classes, SCHEDULE_CLASSES),
        model=_places([_text(row, "IMModel") or "SIMM" for row in rows], MODELS),
        amount=np.array([amount_of(row) for row in rows], dtype=np.float64),
        collect=collect,
        post=post,
        end_date=_days(rows, "EndDate", "end_date"),
        valuation_date=_days(rows, "ValuationDate", "valuation_date"),
        notional=np.array([float(row.get("notional") or 0.0) for row in rows], dtype=np.float64),
        incomplete=np.zeros(len(portfolios), dtype=np.bool_),
        failures=failure_table(),
    )


def coded(values: Sequence[Any]) -> tuple[list[Any], Any]:
    """The distinct values in byte order (that of Python's text), and each value's code."""
    distinct = sorted(set(values))
    code = {value: place for place, value in enumerate(distinct)}
    return distinct, np.array([code[value] for value in values], dtype=np.int32)


def factor_of(row: Row) -> tuple[str, ...]:
    """The row's factor in normal form."""
    kind, qualifier = _text(row, "RiskType"), _text(row, "Qualifier")
    bucket, first, second = (_text(row, name) for name in ("Bucket", "Label1", "Label2"))
    if kind == "Risk_FXVol":
        qualifier = "".join(sorted((qualifier[:3].upper(), qualifier[-3:].upper())))
    if kind in NO_BUCKET:
        bucket = ""
    if kind in NO_LABELS or not kind.startswith("Risk_"):
        first = ""
    if kind not in BOTH_LABELS:
        second = ""
    return kind, qualifier, bucket, first.lower(), second


def amount_of(row: Row) -> float:
    """The row's AmountUSD where it is given and the figure has a currency, else its Amount."""
    usd = "" if _text(row, "RiskType") in PLAIN_AMOUNT else row.get("AmountUSD", "")
    return float(usd if usd not in ("", None) else row["Amount"])


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    return "" if value is None else str(value)


def _names(row: Row, side: str) -> tuple[str, ...]:
    value = row.get(f"{side}Regulations") or ""
    names = value.split(",") if isinstance(value, str) else value
    return tuple(sorted({name.strip() for name in names} - {""}))


def _places(names: Sequence[str], known: Sequence[str]) -> Any:
    found = [known.index(name) if name in known else -1 for name in names]
    return np.array(found, dtype=np.int8)


def _days(rows: Sequence[Row], *names: str) -> Any:
    return np.array([_day([row.get(name) for name in names]) for row in rows], dtype=np.int32)


def _day(values: Sequence[Any]) -> int:
    given = [value for value in values if value not in ("", None)]
    if not given:
        return NO_DATE
    day = given[0] if isinstance(given[0], date) else date.fromisoformat(given[0])
    return day.toordinal() - date(1970, 1, 1).toordinal()
