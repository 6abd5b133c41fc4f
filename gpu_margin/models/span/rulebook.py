"""SPAN as a model of a run: accounts of its own positions, levels initial and maintenance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field

from gpu_margin import span_figures, span_files
from gpu_margin.backend import Backend
from gpu_margin.failures import failure_table, join_failures
from gpu_margin.models.span.calculation import prepare
from gpu_margin.portfolio import add_up
from gpu_margin.result import Bools, FileMargin, Floats
from gpu_margin.span_book import SpanMargin
from gpu_margin.span_figures import Money, Totals
from gpu_margin.span_files import INITIAL, MAINTENANCE

FILES = span_files.FILES
READ = span_files.READ
Inputs = span_files.Inputs
CURRENCY = span_files.CURRENCY

_LEVELS = (INITIAL, MAINTENANCE)
# What adds up to an account's requirement; the last two are what is left of each step.
_CHARGES = ("scan_risk", "intra_spread_charge", "delivery_charge")
_REST, _UNUSED = "minimums_caps_and_ratios", "option_value_not_counted"


class Parameters(span_files.SpanTerms):
    """Settings of a SPAN model."""

    file: Path = Field(description="risk parameter file: PA2 or SPAN XML, plain or zipped")
    positions: Path = Field(description="account_id, contract_id, quantity: CSV or Parquet")
    accounts: Path | None = Field(
        default=None, description="account_id, account_type, gross: CSV or Parquet"
    )
    account_class: Literal["core", "reserve"] = Field(
        default="core", description="whose rates of the file count"
    )
    currency: str = Field(
        default=CURRENCY,
        min_length=3,
        description="what the file's own rates convert its margins into",
    )


def load(parameters: Parameters) -> Inputs:
    """Read the files; raises `ConfigError` where one is not there or of no format known."""
    return span_files.read_inputs(
        parameters.file, parameters.positions, parameters.accounts, parameters.account_class
    )


def check(parameters: Parameters, inputs: Inputs) -> pl.DataFrame:
    """No failures; raises `ConfigError` where no margin could be converted."""
    span_figures.money(inputs.file, parameters.currency)
    return failure_table()


def margin(parameters: Parameters, inputs: Inputs, rate: float, backend: Backend) -> FileMargin:
    """Margin of all accounts, at `rate` for one unit of the parameters' currency."""
    own = span_figures.money(inputs.file, parameters.currency)
    money = Money(own.target, own.rates * rate)
    prepared, book = prepare(inputs.file, backend), inputs.book(parameters)
    found = {level: prepared.margin(book, parameters.terms(level)) for level in _LEVELS}
    count = len(inputs.accounts)
    totals = {
        level: span_figures.totals(inputs.file, count, one, money) for level, one in found.items()
    }
    last, total = found[MAINTENANCE], totals[MAINTENANCE]
    lost = last.failed | total.lost
    lost_money = span_figures.lost_accounts(inputs.file, inputs.accounts, last, total, money)
    return FileMargin(
        accounts=inputs.accounts,
        requirement={level: one.requirement for level, one in totals.items()},
        components={
            level: _components(inputs, found[level], totals[level], money) for level in _LEVELS
        },
        known=(book.portfolio.good > 0) & ~lost,
        complete=(book.portfolio.bad == 0) & ~lost,
        table="span",
        details=_details(inputs, found, money, total.lost),
        facts={
            "rulebook": "SPAN",
            **parameters.model_dump(exclude=set(FILES)),
            **{f"file_{name}": value for name, value in inputs.file.facts.items()},
        },
        failures=join_failures([last.failures, _not_overflows(lost_money)]),
    )


def _not_overflows(failures: pl.DataFrame) -> pl.DataFrame:
    """A run says of all models alike what is beyond all numbers."""
    return failures.filter(pl.col("field") == "currency")


def _components(
    inputs: Inputs, found: SpanMargin, totals: Totals, money: Money
) -> dict[str, Floats]:
    """[account] what adds up to the requirement."""
    file, count = inputs.file, len(inputs.accounts)
    rates = money.rates[file.commodities.currency[found.commodity]]

    def of_accounts(amount: Floats) -> Floats:
        return add_up(found.account, amount * rates, count)

    parts = {name: of_accounts(getattr(found, name)) for name in _CHARGES}
    parts["inter_spread_credit"] = -of_accounts(found.inter_spread_credit)
    before = np.sum(list(parts.values()), axis=0)
    parts[_REST] = totals.risk - before
    parts["net_option_value"] = -totals.net_option_value
    parts[_UNUSED] = totals.requirement - (totals.risk - totals.net_option_value)
    return parts


def _details(
    inputs: Inputs, found: Mapping[str, SpanMargin], money: Money, lost: Bools
) -> pl.DataFrame:
    """A row per account, combined commodity and level, in margin currency."""
    parts = []
    for level, one in found.items():
        table = span_figures.by_commodity(inputs.file, inputs.accounts, one)
        code = inputs.file.commodities.currency[one.commodity]
        rate = pl.Series("rate", money.rates[code], dtype=pl.Float64)
        kept = pl.Series(~lost[one.account])
        parts.append(
            table.with_columns(
                *(pl.col(name) * rate for name in span_figures.AMOUNTS),
                pl.lit(level).alias("level"),
                rate,
            ).filter(kept)
        )
    every = pl.concat(parts)
    keys = ["account_id", "combined_commodity"]
    levels = pl.col("level").cast(pl.Enum(list(found)))
    return every.sort(*keys, levels, maintain_order=True).select(
        *(*keys, "level", "currency", "rate"),
        *(name for name in table.columns if name not in (*keys, "currency")),
    )
