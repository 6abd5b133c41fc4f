"""Tables of positions and balances on a crypto venue become a `CryptoBook`.

positions: account_id, instrument_id, quantity, and perhaps netting_set and market. balances:
account_id, kind, amount, and perhaps asset, netting_set and market; kind is one of `KINDS`.
Several rows of the same thing add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gpu_margin.crypto_book import CryptoBook, Floats, Ints
from gpu_margin.io import rules
from gpu_margin.io.crypto_rules import STABLE
from gpu_margin.io.rules import Rule
from gpu_margin.io.tables import ROW, Table
from gpu_margin.portfolio import Portfolio, Rows, add_up, row_offsets

POSITION_COLUMNS = ("account_id", "instrument_id", "quantity")
BALANCE_COLUMNS = ("account_id", "kind", "amount")
POSITION_OPTIONAL = ("netting_set", "market")
BALANCE_OPTIONAL = ("asset", "netting_set", "market")
CASH, COLLATERAL, UNREALISED = "cash", "collateral", "unrealised"
CHARGES = ("open_orders", "mmp", "spot", "mr3", "mr5", "mr8", "mr8_initial", "mr9")
KINDS = (CASH, COLLATERAL, UNREALISED, *CHARGES)

_SET = ["account_id", "netting_set"]
# Names that cash may have; it is the stable coin of the venue, whatever that is.
_CASH_NAMES = ("USD", STABLE)


@dataclass(frozen=True)
class LoadedBook:
    """The book, and the failed rows of each table."""

    book: CryptoBook
    positions: pl.DataFrame
    balances: pl.DataFrame


def load_book(positions: Table, balances: Table, codes: pl.DataFrame) -> LoadedBook:
    """Validate and encode. `codes` (instrument_id, code, kind) as `Feeds` has them.

    A bad row is left out, and its netting set remembers that it had one.
    """
    held = _positions(positions, codes)
    owned = _balances(balances, codes)
    clash = _clashing(held, owned)
    held, owned = _judged(positions, held, clash), _judged(balances, owned, clash)
    return LoadedBook(_encoded(held.rows, owned.rows), held.failures, owned.failures)


@dataclass(frozen=True)
class _Part:
    """Rows of one table with an account, each with `bad`; and the rules that they must meet."""

    rows: pl.DataFrame
    rules: list[Rule]
    failures: pl.DataFrame


def _positions(table: Table, codes: pl.DataFrame) -> _Part:
    texts = (*_SET, "instrument_id", "market")
    frame = rules.number_columns(rules.text_columns(table.frame, texts), ["quantity"])
    frame = _coded(frame, codes, "instrument_id").with_columns(
        pl.lit(COLLATERAL).alias("kind"), pl.col("quantity").alias("amount")
    )
    found = [
        *_owner_rules(),
        *rules.missing_text("instrument_id"),
        *_unknown("instrument", "instrument_id", pl.lit(True)),
        *rules.missing_number(frame, "quantity"),
        *_sound("instrument", "instrument_id", pl.lit(True)),
    ]
    return _Part(frame, found, table.failures)


def _balances(table: Table, codes: pl.DataFrame) -> _Part:
    frame = rules.text_columns(table.frame, (*_SET, "kind", "asset", "market"))
    frame = rules.number_columns(frame, ["amount"])
    frame = frame.with_columns(pl.col("kind").str.strip_chars().str.to_lowercase())
    frame = _coded(frame, codes, "asset")
    cash, coin = pl.col("kind") == CASH, pl.col("kind") == COLLATERAL
    found = [
        *_owner_rules(),
        *rules.missing_text("kind"),
        Rule(
            f"unknown kind: it must be one of {', '.join(KINDS)}",
            "kind",
            ~pl.col("kind").is_in(KINDS),
        ),
        *rules.a_text("asset"),
        *rules.missing("asset", coin),
        Rule(
            "cash is in the stable coin: leave the asset out; a coin is of kind collateral",
            "asset",
            cash & ~pl.col("asset").is_in(_CASH_NAMES),
        ),
        *_unknown("asset", "asset", coin),
        *_sound("asset", "asset", coin),
        Rule(
            "the asset is no coin: put it into the positions",
            "asset",
            coin & (pl.col("held") != "coin"),
        ),
        *rules.missing_number(frame, "amount"),
    ]
    return _Part(frame, found, table.failures)


def _coded(frame: pl.DataFrame, codes: pl.DataFrame, column: str) -> pl.DataFrame:
    """With `code`, null where it failed; `known`; `held`, the kind; and the netting set's name."""
    known = codes.select(
        pl.col("instrument_id").alias(column), "code", pl.col("kind").alias("held"), known=True
    )
    return frame.join(known, on=column, how="left", maintain_order="left").with_columns(
        pl.col("netting_set").fill_null(pl.col("account_id"))
    )


