"""Schedule IM: the standard schedule of BCBS and IOSCO, of all calculations at once.

The gross margin is the sum over trades of the size of a trade's net notional x the rate of its
product class and time to its end; the margin is 0.4 gross + 0.6 net-to-gross ratio x gross. The
ratio is the net replacement cost, max(sum of PV, 0), over the gross one, the sum over trades of
max(PV, 0); 1 where the latter is 0. PVs change sign for what we post.

Notionals of a trade net where product class, end and valuation date are the same, its PVs always. A
trade without a PV has replacement cost 0. One without Notional rows has the notional that its PV
rows say it has (the largest, where they differ); one without any is left out, as a failure. Time
runs from the valuation date, and an end on the day itself of a band's years later is still inside.

Source: BCBS-IOSCO d499, Appendix A and requirement 3; the vectors fix the details.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from importlib.resources import files
from typing import Annotated

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gpu_margin.crif import MODELS, NO_DATE, SCHEDULE_CLASSES, Bools, Codes, Crif, Floats, Small
from gpu_margin.models.simm.kinds import SIDES
from gpu_margin.models.simm.problems import Problems, no_problems, problems, together
from gpu_margin.models.simm.regulations import Calculations
from gpu_margin.models.simm.segments import runs
from gpu_margin.settings import Settings

SCHEDULE = MODELS.index("Schedule")
NOTIONAL, PV, NEITHER = range(3)
_KINDS = {"Notional": NOTIONAL, "PV": PV}

Ints = NDArray[np.int64]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

# Reason and field of what a row can lack, first things first.
_LACKS = (
    ("Schedule IM takes rows of risk type Notional and PV only", "risk_type"),
    ("missing trade_id: Schedule IM nets by trade", "trade_id"),
    (f"product class is not one of Schedule IM: {', '.join(SCHEDULE_CLASSES)}", "product_class"),
    ("missing end_date: the product class has a rate per time to the end", "end_date"),
    ("missing valuation_date: give it in the row or for the run", "valuation_date"),
)
_UNFIT_ROW, _NO_TRADE, _NO_CLASS, _NO_END, _NO_VALUATION, _FINE = range(len(_LACKS) + 1)


class Band(Settings):
    """A rate for ends up to so many years from the valuation date; no limit where null."""

    up_to_years: int | None = Field(gt=0, description="years")
    rate: Share = Field(description="share of the notional")


class ScheduleTable(Settings):
    """The figures of the schedule."""

    source: str
    gross_share: Share = Field(description="share of the gross margin that is due in any case")
    net_share: Share = Field(description="share that is due times the net-to-gross ratio")
    rates: dict[str, tuple[Band, ...]] = Field(description="bands in order, by product class")

    @model_validator(mode="after")
    def _whole(self) -> ScheduleTable:
        if tuple(self.rates) != SCHEDULE_CLASSES:
            raise ValueError(f"rates must be of {', '.join(SCHEDULE_CLASSES)}, in this order")
        for name, bands in self.rates.items():
            years = [band.up_to_years or np.inf for band in bands]
            if not years or years != sorted(set(years)) or years[-1] != np.inf:
                raise ValueError(f"bands of {name} must ascend and end without a limit")
        return self


@dataclass(frozen=True)
class ScheduleMargin:
    """Schedule IM in USD; a side that a calculation is not for has figures without meaning.

    `gross` [calculation, product class] in order of `SCHEDULE_CLASSES`; `net_to_gross` and `margin`
    [calculation, side]. 0 where a calculation has no trades (its ratio is 1).
    """

    gross: Floats
    net_to_gross: Floats
    margin: Floats
    problems: Problems


@dataclass(frozen=True)
class _Rows:
    """[row] the rows of Schedule IM: codes as in the CRIF, `place` the product class, days, USD."""

    portfolio: Codes
    trade: Codes
    factor: Codes
    kind: Small
    place: Small
    end: Codes
    start: Codes
    amount: Floats
    notional: Floats

    def of(self, chosen: Ints) -> _Rows:
        """[of chosen] these rows."""
        return _Rows(*(getattr(self, field.name)[chosen] for field in fields(self)))


@cache
def load() -> ScheduleTable:
    """The table that comes with the package."""
    table = files("gpu_margin") / "parameters" / "simm" / "schedule.json"
    return ScheduleTable.model_validate_json(table.read_text("utf-8"))


def schedule_margin(
    crif: Crif, calculations: Calculations, table: ScheduleTable, valuation_date: int = NO_DATE
) -> ScheduleMargin:
    """Schedule IM of every calculation.

    `valuation_date`, days since 1970, is for rows that have none of their own.
    """
    count = len(calculations)
    own = np.flatnonzero(crif.model == SCHEDULE)
    if not len(own):
        ratio = np.ones((count, len(SIDES)))
        gross = np.zeros((count, len(SCHEDULE_CLASSES)))
        return ScheduleMargin(gross, ratio, np.zeros_like(ratio), no_problems(crif))
    rows = _rows(crif, own, valuation_date)
    fit, bad_rows = _fit(crif, rows, table)
    row, calculation = _entries(calculations, own, fit)
    whole, bad_trades = _with_notional(crif, rows.of(row), calculation)
    row, calculation = row[whole], calculation[whole]
    pv = rows.kind[row] == PV
    gross = _gross(*_notionals(rows.of(row), calculation, len(crif.trades)), table, count)
    ratio = _net_to_gross(rows.of(row[pv]), calculation[pv], count)
    total = _added(gross)[:, None]
    margin = table.gross_share * total + table.net_share * (ratio * total)
    return ScheduleMargin(gross, ratio, margin, together(bad_rows, bad_trades))


def years_before(days: Codes, years: int) -> Ints:
    """The same day that many years earlier, days since 1970; the 28th for a 29th of February."""
    date = days.astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    earlier = month - 12 * years
    last = (earlier + 1).astype("datetime64[D]") - 1
    same = earlier.astype("datetime64[D]") + (date - month.astype("datetime64[D]"))
    found: Ints = np.minimum(same, last).astype(np.int64)
    return found


def _rows(crif: Crif, own: Ints, valuation_date: int) -> _Rows:
    known = [_KINDS.get(name, NEITHER) for name in crif.factors["risk_type"].to_list()]
    factor, start = crif.factor[own], crif.valuation_date[own]
    return _Rows(
        portfolio=crif.portfolio[own],
        trade=crif.trade[own],
        factor=factor,
        kind=np.array(known, dtype=np.int8)[factor],
        place=crif.schedule_class[own],
        end=crif.end_date[own],
        start=np.where(start == NO_DATE, np.int32(valuation_date), start),
        amount=crif.amount[own],
        notional=crif.notional[own],
    )


def _fit(crif: Crif, rows: _Rows, table: ScheduleTable) -> tuple[Bools, Problems]:
    """[row] whether it lacks nothing, nor does another of its trade; and what is lacking."""
    banded = np.array([len(bands) > 1 for bands in table.rates.values()])[rows.place]
    trade = rows.portfolio.astype(np.int64) * len(crif.trades) + rows.trade
    says = (rows.notional != 0.0) & ~np.isin(trade, trade[rows.kind == NOTIONAL])
    notional = (rows.kind == NOTIONAL) | says
    lacks = np.select(
        [
            rows.kind == NEITHER,
            np.array(crif.trades == "")[rows.trade],
            notional & (rows.place < 0),
            notional & banded & (rows.end == NO_DATE),
            notional & banded & (rows.start == NO_DATE),
        ],
        range(_FINE),
        _FINE,
    )
    spoilt = np.isin(trade, trade[(lacks >= _NO_CLASS) & (lacks < _FINE)])
    bad = np.flatnonzero(lacks < _FINE)
    risk_type = crif.factors["risk_type"].gather(pl.Series(rows.factor[bad]))
    lacking = pl.Series(lacks[bad])
    return (lacks == _FINE) & ~spoilt, problems(
        crif,
        rows.portfolio[bad],
        pl.Series([reason for reason, _ in _LACKS]).gather(lacking),
        pl.Series([field for _, field in _LACKS]).gather(lacking),
        risk_type.zip_with(lacking < _NO_CLASS, _trade_names(crif, rows.trade[bad])),
    )


def _entries(calculations: Calculations, own: Ints, fit: Bools) -> tuple[Ints, Codes]:
    """[entry] place among our own rows, and calculation, of the fit ones."""
    if calculations.row is None:
        place = np.flatnonzero(fit)
        return place, calculations.calculation[own[place]]
    size = max(int(calculations.row.max(initial=0)), int(own[-1])) + 1
    place_of = np.full(size, -1, dtype=np.int64)
    place_of[own[fit]] = np.flatnonzero(fit)
    place = place_of[calculations.row]
    entry = np.flatnonzero(place >= 0)
    return place[entry], calculations.calculation[entry]


def _with_notional(crif: Crif, rows: _Rows, calculation: Codes) -> tuple[Bools, Problems]:
    """[row] whether its trade has a notional in the calculation; and the trades that have none."""
    trade = calculation.astype(np.int64) * len(crif.trades) + rows.trade
    whole = np.isin(trade, trade[(rows.kind == NOTIONAL) | (rows.notional != 0.0)])
    reason = "missing Notional: the trade has only PV rows, at least under one regulation"
    lost = _trade_names(crif, rows.trade[~whole])
    return whole, problems(crif, rows.portfolio[~whole], reason, "amount", lost)


def _notionals(rows: _Rows, calculation: Codes, trades: int) -> tuple[_Rows, Codes]:
    """[row] the Notional rows, and of trades without any the notional that their rows say."""
    trade = calculation.astype(np.int64) * trades + rows.trade
    own = rows.kind == NOTIONAL
    others = np.flatnonzero(~np.isin(trade, trade[own]) & (rows.notional != 0.0))
    size = np.abs(rows.notional[others])
    keys = (rows.start[others], rows.end[others], rows.place[others], -size, trade[others])
    others = others[np.lexsort(keys)]
    first = others[runs(trade[others]).first]
    chosen = np.concatenate([np.flatnonzero(own), first])
    amount = np.concatenate([rows.amount[own], rows.notional[first]])
    return replace(rows.of(chosen), amount=amount), calculation[chosen]


def _gross(rows: _Rows, calculation: Codes, table: ScheduleTable, count: int) -> Floats:
    """[calculation, product class] sums over trades of |net notional| x rate."""
    order = np.lexsort((rows.amount, rows.start, rows.end, rows.place, rows.trade, calculation))
    rows, calculation = rows.of(order), calculation[order]
    legs = runs(calculation, rows.trade, rows.place, rows.end, rows.start)
    notional = np.bincount(legs.owner, weights=rows.amount, minlength=len(legs))
    leg = rows.of(legs.first)
    charge = np.abs(notional) * _rates(table, leg.place, leg.end, leg.start)
    width = len(SCHEDULE_CLASSES)
    key = calculation[legs.first].astype(np.int64) * width + leg.place
    gross = np.bincount(key, weights=charge, minlength=count * width)
    return gross.astype(np.float64).reshape(count, width)


def _rates(table: ScheduleTable, place: Small, end: Codes, start: Codes) -> Floats:
    """[leg] the rate of its product class and band."""
    rate = np.zeros(len(place))
    for code, bands in enumerate(table.rates.values()):
        rate[place == code] = bands[-1].rate
        for band in bands[-2::-1]:
            inside = (place == code) & (years_before(end, band.up_to_years or 0) <= start)
            rate[inside] = band.rate
    return rate


def _net_to_gross(rows: _Rows, calculation: Codes, count: int) -> Floats:
    """[calculation, side] net over gross replacement cost."""
    order = np.lexsort((rows.amount, rows.trade, calculation))
    rows, calculation = rows.of(order), calculation[order]
    trades = runs(calculation, rows.trade)
    value = np.bincount(trades.owner, weights=rows.amount, minlength=len(trades))
    owner = calculation[trades.first]
    net = np.bincount(owner, weights=value, minlength=count)
    ratio = np.ones((count, len(SIDES)))
    for side, sign in enumerate((1.0, -1.0)):
        cost = np.bincount(owner, weights=np.maximum(sign * value, 0.0), minlength=count)
        np.divide(np.maximum(sign * net, 0.0), cost, out=ratio[:, side], where=cost > 0)
    return ratio


def _added(gross: Floats) -> Floats:
    """[calculation] sum over product classes, in their order."""
    total = np.zeros(len(gross))
    for place in range(gross.shape[1]):
        total = total + gross[:, place]
    return total


def _trade_names(crif: Crif, trade: Codes) -> pl.Series:
    return crif.trades.gather(pl.Series(trade))
