"""Margins of models on files beside those of models on positions, in the tables of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from gpu_margin.failures import Failure, failure_table, join_failures
from gpu_margin.result import Bools, FileMargin, Floats
from gpu_margin.result_tables import RunTables


def with_files(
    tables: RunTables, found: Mapping[str, FileMargin], models: Sequence[str], currency: str
) -> RunTables:
    """The tables with the accounts of `found`, a margin per model; `models` are all, in order.

    What only positions have (standalone to worst scenario) is null. An account is one netting set,
    named as itself. Accounts without a good row have null requirements and no components; so has
    one whose figures are not finite, and there is a failure more.
    """
    if not found:
        return tables
    each = [(model, margin, usable(margin)) for model, margin in found.items()]
    own_set = pl.col("account_id").alias("netting_set")
    margins = [_margins(*one, currency, tables.margins.schema) for one in each]
    sets = [part.with_columns(own_set).select(tables.sets.columns) for part in margins]
    lost = failure_table(failure for one in each for failure in _overflows(*one))
    further = [_of_model(model, margin.failures) for model, margin in found.items()]
    return replace(
        tables,
        margins=_ordered([tables.margins, *margins], ["account_id"], models),
        components=_ordered(
            [tables.components, *(_components(*one) for one in each)], ["account_id"], models
        ),
        sets=_ordered([tables.sets, *sets], ["account_id", "netting_set"], models),
        failures=join_failures([tables.failures, *further, lost]),
    )


def usable(margin: FileMargin) -> Bools:
    """[account] whether it has a good row and requirements that are finite."""
    finite = [np.isfinite(amount) for amount in margin.requirement.values()]
    found: Bools = np.all([margin.known, *finite], axis=0)
    return found


def details(found: Mapping[str, FileMargin]) -> dict[str, pl.DataFrame]:
    """The rulebooks' own tables by name, with the model in front."""
    parts = dict[str, list[pl.DataFrame]]()
    for model, margin in found.items():
        name = pl.lit(model).alias("model")
        parts.setdefault(margin.table, []).append(margin.details.select(name, pl.all()))
    return {table: pl.concat(several) for table, several in parts.items()}


def joined(parts: Sequence[FileMargin]) -> FileMargin:
    """Margins of several pieces of the accounts, one after another."""
    first = parts[0]
    if len(parts) == 1:
        return first
    levels = list(first.requirement)
    return replace(
        first,
        accounts=pl.concat([part.accounts for part in parts]),
        requirement={
            level: np.concatenate([part.requirement[level] for part in parts]) for level in levels
        },
        components={
            level: {
                name: np.concatenate([part.components[level][name] for part in parts])
                for name in first.components[level]
            }
            for level in levels
        },
        known=np.concatenate([part.known for part in parts]),
        complete=np.concatenate([part.complete for part in parts]),
        details=pl.concat([part.details for part in parts]),
        failures=join_failures([part.failures for part in parts]),
    )


def _margins(
    model: str, margin: FileMargin, good: Bools, currency: str, schema: pl.Schema
) -> pl.DataFrame:
    """Rows of the margins table, the levels of an account one after another."""
    complete = margin.complete & good
    parts = [
        _amounts(model, margin, level, "requirement", amount).with_columns(
            pl.when(pl.Series(good)).then("requirement").alias("requirement"),
            pl.Series("complete", complete),
            pl.lit(currency).alias("currency"),
        )
        for level, amount in margin.requirement.items()
    ]
    table = pl.concat(parts)
    absent = [pl.lit(None, kind).alias(name) for name, kind in schema.items()]
    return table.with_columns(
        column for column in absent if column.meta.output_name() not in table.columns
    ).select(schema.names())


def _components(model: str, margin: FileMargin, good: Bools) -> pl.DataFrame:
    parts = [
        _amounts(model, margin, level, "amount", amount)
        .with_columns(pl.lit(name).alias("component"))
        .filter(pl.Series(good))
        for level, components in margin.components.items()
        for name, amount in components.items()
    ]
    return pl.concat(parts).select("account_id", "model", "level", "component", "amount")


def _amounts(model: str, margin: FileMargin, level: str, name: str, amount: Floats) -> pl.DataFrame:
    return pl.DataFrame(
        {"account_id": margin.accounts.rename("account_id"), name: amount}
    ).with_columns(pl.lit(model).alias("model"), pl.lit(level).alias("level"))


def _of_model(model: str, failures: pl.DataFrame) -> pl.DataFrame:
    """Failures that a rulebook found with its margin, in the name of the model."""
    said = pl.concat_str(pl.lit(f"{model}: "), "reason").alias("reason")
    return failures.with_columns(said)


def _overflows(model: str, margin: FileMargin, good: Bools) -> list[Failure]:
    reason = f"{model}: requirement is not finite: amounts are too large"
    lost = margin.accounts.filter(pl.Series(margin.known & ~good))
    return [Failure(reason, "margins", None, "account_id", account) for account in lost]


def _ordered(
    tables: Sequence[pl.DataFrame], keys: Sequence[str], models: Sequence[str]
) -> pl.DataFrame:
    """By account, then by model; the rest as it stood."""
    by = [*keys, pl.col("model").cast(pl.Enum(models))]
    return pl.concat(tables).sort(by, maintain_order=True)
