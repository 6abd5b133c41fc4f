"""Contributions to SIMM as tables: by risk class, bucket, risk factor and trade.

Sums run in order of risk factor, and over the rows of one in order of amount, so that neither what
shares a batch nor the order of rows changes a bit of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crif import PRODUCT_CLASSES
from gpu_margin.models.simm.factors import Factors
from gpu_margin.models.simm.kinds import MARGIN_TYPES, RISK_CLASSES, SIDES
from gpu_margin.models.simm.kinds import risk_class as class_of
from gpu_margin.models.simm.netting import CLASSES, Netted
from gpu_margin.models.simm.segments import runs
from gpu_margin.models.simm.slopes import Part

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

BY_RISK_CLASS, BY_BUCKET, BY_FACTOR = "risk_class", "bucket", "factor"
LEVELS = (BY_RISK_CLASS, BY_BUCKET, BY_FACTOR)
# The bucket of what has none and is not of a currency.
_ALL = "All"
_FACTOR = ("risk_type", "qualifier", "label1", "label2")


@dataclass(frozen=True)
class _Long:
    """Contributions of chosen calculations, in order of `place` and then of `factor`; [row].

    `place` is (calculation, side, product class, risk class, margin type) as one number.
    """

    place: Ints
    factor: Ints
    amount: Floats


def contribution_table(
    netted: Netted,
    contributions: Sequence[Part],
    factors: Factors,
    keys: pl.DataFrame,
    chosen: Bools,
    level: str,
) -> pl.DataFrame:
    """Contributions of the calculations and sides `chosen` [calculation, side], in USD.

    `contributions` as `slopes.contributions` has them, `keys` the table of `Crif.factors` that
    `factors` are of. Columns: calculation (code), side, product_class, risk_class, margin_type;
    with a `level` of `BY_BUCKET` also bucket (of interest rates the currency, "All" where there is
    one bucket); with `BY_FACTOR` also risk_type, qualifier, label1, label2; then contribution. Rows
    are in that order, buckets and factors in the order of the version.
    """
    long = _long(netted, contributions, len(factors), chosen)
    labels = {
        BY_RISK_CLASS: (),
        BY_BUCKET: (factors.bucket[long.factor],),
        BY_FACTOR: (long.factor,),
    }[level]
    each = runs(long.place, *labels)
    first = each.first
    columns = _places(long.place[first])
    if level != BY_RISK_CLASS:
        columns += _named(factors, keys, long.factor[first], level == BY_FACTOR)
    amount = np.bincount(each.owner, weights=long.amount, minlength=len(first))
    return pl.DataFrame([*columns, pl.Series("contribution", amount, pl.Float64)])


def trade_table(
    netted: Netted,
    slopes: Sequence[Part],
    rows: tuple[Ints, Ints, Floats],
    trades: pl.Series,
    chosen: Bools,
) -> pl.DataFrame:
    """Contributions of trades: of each of their rows amount x slope of what it was netted into.

    `rows` are (group, trade, amount) [row] of the rows that `netted` was made of, traced, with
    `trade` codes of `trades`; `slopes` as `slopes.slopes` has them. Columns: calculation (code),
    side, trade_id, contribution (USD), in order of the codes.
    """
    group, trade, amount = rows
    width = max(len(trades), 1)
    key = group // CLASSES * width + trade
    order = np.lexsort((amount, netted.entry, key))
    key, entry, amount = key[order], netted.entry[order], amount[order]
    calculation, code = np.divmod(key, width)
    place, share = [], []
    for side in range(len(SIDES)):
        own = np.flatnonzero(chosen[calculation, side])
        place.append((calculation[own] * len(SIDES) + side) * width + code[own])
        share.append((amount * _of_entries(netted, slopes, side)[entry])[own])
    return _by_trade(np.concatenate(place), np.concatenate(share), trades)


def _by_trade(place: Ints, share: Floats, trades: pl.Series) -> pl.DataFrame:
    """Shares added up where (calculation, side, trade) as one number is the same, as they stand."""
    order = np.argsort(place, kind="stable")
    each = runs(place[order])
    first = place[order][each.first]
    total = np.bincount(each.owner, weights=share[order], minlength=len(first)) + 0.0
    calculation, code = np.divmod(first, max(len(trades), 1))
    calculation, side = np.divmod(calculation, len(SIDES))
    return pl.DataFrame(
        [
            pl.Series("calculation", calculation, pl.Int32),
            _text("side", SIDES, side),
            trades.gather(code).alias("trade_id"),
            pl.Series("contribution", total, pl.Float64),
        ]
    )


def _long(netted: Netted, parts: Sequence[Part], width: int, chosen: Bools) -> _Long:
    places, factors, amounts = [], [], []
    for part in parts:
        stream = netted.streams[part.stream]
        for side, values in enumerate(part.sides):
            own = np.flatnonzero(chosen[stream.group // CLASSES, side])
            calculation, product = np.divmod(stream.group[own], CLASSES)
            place = (calculation * len(SIDES) + side) * CLASSES + product
            place = place * len(RISK_CLASSES) + class_of(part.stream)
            places.append(place * len(MARGIN_TYPES) + part.kind)
            factors.append(stream.factor[own])
            amounts.append(values[own])
    none: Ints = np.zeros(0, dtype=np.int64)
    place, factor = np.concatenate([none, *places]), np.concatenate([none, *factors])
    order = np.argsort(place * max(width, 1) + factor, kind="stable")
    amount = np.concatenate([np.zeros(0), *amounts])
    return _Long(place[order], factor[order], amount[order])


def _of_entries(netted: Netted, parts: Sequence[Part], side: int) -> Floats:
    """[entry of all streams] slope of the total, of all margin types together."""
    found = [np.zeros(len(stream)) for stream in netted.streams]
    for part in parts:
        found[part.stream] = found[part.stream] + part.sides[side]
    return np.concatenate(found)


def _places(place: Ints) -> list[pl.Series]:
    place, kind = np.divmod(place, len(MARGIN_TYPES))
    place, risk_class = np.divmod(place, len(RISK_CLASSES))
    place, product = np.divmod(place, CLASSES)
    calculation, side = np.divmod(place, len(SIDES))
    return [
        pl.Series("calculation", calculation, pl.Int32),
        _text("side", SIDES, side),
        _text("product_class", PRODUCT_CLASSES, product),
        _text("risk_class", RISK_CLASSES, risk_class),
        _text("margin_type", MARGIN_TYPES, kind),
    ]


def _text(name: str, values: Sequence[str], codes: Ints) -> pl.Series:
    return pl.Series(name, values, pl.String).gather(codes)


def _named(factors: Factors, keys: pl.DataFrame, factor: Ints, whole: bool) -> list[pl.Series]:
    """Names of factors, by their place: the bucket, and all of the key where that is `whole`."""
    number = np.empty(len(factors), dtype=np.int64)
    known = np.flatnonzero(factors.place >= 0)
    number[factors.place[known]] = known
    stream = np.array([class_of(one) for one in factors.stream.tolist()], dtype=np.int64)
    rates = stream == RISK_CLASSES.index("InterestRate")
    table = keys[number]
    bucket = (
        pl.when(pl.col("bucket") != "")
        .then(pl.col("bucket"))
        .when(pl.Series(rates))
        .then(pl.col("qualifier"))
        .otherwise(pl.lit(_ALL))
    )
    table = table.select(bucket.alias("bucket"), *_FACTOR)
    return table[factor].get_columns()[: None if whole else 1]
