"""SPAN margin of accounts as tables: by combined commodity, and in all.

Rows by commodity are in money of its own currency. An account that holds what cannot be margined
has no such row, and null for its total.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gpu_margin.failures import ConfigError, Failure, failure_table
from gpu_margin.span_book import Bools, Floats, Ints, SpanMargin
from gpu_margin.span_file import SpanFile, known_rate

AMOUNTS = (
    "scan_risk",
    "intra_spread_charge",
    "delivery_charge",
    "inter_spread_credit",
    "short_option_minimum",
    "risk",
    "net_option_value",
    "requirement",
)
# Columns of the table by commodity; `active_scenario` counts from 1.
COLUMNS = (
    *("account_id", "combined_commodity", "currency", "scan_risk", "active_scenario"),
    *AMOUNTS[1:],
)


@dataclass(frozen=True)
class Money:
    """What one unit of each of a file's currencies is in another; NaN where nobody says.

    `target` is None where every amount stays in its own currency.
    """

    target: str | None
    rates: Floats


def money(file: SpanFile, target: str | None) -> Money:
    """Rates of the file's currencies into one; `ConfigError` where none of them has any."""
    if target is None:
        return Money(None, np.ones(len(file.currencies)))
    found = [known_rate(file.rates, name, target) for name in file.currencies]
    rates = np.array([np.nan if one is None else one for one in found], dtype=np.float64)
    if len(rates) and np.isnan(rates).all():
        own = ", ".join(file.currencies)
        known = ", ".join(sorted({name for pair in file.rates for name in pair})) or "none"
        raise ConfigError(
            f"currency: the file has no rate into {target!r}: its margins are in {own} "
            f"(currencies with rates: {known}); name one of these"
        )
    return Money(target, rates)


def by_commodity(file: SpanFile, accounts: pl.Series, found: SpanMargin) -> pl.DataFrame:
    """A row per account and combined commodity, as `COLUMNS` has them."""
    code = file.commodities.currency[found.commodity]
    columns = {
        "account_id": accounts.gather(found.account),
        "combined_commodity": file.commodities.codes.gather(found.commodity),
        "currency": pl.Series(file.currencies, dtype=pl.String).gather(code),
        "active_scenario": pl.Series(found.active + 1, dtype=pl.Int64),
        **{name: pl.Series(getattr(found, name), dtype=pl.Float64) for name in AMOUNTS},
    }
    return pl.DataFrame(columns).select(COLUMNS)


@dataclass(frozen=True)
class Totals:
    """What accounts require in each currency, or, converted, in one.

    [row], ordered by `account` and `currency` (a code of the file, -1 for the one that all is
    converted into, or where nothing is held): `risk`, `net_option_value`, `requirement`. A row of
    an account without a figure has NaN. `lost` [account] has no rate for what it holds.
    """

    account: Ints
    currency: Ints
    risk: Floats
    net_option_value: Floats
    requirement: Floats
    lost: Bools


def totals(file: SpanFile, count: int, found: SpanMargin, money: Money) -> Totals:
    """Totals of `count` accounts, a row of each at least."""
    currencies = len(file.currencies)
    keys = found.total_account * max(currencies, 1) + found.total_currency
    own = found.account * max(currencies, 1) + file.commodities.currency[found.commodity]
    place = np.searchsorted(keys, own)
    value = np.bincount(place, weights=found.net_option_value, minlength=len(keys))
    table = np.stack([found.total_risk, value, found.total]).reshape(3, -1)
    account, currency = found.total_account, found.total_currency
    lost = np.zeros(count, dtype=np.bool_)
    if money.target is not None:
        table = table * money.rates[currency]
        lost[account[np.isnan(money.rates[currency])]] = True
        table = np.stack([np.bincount(account, weights=row, minlength=count) for row in table])
        account, currency = np.arange(count), np.full(count, -1, dtype=np.int64)
    missing = np.setdiff1d(np.arange(count), account)
    account = np.concatenate([account, missing])
    currency = np.concatenate([currency, np.full(len(missing), -1, dtype=np.int64)])
    table = np.concatenate([table, np.zeros((3, len(missing)))], axis=1)
    table[:, (found.failed | lost)[account]] = np.nan
    order = np.lexsort((currency, account))
    risk, value, required = table[:, order]
    return Totals(account[order], currency[order], risk, value, required, lost)


def currency_names(file: SpanFile, codes: Ints, money: Money) -> pl.Series:
    """[row] what totals are in; of those that hold nothing the file's, where it has only one."""
    single = file.currencies[0] if len(file.currencies) == 1 else None
    names = pl.Series([*file.currencies, money.target or single], dtype=pl.String)
    return names.gather(np.where(codes < 0, len(file.currencies), codes)).alias("currency")


def total_table(
    file: SpanFile, accounts: pl.Series, totals: Totals, money: Money, good: Ints, bad: Ints
) -> pl.DataFrame:
    """account_id, currency, risk, net_option_value, requirement, complete.

    `good` and `bad` [account] count rows of input: without a good one nothing is known.
    """
    known = pl.Series((good > 0)[totals.account])
    names = ("risk", "net_option_value", "requirement")
    table = pl.DataFrame(
        {
            "account_id": accounts.gather(totals.account),
            "currency": currency_names(file, totals.currency, money),
            **{name: pl.Series(getattr(totals, name), dtype=pl.Float64) for name in names},
        }
    )
    finite = pl.all_horizontal(pl.col(names).is_finite()) & known
    return table.with_columns(
        *(pl.when(finite).then(name).alias(name) for name in names),
        complete=finite & pl.Series((bad == 0)[totals.account]),
    )


