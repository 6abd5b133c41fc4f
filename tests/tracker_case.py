"""A small venue to be tracked, and what fills and marks do to it by plain loops.

Nothing here is imported from the tracker but the tracker that is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
from small_case import CASE, covariance, frames, instrument, simulation

import gpu_margin
from gpu_margin import loading
from gpu_margin.tracker import Tracker

Row = dict[str, Any]

CONFIG = {
    **CASE.config,
    "models": {
        "es": simulation(),
        "cov": covariance(),
        "capped": simulation(offset_cap=0.5),
        "mixed": simulation(precision="mixed"),
    },
}
# GBPX is settled in pounds, which are no asset: its cash is in dollars. NOPRICE has no price yet.
CASE_WITH_MORE = CASE.added(
    "instruments",
    instrument("FUTE", "future", "Y", "EUR", multiplier=2.0, price=51.0),
    instrument("GBPX", "future", "X", "GBP", multiplier=4.0, price=80.0),
    instrument("NOPRICE", "future", "Z", multiplier=10.0),
)
ASSETS = pl.DataFrame(
    {
        "asset": ["USD", "EUR", "XAU", "BND"],
        "currency": ["USD", "EUR", "USD", "USD"],
        "price": [1.0, 1.0, 20.0, 10.0],
        "haircut": [0.0, 0.01, 0.05, 0.02],
        "factor": [None, None, "Z", None],
        "wrong_way_factor": [None, None, 2.0, None],
        "concentration_limit": [None, None, None, 300.0],
    }
)
COLLATERAL = pl.DataFrame(
    {
        "account_id": ["A", "A", "B", "B", "C", "F", "F"],
        "asset": ["USD", "BND", "XAU", "USD", "BND", "EUR", "XAU"],
        "amount": [100.0, 20.0, 3.0, 10.0, 50.0, 5.0, 1.0],
        "netting_set": [None, "iso", "s1", "s2", None, None, None],
    }
)
OWNERS = pl.DataFrame(
    {
        "account_id": ["A", "B", "C", "D", "0", "NEW"],
        "owner": ["o"] * 6,
        "venue": list("vwuvwu"),
    }
)
AGREEMENTS = pl.DataFrame({"owner": ["*"], "venues": ["u;v;w"], "max_offset": [0.7]})
TABLES = {**frames(CASE_WITH_MORE), "assets": ASSETS, "collateral": COLLATERAL}
BETWEEN_VENUES = {**TABLES, "accounts": OWNERS, "agreements": AGREEMENTS}


def loaded(tables: Row | None = None, mode: str = "haircut") -> loading.Loaded:
    return loading.load(config_of(mode), **(TABLES if tables is None else tables))


def config_of(mode: str = "haircut") -> Row:
    return {**CONFIG, "collateral": {"mode": mode}}


@cache
def _loaded(mode: str) -> loading.Loaded:
    return loaded(TABLES, mode)


def tracker(
    model: str = "es",
    backend: Any = "numpy",
    mode: str = "haircut",
    tables: Any = None,
    **more: Any,
) -> Tracker:
    if tables is None:
        return Tracker(_loaded(mode), model, backend, **more, **TABLES)
    return Tracker(loaded(tables, mode), model, backend, **more, **tables)


def fill(number: Any, account: Any, name: Any, quantity: Any, price: Any, **more: Any) -> Row:
    row = {"fill_id": number, "account_id": account, "netting_set": None, "instrument_id": name}
    return {**row, "quantity": quantity, "price": price, "fee": 0.0, **more}


def mark(name: Any, field: Any, value: Any, time: Any = 1.0, factor: Any = None) -> Row:
    row = {"instrument_id": name, "factor": factor, "field": field}
    return {**row, "value": value, "time": time}


def columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def as_run(tracked: Tracker, folder: Path, backend: str = "numpy") -> gpu_margin.Run:
    return gpu_margin.run(tracked.export(folder), backend=backend)


def same_as_run(tracked: Tracker, folder: Path, backend: str = "numpy") -> None:
    """Every figure of the tracker is that of a run on what it exports, bit for bit."""
    finished = as_run(tracked, folder, backend)
    chosen = pl.col("model") == tracked.model.name
    keys = ["account_id", "netting_set", "requirement", "complete"]
    assert tracked.requirements().equals(finished.sets.filter(chosen).select(keys))
    if tracked.with_collateral:
        assert finished.accounts is not None
        assert tracked.accounts().equals(finished.accounts.filter(chosen))
    else:
        assert finished.accounts is None


# ---------------------------------------------------------------- by plain loops

MULTIPLIER = {"FUTX": 10.0, "PERPY": 0.5, "FUTE": 2.0, "GBPX": 4.0, "NOPRICE": 10.0}
SETTLED = ("FUTX", "FUTY", "LONE", "PERPY", "FUTE", "GBPX", "NOPRICE")
CURRENCY = {"PUTY": "EUR", "FUTE": "EUR"}  # of GBPX it is dollars, at the rate
RATE = {"GBPX": 1.25}
EPS4 = 4 * 2.0**-52


class Oracle:
    """Positions and cash, one fill and one mark after another."""

    def __init__(self) -> None:
        self.positions: dict[tuple[str, str, str], float] = {}
        self.gross: dict[tuple[str, str, str], float] = {}
        self.cash: dict[tuple[str, str, str], float] = {}
        self.marks = {
            row["instrument_id"]: row["price"]
            for row in CASE_WITH_MORE.instruments
            if row["price"] is not None
        }
        self.times: dict[Any, float] = {}
        self.ids: set[str] = set()
        for row in CASE.positions:
            name = row["netting_set"] or row["account_id"]
            self._add((row["account_id"], name, row["instrument_id"]), row["quantity"])
        for account, asset, amount, name in COLLATERAL.iter_rows():
            self.cash[account, name or account, asset] = amount

    def _add(self, key: tuple[str, str, str], quantity: float) -> None:
        total = self.positions.pop(key, 0.0) + quantity
        gross = self.gross.pop(key, 0.0) + abs(quantity)
        if abs(total) > EPS4 * gross:
            self.positions[key], self.gross[key] = total, gross

    def fill(self, row: Row) -> None:
        if row["fill_id"] in self.ids:
            return
        self.ids.add(row["fill_id"])
        name = row["instrument_id"]
        unit, rate = MULTIPLIER.get(name, 1.0) * RATE.get(name, 1.0), RATE.get(name, 1.0)
        size = row["quantity"] * unit
        if name in SETTLED:
            change = size * (self.marks[name] - row["price"])
        else:
            change = -(size * row["price"])
        netting_set = row["netting_set"] or row["account_id"]
        self._add((row["account_id"], netting_set, name), row["quantity"])
        account = (row["account_id"], netting_set, CURRENCY.get(name, "USD"))
        self.cash[account] = self.cash.get(account, 0.0) + (change - row["fee"] * rate)

    def mark(self, row: Row) -> None:
        key = (row["instrument_id"], row["factor"], row["field"])
        if row["time"] < self.times.get(key, float("-inf")):
            return
        self.times[key] = row["time"]
        name = row["instrument_id"]
        if name not in SETTLED:
            return
        for (account, netting_set, held), quantity in sorted(self.positions.items()):
            if held == name:
                place = (account, netting_set, CURRENCY.get(name, "USD"))
                unit = MULTIPLIER.get(name, 1.0) * RATE.get(name, 1.0)
                gain = quantity * unit * (row["value"] - self.marks[name])
                self.cash[place] = self.cash.get(place, 0.0) + gain
        self.marks[name] = row["value"]

    def take(self, kind: str, rows: Iterable[Row]) -> None:
        for row in rows:
            self.fill(row) if kind == "fill" else self.mark(row)


def same_state(tracked: Tracker, oracle: Oracle) -> None:
    """Positions and amounts, to the bit; an amount of 0 may be there or not."""
    held = {row[:3]: row[3] for row in tracked.positions().iter_rows()}
    assert held == oracle.positions
    amounts = {row[:3]: row[3] for row in tracked.collateral().iter_rows() if row[3]}
    assert amounts == {key: amount for key, amount in oracle.cash.items() if amount}
