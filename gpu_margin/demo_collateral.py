"""The demo's collateral, owners and venues, drawn for books that are there already.

What an account has paid in is drawn around what its book would lose under a few stresses: as at
any clearing house, yesterday's margin called for it, and some have not paid what the day added.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import polars as pl

from gpu_margin.demo_books import Draws
from gpu_margin.demo_market import (
    RATE,
    UNDERLYINGS,
    VALUATION_DATE,
    Floats,
    Listing,
    known_closes,
)
from gpu_margin.pricing import black76

EURO = 1.145  # US dollars: the European Central Bank's reference rate of the valuation date
VENUES = ("CLR-A", "CLR-B")
MAX_OFFSET = 0.8

# Large two-day returns of SP500, NASDAQ and WTI: shares and oil each fall, stay or rise, and the
# NASDAQ runs ahead of the S&P 500 or behind it.
STRESSES: Floats = np.array(
    [
        (shares, 1.1 * shares + ahead, oil)
        for shares, ahead, oil in product(
            (-0.05, 0.0, 0.045), (-0.015, 0.0, 0.015), (-0.09, 0.0, 0.085)
        )
    ]
)
_LEAST = 0.0005  # of a book's gross exposure: below it no stress loss is believed
_COVER, _SPREAD = 1.1, 0.25  # median of what was paid in, in stress losses, and its sigma
_SEVERAL = 0.35  # of the accounts bring more than dollars


@dataclass(frozen=True)
class Security:
    """What may be paid in beside dollars, and how often it is what an account brings.

    `price` is in the currency, or a share of the close of the factor that it follows.
    """

    name: str
    often: float
    currency: str
    price: float
    haircut: float
    fx_haircut: float | None = None
    follows: str | None = None
    issuer: str | None = None


SECURITIES = (
    Security("EUR", 0.25, "EUR", 1.0, 0.0, 0.08),
    Security("US-NOTE-5Y", 0.25, "USD", 99.5, 0.02),
    Security("BUND-10Y", 0.15, "EUR", 101.2, 0.04, 0.08),
    Security("SP500-ETF", 0.2, "USD", 0.1, 0.1, None, "SP500", "Index Funds Inc."),
    Security("NASDAQ-ETF", 0.1, "USD", 0.025, 0.12, None, "NASDAQ", "Index Funds Inc."),
    Security("WTI-FUND", 0.05, "USD", 1.0, 0.2, None, "WTI", "Oil Funds Ltd."),
)


@dataclass(frozen=True)
class AroundBooks:
    """The tables that stand around the positions of one demo exchange."""

    collateral: pl.DataFrame
    assets: pl.DataFrame
    accounts: pl.DataFrame
    agreements: pl.DataFrame
    fx: pl.DataFrame


def draw_around(
    listing: Listing, history: pl.DataFrame, positions: pl.DataFrame, seed: int
) -> AroundBooks:
    """What stands around these positions; of account i it is the same whatever comes after it."""
    names = positions["account_id"].unique(maintain_order=True)
    # Streams of their own: without collateral, the positions of a seed were what they are.
    paid, owned = (Draws(np.random.default_rng([seed, use]), len(names)) for use in (1, 2))
    fx = pl.DataFrame({"currency": ["EUR"], "rate": [EURO]})
    assets = list_assets(history)
    losses = stress_losses(listing, history, positions)
    collateral = draw_collateral(names, losses, assets.join(fx, on="currency", how="left"), paid)
    return AroundBooks(collateral, assets, *draw_owners(names, owned), fx)


def list_assets(history: pl.DataFrame) -> pl.DataFrame:
    """Dollars, and what stands for them."""
    close = last_closes(history)
    dollar = {"asset": "USD", "currency": "USD", "price": 1.0, "haircut": 0.0}
    return pl.DataFrame(
        [dollar, *(_terms(security, close) for security in SECURITIES)], infer_schema_length=None
    )


def _terms(security: Security, close: dict[str, float]) -> dict[str, object]:
    """The security's row in the table of assets."""
    row: dict[str, object] = {
        "asset": security.name,
        "currency": security.currency,
        "price": security.price,
        "haircut": security.haircut,
        "fx_haircut": security.fx_haircut,
    }
    if security.follows is None:
        return row
    return {
        **row,
        "price": security.price * close[security.follows],
        "factor": security.follows,
        # What falls when the account does is cut by four times its mean loss.
        "wrong_way_factor": 4.0,
        "concentration_limit": 2e6,
        "issuer": security.issuer,
        "issuer_limit": 3e6,
    }


