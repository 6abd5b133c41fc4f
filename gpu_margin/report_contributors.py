"""Section of the report about contributions: which instruments the requirements come from."""

from __future__ import annotations

from functools import partial

import polars as pl

from gpu_margin.allocation_tables import RESIDUAL
from gpu_margin.report_page import note, panels, table
from gpu_margin.report_view import OFFSET, REQUIREMENT, View, bar_chart

_MOST, _HEDGES, _ACCOUNTS, _PER_ACCOUNT = 15, 5, 5, 5
# What residuals are, where their name alone does not say it.
_WORDS = {
    "smoothing": "what smoothing leaves of the value-at-risk",
    "interaction": "what instruments do together only",
}
_IS_RESIDUAL = pl.col("instrument_id").str.starts_with(RESIDUAL)


_NO_ROWS = pl.DataFrame(
    schema={
        "account_id": pl.String,
        "instrument_id": pl.String,
        "contribution": pl.Float64,
        "share": pl.Float64,
    }
)


def contributors(view: View) -> str | None:
    """Per model with contributions: the largest over all accounts, and of the largest accounts.

    None where the run has no contributions.
    """
    found = view.run.contributions
    if found is None:
        return None
    initial = found.filter(pl.col("level") == "initial")
    present = set(initial["model"].unique())
    models = [model for model in view.models if model in present]
    return panels(models, partial(_contributors, view, initial)) or note("No contributions.")


def _contributors(view: View, found: pl.DataFrame, model: str, name: str) -> str:
    complete = view.complete(model).select("account_id", "requirement")
    mine = found.filter(pl.col("model") == model).join(complete, on="account_id")
    if mine.is_empty():
        return note("No complete account has a contribution.")
    return (
        _of_all(view, mine, float(complete["requirement"].sum()), name)
        + note("Of the largest accounts:")
        + table(_of_accounts(mine))
    )


def _of_all(view: View, mine: pl.DataFrame, total: float, name: str) -> str:
    """Instruments by their contribution over all accounts, those that lower margin last."""
    summed = mine.group_by("instrument_id").agg(
        accounts=pl.col("account_id").n_unique(), contribution=pl.col("amount").sum()
    )
    ranked = _ranked(summed.filter(~_IS_RESIDUAL))
    last = pl.int_range(pl.len()) >= pl.len() - _HEDGES
    shown = (pl.int_range(pl.len()) < _MOST) | (last & (pl.col("contribution") < 0.0))
    top, rest = ranked.filter(shown), ranked.filter(~shown)
    listed = pl.concat([top, *_others(rest), _named(summed)], how="diagonal_relaxed")
    share = pl.col("contribution") / total if total > 0.0 else pl.lit(None, pl.Float64)
    bars = top.with_columns(
        label="instrument_id",
        complete=True,
        raises_margin=pl.col("contribution").clip(lower_bound=0.0),
        lowers_margin=pl.col("contribution").clip(upper_bound=0.0),
    )
    parts = (("raises_margin", REQUIREMENT), ("lowers_margin", OFFSET))
    drawn = bar_chart(view, bars, f"contributors-{name}", parts)
    return f'<div class="halves">{table(listed.with_columns(share=share))}{drawn}</div>'


def _of_accounts(mine: pl.DataFrame) -> pl.DataFrame:
    """The largest accounts, and under each its largest contributions, which add up to it."""
    accounts = mine.select("account_id", "requirement").unique()
    largest = accounts.filter(pl.col("requirement") > 0.0).sort(
        ["requirement", "account_id"], descending=[True, False]
    )
    parts = [_NO_ROWS]
    for account, requirement in largest.head(_ACCOUNTS).iter_rows():
        own = mine.filter(pl.col("account_id") == account)
        own = own.select("instrument_id", contribution="amount")
        ranked = _ranked(own.filter(~_IS_RESIDUAL))
        whole = pl.DataFrame({"instrument_id": "requirement", "contribution": requirement})
        # Rounding is no news here.
        left = _named(own.filter(pl.col("contribution").abs() > 1e-6 * requirement))
        rows = [whole, ranked.head(_PER_ACCOUNT), *_others(ranked[_PER_ACCOUNT:]), left]
        listed = pl.concat(rows).with_row_index("place")
        parts.append(
            listed.select(
                pl.when(pl.col("place") == 0)
                .then(pl.lit(account))
                .otherwise(pl.lit(""))
                .alias("account_id"),
                "instrument_id",
                "contribution",
                share=pl.col("contribution") / requirement,
            )
        )
    return pl.concat(parts)


def _ranked(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort(["contribution", "instrument_id"], descending=[True, False])


def _others(rest: pl.DataFrame) -> list[pl.DataFrame]:
    """What is left of a ranking, in one row; no row where nothing is."""
    if rest.is_empty():
        return []
    words = f"{len(rest):,} other instruments"
    return [
        pl.DataFrame({"instrument_id": words, "contribution": float(rest["contribution"].sum())})
    ]


def _named(rows: pl.DataFrame) -> pl.DataFrame:
    """The residuals among the rows, in plain words."""
    reason = pl.col("instrument_id").str.strip_prefix(RESIDUAL).replace(_WORDS)
    residuals = rows.filter(_IS_RESIDUAL).sort("instrument_id")
    return residuals.with_columns(pl.format("of no instrument: {}", reason).alias("instrument_id"))
