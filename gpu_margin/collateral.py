"""What collateral is worth, and how an account stands: excess, status, call.

Collateral is cut to its limits at market value, per account, and then loses its haircut; or, in
scenarios, its profit and loss is part of the portfolio's and only the limits apply. Negative
amounts (debts) count in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gpu_margin.holdings import Assets, Holdings
from gpu_margin.portfolio import add_up, entry_rows
from gpu_margin.settings import Settings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# From best to worst; an account's status is its worst set's.
STATUSES = ("ok", "call", "liquidation")


class CollateralParameters(Settings):
    """The table `[collateral]`."""

    mode: Literal["haircut", "in_scenarios"] = Field(
        default="haircut", description="haircuts, or the assets' P&L inside the scenarios"
    )
    call_minimum: float = Field(
        default=0.0, ge=0, strict=True, allow_inf_nan=False, description="no call below it"
    )
    call_rounding: float = Field(
        default=0.01, gt=0, strict=True, allow_inf_nan=False, description="rounds calls up"
    )


@dataclass(frozen=True)
class Standing:
    """How sets or accounts stand, [set] in margin currency.

    `status` are codes of `STATUSES`, -1 where the requirement is not known; `utilisation` is NaN
    where there is no collateral to speak of.
    """

    value: Floats
    initial: Floats
    maintenance: Floats
    excess: Floats
    utilisation: Floats
    status: Ints
    call: Floats


def eligible_value(assets: Assets, holdings: Holdings) -> Floats:
    """[holding] market value that counts, in margin currency, before any haircut.

    What exceeds an asset's concentration limit per account is cut off all its holdings alike, then
    what exceeds its issuer's. Negative amounts are not cut and leave no room.
    """
    rows = holdings.rows
    asset, account = rows.column, _accounts(holdings)[entry_rows(rows)]
    market = rows.value * assets.unit_value[asset]
    counts = np.maximum(market, 0.0)
    counts = _cut(counts, account, asset, assets.concentration_limit[asset])
    issuer = assets.issuer[asset]
    limited = issuer >= 0
    limits = np.where(limited, assets.issuer_limit[asset], np.inf)
    counts = np.where(limited, _cut(counts, account, issuer, limits), counts)
    return np.where(market < 0.0, market, counts)


def haircut_value(assets: Assets, holdings: Holdings, losses: Floats) -> Floats:
    """[holding] value after limits and haircuts, in margin currency.

    `losses` [holding] is the mean loss, per unit of value, of the asset in the tail of its set's
    requirement. The haircut is the larger of the table's and min(1, wrong-way factor x max(0, that
    loss)).
    """
    asset, counts = holdings.rows.column, eligible_value(assets, holdings)
    wrong_way = np.minimum(1.0, assets.wrong_way_factor[asset] * np.maximum(0.0, losses))
    haircut = np.maximum(assets.haircut[asset], wrong_way)
    kept = counts * (1.0 - haircut) * (1.0 - assets.fx_haircut[asset])
    return np.where(counts < 0.0, counts, kept)


def standing(
    initial: Floats, value: Floats, maintenance: Floats, parameters: CollateralParameters
) -> Standing:
    """How sets stand; `initial` and `maintenance` [set] are NaN where they are not known."""
    with np.errstate(invalid="ignore"):
        excess = value - initial
        status = np.where(value >= initial, 0, np.where(value < maintenance, 2, 1))
    known = ~np.isnan(initial)
    return Standing(
        value=value,
        initial=initial,
        maintenance=maintenance,
        excess=excess,
        utilisation=utilisation(initial, value),
        status=np.where(known, status, -1),
        call=np.where(known, _call(initial, value, parameters), np.nan),
    )


def together(sets: Standing, owner: Ints, accounts: int) -> Standing:
    """[account] how accounts stand whose sets are `owner` [set]; sets not known are left out.

    Amounts add up in order of the sets; the status is the worst one.
    """
    known = sets.status >= 0
    some = np.bincount(owner[known], minlength=accounts) > 0

    def total(amounts: Floats) -> Floats:
        return np.where(some, add_up(owner[known], amounts[known], accounts), np.nan)

    value = add_up(owner, sets.value, accounts)
    status = np.full(accounts, -1, dtype=np.int64)
    np.maximum.at(status, owner, sets.status)
    initial = total(sets.initial)
    return Standing(
        value=value,
        initial=initial,
        maintenance=total(sets.maintenance),
        excess=value - initial,
        utilisation=utilisation(initial, value),
        status=status,
        call=total(sets.call),
    )


def utilisation(initial: Floats, value: Floats) -> Floats:
    """[set] initial / value; 0 where nothing is required, NaN where there is nothing to use."""
    none = np.isnan(initial) | ((value <= 0.0) & (initial > 0.0))
    ratio = initial / np.where(none | (initial == 0.0), 1.0, value)
    return np.where(none, np.nan, np.where(initial == 0.0, 0.0, ratio))


def _call(initial: Floats, value: Floats, parameters: CollateralParameters) -> Floats:
    """[set] what is lacking, rounded up; 0 below the minimum."""
    lacking = np.maximum(np.nan_to_num(initial - value), 0.0)
    step = parameters.call_rounding
    # A deficit that is whole steps but for the rounding of floats is not rounded up by a step.
    noise = 8 * np.finfo(np.float64).eps * np.maximum(np.abs(initial), np.abs(value)) / step
    steps = np.ceil(lacking / step - np.nan_to_num(noise))
    parts = round(1.0 / step)
    # As many hundredths as there are, not as many times the float next to 0.01.
    amount = steps / parts if parts >= 1 and parts * step == 1.0 else steps * step
    amount = np.where(lacking > 0.0, np.maximum(amount, 0.0), 0.0)
    return np.where(amount < parameters.call_minimum, 0.0, amount)


def _accounts(holdings: Holdings) -> Ints:
    """[set of holdings] codes of the accounts."""
    codes: Ints = holdings.accounts.rle_id().to_numpy().astype(np.int64)
    return codes


def _cut(counts: Floats, account: Ints, key: Ints, limit: Floats) -> Floats:
    """[holding] cut where the account's sum over the same key exceeds the limit."""
    width = int(key.max(initial=0)) + 2
    _, place = np.unique(account * width + key + 1, return_inverse=True)
    total = add_up(place, counts, int(place.max(initial=-1)) + 1)[place]
    over = total > limit
    return np.where(over, counts * np.where(over, limit, 1.0) / np.where(over, total, 1.0), counts)
