"""Regulations and Schedule IM in plain loops, written from the method note alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import date
from math import fsum

from simm_case import Row

UNSEGREGATED = "SEC-unseg"
COLUMN = {"Call": "CollectRegulations", "Post": "PostRegulations"}
Figure = Callable[[list[Row]], float]
"""USD of the rows of one regulation, on one side."""

RATES = {  # product class -> percent of notional: to 2 years, to 5 years, beyond
    "Rates": (1.0, 2.0, 4.0),
    "Credit": (2.0, 5.0, 10.0),
    "FX": (6.0, 6.0, 6.0),
    "Equity": (15.0, 15.0, 15.0),
    "Commodity": (15.0, 15.0, 15.0),
    "Other": (15.0, 15.0, 15.0),
}


def regulations_of(row: Row, side: str) -> list[str]:
    return re.findall(r"[^\s,;\[\]]+", row.get(COLUMN[side], ""))


def by_regulation(rows: Iterable[Row], side: str) -> dict[str, list[Row]]:
    """Regulation -> its rows; all rows under "" where neither side names any."""
    rows = list(rows)
    held: dict[str, list[Row]] = defaultdict(list)
    names = {name for row in rows for name in regulations_of(row, side)}
    for row in rows:
        own = set(regulations_of(row, side))
        if "SEC" in names and "CFTC" in own:
            own.add("SEC")
        for name in own:
            held[name].append(row)
    none_at_all = not any(regulations_of(row, name) for row in rows for name in COLUMN)
    return {"": rows} if none_at_all else dict(sorted(held.items()))


def regulated(rows: Iterable[Row], side: str, figure: Figure) -> dict[str, tuple[str, float]]:
    """TOTAL, SEGREGATED and UNSEGREGATED -> (the regulation that binds, USD)."""
    found = {name: figure(held) for name, held in by_regulation(rows, side).items()}
    apart = {name: usd for name, usd in found.items() if name != UNSEGREGATED}
    return {
        "TOTAL": largest(found),
        "SEGREGATED": largest(apart),
        "UNSEGREGATED": largest({n: usd for n, usd in found.items() if n == UNSEGREGATED}),
    }


def largest(found: dict[str, float]) -> tuple[str, float]:
    """The largest figure, of equals the first by name; none is zero."""
    name = min(found, key=lambda name: (-found[name], name), default="")
    return name, found.get(name, 0.0)


# ---------------------------------------------------------------- schedule


def years_after(day: date, years: int) -> date:
    """The same day of a later year; the 29th of February becomes the 28th."""
    leap = day.month == 2 and day.day == 29
    return day.replace(year=day.year + years, day=28 if leap else day.day)


def rate_of(row: Row) -> float:
    """Share of notional of a row's product class and end date."""
    start, end = (date.fromisoformat(row[name]) for name in ("valuation_date", "end_date"))
    place = sum(end > years_after(start, years) for years in (2, 5))
    return RATES[row["ProductClass"]][place] / 100.0


def net_notionals(rows: list[Row]) -> dict[str, float]:
    """Trade -> USD, from its notional rows or, without any, from its field `notional`."""
    own: dict[str, list[float]] = defaultdict(list)
    told: dict[str, float] = {}
    for row in rows:
        if row["RiskType"] == "Notional":
            own[row["TradeID"]].append(float(row["AmountUSD"]))
        if row.get("notional", ""):
            told[row["TradeID"]] = float(row["notional"])
    return told | {trade: fsum(amounts) for trade, amounts in own.items()}


def net_values(rows: list[Row], side: str) -> dict[str, float]:
    """Trade -> its present value in USD as the side sees it."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["RiskType"] == "PV":
            values[row["TradeID"]].append(float(row["AmountUSD"]))
    sign = 1.0 if side == "Call" else -1.0
    return {trade: sign * fsum(amounts) for trade, amounts in values.items()}


def schedule(rows: Iterable[Row], side: str) -> float:
    """Schedule IM in USD: notionals and present values net within a trade."""
    rows = list(rows)
    rate = {row["TradeID"]: rate_of(row) for row in rows}
    gross = fsum(abs(net) * rate[trade] for trade, net in net_notionals(rows).items())
    values = net_values(rows, side).values()
    gross_cost = fsum(max(value, 0.0) for value in values)
    ratio = max(fsum(values), 0.0) / gross_cost if gross_cost else 1.0
    return 0.4 * gross + 0.6 * ratio * gross
