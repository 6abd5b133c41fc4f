"""SPAN as a practitioner writes it: one account at a time, with dictionaries and NumPy arrays.

All steps, on the tables of a reader: combinations, scan by tiers, spreads above, within and between
commodities, delivery, short option minima, option values. Spreads are looked up by the commodities
that an account holds, so that what it does not hold costs nothing.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from span_plain_steps import (
    UNITS,
    State,
    Terms,
    consume,
    grouped,
    minimum,
    price_risk,
    scan,
    sign,
    tier_of,
    within,
)

from gpu_margin.span_tables import (
    BY_DELTA,
    BY_LEG_TIERS,
    BY_SCANNING,
    BY_TIERS,
    SpanTables,
)


class Practitioner:
    """A file made ready: everything looked up by name."""

    def __init__(self, tables: SpanTables) -> None:
        self.tables = tables
        self.commodities = {one["combined_commodity"]: one for one in tables.commodities.to_dicts()}
        for one in self.commodities.values():
            grid = tables.grids[one["grid"]]
            one |= {"pair": grid.pair, "still": np.flatnonzero(grid.still)}
            one |= {kind: [] for kind in ("scan", "intra", "inter", "minimum", "charges")}
            one |= {"ranges": {}, "delivery": {}}
        for tier in tables.tiers.to_dicts():
            self.commodities[tier["combined_commodity"]][tier["kind"]].append(tier)
        for row in tables.ranges.to_dicts():
            self.commodities[row["combined_commodity"]]["ranges"][row["month"]] = row
        for row in tables.delivery.to_dicts():
            self.commodities[row["combined_commodity"]]["delivery"][row["month"]] = row
        legs = grouped(tables.intra_legs.to_dicts(), "spread")
        for number, row in enumerate(tables.intra.to_dicts()):
            charges = self.commodities[row["combined_commodity"]]["charges"]
            charges.append({**row, "legs": legs[number]})
        legs = grouped(tables.inter_legs.to_dicts(), "spread")
        self.spreads = [
            {**row, "legs": legs[number]} for number, row in enumerate(tables.inter.to_dicts())
        ]
        self.spreads_of: dict[str, list[int]] = defaultdict(list)
        for number, row in enumerate(self.spreads):
            for leg in row["legs"]:
                self.spreads_of[leg["combined_commodity"]].append(number)
        rates = tables.rates.to_dicts()
        self.rates = {(one["source"], one["target"]): one["rate"] for one in rates}
        self.numbers = {name: at for at, name in enumerate(tables.contracts["contract_id"])}
        scale = 10.0 ** tables.contracts["decimals"].to_numpy()
        self.arrays = tables.arrays / scale[:, None]
        self.contracts = tables.contracts.to_dicts()
        self.splits = grouped(tables.splits.to_dicts(), "contract")

    def rate(self, source: str, target: str) -> float:
        if source == target:
            return 1.0
        if (source, target) in self.rates:
            return float(self.rates[source, target])
        return 1.0 / float(self.rates[target, source])

    # ------------------------------------------------------------------------- positions

    def states(self, positions: Iterable[tuple[str, float]]) -> dict[str, State]:
        """Vectors, deltas and option values by commodity."""
        netted: dict[int, float] = defaultdict(float)
        for name, quantity in positions:
            netted[self.numbers[name]] += quantity
        found: dict[str, State] = {}
        for number, quantity in netted.items():
            legs = self.splits.get(number, []) if quantity else []
            if not quantity:
                continue
            if not legs:
                self.add(found, number, quantity, delta=quantity * self.delta(number))
            elif legs[0]["replaced"]:
                for leg in legs:
                    size = quantity * leg["ratio"]
                    self.add(found, leg["leg"], size, delta=size * self.delta(leg["leg"]))
            else:
                self.add(found, number, quantity, delta=0.0)
                for leg in legs:
                    moved = quantity * self.contracts[number]["delta"] * leg["ratio"]
                    scaled = moved * self.contracts[leg["leg"]]["scaling"] * UNITS
                    self.add(found, leg["leg"], 0.0, delta=scaled)
        for code, state in found.items():
            state.minimum = minimum(state, self.commodities[code])
        return found

    def delta(self, number: int) -> int:
        one = self.contracts[number]
        return int(round(one["delta"] * 10_000) * round(one["scaling"] * 10_000))

    def add(self, found: dict[str, State], number: int, quantity: float, delta: float) -> None:
        one = self.contracts[number]
        home = self.commodities[one["combined_commodity"]]
        state = found.setdefault(one["combined_commodity"], State(np.zeros(len(home["pair"]))))
        month = state.month(one["delta_month"])
        month.delta += delta
        month.left = month.delta
        state.only_long &= bool(one["right"]) and quantity > 0 and one["premium"]
        if not quantity:
            return
        money = quantity * self.rate(one["currency"], home["currency"])
        vector = self.arrays[number, : len(home["pair"])] * money
        state.total += vector
        month.vector += vector
        if one["right"] and one["premium"]:
            value = money * one["price"] * one["multiplier"]
            state.long, state.short = state.long + max(value, 0.0), state.short + min(value, 0.0)
        if one["right"] and quantity < 0:
            state.shorts[one["delta_month"], one["right"]] -= quantity * one["scaling"]

    # --------------------------------------------------------------------------- spreads

    def within_commodity(self, state: State, one: Terms) -> None:
        tiers = {tier["number"]: tier for tier in one["intra"]}
        for charge in one["charges"]:
            legs = []
            for leg in charge["legs"]:
                name, tier = leg["month"], tiers.get(leg["tier"])
                some = [name] if name else [m for m in state.months if tier and within(m, tier)]
                legs.append((leg, [state.months[m] for m in sorted(some) if m in state.months]))
            if not all(months for _, months in legs):
                continue
            for way in (1, -1):
                self._form(state, one, charge, legs, way)

    def _form(self, state: State, one: Terms, charge: Terms, legs: Any, way: int) -> None:
        needs: dict[Any, list[float]] = {}
        for leg, months in legs:
            side = way * leg["side"]
            pool = sum(max(side * month.left, 0.0) for month in months)
            need = needs.setdefault((side, *map(id, months)), [pool, 0.0])
            need[1] += leg["ratio"]
        count = min(pool / ratio for pool, ratio in needs.values())
        if count <= 0:
            return
        rate = charge["rate"]
        if charge["weighted"]:
            ratios = sum(leg["ratio"] for leg, _ in legs)
            rate = -rate * ratios * price_risk(state, one, None)
        state.intra += count / UNITS * rate
        for leg, months in legs:
            consume(months, way * leg["side"], count * leg["ratio"])

    def deliver(self, state: State, one: Terms) -> None:
        for name, rates in one["delivery"].items():
            month = state.months.get(name)
            if month is not None:
                used = abs(month.delta - month.left) / UNITS
                left = abs(month.left) / UNITS
                state.delivery += used * rates["consumed"] + left * rates["outright"]

    def between(self, states: dict[str, State], *, above: bool) -> None:
        waiting = sorted({number for code in states for number in self.spreads_of[code]})
        tried = set(waiting)
        while waiting:
            number = heapq.heappop(waiting)
            spread = self.spreads[number]
            if spread["above"] != above:
                continue
            if spread["method"] == BY_SCANNING:
                # What comes of it may be held by nobody before, and has spreads of its own.
                for later in self.spreads_of[self.merge(spread, states)]:
                    if later > number and later not in tried:
                        tried.add(later)
                        heapq.heappush(waiting, later)
            elif all(leg["combined_commodity"] in states for leg in spread["legs"]):
                self.by_deltas(spread, states)

    def by_deltas(self, spread: Terms, states: dict[str, State]) -> None:
        legs = [
            (leg, states[leg["combined_commodity"]], self.commodities[leg["combined_commodity"]])
            for leg in spread["legs"]
        ]
        if spread["method"] in (BY_DELTA, BY_LEG_TIERS):
            wanted = [leg["tier"] * (spread["method"] == BY_LEG_TIERS) for leg, _, _ in legs]
            self.form(spread, legs, wanted, np.inf)
        elif spread["method"] == BY_TIERS:
            left = self.form(spread, legs, [0] * len(legs), 0.0)
            numbers: set[Any] = {tier["number"] for _, _, one in legs for tier in one["inter"]}
            for _, state, one in legs:
                numbers |= set(state.months) if one["inter_by_month"] else set()
            for number in sorted(numbers, key=str):
                left -= self.form(spread, legs, [number] * len(legs), left, whole=True)

    def form(
        self, spread: Terms, legs: Any, wanted: list[Any], most: float, whole: bool = False
    ) -> float:
        """Forms up to `most` spreads, and says how many (how many there could be, if none)."""
        found, long, count = [], 0, np.inf
        for (leg, state, one), number in zip(legs, wanted, strict=True):
            tier = tier_of(one, number)
            if number and tier is None:
                return 0.0
            names = sorted(m for m in state.months if tier is None or within(m, tier))
            months = [state.months[name] for name in names]
            net = sum(month.left for month in months)
            long = long or sign(net) * leg["side"]
            risk = price_risk(state, one, None if whole else tier)
            if net == 0 or sign(net) != long * leg["side"] or (not spread["flat"] and risk <= 0):
                return 0.0
            count = min(count, abs(net) / leg["ratio"])
            found.append((leg, state, months, risk, sign(net)))
        if most == 0.0 and not whole:
            return float(count)
        count = min(float(count), most)
        for leg, state, months, risk, side in found:
            taken = count * leg["ratio"]
            share = count / len(found) if spread["flat"] else risk * taken
            state.inter += share / UNITS * leg["rate"]
            consume(months, side, taken)
        return count

    def merge(self, spread: Terms, states: dict[str, State]) -> str:
        """By scanning: legs become the target, their gains damped; "" where it is not formed."""
        present = [leg for leg in spread["legs"] if leg["combined_commodity"] in states]
        needed = [leg["combined_commodity"] in states for leg in spread["legs"] if leg["required"]]
        if len(present) < spread["least"] or not all(needed):
            return ""
        aim = next(leg for leg in spread["legs"] if leg["target"])
        home = self.commodities[aim["combined_commodity"]]
        target = State(np.zeros(len(home["pair"])), merged=True)
        for leg in present:
            state = states.pop(leg["combined_commodity"])
            owner = self.commodities[leg["combined_commodity"]]
            money = self.rate(owner["currency"], home["currency"])
            target.total += money * np.where(state.total < 0, leg["rate"], 1.0) * state.total
            for what in ("long", "short", "minimum", "intra", "delivery", "inter"):
                setattr(target, what, getattr(target, what) + money * getattr(state, what))
            target.only_long &= state.only_long
            for own, month in state.months.items():
                mine, times = target.month(own), aim["ratio"] / leg["ratio"]
                mine.delta, mine.left = (
                    mine.delta + times * month.delta,
                    mine.left + times * month.left,
                )
                damped = np.where(month.vector < 0, leg["rate"], 1.0) * month.vector
                mine.vector += money * damped
        name: str = aim["combined_commodity"]
        states[name] = target
        return name

    # ---------------------------------------------------------------------------- margin

    def margin(
        self, positions: Iterable[tuple[str, float]], account: str = "hedger", initial: bool = False
    ) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
        """Figures by commodity, and what the account requires by currency."""
        states = self.states(positions)
        self.between(states, above=True)
        for code, state in states.items():
            self.within_commodity(state, self.commodities[code])
            self.deliver(state, self.commodities[code])
        self.between(states, above=False)
        rows = {}
        pooled: dict[str, float] = defaultdict(float)
        limited: dict[str, float] = defaultdict(float)
        for code, state in states.items():
            one = self.commodities[code]
            risk, active, _ = scan(state, one)
            found = max(risk + state.intra + state.delivery - state.inter, state.minimum)
            found = min(found, state.long) if state.only_long else found
            found *= one[f"{'ratio' if initial else 'factor'}_{account}"]
            value = state.long + state.short
            rows[code] = {
                "scan_risk": risk, "active_scenario": active + 1, "requirement": found - value,
                "intra_spread_charge": state.intra, "delivery_charge": state.delivery,
                "inter_spread_credit": state.inter, "short_option_minimum": state.minimum,
                "risk": found, "net_option_value": value,
            }  # fmt: skip
            if self.tables.limit or one["limit"]:
                limited[one["currency"]] += max(found - value, 0.0)
            else:
                pooled[one["currency"]] += found - value
        totals = {
            name: max(pooled[name], 0.0) + limited[name] for name in sorted({*pooled, *limited})
        }
        return rows, totals


def accounts_of(positions: pl.DataFrame) -> list[list[tuple[str, float]]]:
    """Positions account by account, in the order of their first."""
    held: dict[str, list[tuple[str, float]]] = {}
    for account, contract, quantity in positions.iter_rows():
        held.setdefault(account, []).append((contract, quantity))
    return list(held.values())
