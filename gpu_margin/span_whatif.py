"""What adding or removing contracts does to SPAN margin: any number of what-ifs in one batch.

Changes are rows of `account_id` (none: a portfolio by itself), `contract_id`, `quantity` (added;
negative: sold), and optionally `whatif_id` (rows of one id and account are done together) and
`action`: add, or remove, which takes all that the account holds of the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import span_figures
from gpu_margin.failures import ConfigError, join_failures
from gpu_margin.io import rules
from gpu_margin.io.rules import Rule
from gpu_margin.io.span_positions import known_contract, with_codes
from gpu_margin.io.tables import ROW, Source, Table, read_table
from gpu_margin.portfolio import Portfolio, Rows, entry_rows, row_offsets, rows_at
from gpu_margin.span_batches import Work
from gpu_margin.span_book import Ints, SpanBook
from gpu_margin.span_figures import Money
from gpu_margin.span_files import Inputs, SpanTerms
from gpu_margin.span_tables import ACCOUNT_TYPES

ADD, REMOVE = "add", "remove"
_ACTIONS = (ADD, REMOVE)
_OPTIONAL = ("account_id", "quantity", "whatif_id", "action")
_DEFAULT = "changes"


@dataclass(frozen=True)
class WhatIfs:
    """What-ifs in the order in which they were asked.

    `whatifs`, a row per what-if, account and currency: whatif_id, account_id, currency, before,
    after, change (of the requirement), complete. Before is null of a portfolio by itself; what is
    null after could not be margined, and has a row of `failures`.
    """

    whatifs: pl.DataFrame
    failures: pl.DataFrame
    count: int
    manifest: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Trials:
    """What-ifs whose rows are all good, and those that are not.

    `all` is a row per what-if: whatif_id, account_id, base (code of the account, -1 for none) and
    good. `rows` are changes: trial (a row of `all`), code, quantity, action.
    """

    all: pl.DataFrame
    rows: pl.DataFrame
    failures: pl.DataFrame

    @property
    def good(self) -> Ints:
        """Rows of `all` that can be answered."""
        return np.flatnonzero(self.all["good"].to_numpy())


def answered(
    work: Work,
    inputs: Inputs,
    changes: Source | Sequence[Mapping[str, Any]],
    terms: SpanTerms,
    level: str,
    money: Money,
) -> WhatIfs:
    """All what-ifs; raises `ConfigError` where there are none."""
    trials = _trials(_table(changes), inputs)
    base = trials.all["base"].to_numpy()
    bases = np.unique(base[base >= 0])
    book = _book(inputs.book(terms), trials, bases, terms)
    ids = book.portfolio.accounts
    found = work.margin(inputs.file, book, terms.terms(level), "what-ifs")
    total = span_figures.totals(inputs.file, len(ids), found, money)
    lost = span_figures.lost_accounts(inputs.file, ids, found, total, money)
    counts = (book.portfolio.good, book.portfolio.bad)
    places = pl.Series(np.arange(len(ids))).cast(pl.String)
    table = span_figures.total_table(inputs.file, places, total, money, *counts).with_columns(
        pl.col("account_id").cast(pl.Int64).alias("place")
    )
    failures = [inputs.failures, trials.failures, found.failures, lost]
    whatifs = _laid_out(trials, table, bases)
    return WhatIfs(whatifs, join_failures(failures), len(trials.all))


def _table(changes: Source | Sequence[Mapping[str, Any]]) -> Table:
    if isinstance(changes, Sequence) and not isinstance(changes, str):
        changes = pl.DataFrame(list(changes), infer_schema_length=None)
    table = read_table(changes, "changes", ("contract_id",), _OPTIONAL)
    if table.frame.is_empty():
        reasons = table.failures["reason"].to_list()
        raise ConfigError(f"changes: {reasons[0] if reasons else 'there are none'}")
    return table


# ---------------------------------------------------------------- what is asked


def _trials(table: Table, inputs: Inputs) -> _Trials:
    ids = inputs.file.contracts.ids
    frame = rules.text_columns(table.frame, ["account_id", "contract_id", "whatif_id", "action"])
    frame = with_codes(rules.number_columns(frame, ["quantity"]), ids)
    accounts = pl.DataFrame({"account_id": inputs.accounts}).with_row_index("base")
    frame = frame.join(accounts, on="account_id", how="left", maintain_order="left").with_columns(
        pl.col("base").cast(pl.Int64).fill_null(-1),
        pl.col("whatif_id").fill_null(_DEFAULT),
        pl.col("action").fill_null(ADD).str.to_lowercase(),
    )
    frame = frame.with_columns(_held(frame, inputs))
    failures = join_failures([table.failures, _checked(frame, table, ids)])
    bad = pl.col(ROW).is_in(failures[ROW].implode())
    keys = ["whatif_id", "account_id"]
    every = frame.group_by(keys, maintain_order=True).agg(
        pl.col("base").first(), (~bad).all().alias("good")
    )
    rows = frame.join(
        every.select(keys).with_row_index("trial"),
        on=keys,
        how="left",
        nulls_equal=True,
        maintain_order="left",
    )
    return _Trials(every, rows.select("trial", "code", "quantity", "action"), failures)


def _held(frame: pl.DataFrame, inputs: Inputs) -> pl.Series:
    """[change] whether the account holds the contract."""
    rows, width = inputs.held.portfolio.rows, len(inputs.file.contracts.ids)
    own = entry_rows(rows) * width + rows.column
    asked = frame["base"].to_numpy() * width + frame["code"].fill_null(-1).to_numpy()
    return pl.Series("held", np.isin(asked, own) & (frame["base"] >= 0).to_numpy())


def _checked(frame: pl.DataFrame, table: Table, ids: pl.Series) -> pl.DataFrame:
    removed = pl.col("action") == REMOVE
    unknown = pl.col("account_id").is_not_null() & (pl.col("base") < 0)
    return rules.check(
        rules.passing(frame, table.failures),
        table.source,
        [
            *rules.missing_text("contract_id"),
            *known_contract(frame, ids),
            Rule("unknown account: it has no positions", "account_id", unknown),
            Rule("action is neither add nor remove", "action", ~pl.col("action").is_in(_ACTIONS)),
            Rule(
                "a removal takes the whole position: leave quantity empty, or add a negative one",
                "quantity",
                removed & ~rules.left_out(frame, "quantity"),
            ),
            Rule(
                "nothing to remove: the account does not hold it",
                "contract_id",
                removed & ~pl.col("held"),
            ),
            *rules.missing_number(frame, "quantity", ~removed),
        ],
    )


# ---------------------------------------------------------------- one book of all


def _book(book: SpanBook, trials: _Trials, bases: Ints, terms: SpanTerms) -> SpanBook:
    """The bases, then an account for every good what-if."""
    good, own = trials.good, book.portfolio
    base = trials.all["base"].to_numpy()[good]
    before, changed = rows_at(own.rows, bases), _changed(own.rows, trials, base)
    names = trials.all[good].select(
        pl.format("what-if {}, {}", "whatif_id", pl.col("account_id").fill_null("by itself"))
    )
    ids = pl.concat([own.accounts.gather(bases), names.to_series()])
    source, alone = np.concatenate([bases, base]), np.concatenate([bases, base]) < 0

    def of(figure: Any, none: Any) -> Any:
        return np.where(alone, none, np.append(figure, none)[source])

    count = len(ids)
    rows = Rows(
        np.concatenate([before.offsets, before.offsets[-1] + changed.offsets[1:]]),
        np.concatenate([before.column, changed.column]),
        np.concatenate([before.value, changed.value]),
    )
    first = np.arange(count) < len(bases)
    counts = of(own.good, 1)
    return SpanBook(
        portfolio=Portfolio(
            accounts=ids,
            sets=ids,
            set_account=np.arange(count, dtype=np.int64),
            rows=rows,
            good=np.where(first, counts, np.maximum(counts, 1)),
            bad=of(own.bad, 0),
        ),
        account_type=of(book.account_type, ACCOUNT_TYPES.index(terms.account_type)),
        gross=of(book.gross, terms.gross).astype(np.bool_),
    )


def _changed(own: Rows, trials: _Trials, base: Ints) -> Rows:
    """A row per good what-if: what stays of its base, and what is added."""
    place = np.full(len(trials.all), -1, dtype=np.int64)
    place[trials.good] = np.arange(len(base))
    trial = place[trials.rows["trial"].to_numpy()]
    usable = pl.Series(trial >= 0)
    rows, trial = trials.rows.filter(usable), trial[trial >= 0]
    code = rows["code"].to_numpy().astype(np.int64)
    removed = (rows["action"] == REMOVE).to_numpy()
    kept = rows_at(own, base)
    owner, width = entry_rows(kept), 1 + int(max(own.column.max(initial=0), code.max(initial=0)))
    gone = (trial * width + code)[removed]
    stays = ~np.isin(owner * width + kept.column, gone)
    quantity = rows["quantity"].to_numpy().astype(np.float64)
    owner = np.concatenate([owner[stays], trial[~removed]])
    column = np.concatenate([kept.column[stays], code[~removed]])
    value = np.concatenate([kept.value[stays], quantity[~removed]])
    order = np.lexsort((value, column, owner))
    return Rows(row_offsets(owner[order], len(base)), column[order], value[order])


def _laid_out(trials: _Trials, totals: pl.DataFrame, bases: Ints) -> pl.DataFrame:
    """A row per what-if and currency; `totals` by `place` in the book."""
    good = trials.good
    base = trials.all["base"].to_numpy()
    start = np.where(base < 0, -1, np.searchsorted(bases, base))
    after = np.full(len(base), -1, dtype=np.int64)
    after[good] = len(bases) + np.arange(len(good))
    asked = trials.all.with_columns(
        pl.Series("before_place", start), pl.Series("after_place", after)
    ).with_row_index("trial")
    sides = {}
    for side in ("before", "after"):
        known = totals.select(
            pl.col("place").alias(f"{side}_place"),
            "currency",
            pl.col("requirement").alias(side),
            pl.col("complete").alias(f"{side}_complete"),
        )
        sides[side] = asked.select("trial", f"{side}_place").join(known, on=f"{side}_place")
    wide = sides["before"].join(
        sides["after"], on=["trial", "currency"], how="full", coalesce=True, nulls_equal=True
    )
    every = asked.join(wide, on="trial", how="left").sort("trial", "currency")
    # A side that holds nothing, or failed, has no currency: that of the other is told.
    named = pl.col("currency").is_not_null()
    every = every.filter(named | ~named.any().over("trial"))
    based = pl.col("base") >= 0
    # A side that has nothing in a currency requires nothing there, if it is known at all.
    for side in ("before", "after"):
        unknown = sides[side].filter(pl.col(side).is_null())["trial"].implode()
        absent = pl.col(side).is_null() & ~pl.col("trial").is_in(unknown)
        told = pl.col("good") if side == "after" else based
        every = every.with_columns(pl.when(absent & told).then(0.0).otherwise(side).alias(side))
    whole = pl.col("after_complete").fill_null(True) & pl.col("before_complete").fill_null(True)
    return every.select(
        *("whatif_id", "account_id", "currency", "before", "after"),
        (pl.col("after") - pl.col("before")).alias("change"),
        (pl.col("good") & whole & pl.col("after").is_not_null()).alias("complete"),
    )
