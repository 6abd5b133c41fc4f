"""Accounts between the steps of SPAN: the engine's state beside the slow one's."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from span_case import tables_of
from span_oracle import fresh_state, points_of, rate_of, states_of
from span_oracle_case import contract, linear
from span_oracle_inter import inter as slow_inter
from span_oracle_pa2 import parse_pa2
from span_oracle_steps import delivery, intra
from span_random import model, portfolio
from span_random_pa2 import as_pa2

from gpu_margin.backend import load
from gpu_margin.models.span import inter, within
from gpu_margin.models.span.minimum import charge_minimum, charged_tiers
from gpu_margin.models.span.state import State, opened
from gpu_margin.portfolio import Rows, netted_rows
from gpu_margin.span_book import Terms
from gpu_margin.span_build import build
from gpu_margin.span_file import DELTA_UNITS, SpanFile

Dict = dict[str, Any]
Held = list[tuple[str, Any]]
BACKEND = load("numpy")


def rows_of(file: SpanFile, books: list[Held]) -> Rows:
    """Net positions, a row per book."""
    code = {name: place for place, name in enumerate(file.contracts.ids)}
    entries = sorted(
        (account, code[name], float(quantity))
        for account, book in enumerate(books)
        for name, quantity in book
    )
    account, column, value = np.array(entries, dtype=np.float64).reshape(-1, 3).T
    offsets = np.searchsorted(account, np.arange(len(books) + 1))
    return netted_rows(Rows(offsets.astype(np.int64), column.astype(np.int64), value))


def opened_with(file: SpanFile, books: list[Held], formed: bool = False) -> State:
    """Accounts before any spread."""
    rows = rows_of(file, books)
    state = opened(file, rows, file.contracts.array, BACKEND, inter.room, formed)
    charge_minimum(state, charged_tiers(file))
    return state


def worked(
    file: SpanFile, books: list[Held], places: int | None = None, formed: bool = False
) -> State:
    """Accounts after all spreads."""
    state, terms = opened_with(file, books, formed), Terms(spread_places=places)
    inter.form(state, True, terms)
    within.form(state, terms, within.reach(file))
    within.charge_delivery(state)
    inter.form(state, False, terms)
    return state


def slow_states(exchange: Dict, book: Held, places: int | None = None) -> dict[str, Dict]:
    """The slow one's commodities after all spreads."""
    netted: dict[str, Fraction] = {}
    for name, quantity in book:
        netted[name] = netted.get(name, Fraction(0)) + Fraction(quantity)
    states = states_of(exchange, {name: held for name, held in netted.items() if held})
    commodities = exchange["commodities"]

    def spread(above: bool) -> None:
        slow_inter(
            [each for each in exchange["spreads"] if each["super"] == above],
            states,
            commodities,
            lambda code: fresh_state(code, points_of(exchange, code)),
            lambda source, target: rate_of(exchange, source, target),
            places,
        )

    spread(True)
    for code, state in states.items():
        intra(state, commodities[code], places)
        delivery(state, commodities[code])
    spread(False)
    return states


def summary(state: State, account: int) -> dict[str, Dict]:
    """What a state says of the commodities that an account has."""
    found = {}
    for row in np.flatnonzero((state.account == account) & state.present):
        entries = range(int(state.offsets[row]), int(state.offsets[row + 1]))
        months = state.file.slots.month
        found[state.file.commodities.codes[int(state.commodity[row])]] = {
            "inter": state.inter[row],
            "intra": state.intra[row],
            "delivery": state.delivery[row],
            "som": state.minimum[row],
            "lov": state.long_value[row],
            "sov": state.short_value[row],
            "merged": bool(state.merged[row]),
            "only_long": bool(state.only_long[row]),
            "total": state.total[row].tolist(),
            "months": {
                months[int(state.slot[entry])]: {
                    "delta": state.delta[entry] / DELTA_UNITS,
                    "left": state.left[entry] / DELTA_UNITS,
                    "vector": state.vector[entry].tolist(),
                }
                for entry in entries
                if state.held[entry]
            },
        }
    return found


def compare(state: State, account: int, wanted: dict[str, Dict]) -> None:
    """The state of an account is the slow one's, to rounding."""
    found = summary(state, account)
    assert sorted(found) == sorted(wanted)
    for code, own in found.items():
        slow = wanted[code]
        size = max(1.0, *(abs(float(value)) for value in slow["total"]))
        near = {"rel": 1e-9, "abs": 1e-9 * size}
        for name in ("inter", "intra", "delivery", "som", "lov", "sov"):
            assert own[name] == pytest.approx(float(slow[name]), **near), (code, name)
        for name in ("merged", "only_long"):
            assert own[name] == slow[name], (code, name)
        assert own["total"] == pytest.approx([float(one) for one in slow["total"]], **near), code
        assert sorted(own["months"]) == sorted(slow["months"]), code
        for month, figures in own["months"].items():
            for name in ("delta", "left"):
                exact = float(slow["months"][month][name])
                assert figures[name] == pytest.approx(exact, rel=1e-9, abs=1e-9), (code, month)
            vector = [float(one) for one in slow["months"][month]["vector"]]
            assert figures["vector"] == pytest.approx(vector, **near), (code, month)