def _owner_rules() -> list[Rule]:
    return [
        *rules.missing_text("account_id"),
        *rules.a_text("netting_set"),
        *rules.a_text("market"),
    ]


def _unknown(what: str, column: str, where: pl.Expr) -> list[Rule]:
    reason = f"unknown {what}: add it to the instruments of the feeds or correct the id"
    return [Rule(reason, column, where & pl.col("known").is_null())]


def _sound(what: str, column: str, where: pl.Expr) -> list[Rule]:
    reason = f"failed {what}: see its own failure in the feeds"
    return [Rule(reason, column, where & pl.col("code").is_null())]


def _clashing(held: _Part, owned: _Part) -> pl.DataFrame:
    """Netting sets that name more than one market."""
    named = pl.concat([part.rows.select(*_SET, "market") for part in (held, owned)])
    markets = named.drop_nulls().group_by(_SET).agg(pl.col("market").n_unique())
    return markets.filter(pl.col("market") > 1).select(_SET)


def _judged(table: Table, part: _Part, clash: pl.DataFrame) -> _Part:
    """The same with the verdicts on its rows."""
    sets = clash.with_columns(clashing=True)
    frame = part.rows.join(sets, on=_SET, how="left", maintain_order="left")
    several = Rule(
        "the rows of the netting set name several markets: name one",
        "market",
        pl.col("clashing") & pl.col("market").is_not_null(),
    )
    broken = rules.check(
        frame.join(table.failures.select(ROW), on=ROW, how="anti", maintain_order="left"),
        table.source,
        [*part.rules, several],
    )
    failures = pl.concat([table.failures, broken]).sort(ROW, nulls_last=False)
    owned = frame.filter(pl.col("account_id").is_not_null()).with_columns(
        pl.col(ROW).is_in(failures[ROW].drop_nulls().implode()).alias("bad")
    )
    return _Part(owned, [], failures)


def _encoded(held: pl.DataFrame, owned: pl.DataFrame) -> CryptoBook:
    """Judged rows of both tables as codes; sets ordered by account and name."""
    columns = [*_SET, "kind", "code", "amount", "market", "bad"]
    rows = pl.concat([held.select(columns), owned.select(columns)])
    good = ~pl.col("bad")
    sets = rows.group_by(_SET).agg(
        good.sum().cast(pl.Int64).alias("good"),
        pl.col("bad").sum().cast(pl.Int64),
        pl.col("market").filter(good).drop_nulls().first(),
    )
    sets = sets.sort(_SET).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("set"))
    used = rows.filter(good).join(sets.select(*_SET, "set"), on=_SET)
    entries = used.filter(pl.col("kind") == COLLATERAL).sort("set", "code", "amount")
    of_set = _ints(entries["set"])
    accounts = sets["account_id"].unique(maintain_order=True)
    portfolio = Portfolio(
        accounts=accounts,
        sets=sets["netting_set"],
        set_account=_ints(sets["account_id"].rle_id()),
        rows=Rows(
            row_offsets(of_set, len(sets)), _ints(entries["code"]), _floats(entries["amount"])
        ),
        good=_ints(sets["good"]),
        bad=_ints(sets["bad"]),
    )
    amounts = {kind: _sums(used, kind, len(sets)) for kind in (CASH, UNREALISED, *CHARGES)}
    return CryptoBook(
        portfolio=portfolio,
        cash=amounts.pop(CASH),
        unrealised=amounts.pop(UNREALISED),
        market=sets["market"].fill_null(""),
        charges=amounts,
    )


def _sums(used: pl.DataFrame, kind: str, count: int) -> Floats:
    """[set] amounts of a kind, added from the smallest: the order of rows changes no bit."""
    rows = used.filter(pl.col("kind") == kind).sort("set", "amount")
    return add_up(_ints(rows["set"]), _floats(rows["amount"]), count)


def _floats(series: pl.Series) -> Floats:
    return series.cast(pl.Float64).to_numpy().astype(np.float64)


def _ints(series: pl.Series) -> Ints:
    return series.cast(pl.Int64).to_numpy().astype(np.int64)
