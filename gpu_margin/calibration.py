"""Haircuts of all collateral assets from history, beside those in use, and what they would change.

The haircut of an asset follows from the prices of its factor, its FX add-on from those of its
currency, by the same measure. The result is a table of assets again, with date and source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.config import Config, load_config
from gpu_margin.failures import ConfigError, InputError, join_failures
from gpu_margin.haircuts import Calibration, Measured, PriceHistory, measure
from gpu_margin.io import rules
from gpu_margin.io.collateral_tables import ASSET_COLUMNS, ASSET_OPTIONAL, load_assets
from gpu_margin.io.market_tables import (
    FX_COLUMNS,
    HISTORY_COLUMNS,
    INSTRUMENT_COLUMNS,
    load_market,
)
from gpu_margin.io.tables import Table, absent_table, read_table
from gpu_margin.settings import unknown_key

UNCHANGED = "unchanged"
# The columns of an assets table that a calibration sets; the others stay as they are.
HAIRCUTS = ("haircut", "fx_haircut")


@dataclass(frozen=True)
class Calibrated:
    """The `haircuts` in use and calibrated, the new `table` of assets, and the failed rows.

    Failed rows of assets are in neither.
    """

    haircuts: pl.DataFrame
    table: pl.DataFrame
    failures: pl.DataFrame


def recalibrate(config: str | Path | Config, settings: Calibration) -> Calibrated:
    """Calibrate the assets that a configuration names on its history, up to its valuation date.

    Each factor counts on its own dates. Raises `ConfigError` where a table is not named or the
    settings do not fit, and `InputError` where no asset is valid.
    """
    config = config if isinstance(config, Config) else load_config(config)
    history = _read(config, "history", HISTORY_COLUMNS)
    fx = _read(config, "fx", FX_COLUMNS) if config.inputs.fx else absent_table("fx", FX_COLUMNS)
    # Without instruments no date counts more than another, and no asset fails for a lack of it.
    nothing = absent_table("instruments", INSTRUMENT_COLUMNS)
    market = load_market(nothing, history, fx, config.valuation_date, config.currency)
    table = _read(config, "assets", ASSET_COLUMNS, ASSET_OPTIONAL)
    loaded = load_assets(table, market.rates, market.prices, market.market)
    assets = _asset_rows(table, loaded.failures)
    if assets.is_empty():
        raise InputError(f"{table.source}: nothing to calibrate: no asset is valid")
    haircuts = calibrate(assets, price_histories(market.prices), settings, config.currency)
    new = new_table(assets, haircuts, settings, config.valuation_date, history.sha256)
    return Calibrated(haircuts, new, join_failures([loaded.failures, market.failures]))


def _read(
    config: Config, name: str, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Table:
    path = getattr(config.inputs, name)
    if path is None:
        raise ConfigError(f"inputs.{name}: missing: name the file that has the {name}")
    return read_table(path, name, required, optional)


_TEXTS = ("asset", "currency", "factor", "issuer")
_NUMBERS = (
    *("price", "haircut", "fx_haircut"),
    *("concentration_limit", "issuer_limit", "wrong_way_factor"),
)


def _asset_rows(table: Table, failures: pl.DataFrame) -> pl.DataFrame:
    """The valid rows with every column that an assets table may have, in their order."""
    frame = rules.number_columns(rules.text_columns(table.good, _TEXTS), _NUMBERS)
    asset, currency, *rest = _TEXTS
    price, *amounts = _NUMBERS
    return rules.passing(frame, failures).select(asset, price, currency, *amounts, *rest)


def calibrate(
    assets: pl.DataFrame,
    histories: Mapping[str, PriceHistory],
    settings: Calibration,
    currency: str,
) -> pl.DataFrame:
    """The haircuts of `assets` in use and calibrated, one row per asset in the same order.

    `assets` has the columns asset, currency, factor, haircut, fx_haircut; `histories` the prices
    of each factor; `currency` is that of the margin. The result has asset, haircut_in_use,
    haircut, rule, fx_haircut_in_use, fx_haircut, fx_rule, returns (behind the haircut, null
    where it is unchanged) and note. Cash and assets without a factor keep their haircut, and
    those whose currency has no factor its add-on. Raises `ConfigError` naming the asset whose
    history is too short, and for settings that fit no asset and no history.
    """
    _check(assets, histories, settings, currency)
    measured = _Measures(histories, settings)
    rows = [
        {
            "asset": row["asset"],
            **_price_haircut(row, measured),
            **_fx_haircut(row, measured, settings.fx_factors, currency),
        }
        for row in assets.iter_rows(named=True)
    ]
    frame = pl.DataFrame(rows, schema=_SCHEMA | {"fx_note": pl.String})
    both = pl.concat_str("note", pl.lit("; "), "fx_note")
    return frame.with_columns(pl.coalesce(both, "note", "fx_note").alias("note")).select(
        list(_SCHEMA)
    )


_SCHEMA = {
    "asset": pl.String,
    "haircut_in_use": pl.Float64,
    "haircut": pl.Float64,
    "rule": pl.String,
    "fx_haircut_in_use": pl.Float64,
    "fx_haircut": pl.Float64,
    "fx_rule": pl.String,
    "returns": pl.Int64,
    "note": pl.String,
}


def new_table(
    assets: pl.DataFrame,
    calibrated: pl.DataFrame,
    settings: Calibration,
    on: date,
    sha256: str | None,
) -> pl.DataFrame:
    """`assets` with the `calibrated` haircuts, and how they came about.

    Every column of `assets` stays; new are calibrated_on, the last day of history that could
    count, method, or "unchanged", and source_sha256, the hash of the history's file.
    """
    unchanged = (calibrated["rule"] == UNCHANGED) & (calibrated["fx_rule"] == UNCHANGED)
    method = pl.when(unchanged).then(pl.lit(UNCHANGED)).otherwise(pl.lit(settings.summary))
    return assets.with_columns(
        *(calibrated[column] for column in HAIRCUTS),
        pl.lit(on).alias("calibrated_on"),
        method.alias("method"),
        pl.lit(sha256, pl.String).alias("source_sha256"),
    )


def effect(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """What other haircuts change, per model and account, the largest fall of excess first.

    Both tables are `Run.accounts` of the same inputs but for the assets. The result has model,
    account_id, and collateral_value, excess, status and call, each also with the suffix _after.
    """
    keys, figures = ["model", "account_id"], ["collateral_value", "excess", "status", "call"]
    first, then = (
        table.filter(pl.col("netting_set").is_null()).select(*keys, *figures)
        for table in (before, after)
    )
    both = first.join(then, on=keys, suffix="_after", how="inner", maintain_order="left")
    fall = pl.col("collateral_value_after") - pl.col("collateral_value")
    return both.sort("model", fall, "account_id")


def effect_totals(effects: pl.DataFrame) -> list[dict[str, Any]]:
    """Sums of `effect` per model, and how many accounts have which status, before and after."""
    rows: list[dict[str, Any]] = []
    amounts = ("collateral_value", "excess", "call")
    for (model,), part in effects.group_by("model", maintain_order=True):
        row: dict[str, Any] = {"model": model, "accounts": len(part)}
        for when in ("", "_after"):
            sums = {name + when: math.fsum(part[name + when].drop_nulls()) for name in amounts}
            status = part["status" + when].drop_nulls().value_counts().sort("status" + when)
            row |= {**sums, "status" + when: dict(status.iter_rows())}
        rows.append(row)
    return rows


def price_histories(prices: pl.DataFrame) -> dict[str, PriceHistory]:
    """Valid prices (date, factor, price), dates ascending, by factor: each has its own dates."""
    return {
        str(factor): PriceHistory(tuple(part["date"]), part["price"].to_numpy())
        for (factor,), part in prices.group_by("factor", maintain_order=True)
    }


class _Measures:
    """Haircuts by factor, each measured once."""

    def __init__(self, histories: Mapping[str, PriceHistory], settings: Calibration) -> None:
        self._histories, self._settings = histories, settings
        self._known: dict[str, Measured] = {}

    def of(self, factor: str, asset: str) -> Measured:
        """Of a factor or 1/factor; a `ConfigError` names the asset that needs it."""
        if factor not in self._known:
            name = factor.removeprefix(_INVERSE)
            history = self._histories.get(name, _NO_PRICES)
            try:
                seen = history if name == factor else history.inverse()
                self._known[factor] = measure(seen, self._settings)
            except ConfigError as error:
                raise ConfigError(f"asset {asset}, factor {name}: {error}") from error
        return self._known[factor]


_INVERSE = "1/"
_NO_PRICES = PriceHistory((), np.zeros(0))


def _price_haircut(row: Mapping[str, Any], measures: _Measures) -> dict[str, Any]:
    used = row["haircut"]
    kept = {"haircut_in_use": used, "haircut": used, "rule": UNCHANGED}
    if row["asset"] == row["currency"]:
        return kept
    if row["factor"] is None:
        return {**kept, "note": "no factor: keeps its haircut"}
    found = measures.of(row["factor"], row["asset"])
    return {
        "haircut_in_use": used,
        "haircut": found.haircut,
        "rule": found.rule,
        "returns": found.returns,
        "note": "; ".join(found.notes) or None,
    }


def _fx_haircut(
    row: Mapping[str, Any], measures: _Measures, factors: Mapping[str, str], currency: str
) -> dict[str, Any]:
    used = row["fx_haircut"]
    kept = {"fx_haircut_in_use": used, "fx_haircut": used, "fx_rule": UNCHANGED}
    if row["currency"] == currency:
        return kept
    factor = factors.get(row["currency"])
    if factor is None:
        return {**kept, "fx_note": f"no factor of {row['currency']}: keeps its FX add-on"}
    found = measures.of(factor, row["asset"])
    notes = "; ".join(f"FX {note}" for note in found.notes)
    return {
        "fx_haircut_in_use": used,
        "fx_haircut": found.haircut,
        "fx_rule": found.rule,
        "fx_note": notes or None,
    }


def _check(
    assets: pl.DataFrame,
    histories: Mapping[str, PriceHistory],
    settings: Calibration,
    currency: str,
) -> None:
    """Settings that no asset or no history answers to are misspelt."""
    foreign = set(assets["currency"]) - {currency}
    for name, factor in settings.fx_factors.items():
        if name not in foreign:
            known = ", ".join(sorted(foreign)) or "none"
            raise ConfigError(f"fx factor of {name}: no asset is in it (foreign: {known})")
        if factor.removeprefix(_INVERSE) not in histories:
            wanted = unknown_key(factor.removeprefix(_INVERSE), sorted(histories))
            raise ConfigError(f"fx factor of {name}: {wanted.replace('key', 'factor', 1)}")
    for day in settings.stress_dates:
        if all(history.place(day) is None for history in histories.values()):
            raise ConfigError(
                f"stress date {day}: no factor has a price on it, up to the valuation date; "
                "name the last day of the loss, a day of trading"
            )
