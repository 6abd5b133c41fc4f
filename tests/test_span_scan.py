"""Scan risk and price risk per delta: limits, figures by hand, and the oracle's own steps."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import span_oracle_steps as slow
from span_case import tables_of
from span_inter_case import opened_with
from span_oracle import states_of
from span_oracle_case import contract, exchange_of, linear
from span_oracle_pa2 import parse_pa2
from span_random import model, portfolio
from span_random_pa2 import as_pa2

from gpu_margin.models.span.prices import price_risk, scan, scanned, tier_price_risk
from gpu_margin.models.span.state import State
from gpu_margin.span_build import build
from gpu_margin.span_file import padded_grids
from gpu_margin.span_tables import CAPPED, NORMAL, SCAN_RANGE, SIXTEEN, Grid

Dict = dict[str, Any]
MONTHS = ["202601", "202602", "202603", "202606"]


def one(vector: list[float], grid: Grid = SIXTEEN) -> tuple[float, int, float, float]:
    found = scanned(np.array([vector], dtype=np.float64), grid.pair, grid.still)
    figures = (found.risk, found.active, found.time, found.volatility)
    return tuple(figure[0].item() for figure in figures)  # type: ignore[return-value]


def futures(months: list[str], psr: int = 300, **more: Any) -> list[Dict]:
    return [contract(f"L{month}", linear(psr), period=month, **more) for month in months]


def exchange_with(contracts: list[Dict], **terms: Any) -> Dict:
    exchange = exchange_of({"L": contracts})
    exchange["commodities"]["L"].update(terms)
    return exchange


def state_of(exchange: Dict, *books: list[tuple[str, Any]]) -> State:
    return opened_with(build(tables_of(exchange)), list(books))


def risks(exchange: Dict, *books: list[tuple[str, Any]]) -> list[float]:
    state = state_of(exchange, *books)
    return price_risk(state, np.arange(len(state))).tolist()


def test_nothing_is_lost_of_nothing() -> None:
    assert one([0.0] * 16) == (0.0, 0, 0.0, 0.0)
    empty = scanned(np.zeros((0, 16)), SIXTEEN.pair, SIXTEEN.still)
    assert len(empty.risk) == len(empty.active) == len(empty.time) == len(empty.volatility) == 0
    state = state_of(exchange_with(futures(MONTHS)))
    nobody = np.zeros(0, dtype=np.int64)
    assert len(scan(state, nobody).risk) == len(price_risk(state, nobody)) == 0
    assert len(tier_price_risk(state, nobody, nobody, nobody)) == 0


def test_the_first_of_equals_is_active() -> None:
    assert one([0.0, 5.0, 1.0, 5.0] + [0.0] * 12)[1] == 1
    assert one([7.0] * 16)[:2] == (7.0, 0)


def test_gains_only_are_no_risk_but_have_an_active_scenario() -> None:
    vector = [-8.0, -2.0] + [-9.0] * 11 + [-1.0, -9.0, -9.0]
    assert one(vector) == (0.0, 13, -5.0, -3.0)


@pytest.mark.parametrize("point", range(16))
def test_volatility_risk_is_half_the_way_to_the_pair(point: int) -> None:
    vector = [0.0] * 16
    vector[point] = 10.0
    pair = int(SIXTEEN.pair[point])
    assert one(vector)[3] == (0.0 if pair == point else 5.0)
    assert one(vector)[2] == (5.0 if point < 2 else 0.0)


def test_a_grid_whose_price_never_stands_still_has_no_time_risk() -> None:
    grid = Grid(np.array([1, 0, 2]), np.zeros(3, dtype=np.bool_))
    assert one([1.0, 3.0, 2.0], grid) == (3.0, 1, 0.0, 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_grids_of_a_file_do_not_mix(seed: int) -> None:
    """Vectors of several grids at once, padded, give what the oracle has for each."""
    rng = random.Random(seed)
    grids = [SIXTEEN, Grid(np.array([0]), np.array([True]))]
    for points in (5, 9, 23):
        pair = list(range(points))
        left, right = rng.sample(pair, 2)
        pair[left], pair[right] = right, left
        still = np.isin(np.arange(points), rng.sample(range(points), rng.randint(1, 4)))
        grids.append(Grid(np.array(pair), still))
    pair, still = padded_grids(tuple(grids))
    chosen = [rng.randrange(len(grids)) for _ in range(200)]
    low = rng.choice([-9, -9, -30])
    vectors = np.zeros((200, pair.shape[1]))
    for place, code in enumerate(chosen):
        points = len(grids[code])
        vectors[place, :points] = [rng.randint(low, 9) for _ in range(points)]
        vectors[place, points:] = vectors[place, 0]
    found = scanned(vectors, pair[chosen], still[chosen])
    for place, code in enumerate(chosen):
        grid = grids[code]
        own = [Fraction(value) for value in vectors[place, : len(grid)].tolist()]
        terms = {"pairs": grid.pair.tolist(), "still": np.flatnonzero(grid.still).tolist()}
        risk, active, time, volatility = slow.scanned(own, terms)
        assert found.risk[place] == risk and found.active[place] == active - 1
        assert abs(found.time[place] - float(time)) < 1e-12
        assert found.volatility[place] == float(volatility)
        alone = scanned(vectors[place : place + 1], pair[code], still[code])
        assert alone.risk[0] == found.risk[place] and alone.time[0] == found.time[place]


def test_a_future_costs_its_range_per_delta() -> None:
    exchange = exchange_with(futures(MONTHS))
    assert risks(exchange, [("L202601", 7)], [("L202601", -3)]) == [300.0, 300.0]


def test_deltas_that_net_to_nothing_have_no_price_risk() -> None:
    contracts = [*futures(["202601"]), contract("M", linear(500), period="202602", delta=1)]
    exchange = exchange_with(contracts)
    assert scan(state_of(exchange, [("L202601", 1), ("M", -1)]), np.arange(1)).futures[0] > 0
    assert risks(exchange, [("L202601", 1), ("M", -1)]) == [0.0]


@pytest.mark.parametrize(
    ("method", "long", "short"), [(NORMAL, 300, 300), (CAPPED, 250, 300), (SCAN_RANGE, 250, 310)]
)
def test_the_range_of_the_side_caps_or_replaces(method: int, long: float, short: float) -> None:
    ranges = {"202601": {"up": Fraction(310), "down": Fraction(250)}}
    exchange = exchange_with(futures(MONTHS), wfpr=method, psr=ranges)
    assert risks(exchange, [("L202601", 2)], [("L202601", -2)]) == [long, short]
    assert risks(exchange, [("L202602", 2)]) == [300.0]


def test_the_range_is_that_of_the_front_month_in_position() -> None:
    """A month that nets to nothing is in position; one that may come by scanning is not."""
    both = {month: {"up": Fraction(psr), "down": Fraction(psr)} for month, psr in
            (("202601", 11), ("202602", 22), ("202603", 33))}  # fmt: skip
    contracts = [*futures(MONTHS), contract("O", linear(300), period="202602", right="C", price=1)]
    exchange = exchange_with(contracts, wfpr=SCAN_RANGE, psr=both)
    assert risks(exchange, [("L202602", 1), ("O", -1), ("L202603", 5)]) == [22.0]
    file = build(tables_of(exchange))
    state = opened_with(file, [[("L202603", 1)]])
    assert price_risk(state, np.arange(1)).tolist() == [33.0]
    state.held[:] = False
    assert price_risk(state, np.arange(1)).tolist() == [300.0]


def test_rounding_is_no_price_risk() -> None:
    """Positions in fractions that cancel: what is left of them is nothing, not a whole range."""
    ranges = {"202601": {"up": Fraction(300), "down": Fraction(300)}}
    names = [contract(name, linear(97), period="202601", delta=0) for name in "ABC"]
    exchange = exchange_with([*futures(["202601"], 0), *names], wfpr=SCAN_RANGE, psr=ranges)
    held = [("A", 0.1), ("B", 0.2), ("C", -0.3), ("L202601", 1)]
    state = state_of(exchange, held)
    assert (state.total != 0.0).any()
    assert price_risk(state, np.arange(1)).tolist() == [0.0]
    first, last = np.array([0]), np.array([1])
    assert tier_price_risk(state, np.arange(1), first, last).tolist() == [0.0]


def test_a_thousand_million_contracts_are_exact() -> None:
    exchange = exchange_with(
        [contract("A", [7] * 2 + [-123.5] * 6 + [999] * 8, period="202601", delta="0.9999"),
         contract("B", [-7] * 2 + [123.5] * 6 + [-998] * 8, period="202602")]
    )  # fmt: skip
    state = state_of(exchange, [("A", 10**9), ("B", 10**9 - 1)])
    found = scan(state, np.arange(1))
    assert found.risk[0] == 10**9 * 999 - (10**9 - 1) * 998 and found.active[0] == 8
    assert state.delta.tolist() == [9_999 * 10**9 * 10**4, (10**9 - 1) * 10**8]
    whole = np.array([0]), np.array([2])
    assert state.net(np.arange(1), *whole, state.delta)[0] == (9_999 * 10**5 + 10**9 - 1) * 10**8


def tiered(months: list[list[str]]) -> list[Dict]:
    return [{"number": n + 1, "start": a, "end": b} for n, (a, b) in enumerate(months)]


@pytest.mark.parametrize(
    "tiers",
    [
        tiered([["202601", "202602"], ["202603", "202606"]]),
        tiered([["202603", "202606"], ["202601", "202602"]]),
        tiered([["202602", "202603"], ["202601", "202606"]]),
        tiered([["202602", "202602"]]),
        "each",
    ],
    ids=["ascending", "descending", "overlapping", "not all months", "every month"],
)
def test_scan_tiers_do_not_offset(tiers: Any) -> None:
    contracts = futures(MONTHS) + [
        contract(f"O{month}", [9, -40, 3, 5, -80, 90, 7, 2, -60, 11, 8, 4, -99, 66, 1, -1],
                 period=month, right="C", delta="0.4", price=1) for month in MONTHS
    ]  # fmt: skip
    exchange = exchange_with(contracts, scan=tiers)
    rng = random.Random(5)
    books = [
        [(each["id"], rng.randint(-9, 9)) for each in rng.sample(contracts, rng.randint(1, 8))]
        for _ in range(50)
    ]
    books = [[(name, held) for name, held in book if held] for book in books]
    state = state_of(exchange, *books)
    found, weight = scan(state, np.arange(len(state))), price_risk(state, np.arange(len(state)))
    for row, account in enumerate(state.account.tolist()):
        own = {name: Fraction(held) for name, held in books[account]}
        wanted = states_of(exchange, own)["L"]
        terms = exchange["commodities"]["L"]
        risk, active, priced = slow.scan(wanted, terms)
        assert abs(found.risk[row] - float(risk)) < 1e-6 and found.active[row] == active - 1
        assert abs(found.futures[row] - float(priced)) < 1e-6
        assert abs(weight[row] - float(slow.price_risk(wanted, terms))) < 1e-6
    state.merged[:] = True
    whole = scan(state, np.arange(len(state)))
    assert whole.risk.tolist() == np.maximum(state.total.max(axis=1), 0.0).tolist()


@pytest.mark.parametrize("first", range(0, 60, 30))
def test_tiers_as_the_oracle_has_them(first: int) -> None:
    """Price risk of inter-commodity tiers and of wholes, in random exchanges."""
    seen = 0
    for seed in range(first, first + 30):
        drawn = model(seed, xml=False)
        exchange, rng = parse_pa2(as_pa2(drawn)), random.Random(seed)
        file, books = build(tables_of(exchange)), [portfolio(drawn, rng) for _ in range(6)]
        state = opened_with(file, books)
        for account, book in enumerate(books):
            wanted = states_of(exchange, {name: Fraction(held) for name, held in book})
            for code, own in wanted.items():
                place = file.commodities.codes.to_list().index(code)
                row = state.find(np.array([account]), np.array([place]))
                terms = exchange["commodities"][code]
                right = float(slow.price_risk(own, terms))
                assert abs(price_risk(state, row)[0] - right) <= 1e-9 * max(1.0, right)
                low, high = file.commodities.slots[place : place + 2].tolist()
                months = file.slots.month[low:high].to_list()
                for tier in terms["inter"] if terms["inter"] != "each" else []:
                    inside = [at for at, month in enumerate(months) if slow.within(month, tier)]
                    if not inside:
                        continue
                    ends = np.array([low + inside[0]]), np.array([low + inside[-1] + 1])
                    right = float(slow.price_risk(own, terms, tier))
                    got = tier_price_risk(state, row, *ends)[0]
                    assert abs(got - right) <= 1e-9 * max(1.0, right)
                    seen += right > 0
    assert seen > 40