def last_closes(history: pl.DataFrame) -> dict[str, float]:
    """Price of each underlying on the valuation date."""
    return {terms.name: float(known_closes(terms, history)[-1]) for terms in UNDERLYINGS}


def stress_losses(listing: Listing, history: pl.DataFrame, positions: pl.DataFrame) -> Floats:
    """[account] the largest loss of each book under any of the stresses."""
    codes = listing.instruments.select("instrument_id").with_row_index("code")
    held = positions.join(codes, on="instrument_id", how="left", maintain_order="left")
    account = held["account_id"].rle_id().to_numpy()
    code, quantity = held["code"].to_numpy(), held["quantity"].to_numpy()
    gross = np.bincount(account, weights=np.abs(quantity * listing.unit[code]))
    worst: Floats = np.asarray(_LEAST * gross, dtype=np.float64)
    for profit in stress_profits(listing, history):
        worst = np.maximum(worst, np.bincount(account, weights=-quantity * profit[code]))
    return worst


def stress_profits(listing: Listing, history: pl.DataFrame) -> Floats:
    """[stress, instrument] profit of one long contract, options at unchanged volatility."""
    underlying, places = pl.col("underlying"), range(len(UNDERLYINGS))
    terms = listing.instruments.with_columns(
        place=underlying.replace_strict([terms.name for terms in UNDERLYINGS], list(places)),
        level=pl.coalesce("price", "forward", underlying.replace_strict(last_closes(history))),
        years=(pl.col("expiry") - VALUATION_DATE).dt.total_days() / 365,
    )
    level = terms["level"].to_numpy()
    profits = level * STRESSES[:, terms["place"].to_numpy()]
    option = terms["strike"].is_not_null().to_numpy()
    chosen = terms.filter(option)
    strike, volatility, years = (chosen[name] for name in ("strike", "implied_vol", "years"))
    contract = (strike, volatility, years, RATE, chosen["kind"] == "call")
    moved = level[option] + profits[:, option]
    profits[:, option] = black76(moved, *contract) - black76(level[option], *contract)
    return np.asarray(profits * terms["multiplier"].to_numpy())


def draw_collateral(
    names: pl.Series, losses: Floats, assets: pl.DataFrame, draws: Draws
) -> pl.DataFrame:
    """Dollars for all accounts, and for some a part of it in something else.

    `assets` are dollars and then the securities, with their `rate` in dollars.
    """
    unit = assets.select(pl.col("price") * pl.col("rate").fill_null(1.0)).to_series().to_numpy()
    value = losses * draws.lognormal(_COVER, _SPREAD)[:, 0]
    limits = np.cumsum([security.often for security in SECURITIES])
    which = np.searchsorted(limits[:-1], draws.uniform()[:, 0], side="right")
    share = np.where(draws.uniform() < _SEVERAL, 0.2 + 0.6 * draws.uniform(), 0.0)[:, 0]
    worth = unit[1 + which]
    pieces = np.floor(value * share / worth)
    dollars = np.round(value - pieces * worth, 2)
    account = np.tile(np.arange(len(names)), 2)
    asset = np.concatenate([np.zeros(len(names), dtype=np.int64), 1 + which])
    amount = np.concatenate([dollars, pieces])
    table = pl.DataFrame(
        {
            "account_id": names.gather(account),
            "asset": assets["asset"].gather(asset),
            "amount": amount,
        }
    )
    order = np.lexsort((asset, account))
    return table[order[amount[order] > 0.0]]


def draw_owners(names: pl.Series, draws: Draws) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Accounts with their owners and venues, and the agreements of some of these owners.

    Accounts that follow each other have one owner, two or three of them as a rule.
    """
    first = draws.uniform()[:, 0] < 0.4
    first[:1] = True
    number = np.cumsum(first) - 1
    venue = draws.integers(0, len(VENUES))[:, 0]
    agreed = (draws.uniform()[:, 0] < 0.3)[np.flatnonzero(first)[number]]
    accounts = pl.DataFrame(
        {
            "account_id": names,
            "owner": [f"owner-{one:06d}" for one in number.tolist()],
            "venue": pl.Series(VENUES).gather(venue),
        }
    )
    both = accounts.filter(agreed).group_by("owner", maintain_order=True)
    netting = both.agg(pl.col("venue").n_unique()).filter(pl.col("venue") == len(VENUES))
    return accounts, netting.select(
        "owner", venues=pl.lit(";".join(VENUES)), max_offset=pl.lit(MAX_OFFSET)
    )
