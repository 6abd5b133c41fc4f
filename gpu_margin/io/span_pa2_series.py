"""Series of PA2: the contracts of a family and its months, and what B records say of them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import polars as pl

from gpu_margin.io.span_pa2_commodities import Commodities
from gpu_margin.io.span_pa2_families import Key, Months
from gpu_margin.io.span_pa2_fields import Notes
from gpu_margin.io.span_pa2_lines import Ints
from gpu_margin.span_tables import NORMAL, RANGES

_KEYS = ["exchange", "product", "type", "future_month", "option_month"]


@dataclass(frozen=True)
class Series:
    """A row per series, and [series] the beginning of its contracts' ids.

    Columns of `table` are those of `_KEYS`, commodity, delta_month, and of B records: range, power,
    percent, scaling (of 10,000) and fault, "" for none.
    """

    table: pl.DataFrame
    prefixes: list[str]


def series_of(
    family: Ints,
    future: pl.Series,
    option: pl.Series,
    keys: list[Key],
    commodities: list[str],
    months: Months,
) -> tuple[Series, Ints]:
    """The series of contracts with these family codes and months, and [contract] its series."""
    near, far = future.rle_id(), option.rle_id()
    # Runs of one month have a number of their own: cheaper than comparing texts, and some of the
    # series that come of it are the same one.
    run = np.stack([family, near.to_numpy(), far.to_numpy()])
    starts = np.ones(run.shape[1], dtype=np.bool_)
    starts[1:] = (run[:, 1:] != run[:, :-1]).any(axis=0)
    heads = np.flatnonzero(starts)
    said = pl.DataFrame({"family": family[heads], "near": future[heads], "far": option[heads]})
    every = said.unique(maintain_order=True).with_row_index("series")
    joined = said.join(every, on=["family", "near", "far"], how="left", maintain_order="left")
    of_head = joined["series"].to_numpy().astype(np.int64)
    of_series = of_head[np.cumsum(starts) - 1]
    codes = every["family"].to_numpy()
    table = pl.DataFrame(
        {
            "exchange": pl.Series([keys[code][0] for code in codes], dtype=pl.String),
            "product": pl.Series([keys[code][1] for code in codes], dtype=pl.String),
            "type": pl.Series([keys[code][2] for code in codes], dtype=pl.String),
            "future_month": every["near"],
            "option_month": every["far"],
            "commodity": pl.Series([commodities[code] for code in codes], dtype=pl.String),
        }
    )
    prefixes = [":".join(part for part in row if part) for row in table.select(_KEYS).iter_rows()]
    return Series(_described(table, months), prefixes), of_series


def _described(table: pl.DataFrame, months: Months) -> pl.DataFrame:
    """The series with their B records: their own, else that of their futures month."""
    told = months.table()
    whole = told.filter(pl.col("option_month") == "").drop("option_month")
    own = table.join(told, on=_KEYS, how="left", maintain_order="left")
    other = table.join(whole, on=_KEYS[:-1], how="left", maintain_order="left")
    names = ["range", "power", "percent", "scaling", "fault"]
    has = own["scaling"].is_not_null()
    chosen = {
        name: pl.select(pl.when(has).then(own[name]).otherwise(other[name])).to_series()
        for name in names
    }
    lost = [months.lost.get(key, "") for key in table.select(_KEYS[:3]).iter_rows()]
    future = pl.col("future_month")
    return table.with_columns(
        pl.when(future != "").then(future).otherwise("option_month").alias("delta_month"),
        chosen["range"].fill_null(0).alias("range"),
        chosen["power"].fill_null(0).alias("power"),
        chosen["percent"].fill_null(False).alias("percent"),
        chosen["scaling"].fill_null(10_000).alias("scaling"),
        pl.Series("lost", lost, dtype=pl.String),
        chosen["fault"].fill_null("").alias("fault"),
    ).with_columns(pl.when(pl.col("fault") == "").then("lost").otherwise("fault").alias("fault"))


def ranges_of(
    series: Series,
    of_series: Ints,
    contracts: pl.DataFrame,
    commodities: Commodities,
    notes: Notes,
) -> pl.DataFrame:
    """Rows of `RANGES`: of each month's series the futures' counts, else the first by name.

    A range in percent is one of the price of the first contract that has one.
    """
    _refused_ranges(series, commodities, notes)
    first = pl.col("place").min()
    held = contracts.select(
        pl.Series("series", of_series),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("place"),
        pl.col("price").is_not_null().alias("priced"),
    )
    places = held.group_by("series").agg(
        first.alias("place"), pl.col("place").filter("priced").min().alias("priced")
    )
    table = series.table.with_row_index("series").cast({"series": pl.Int64})
    table = table.join(places, on="series").with_columns(
        pl.when("percent").then("priced").otherwise("place").alias("place")
    )
    table = table.filter((pl.col("range") > 0) & pl.col("place").is_not_null())
    table = table.sort(pl.col("type") != "FUT", "product", "type", "option_month", "place")
    table = table.unique(["commodity", "delta_month"], keep="first", maintain_order=True)
    rows = []
    columns = ["commodity", "delta_month", "range", "power", "percent", "scaling", "place"]
    for code, month, size, power, percent, scaling, place in table.select(columns).iter_rows():
        wide = size * Fraction(10) ** power
        if percent:
            price, times = contracts[int(place)].select("price", "multiplier").row(0)
            wide *= abs(Fraction(price)) * Fraction(times) / 100
        else:
            wide *= Fraction(10) ** commodities.every[code].exponent
        value = float(wide * 10_000 / scaling)
        rows.append((code, month, value, value))
    return pl.DataFrame(rows, schema=RANGES, orient="row")


def _refused_ranges(series: Series, commodities: Commodities, notes: Notes) -> None:
    """What is limited by a range that cannot be read cannot be margined."""
    for code, fault in (
        series.table.filter(pl.col("fault") != "").select("commodity", "fault").iter_rows()
    ):
        if commodities.every[code].wfpr != NORMAL:
            notes.refuse(code, f"its price scan range is unknown: {fault}")
