"""Sides and regulations, Schedule IM and add-ons in plain loops over rows (`crif_case`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from fractions import Fraction
from typing import Any

Row = Mapping[str, Any]
Key = tuple[str, str, str | None]
"""Portfolio, side, regulation."""

SIDES = ("Call", "Post")

RATES = {
    "Rates": ((2, "0.01"), (5, "0.02"), (None, "0.04")),
    "Credit": ((2, "0.02"), (5, "0.05"), (None, "0.10")),
    "FX": ((None, "0.06"),),
    "Equity": ((None, "0.15"),),
    "Commodity": ((None, "0.15"),),
    "Other": ((None, "0.15"),),
}


def names(row: Row, side: str) -> set[str]:
    text = row.get({"Call": "CollectRegulations", "Post": "PostRegulations"}[side]) or ""
    return {name.strip() for name in text.split(",")} - {""}


def partition(rows: Sequence[Row]) -> dict[Key, list[int]]:
    """Places of the rows of every calculation of a side: of none where only the other names any."""
    found: dict[Key, list[int]] = {}
    for portfolio in {row["PortfolioID"] for row in rows}:
        own = [i for i, row in enumerate(rows) if row["PortfolioID"] == portfolio]
        if not any(names(rows[i], side) for i in own for side in SIDES):
            found |= {(portfolio, side, None): own for side in SIDES}
        for side in SIDES:
            for regulation in set().union(*(names(rows[i], side) for i in own)):
                takes = {regulation} | ({"CFTC"} if regulation == "SEC" else set())
                under = [i for i in own if names(rows[i], side) & takes]
                found[portfolio, side, regulation] = under
    return found


def years_before(day: date, years: int) -> date:
    """The same day so many years before, or the 28th of February for the 29th."""
    try:
        return day.replace(year=day.year - years)
    except ValueError:
        return date(day.year - years, 2, 28)


def rate(row: Row) -> Fraction | None:
    """The rate of a notional, None where the row cannot say."""
    bands = RATES.get(row["ProductClass"])
    if not bands:
        return None
    for years, text in bands:
        if years is None:
            return Fraction(text)
        if not row.get("EndDate") or not row.get("ValuationDate"):
            return None
        end, start = (date.fromisoformat(row[name]) for name in ("EndDate", "ValuationDate"))
        # An end on the 29th of February is years after the 28th.
        if years_before(end, years) <= start:
            return Fraction(text)
    raise AssertionError(bands)


def spoilt(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """(portfolio, trade) of trades that cannot be charged."""
    return {
        (row["PortfolioID"], row["TradeID"])
        for row in rows
        if row["RiskType"] == "Notional" and rate(row) is None
    }


def schedule(rows: Sequence[Row], side: str) -> tuple[Fraction, set[str]]:
    """Schedule IM of a calculation's rows, all of them fit, and trades without a notional."""
    trades: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        trades[row["TradeID"]].append(row)
    lost = {t for t, own in trades.items() if all(row["RiskType"] == "PV" for row in own)}
    gross, values = Fraction(0), []
    for trade in trades.keys() - lost:
        legs: dict[tuple[Any, ...], Fraction] = defaultdict(Fraction)
        value = Fraction(0)
        for row in trades[trade]:
            if row["RiskType"] == "PV":
                value += Fraction(row["Amount"])
            else:
                leg = (row["ProductClass"], row.get("EndDate"), row.get("ValuationDate"), rate(row))
                legs[leg] += Fraction(row["Amount"])
        gross += sum((abs(net) * leg[-1] for leg, net in legs.items()), Fraction(0))
        values.append(value if side == "Call" else -value)
    cost = sum((max(value, Fraction(0)) for value in values), Fraction(0))
    ratio = max(sum(values, Fraction(0)), Fraction(0)) / cost if cost else Fraction(1)
    return Fraction("0.4") * gross + Fraction("0.6") * ratio * gross, lost


def add_ons(rows: Iterable[Row]) -> tuple[Fraction, Fraction, dict[str, Fraction]]:
    """Fixed, shares of signed notionals, multipliers; of several for one qualifier the largest."""
    rows = list(rows)

    def amounts(kind: str) -> dict[str, list[Fraction]]:
        found: dict[str, list[Fraction]] = defaultdict(list)
        for row in rows:
            if row["RiskType"] == kind:
                found[row.get("Qualifier", "")].append(Fraction(row["Amount"]))
        return found

    fixed = sum((sum(each) for each in amounts("Param_AddOnFixedAmount").values()), Fraction(0))
    notionals = amounts("Notional")
    shares = (
        max(percents) / 100 * sum(notionals.get(product, ()))
        for product, percents in amounts("Param_AddOnNotionalFactor").items()
    )
    scales = amounts("Param_ProductClassMultiplier")
    return fixed, sum(shares, Fraction(0)), {name: max(each) for name, each in scales.items()}