def built(exchange: Dict) -> SpanFile:
    return build(tables_of(exchange))


def futures(code: str, months: tuple[str, ...] = ("202601",), psr: float = 300) -> list[Dict]:
    """A commodity of futures; what one of them risks is `psr`."""
    return [contract(f"{code}{month}", linear(psr), period=month, product=code) for month in months]


def leg(code: str, side: str, ratio: Any = 1, tier: int = 0) -> tuple[str, Any, str, int]:
    """A leg as `inter_spread` takes it."""
    return code, ratio, side, tier


def credits(exchange: Dict, *books: Held, places: int | None = None) -> list[dict[str, float]]:
    """Of each account what its commodities are credited, where it is anything."""
    state = worked(built(exchange), list(books), places)
    for account, book in enumerate(books):
        compare(state, account, slow_states(exchange, book, places))
    found = [summary(state, account) for account in range(len(books))]
    return [{code: one["inter"] for code, one in each.items() if one["inter"]} for each in found]


def lefts(exchange: Dict, book: Held) -> dict[str, dict[str, float]]:
    """What is left of an account's deltas."""
    found = summary(worked(built(exchange), [book]), 0)
    return {
        code: {month: figures["left"] for month, figures in one["months"].items()}
        for code, one in found.items()
    }


def random_spreads(rng: random.Random, commodities: Dict, scanning: bool = True) -> list[Dict]:
    """Many spreads of all methods that share legs, some of them twice in one spread."""
    codes, found = sorted(commodities), []
    for _ in range(rng.randint(8, 30)):
        method = rng.choice(["01", "01", "20", "20", "02", *(["04"] if scanning else [])])
        count = min(rng.choice([1, 2, 2, 2, 3, 3, 4]), len(codes))
        chosen = rng.sample(codes, count)
        if method == "20" and rng.random() < 0.4:
            chosen = [rng.choice(codes) for _ in range(count)]
        common, legs = rng.choice([0, 25, 50, 80]), []
        for code in chosen:
            tiers = commodities[code]["inter"]
            numbers = [] if tiers == "each" else [tier["number"] for tier in tiers]
            legs.append(
                {
                    "cc": code,
                    "ratio": Fraction(rng.choice(["1", "1", "2", "0.5", "3", "0.3", "1.7"])),
                    "side": rng.choice("AB"),
                    "tier": rng.choice([0, *numbers, *([9] if rng.random() < 0.05 else [])])
                    if method == "20"
                    else 0,
                    "rate": Fraction(rng.choice([common, common, 35])),
                    "required": rng.random() < 0.3,
                    "target": False,
                }
            )
        if method == "04":
            rng.choice(legs)["target"] = True
        found.append(
            {
                "method": method,
                "flat": method != "04" and rng.random() < 0.25,
                "legs": legs,
                "super": rng.random() < 0.3,
                "least": rng.choice([1, 2, 2, 3]),
            }
        )
    return found


def drawn(seed: int, count: int = 6, scanning: bool = True) -> tuple[Dict, SpanFile, list[Held]]:
    """A random exchange with many spreads, its file, and accounts."""
    rng, said = random.Random(seed), model(seed, xml=False)
    exchange = parse_pa2(as_pa2(said))
    spreads = random_spreads(rng, exchange["commodities"], scanning)
    exchange["spreads"] = [each for each in spreads if comparable(exchange, each)]
    books = []
    for _ in range(count):
        every: dict[str, int] = {}
        for _ in range(rng.randint(1, 4)):
            for name, quantity in portfolio(said, rng):
                every[name] = every.get(name, 0) + quantity
        books.append(list(every.items()))
    return exchange, built(exchange), books


def comparable(exchange: Dict, spread: Dict) -> bool:
    """Whether both mean the same by a month that is a tier.

    Where every month is a tier, the slow one lets a month's tier have its days as well.
    """
    days = {one["commodity"] for one in exchange["contracts"].values() if len(one["period"]) > 6}
    return not any(
        spread["method"] == "02"
        and one["cc"] in days
        and exchange["commodities"][one["cc"]]["inter"] == "each"
        for one in spread["legs"]
    )
