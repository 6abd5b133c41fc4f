"""Why rows of a CRIF are bad: for each the first rule that it breaks."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from gpu_margin.crif import Codes
from gpu_margin.failures import SCHEMA, join_failures
from gpu_margin.io import rules
from gpu_margin.io.crif_batches import Batch
from gpu_margin.io.crif_columns import AMOUNTS, COLUMNS, DATES, NOTIONAL, NOTIONAL_CURRENCY
from gpu_margin.io.crif_keys import MONEY, MULTIPLIER, SCHEDULE
from gpu_margin.io.rules import LARGEST, Rule
from gpu_margin.io.tables import ROW

# The currency of an amount, as rates have it.
RATE_KEY = pl.col("amount_currency").str.strip_chars().str.to_uppercase().alias("currency")
NOTIONAL_RATE_KEY = pl.col(NOTIONAL_CURRENCY).str.strip_chars().str.to_uppercase().alias("currency")
_NUMBERS = (*AMOUNTS, NOTIONAL)

_USD_GIVEN = pl.col("usd_given")
_MONEY = pl.col("unit") == MONEY
_SCHEDULE = pl.col("model") == SCHEDULE


def explain(batch: Batch, rows: Codes, meanings: pl.DataFrame, rates: pl.DataFrame) -> pl.DataFrame:
    """Failures of the bad `rows` (places in the batch), none for those without any value.

    `meanings` has for each of them what its key means, `rates` the rates to USD.
    """
    frame = batch.frame[rows].with_columns(pl.Series(ROW, rows, pl.Int64) + (batch.before + 1))
    texts = [column for column in COLUMNS if column not in (*_NUMBERS, *DATES)]
    frame = rules.date_columns(
        rules.number_columns(rules.text_columns(frame, texts), _NUMBERS), DATES
    )
    frame = pl.concat([frame, meanings], how="horizontal").filter(~_blank(frame, texts))
    steps: list[Sequence[Rule]] = []
    if "portfolio_id" in batch.frame.columns:
        steps.append(rules.missing_text("portfolio_id"))
    found = [rules.check(frame, batch.source, step) for step in steps]
    frame = rules.passing(frame, join_failures(found))
    found.append(_of_keys(frame, batch.source))
    frame = frame.filter(pl.col("bad") == 0).with_columns(NOTIONAL_RATE_KEY)
    told = rates.rename({"fx": "notional_fx"})
    frame = frame.join(told, on="currency", how="left", maintain_order="left").drop("currency")
    found.append(rules.check(frame, batch.source, _schedule_rules(frame)))
    frame = rules.passing(frame, found[-1])
    frame = frame.with_columns(
        RATE_KEY, (~rules.left_out(frame, "amount_usd")).alias("usd_given")
    ).join(rates, on="currency", how="left", maintain_order="left")
    found.append(rules.check(frame, batch.source, _amount_rules(frame)))
    return join_failures(found)


def _blank(frame: pl.DataFrame, texts: Sequence[str]) -> pl.Series:
    nothing = [rules.left_out(frame, column) for column in (*_NUMBERS, *DATES)]
    nothing += [pl.col(column).is_null() for column in texts]
    return frame.select(pl.all_horizontal(nothing)).to_series()


def _of_keys(frame: pl.DataFrame, source: str) -> pl.DataFrame:
    return (
        frame.filter(pl.col("bad") == 1)
        .with_columns(pl.lit(source).alias("source"))
        .select(SCHEMA.names())
    )


def _schedule_rules(frame: pl.DataFrame) -> list[Rule]:
    way_out = "missing trade_id: give one, for Schedule nets within a trade"
    return [
        Rule(way_out, "trade_id", _SCHEDULE & pl.col("trade_id").is_null()),
        *(Rule(one.reason, one.field, _SCHEDULE & one.bad) for one in rules.a_text("trade_id")),
        *rules.a_date(frame, "end_date", _SCHEDULE),
        *rules.a_date(frame, "valuation_date", _SCHEDULE),
        *rules.missing("end_date", pl.col("dated") == 1),
        *_notional_rules(frame),
    ]


def _notional_rules(frame: pl.DataFrame) -> list[Rule]:
    given = _SCHEDULE & ~rules.left_out(frame, NOTIONAL)
    no_currency = "missing notional_currency: give it, or leave the notional out"
    no_rate = "currency without a rate: add it to the fx table"
    too_large = (pl.col(NOTIONAL) * pl.col("notional_fx")).abs() > LARGEST
    return [
        *_number(frame, NOTIONAL, given),
        Rule(no_currency, NOTIONAL_CURRENCY, given & pl.col(NOTIONAL_CURRENCY).is_null()),
        Rule(no_rate, NOTIONAL_CURRENCY, given & pl.col("notional_fx").is_null()),
        Rule(f"notional is out of range: beyond {LARGEST:g} USD", NOTIONAL, given & too_large),
    ]


def _amount_rules(frame: pl.DataFrame) -> list[Rule]:
    amount = pl.when(_USD_GIVEN).then("amount_usd").otherwise("amount")
    negative = (pl.col("unit") == MULTIPLIER) & (amount < 0)
    in_currency = ~_USD_GIVEN & _MONEY
    missing = "missing amount_usd: give it, or amount and amount_currency"
    no_currency = "missing amount_currency: give it, or amount_usd"
    no_rate = "currency without a rate: add it to the fx table, or give amount_usd"
    too_large = pl.col("amount").abs() * pl.col("fx") > LARGEST
    return [
        *_number(frame, "amount_usd", _USD_GIVEN),
        Rule(missing, "amount_usd", ~_USD_GIVEN & rules.left_out(frame, "amount")),
        *_number(frame, "amount", ~_USD_GIVEN),
        Rule("negative multiplier", "amount_usd", negative & _USD_GIVEN),
        Rule("negative multiplier", "amount", negative),
        Rule(no_currency, "amount_currency", in_currency & pl.col("amount_currency").is_null()),
        Rule(no_rate, "amount_currency", in_currency & pl.col("fx").is_null()),
        Rule(f"amount is out of range: beyond {LARGEST:g} USD", "amount", in_currency & too_large),
    ]


def _number(frame: pl.DataFrame, column: str, where: pl.Expr) -> list[Rule]:
    """A finite number of sane size; however small, for sensitivities come from differences."""
    *readable, _ = rules.a_number(frame, column, where)
    reason = f"{column} is out of range: its size must be at most {LARGEST:g}"
    return [*readable, Rule(reason, column, where & (pl.col(column).abs() > LARGEST))]
