"""Sensitivities in ISDA's Common Risk Interchange Format, as codes: the input of SIMM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]
Small = NDArray[np.int8]
Bools = NDArray[np.bool_]

PRODUCT_CLASSES = ("RatesFX", "Credit", "Equity", "Commodity")
# Those of Schedule IM, which has rates and foreign exchange apart.
SCHEDULE_CLASSES = ("Rates", "FX", "Credit", "Equity", "Commodity", "Other")
MODELS = ("SIMM", "Schedule")
NO_DATE = -(2**31)

FACTOR_COLUMNS = ("risk_type", "qualifier", "bucket", "label1", "label2")


@dataclass(frozen=True)
class Crif:
    """Rows of sensitivities of many portfolios, in the order of their files.

    Tables by code: `portfolios` in byte order, `trades` ("" where a row names none), `factors` with
    the columns `FACTOR_COLUMNS` in normal form ("" where a risk type has no such part) and
    `regulations` (sets of names in byte order; the first is empty).

    [row]: `portfolio`, `trade`, `factor`, `collect` and `post` (regulations) are codes;
    `product_class` and `schedule_class` are places in `PRODUCT_CLASSES` and `SCHEDULE_CLASSES`, -1
    where there is none; `model` is one in `MODELS`; `amount` is in USD, or the plain figure of a
    parameter; `notional` is what a row of Schedule says of its whole trade, in USD, or 0;
    `end_date` and `valuation_date` are days since 1970, or `NO_DATE`.

    `incomplete` [portfolio] says whether any of its rows is among the `failures`.
    `source_rows` are how many rows each source had, good or bad; empty where nobody counted.
    """

    portfolios: pl.Series
    trades: pl.Series
    factors: pl.DataFrame
    regulations: tuple[tuple[str, ...], ...]
    portfolio: Codes
    trade: Codes
    factor: Codes
    product_class: Small
    schedule_class: Small
    model: Small
    amount: Floats
    collect: Codes
    post: Codes
    end_date: Codes
    valuation_date: Codes
    notional: Floats
    incomplete: Bools
    failures: pl.DataFrame
    source_rows: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.amount)
