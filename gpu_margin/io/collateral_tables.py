"""Tables of assets and collateral become `Assets` and `Holdings`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import join_failures
from gpu_margin.holdings import Assets, Holdings
from gpu_margin.io import rules
from gpu_margin.io.rules import Rule
from gpu_margin.io.tables import ROW, Table
from gpu_margin.market import History, Market
from gpu_margin.portfolio import Rows, add_up, row_offsets

ASSET_COLUMNS = ("asset", "currency")
# Price and haircut may be left out of a table of nothing but cash.
ASSET_OPTIONAL = (
    "price",
    "haircut",
    "fx_haircut",
    "factor",
    "issuer",
    "concentration_limit",
    "issuer_limit",
    "wrong_way_factor",
)
COLLATERAL_COLUMNS = ("account_id", "asset", "amount")
COLLATERAL_OPTIONAL = ("netting_set",)

_LIMITS = ("concentration_limit", "issuer_limit")
_NUMBERS = ("price", "haircut", "fx_haircut", *_LIMITS, "wrong_way_factor")
# Cash is an asset that is named as its currency.
_CASH = pl.col("asset") == pl.col("currency")


@dataclass(frozen=True)
class LoadedAssets:
    """The assets, the code of every asset id and the failures on the way.

    `codes` has asset and code, null where the asset failed.
    """

    assets: Assets
    codes: pl.DataFrame
    failures: pl.DataFrame


@dataclass(frozen=True)
class LoadedHoldings:
    """The holdings and the failed collateral rows."""

    holdings: Holdings
    failures: pl.DataFrame


def load_assets(
    assets: Table, rates: pl.DataFrame, prices: pl.DataFrame, market: Market
) -> LoadedAssets:
    """Validate and encode assets.

    `rates` (currency, fx) lead into the margin currency; `prices` (date, factor, price) are the
    valid ones of the history. The market decides which dates count: an asset whose factor has no
    price on one of them fails, and takes no date from the accounts.
    """
    described = _describe(assets, rates, prices, market)
    found = rules.check(described, assets.source, _asset_rules(described))
    valid = rules.passing(described, found).sort("asset")
    codes = valid.select("asset", pl.int_range(pl.len(), dtype=pl.Int64).alias("code"))
    ids = rules.text_columns(assets.frame, ["asset"]).select(
        pl.col("asset").drop_nulls().unique(maintain_order=True)
    )
    return LoadedAssets(
        _encode_assets(valid, prices, market),
        ids.join(codes, on="asset", how="left", maintain_order="left"),
        join_failures([assets.failures, found]),
    )


def _describe(
    assets: Table, rates: pl.DataFrame, prices: pl.DataFrame, market: Market
) -> pl.DataFrame:
    """Asset rows with numbers parsed, fx rate beside, and how many dates their factor has."""
    texts = ["asset", "currency", "factor", "issuer"]
    frame = rules.number_columns(rules.text_columns(assets.good, texts), _NUMBERS)
    on_common = pl.col("date").is_in(pl.Series(market.history.dates, dtype=pl.Date).implode())
    dates = prices.group_by("factor").agg(on_common.sum().cast(pl.Int64).alias("dates"))
    joined = frame.join(rates, on="currency", how="left", maintain_order="left")
    return joined.join(dates, on="factor", how="left", maintain_order="left").with_columns(
        (pl.col("dates") < len(market.history.dates)).alias("gaps"),
        (pl.col("currency") == market.currency).alias("own_currency"),
    )


def _asset_rules(frame: pl.DataFrame) -> list[Rule]:
    return [
        *rules.missing_text("asset"),
        *rules.unique(["asset"], "duplicate asset: all copies fail, keep one row"),
        *rules.missing_text("currency"),
        Rule("currency without a rate: add it to the fx table", "currency", pl.col("fx").is_null()),
        *rules.a_number(frame, "price"),
        *rules.missing("price", ~_CASH),
        *rules.not_negative("price"),
        Rule(
            "price of cash must be 1: leave it out, its fx rate says what it is worth",
            "price",
            _CASH & (pl.col("price") != 1),
        ),
        *_fraction(frame, "haircut"),
        *rules.missing("haircut", ~_CASH),
        *_fraction(frame, "fx_haircut"),
        *_factor_rules(frame),
        *_limit_rules(frame),
    ]


def _fraction(frame: pl.DataFrame, column: str) -> list[Rule]:
    """A value that is there must be in [0, 1]."""
    outside = (pl.col(column) < 0) | (pl.col(column) > 1)
    reason = f"{column} outside [0, 1]: it is the fraction of the value that is removed"
    return [*rules.a_number(frame, column), Rule(reason, column, outside)]


def _factor_rules(frame: pl.DataFrame) -> list[Rule]:
    has_factor = pl.col("factor").is_not_null()
    return [
        *rules.a_text("factor"),
        Rule(
            "unknown factor: it has no valid price in the history up to the valuation date",
            "factor",
            has_factor & pl.col("dates").is_null(),
        ),
        Rule(
            "factor without a price on every common date of the history: the asset has no return "
            "in some scenarios; complete the history or leave the factor out",
            "factor",
            pl.col("gaps"),
        ),
        *rules.a_number(frame, "wrong_way_factor"),
        *rules.not_negative("wrong_way_factor"),
        Rule(
            "wrong_way_factor without a factor: name the factor that the asset follows, or leave "
            "wrong_way_factor out",
            "wrong_way_factor",
            ~has_factor & (pl.col("wrong_way_factor") > 0),
        ),
    ]


def _limit_rules(frame: pl.DataFrame) -> list[Rule]:
    per_limit = [
        rule
        for column in _LIMITS
        for rule in (*rules.a_number(frame, column), *rules.not_negative(column))
    ]
    return [
        *rules.a_text("issuer"),
        *per_limit,
        Rule(
            "issuer_limit without an issuer: name the issuer, or leave issuer_limit out",
            "issuer_limit",
            pl.col("issuer").is_null() & pl.col("issuer_limit").is_not_null(),
        ),
    ]


def _encode_assets(valid: pl.DataFrame, prices: pl.DataFrame, market: Market) -> Assets:
    """Columns of valid rows (sorted by id) as arrays."""
    history = _with_factors(market.history, prices, valid["factor"])
    issuer_limit = pl.col("issuer_limit").min().over("issuer")
    price = _filled(valid["price"], 1.0)
    rate = _filled(valid["fx"], 1.0)
    return Assets(
        ids=valid["asset"],
        unit_value=price * rate,
        haircut=_filled(valid["haircut"], 0.0),
        fx_haircut=np.where(valid["own_currency"], 0.0, _filled(valid["fx_haircut"], 0.0)),
        factor=_code(valid["factor"], history.factors),
        issuer=_code(valid["issuer"], valid["issuer"].drop_nulls().unique().sort().to_list()),
        concentration_limit=_filled(valid["concentration_limit"], np.inf),
        issuer_limit=_filled(valid.select(issuer_limit).to_series(), np.inf),
        wrong_way_factor=_filled(valid["wrong_way_factor"], 0.0),
        cash=valid.select(_CASH).to_series().to_numpy().astype(np.bool_, copy=False),
        history=history,
    )


def _with_factors(history: History, prices: pl.DataFrame, factors: pl.Series) -> History:
    """The history with the prices of these factors too, on the same dates."""
    known = pl.Series(history.factors, dtype=pl.String)
    extra = factors.drop_nulls().unique().sort()
    extra = extra.filter(~extra.is_in(known.implode()))
    own = history.prices[:, : len(history.factors)]
    added = prices.filter(
        pl.col("factor").is_in(extra.implode()),
        pl.col("date").is_in(pl.Series(history.dates, dtype=pl.Date).implode()),
    ).sort("factor", "date")
    columns = _filled(added["price"], 0.0).reshape(len(extra), len(history.dates))
    together = np.concatenate([own, columns.T], axis=1)
    return History(history.dates, (*history.factors, *extra.to_list()), together)


def load_holdings(collateral: Table, codes: pl.DataFrame) -> LoadedHoldings:
    """Validate and encode collateral.

    `codes` has asset and code, null where the asset itself failed. A bad row is left out, and its
    netting set remembers that it had one.
    """
    frame = rules.text_columns(collateral.frame, ["account_id", "asset", "netting_set"])
    known = codes.with_columns(pl.lit(True).alias("known"))
    frame = rules.number_columns(frame, ["amount"]).join(
        known, on="asset", how="left", maintain_order="left"
    )
    frame = frame.with_columns(pl.col("netting_set").fill_null(pl.col("account_id")))
    found = rules.check(
        rules.passing(frame, collateral.failures), collateral.source, _holding_rules(frame)
    )
    failures = join_failures([collateral.failures, found]).sort(ROW, nulls_last=False)
    owned = frame.filter(pl.col("account_id").is_not_null()).with_columns(
        pl.col(ROW).is_in(failures[ROW].implode()).alias("bad")
    )
    return LoadedHoldings(_encode_holdings(owned), failures)


def _holding_rules(frame: pl.DataFrame) -> list[Rule]:
    return [
        *rules.missing_text("account_id"),
        *rules.a_text("netting_set"),
        *rules.missing_text("asset"),
        Rule(
            "unknown asset: add it to the assets table or correct the id",
            "asset",
            pl.col("known").is_null(),
        ),
        *rules.missing_number(frame, "amount"),
        Rule(
            "failed asset: see its own failure in the assets table",
            "asset",
            pl.col("code").is_null(),
        ),
    ]


def _encode_holdings(rows: pl.DataFrame) -> Holdings:
    """Rows (account_id, netting_set, code, amount, bad) as sorted codes."""
    key = ["account_id", "netting_set"]
    sets = rows.group_by(key).agg(pl.col("bad").sum().cast(pl.Int64)).sort(key)
    sets = sets.with_row_index("set")
    good = (
        rows.filter(~pl.col("bad"))
        .select(*key, "code", "amount")
        .join(sets.select(*key, "set"), on=key)
        .sort("set", "code", "amount")
        .with_columns(pl.struct("set", "code").rle_id().alias("entry"))
    )
    entries = good.unique("entry", keep="first", maintain_order=True)
    return Holdings(
        accounts=sets["account_id"],
        sets=sets["netting_set"],
        rows=Rows(
            offsets=row_offsets(_ints(entries["set"]), len(sets)),
            column=_ints(entries["code"]),
            value=add_up(_ints(good["entry"]), _filled(good["amount"], 0.0), len(entries)),
        ),
        bad=_ints(sets["bad"]),
    )


def _code(values: pl.Series, names: Sequence[str]) -> NDArray[np.int64]:
    """Position of each value among the names, -1 where there is no value."""
    lookup = {name: code for code, name in enumerate(names)}
    return np.array([lookup.get(value, -1) for value in values.to_list()], dtype=np.int64)


def _filled(series: pl.Series, otherwise: float) -> NDArray[np.float64]:
    filled = series.cast(pl.Float64).fill_null(otherwise)
    return filled.to_numpy().astype(np.float64, copy=False)


def _ints(series: pl.Series) -> NDArray[np.int64]:
    return series.to_numpy().astype(np.int64, copy=False)