def lost_accounts(
    file: SpanFile, accounts: pl.Series, found: SpanMargin, totals: Totals, money: Money
) -> pl.DataFrame:
    """Failures of accounts whose money nobody can convert, and of those beyond all numbers."""
    held = found.total_currency[np.isnan(money.rates[found.total_currency])]
    owners = found.total_account[np.isnan(money.rates[found.total_currency])]
    rate = [
        Failure(
            f"the file has no rate from {file.currencies[code]} to {money.target}",
            accounts[int(account)],
            None,
            "currency",
            file.currencies[code],
        )
        for account, code in zip(owners, held, strict=True)
    ]
    # NaN of accounts that failed is told elsewhere.
    told = found.failed | totals.lost
    beyond = np.unique(totals.account[~np.isfinite(totals.requirement) & ~told[totals.account]])
    reason = "requirement is not finite: amounts are too large"
    more = [Failure(reason, "margins", None, "account_id", accounts[int(one)]) for one in beyond]
    return failure_table([*rate, *more])


def refusals(file: SpanFile) -> pl.DataFrame:
    """Failures of a file's combined commodities and contracts that cannot be margined."""
    codes, ids = file.commodities.codes, file.contracts.ids
    of_commodities = zip(codes, file.commodities.refused, strict=True)
    refused = file.contracts.refused != ""
    of_contracts = zip(ids.filter(refused), file.contracts.refused.filter(refused), strict=True)
    source = "the file's combined commodities"
    return failure_table(
        [
            *(
                Failure(reason, source, None, "combined_commodity", code)
                for code, reason in of_commodities
                if reason
            ),
            *(
                Failure(reason, "the file's contracts", None, "contract_id", one)
                for one, reason in of_contracts
            ),
        ]
    )


FORMED_COLUMNS = (
    *("account_id", "kind", "spread", "legs", "combined_commodity", "currency"),
    *("count", "amount"),
)


def formed_table(file: SpanFile, accounts: pl.Series, found: SpanMargin) -> pl.DataFrame:
    """Spreads that were formed, as `FORMED_COLUMNS`: charges positive, credits negative.

    `spread` is what the reader calls it, else its number in the order of forming, of its commodity
    or, between commodities, of the file.
    """
    assert found.formed is not None
    named = found.formed.join(
        _spread_names(file, found.formed),
        on=["within", "spread"],
        how="left",
        maintain_order="left",
    )
    code = file.commodities.currency[named["commodity"].to_numpy()]
    within = pl.when("within").then(pl.lit("intra")).otherwise(pl.lit("inter"))
    return named.with_columns(
        accounts.gather(named["account"]).alias("account_id"),
        within.alias("kind"),
        pl.col("name").alias("spread"),
        file.commodities.codes.gather(named["commodity"]).alias("combined_commodity"),
        pl.Series("currency", file.currencies, dtype=pl.String).gather(code),
    ).select(FORMED_COLUMNS)


def _spread_names(file: SpanFile, formed: pl.DataFrame) -> pl.DataFrame:
    """Of each spread (within, spread) that was formed its name and its legs."""
    rows = []
    intra, inter = file.intra, file.inter
    for within, spread in formed.select("within", "spread").unique().iter_rows():
        name = (intra if within else inter).name[spread]
        if not name:
            first = intra.start[intra.start <= spread].max() if within else 0
            name = str(spread - int(first) + 1)
        legs = _intra_legs(file, spread) if within else _inter_legs(file, spread)
        rows.append((within, spread, name, legs))
    schema = pl.Schema(
        {"within": pl.Boolean, "spread": pl.Int64, "name": pl.String, "legs": pl.String}
    )
    return pl.DataFrame(rows, schema=schema, orient="row")


def _intra_legs(file: SpanFile, spread: int) -> str:
    legs = range(*(int(one) for one in file.intra.leg_offsets[spread : spread + 2]))
    i = file.intra
    return " / ".join(
        _leg(i.leg_side[leg], i.leg_ratio[leg], _months(file, i.leg_first[leg], i.leg_last[leg]))
        for leg in legs
    )


def _inter_legs(file: SpanFile, spread: int) -> str:
    i, slots, parts = file.inter, file.commodities.slots, list[str]()
    for leg in range(*i.legs(spread).indices(len(i.leg_commodity))):
        code, first, last = i.leg_commodity[leg], i.leg_first[leg], i.leg_last[leg]
        name = str(file.commodities.codes[int(code)])
        whole = first == slots[code] and last == slots[code + 1]
        months = "" if whole else f" {_months(file, first, last)}"
        parts.append(_leg(i.leg_side[leg], i.leg_ratio[leg], f"{name}{months}"))
    return " / ".join(parts)


def _leg(side: int, ratio: float, what: str) -> str:
    """As A 3 CL: the sides that stand against each other are A and B."""
    return f"{'A' if side > 0 else 'B'} {ratio:g} {what}"


def _months(file: SpanFile, first: int, last: int) -> str:
    """A month, or the first and the last of several that the file has."""
    if last <= first:
        return "no month"
    ends: Sequence[str] = [str(file.slots.month[int(one)]) for one in (first, last - 1)]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]}-{ends[1]}"
