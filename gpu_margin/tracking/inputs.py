"""The input tables behind a tracker: those that make its market, and the rows that failed.

A mark makes the market anew, from the very tables. Of positions and collateral the rows that failed
are part of the state: an account does not become complete by being exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from gpu_margin import loading
from gpu_margin.failures import ConfigError, InputError
from gpu_margin.holdings import Assets
from gpu_margin.io import rules
from gpu_margin.io.collateral_tables import load_assets, load_holdings
from gpu_margin.io.mark_tables import marked
from gpu_margin.io.market_tables import LoadedMarket, load_market
from gpu_margin.io.position_tables import load_portfolio
from gpu_margin.io.tables import ROW, Source, Table
from gpu_margin.loading import Loaded

_POSITION_TEXTS = ("account_id", "netting_set", "instrument_id")
_HOLDING_TEXTS = ("account_id", "netting_set", "asset")
_AROUND = ("assets", "accounts", "agreements")


@dataclass(frozen=True)
class Inputs:
    """Tables as they were read, and rows that failed.

    `market` are instruments, history and fx; `around` those of assets, accounts and agreements that
    were given. `lost_positions` (account_id, netting_set, instrument_id, quantity) and
    `lost_collateral` (account_id, netting_set, asset, amount) are the failed rows of accounts.
    """

    market: Mapping[str, Table]
    around: Mapping[str, Table]
    lost_positions: pl.DataFrame
    lost_collateral: pl.DataFrame

    def market_at(self, loaded: Loaded, marks: pl.DataFrame) -> LoadedMarket:
        """The market of the tables with these marks, as a run would load it."""
        config = loaded.config
        return load_market(
            marked(self.market["instruments"], marks),
            self.market["history"],
            self.market["fx"],
            config.valuation_date,
            config.currency,
            loading.label_columns(loaded.models),
        )


def read_inputs(loaded: Loaded, frames: Mapping[str, Source]) -> Inputs:
    """The tables that were loaded, read again.

    `frames` are those that were loaded from memory. Raises `InputError` where one of these is not
    given, or a file has changed since.
    """
    labels = loading.label_columns(loaded.models)

    def again(name: str) -> Table:
        if name not in loaded.inputs:
            return loading.read_input(name, None, labels)
        table = loading.read_input(name, _source(name, loaded, frames), labels)
        expected = loaded.inputs[name]
        if (table.sha256, len(table.frame)) != (expected["sha256"], expected["rows"]):
            raise InputError(f"{name}: has changed since it was loaded; load it again")
        return table

    return Inputs(
        market={name: again(name) for name in ("instruments", "history", "fx")},
        around={name: again(name) for name in _AROUND if name in loaded.inputs},
        lost_positions=_lost_positions(loaded, again),
        lost_collateral=_lost_collateral(loaded, again),
    )


def with_cash(inputs: Inputs, market: LoadedMarket, known: Assets) -> tuple[Inputs, Assets]:
    """Inputs in whose assets there is cash in the margin currency, and the assets.

    Where no row is about it, one is added. Raises `ConfigError` where one is that failed or is no
    cash.
    """
    currency = market.market.currency
    if (known.cash & (known.ids == currency).to_numpy()).any():
        return inputs, known
    table = inputs.around["assets"]
    frame = rules.text_columns(table.frame, ["asset", "currency"])
    if (frame["asset"] == currency).any():
        raise ConfigError(
            f"inputs.assets: {currency} must be cash (its currency {currency}, price 1 or none): "
            "fills are paid in it"
        )
    table = replace(table, frame=pl.concat([frame, _cash(currency)], how="diagonal_relaxed"))
    found = load_assets(table, market.rates, market.prices, market.market)
    return replace(inputs, around={**inputs.around, "assets": table}), found.assets


def cash_alone(market: LoadedMarket) -> Assets:
    """Cash in the margin currency and nothing else."""
    table = loading.read_input("assets", None, ())
    table = replace(table, frame=_cash(market.market.currency))
    return load_assets(table, market.rates, market.prices, market.market).assets


def _cash(currency: str) -> pl.DataFrame:
    """The row of the assets table; no row that was read has its number."""
    return pl.DataFrame({ROW: [0], "asset": [currency], "currency": [currency]})


def _source(name: str, loaded: Loaded, frames: Mapping[str, Source]) -> Source:
    if name in frames:
        return frames[name]
    path = loaded.inputs[name]["path"]
    if path is None:
        raise InputError(f"{name}: was a table in memory: give it to the tracker too")
    return Path(path)


def _lost_positions(loaded: Loaded, again: Callable[[str], Table]) -> pl.DataFrame:
    """Rows of positions that failed; their quantities where they are numbers."""
    if not loaded.portfolio.bad.any():
        texts = dict.fromkeys(_POSITION_TEXTS, pl.String)
        return pl.DataFrame(schema={**texts, "quantity": pl.Float64})
    table = again("positions")
    frame = rules.text_columns(again("instruments").frame, ["instrument_id"])
    codes = _codes(frame["instrument_id"], loaded.market.instruments.ids)
    failed = load_portfolio(table, codes.rename({"id": "instrument_id"})).failures
    return _failed_rows(table, failed, _POSITION_TEXTS, "quantity")


def _lost_collateral(loaded: Loaded, again: Callable[[str], Table]) -> pl.DataFrame:
    """Rows of collateral that failed; their amounts where they are numbers."""
    if loaded.holdings is None or loaded.assets is None or not loaded.holdings.bad.any():
        texts = dict.fromkeys(_HOLDING_TEXTS, pl.String)
        return pl.DataFrame(schema={**texts, "amount": pl.Float64})
    table = again("collateral")
    frame = rules.text_columns(again("assets").frame, ["asset"])
    codes = _codes(frame["asset"], loaded.assets.ids)
    failed = load_holdings(table, codes.rename({"id": "asset"})).failures
    return _failed_rows(table, failed, _HOLDING_TEXTS, "amount")


def _codes(ids: pl.Series, valid: pl.Series) -> pl.DataFrame:
    """id and code of all ids, the code null where the id is not valid."""
    codes = valid.cast(pl.String).alias("id").to_frame().with_row_index("code")
    every = ids.drop_nulls().unique(maintain_order=True).alias("id").to_frame()
    joined = every.join(codes, on="id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("code").cast(pl.Int64))


def _failed_rows(
    table: Table, failed: pl.DataFrame, texts: tuple[str, ...], number: str
) -> pl.DataFrame:
    """The failed rows that have an account.

    A row that could not even be read whole is without its number, so that it fails again.
    """
    frame = rules.number_columns(rules.text_columns(table.frame, texts), [number])
    unread = pl.col(ROW).is_in(table.failures[ROW].implode())
    return frame.filter(
        pl.col(ROW).is_in(failed[ROW].implode()), pl.col("account_id").is_not_null()
    ).select(*texts, pl.when(~unread).then(number).alias(number))
