"""From what rows were charged to what accounts require."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from gpu_margin.models.span.prices import scan
from gpu_margin.models.span.ranges import changes, segment_sums
from gpu_margin.models.span.state import Bools, Floats, Ints, State
from gpu_margin.portfolio import add_up
from gpu_margin.span_file import SpanFile


@dataclass(frozen=True)
class Figures:
    """Rows of accounts before their kind counts: [row], as `span_book.SpanMargin` has them."""

    account: Ints
    commodity: Ints
    scan_risk: Floats
    active: Ints
    intra_spread_charge: Floats
    delivery_charge: Floats
    inter_spread_credit: Floats
    short_option_minimum: Floats
    long_option_value: Floats
    short_option_value: Floats
    only_long: Bools

    def risk(self) -> Floats:
        """[row] risk, of an account whose factor is 1."""
        found = self.scan_risk + self.intra_spread_charge + self.delivery_charge
        found = np.maximum(found - self.inter_spread_credit, self.short_option_minimum)
        # Who has nothing but options that are paid for cannot lose more than they are worth.
        return np.where(self.only_long, np.minimum(found, self.long_option_value), found)


def figures_of(state: State, account: Ints) -> Figures:
    """Figures of the rows present; `account` [account of the state] is the code of each."""
    rows = np.flatnonzero(state.present)
    scanned = scan(state, rows)
    return Figures(
        account=account[state.account[rows]],
        commodity=state.commodity[rows],
        scan_risk=scanned.risk,
        active=scanned.active,
        intra_spread_charge=state.intra[rows],
        delivery_charge=state.delivery[rows],
        inter_spread_credit=state.inter[rows],
        short_option_minimum=state.minimum[rows],
        long_option_value=state.long_value[rows],
        short_option_value=state.short_value[rows],
        only_long=state.only_long[rows],
    )


def both_sides(state: State, account: Ints) -> Figures:
    """Figures of gross accounts, whose long and short positions are accounts of the state.

    They lie there one after the other; `account` is the code of each. Scan risks add up; the active
    scenario is that of all positions together.
    """
    apart = figures_of(state, account)
    order = np.lexsort((apart.commodity, apart.account))
    owner, commodity = apart.account[order], apart.commodity[order]
    new = changes(owner, commodity)
    start, group = np.flatnonzero(new), np.cumsum(new) - 1

    def added(figure: Floats | Bools) -> Floats:
        return add_up(group, figure[order], len(start))

    total = state.total[np.flatnonzero(state.present)][order]
    whole = segment_sums(total, start)
    nothing = np.zeros(len(start))
    return Figures(
        account=owner[start],
        commodity=commodity[start],
        scan_risk=added(apart.scan_risk),
        active=whole.argmax(axis=1),
        intra_spread_charge=nothing,
        delivery_charge=nothing,
        inter_spread_credit=nothing,
        short_option_minimum=added(apart.short_option_minimum),
        long_option_value=added(apart.long_option_value),
        short_option_value=added(apart.short_option_value),
        only_long=added(~apart.only_long) == 0.0,
    )


def together(one: Figures, other: Figures) -> Figures:
    """Rows of different accounts, by account and commodity."""
    if not len(one.account) or not len(other.account):
        return one if len(one.account) else other
    account = np.concatenate([one.account, other.account])
    commodity = np.concatenate([one.commodity, other.commodity])
    order = np.lexsort((commodity, account))
    names = [field.name for field in fields(Figures)]
    return Figures(
        **{
            name: np.concatenate([getattr(one, name), getattr(other, name)])[order]
            for name in names
        }
    )


def only(figures: Figures, keep: Bools) -> Figures:
    """Some of the rows."""
    names = [field.name for field in fields(Figures)]
    return Figures(**{name: getattr(figures, name)[keep] for name in names})


@dataclass(frozen=True)
class Totals:
    """[total], by account and currency: what is required, and the sum of risks."""

    account: Ints
    currency: Ints
    required: Floats
    risk: Floats


def totals(file: SpanFile, figures: Figures, risk: Floats) -> Totals:
    """Requirements per account and currency: of all commodities together, or each by itself.

    Where the value of options counts up to risk only, what is worth more does not offset others.
    """
    commodities = file.commodities
    count = max(len(file.currencies), 1)
    key = figures.account * count + commodities.currency[figures.commodity]
    order = np.argsort(key, kind="stable")
    key = key[order]
    new = changes(key)
    group, number = np.cumsum(new) - 1, int(new.sum())
    own = (risk - (figures.long_option_value + figures.short_option_value))[order]
    limited = commodities.limit[figures.commodity[order]] | file.limit
    pooled = add_up(group, np.where(limited, 0.0, own), number)
    alone = add_up(group, np.where(limited, np.maximum(own, 0.0), 0.0), number)
    return Totals(
        account=key[new] // count,
        currency=key[new] % count,
        required=np.maximum(pooled, 0.0) + alone,
        risk=add_up(group, risk[order], number),
    )
