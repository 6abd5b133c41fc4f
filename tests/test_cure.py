"""The smallest cure: as cheap as exhaustive search, verified, and honest where there is none."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from gpu_margin.backend import TailMeasure
from gpu_margin.curing.programme import Book
from gpu_margin.curing.risk import (
    Part,
    Tail,
    Tangents,
    coherent_weights,
    covariance_slope,
    required,
)
from gpu_margin.curing.search import Effort, Plan, cure

# ---------------------------------------------------------------- loops that know nothing of it


def tail_by_loops(losses: list[float], weights: list[float]) -> float:
    worst = sorted(losses, reverse=True)[: len(weights)]
    return math.fsum(weight * loss for weight, loss in zip(weights, worst, strict=True))


def losses_by_loops(pnl: Any, position: list[float], among: list[int]) -> list[float]:
    count = len(pnl[0])
    return [-math.fsum(position[i] * pnl[i][s] for i in among) for s in range(count)]


def deviation_by_loops(z: float, exposure: Any, factor: Any, matrix: Any, position: Any) -> float:
    x = [0.0] * len(matrix)
    for i, quantity in enumerate(position):
        x[factor[i]] += quantity * exposure[i]
    form = math.fsum(
        a * matrix[f][g] * b for (f, a), (g, b) in itertools.product(enumerate(x), repeat=2)
    )
    return z * math.sqrt(max(form, 0.0))


def exhaustive(book: Book, requirement: Any) -> float | None:
    """The least cost of all whole lots within the bounds that meet the target."""
    choices = []
    for i in range(len(book.quantity)):
        q, lot = float(book.quantity[i]), float(book.lot[i])
        fitting = [
            (t, q + t * lot)
            for t in range(-40, 41)
            if (t <= 0 or q + t * lot <= book.upper[i]) and (t >= 0 or q + t * lot >= book.lower[i])
        ]
        choices.append([(abs(t) * lot * float(book.cost[i]), x) for t, x in fitting])
    plans = sorted(itertools.product(*choices), key=lambda plan: math.fsum(c for c, _ in plan))
    for plan in plans:
        position = [x for _, x in plan]
        if requirement(position) <= book.target * value_by_loops(book, position):
            return math.fsum(c for c, _ in plan)
    return None


def value_by_loops(book: Book, position: list[float]) -> float:
    """What is bought is paid for; what is sold pays as far as it was held, in whole lots."""
    value = book.value
    for i, (q, x) in enumerate(zip(book.quantity.tolist(), position, strict=True)):
        lot, price = float(book.lot[i]), float(book.cash[i])
        if x > q:
            value -= price * (x - q)
        elif q > 0:
            value += price * min(q - x, math.floor(q / lot) * lot)
    return value


@dataclass
class Small:
    """A case small enough for exhaustive search."""

    book: Book
    parts: list[Part]
    by_loops: Any


def reductions(quantity: Any) -> tuple[Any, Any]:
    return np.minimum(quantity, 0.0), np.maximum(quantity, 0.0)


def small_book(rng: Any, value: float) -> Book:
    count = int(rng.integers(1, 6))
    quantity = rng.integers(-6, 7, count).astype(float)
    lower, upper = reductions(quantity)
    ones = np.ones(count)
    cost = rng.uniform(0.5, 10.0, count)
    return Book(quantity, cost, 0.0 * ones, ones, lower, upper, value)


def random_small(seed: int, kind: str) -> Small:
    """Up to 5 instruments of up to 6 lots under one kind of requirement."""
    rng = np.random.default_rng(seed)
    book = small_book(rng, 1.0)
    count = len(book.quantity)
    scenarios = int(rng.integers(4, 25))
    common = rng.standard_t(4, scenarios)
    pnl = np.outer(rng.normal(size=count), common) + 0.6 * rng.standard_t(4, (count, scenarios))
    everything = np.arange(count)
    if kind == "covariance":
        factors = 3
        root = rng.normal(size=(factors, factors))
        matrix, exposure = root @ root.T, rng.uniform(0.5, 2.0, count)
        factor = rng.integers(0, factors, count)
        term = Tangents(everything, covariance_slope(2.3, exposure, factor, matrix))

        def by_loops(position: list[float]) -> float:
            return deviation_by_loops(2.3, exposure, factor, matrix, position)

        return priced(rng, book, [Part(term)], by_loops)
    depth = min(scenarios, int(rng.integers(1, 5)))
    weights = {
        "es": [1.0 / depth] * depth,
        "worst": [1.0],
        "fractional": [1.0 / (depth - 0.4)] * (depth - 1) + [0.6 / (depth - 0.4)],
        "falling": sorted(rng.uniform(0.1, 1.0, depth).tolist(), reverse=True),
        "capped": [1.0 / depth] * depth,
    }[kind]
    array = np.array(weights)
    if kind != "capped":
        parts = [Part(Tail(everything, pnl, array))]
        return priced(
            rng,
            book,
            parts,
            lambda x: max(0.0, tail_by_loops(losses_by_loops(pnl, x, range(count)), weights)),
        )
    share, split = float(rng.uniform(0.0, 1.0)), rng.integers(0, 2, count)
    groups = [np.flatnonzero(split == g) for g in (0, 1) if (split == g).any()]
    parts = [
        Part(
            Tail(everything, pnl, array),
            tuple(Tail(own, pnl[own], array) for own in groups),
            share,
        )
    ]

    def capped(x: list[float]) -> float:
        def of(among: Any) -> float:
            return max(0.0, tail_by_loops(losses_by_loops(pnl, x, among), weights))

        together, alone = of(range(count)), math.fsum(of(own) for own in groups)
        return max(together, (1.0 - share) * alone + share * together)

    return priced(rng, book, parts, capped)


def priced(rng: Any, book: Book, parts: list[Part], by_loops: Any) -> Small:
    """With collateral below what is required, and now and then hedges, cash and odd lots."""
    count, quantity = len(book.quantity), book.quantity
    now = by_loops(quantity.tolist())
    lower, upper = book.lower, book.upper
    if rng.random() < 0.4:
        free = rng.random(count) < 0.5
        lower, upper = np.where(free, -3.0, lower), np.where(free, 3.0, upper)
    lot = np.where(rng.random(count) < 0.3, 2.0, 1.0)
    cash = np.where(rng.random(count) < 0.3, rng.uniform(0.0, 0.4, count), 0.0)
    value = now * float(rng.uniform(0.1, 1.05)) + 1e-3
    target = float(rng.choice([0.8, 1.0, 1.3]))
    changed = Book(quantity, book.cost, cash, lot, lower, upper, value, target)
    return Small(changed, parts, by_loops)


# ---------------------------------------------------------------- as cheap as exhaustive search

KINDS = ("es", "worst", "fractional", "falling", "covariance", "capped")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_as_cheap_as_exhaustive_search(kind: str, seed: int) -> None:
    case = random_small(100 * KINDS.index(kind) + seed, kind)
    plan = cure(case.book, case.parts)
    expected = exhaustive(case.book, case.by_loops)
    if expected is None:
        assert plan.status == "infeasible"
        assert plan.reason
        return
    assert plan.status == ("fine" if expected == 0.0 else "cured")
    assert plan.cost == pytest.approx(expected, rel=1e-9)
    sound(case, plan)


def sound(case: Small, plan: Plan) -> None:
    """The plan meets the target when recomputed, in whole lots, within the bounds."""
    book = case.book
    position = (book.quantity + plan.trades).tolist()
    value = value_by_loops(book, position)
    after = case.by_loops(position)
    assert plan.verified
    assert after <= book.target * value * (1 + 1e-12)
    assert plan.requirement_after == pytest.approx(after, rel=1e-9, abs=1e-12)
    assert plan.value_after == pytest.approx(value, rel=1e-12)
    assert plan.gap is not None and 0.0 <= plan.gap <= Effort().gap
    lots = plan.trades / book.lot
    assert lots == pytest.approx(np.rint(lots), abs=1e-9)
    grown = plan.position > np.maximum(book.upper, book.quantity)
    sunk = plan.position < np.minimum(book.lower, book.quantity)
    assert not (grown | sunk).any()


# ---------------------------------------------------------------- hand-computed


def tail_book(
    quantity: list[float], pnl: Any, value: float, k: int = 1, **other: Any
) -> tuple[Book, list[Part]]:
    """Positions that may be reduced, at cost 1, under the mean of the k worst losses."""
    held = np.array(quantity)
    lower, upper = reductions(held)
    given: dict[str, Any] = {
        "cost": np.ones(len(held)),
        "cash": np.zeros(len(held)),
        "lot": np.ones(len(held)),
        "lower": lower,
        "upper": upper,
    }
    arrays = {**given, **{name: np.array(array) for name, array in other.items()}}
    target = float(arrays.pop("target", 1.0))
    term = Tail(np.arange(len(held)), np.array(pnl), np.full(k, 1.0 / k))
    return Book(held, **arrays, value=value, target=target), [Part(term)]


# Losses of (3, 2): -3, 1, -2, -6.
PNL = [[-1.0, 1.0, 0.0, 2.0], [3.0, -2.0, 1.0, 0.0]]


def test_what_is_met_already_needs_nothing() -> None:
    plan = cure(*tail_book([3.0, 2.0], PNL, 1.0))
    assert (plan.status, plan.cost, plan.gap) == ("fine", 0.0, 0.0)
    assert plan.requirement_before == plan.requirement_after == 1.0
    assert not plan.trades.any()


@pytest.mark.parametrize(
    ("value", "trades", "after"),
    [
        (0.99, [0.0, -1.0], 0.0),  # (3, 1) loses 0 at worst
        (0.0, [0.0, -1.0], 0.0),
    ],
)
def test_the_smallest_trade_that_helps(value: float, trades: list[float], after: float) -> None:
    plan = cure(*tail_book([3.0, 2.0], PNL, value))
    assert plan.trades.tolist() == trades
    assert (plan.status, plan.requirement_after, plan.value_after) == ("cured", after, value)
    assert plan.verified
    assert plan.utilisation_after == 0.0


def test_a_boundary_that_is_met_exactly_counts_as_met() -> None:
    # Losses 4 per contract of 10: 3 contracts require 12 = 12.
    plan = cure(*tail_book([10.0], [[-4.0, 1.0]], 12.0))
    assert (plan.position.tolist(), plan.cost, plan.utilisation_after) == ([3.0], 7.0, 1.0)


def test_the_target_scales_the_collateral() -> None:
    plan = cure(*tail_book([10.0], [[-4.0, 1.0]], 12.0, target=0.5))
    assert plan.position.tolist() == [1.0]
    assert plan.utilisation_after == pytest.approx(4.0 / 12.0)


def test_short_positions_are_bought_back() -> None:
    plan = cure(*tail_book([-10.0], [[4.0, -1.0]], 12.0))
    assert plan.trades.tolist() == [7.0]


def test_what_is_sold_brings_cash() -> None:
    """Value -5; one contract sold brings 10, and the rest may lose 2."""
    plan = cure(*tail_book([3.0, 2.0], PNL, -5.0, cash=[10.0, 0.0]))
    assert plan.trades.tolist() == [-1.0, 0.0]
    assert (plan.value_after, plan.requirement_after) == (5.0, 2.0)
    assert plan.proceeds.tolist() == [10.0, 0.0]


def test_what_is_sold_short_brings_nothing() -> None:
    """Its proceeds are owed: only the 3 that are held bring cash."""
    free = {"lower": [-50.0], "upper": [50.0]}
    plan = cure(*tail_book([3.0], [[-1.0, 1.0]], -100.0, cash=[10.0], **free))
    assert plan.status == "infeasible"
    plan = cure(*tail_book([3.0], [[-1.0, 1.0]], -28.0, cash=[10.0], **free))
    assert plan.trades.tolist() == [-3.0]
    assert (plan.value_after, plan.requirement_after) == (2.0, 0.0)


def test_what_is_bought_back_costs_cash() -> None:
    """Short 10 options worth 3, that may lose 4 each: n left require 4 n of 31 - 3 (10 - n)."""
    plan = cure(*tail_book([-10.0], [[4.0, -1.0]], 31.0, cash=[3.0]))
    assert plan.position.tolist() == [-1.0]
    assert (plan.requirement_after, plan.value_after) == (4.0, 4.0)


def test_a_hedge_may_be_cheaper_than_a_reduction() -> None:
    pnl = [[-4.0, 1.0], [-2.0, 0.5]]
    both = {"lower": [0.0, -5.0], "upper": [10.0, 5.0]}
    reduced = cure(*tail_book([10.0, 0.0], pnl, 32.0, cost=[5.0, 9.0], **both))
    assert (reduced.trades.tolist(), reduced.cost) == ([-2.0, 0.0], 10.0)
    hedged = cure(*tail_book([10.0, 0.0], pnl, 32.0, cost=[5.0, 1.0], **both))
    assert (hedged.trades.tolist(), hedged.cost) == ([0.0, -4.0], 4.0)


def test_limits_are_kept_and_named() -> None:
    pnl = [[-4.0, 1.0], [-2.0, 0.5]]
    locked = {"lower": [10.0, -3.0], "upper": [10.0, 3.0]}
    plan = cure(*tail_book([10.0, 0.0], pnl, 32.0, **locked))
    assert plan.status == "infeasible"
    assert "initial margin 34.00 on collateral 32.00: 2.00 too much" in plan.reason
    assert plan.binding.tolist() == [0, 1]
    assert not plan.verified
    assert plan.gap is None


def test_a_position_beyond_its_limit_may_stay_but_not_grow() -> None:
    beyond = {"lower": [-4.0], "upper": [4.0]}
    assert cure(*tail_book([10.0], [[-4.0, 1.0]], 32.0, **beyond)).position.tolist() == [8.0]
    short = cure(*tail_book([10.0], [[4.0, -5.0]], 32.0, **beyond))
    assert short.position.tolist() == [6.0]


def test_no_collateral_is_said() -> None:
    plan = cure(*tail_book([3.0, 2.0], PNL, -5.0))
    assert plan.status == "infeasible"
    assert plan.reason.startswith("collateral -5.00 is not positive, nor after any trades")
    assert plan.utilisation_after is None
    empty, parts = tail_book([], np.zeros((0, 3)), -1.0)
    assert cure(empty, parts).status == "infeasible"


def test_lots_that_are_too_coarse_are_said() -> None:
    """Of 3 contracts 2 may be closed, in one lot: 1 is left and loses 4 > 3."""
    plan = cure(*tail_book([3.0], [[-4.0, 1.0]], 3.0, lot=[2.0]))
    assert plan.status == "infeasible"
    fine = {"lot": [2.0, 2.0], "lower": [0.0, -0.5], "upper": [4.0, 0.5]}
    # Half a contract of the first would do, and of the second none can be traded.
    plan = cure(*tail_book([4.0, 0.0], [[-4.0, 1.0], [0.0, 0.0]], 14.0, **fine))
    assert plan.position.tolist() == [2.0, 0.0]
    kept = {"lot": [2.0], "lower": [3.0], "upper": [4.0]}
    plan = cure(*tail_book([4.0], [[-4.0, 1.0]], 14.0, **kept))
    assert plan.status == "infeasible"


def test_fractions_would_do_but_lots_do_not() -> None:
    """The hedge loses what the position gains: only 1.5 lots of it leave both within 1."""
    pnl = [[-3.0, 3.0], [-2.0, 2.0]]
    locked = {"lower": [1.0, -9.0], "upper": [1.0, 9.0]}
    plan = cure(*tail_book([1.0, 0.0], pnl, 0.5, **locked))
    assert plan.status == "infeasible"
    assert "no whole number of lots" in plan.reason


def test_what_costs_nothing_is_not_traded_for_nothing() -> None:
    pnl = [[-4.0, 1.0], [-1e-9, 0.0]]
    plan = cure(*tail_book([10.0, 7.0], pnl, 12.5, cost=[1.0, 0.0]))
    assert plan.trades.tolist() == [-7.0, 0.0]


@pytest.mark.parametrize(("scale", "lot"), [(1e15, 1.0), (1e9, 1.0), (1e3, 1e-8), (1e-6, 1e-8)])
def test_positions_of_any_size(scale: float, lot: float) -> None:
    rng = np.random.default_rng(3)
    quantity = np.round(rng.normal(size=10) * scale / lot) * lot
    pnl = rng.standard_t(4, size=(10, 500))
    book, parts = tail_book(
        quantity.tolist(), pnl.tolist(), 1.0, 12, lot=[lot] * 10, cost=rng.uniform(1.0, 9.0, 10)
    )
    book = replace(book, value=0.6 * required(parts, quantity))
    plan = cure(book, parts)
    assert (plan.status, plan.verified) == ("cured", True)
    assert plan.gap is not None and plan.gap <= 1e-6


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("quantity", [np.nan]),
        ("cost", [-1.0]),
        ("cost", [np.inf]),
        ("lot", [0.0]),
        ("upper", [-1.0]),
        ("lower", [np.nan]),
        ("cash", [1.0, 2.0]),
        ("value", np.nan),
        ("target", 0.0),
    ],
)
def test_bad_arrays_are_refused(field: str, bad: Any) -> None:
    book, _ = tail_book([1.0], [[-1.0, 1.0]], 1.0)
    value = np.array(bad) if isinstance(bad, list) else bad
    with pytest.raises(ValueError, match=r"needed|one number|finite"):
        replace(book, **{field: value})


# ---------------------------------------------------------------- weights and programmes


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ((1.0,), [1.0]),
        ((1.0, 1.0, 0.4), [1.0, 1.0, 0.4]),
        ((0.0, 0.0, 1.0), [1 / 3, 1 / 3, 1 / 3]),
        ((0.0, 0.3, 0.7), [1 / 3, 1 / 3, 1 / 3]),
        ((0.0, 0.7, 0.3), [0.35, 0.35, 0.3]),
    ],
)
def test_bounding_weights(weights: tuple[float, ...], expected: list[float]) -> None:
    assert coherent_weights(TailMeasure(weights)) == pytest.approx(expected, rel=1e-15)
    assert coherent_weights(TailMeasure(weights, 2.0)) == pytest.approx(np.array(expected) / 2.0)


FINITE = st.floats(-1e3, 1e3)


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=6),
    st.lists(FINITE, min_size=6, max_size=12),
)
def test_bounding_weights_bound(weights: list[float], losses: list[float]) -> None:
    bound = coherent_weights(TailMeasure(tuple(weights))).tolist()
    assert all(later <= earlier for earlier, later in itertools.pairwise(bound))
    assert math.fsum(bound) == pytest.approx(math.fsum(weights), rel=1e-12, abs=1e-300)
    slack = 1e-9 * max(1.0, *map(abs, losses))
    assert tail_by_loops(losses, bound) >= tail_by_loops(losses, weights) - slack


def whole_programme(book: Book, pnl: Any, k: int) -> float:
    """Rockafellar and Uryasev with every scenario at once: alpha, excesses, lots sold."""
    count, scenarios = pnl.shape
    held = np.abs(book.quantity)
    step = -np.sign(book.quantity)
    objective = np.concatenate([book.cost, np.zeros(1 + scenarios)])
    excess = np.hstack([(pnl * step[:, None]).T, np.ones((scenarios, 1)), np.eye(scenarios)])
    tail = np.concatenate([np.zeros(count), [1.0], np.full(scenarios, 1.0 / k)])
    found = milp(
        objective,
        integrality=np.concatenate([np.ones(count), np.zeros(1 + scenarios)]),
        bounds=Bounds(
            np.concatenate([np.zeros(count), [-np.inf], np.zeros(scenarios)]),
            np.concatenate([held, np.full(1 + scenarios, np.inf)]),
        ),
        constraints=[
            LinearConstraint(excess, -(book.quantity @ pnl), np.inf),
            LinearConstraint(tail[None, :], -np.inf, book.target * book.value),
        ],
        options={"mip_rel_gap": 0.0},
    )
    assert found.status == 0
    return float(found.fun)


@pytest.mark.parametrize("seed", range(4))
def test_scenarios_met_on_the_way_are_as_good_as_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, scenarios, k = 8, 250, 7
    common = rng.standard_t(4, (2, scenarios))
    pnl = rng.normal(size=(count, 2)) @ common + 0.5 * rng.standard_t(4, (count, scenarios))
    quantity = rng.integers(-40, 41, count).astype(float)
    book, parts = tail_book(quantity.tolist(), pnl.tolist(), 1.0, k, cost=rng.uniform(1, 9, count))
    book = replace(book, value=0.55 * required(parts, quantity))
    plan = cure(book, parts)
    assert plan.cost == pytest.approx(whole_programme(book, pnl, k), rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(KINDS))
def test_plans_are_sound_and_no_dearer_than_closing_everything(seed: int, kind: str) -> None:
    case = random_small(seed, kind)
    plan = cure(case.book, case.parts)
    if plan.status in ("fine", "cured"):
        sound(case, plan)
        everything = np.zeros(len(case.book.quantity))
        even = not (case.book.quantity % case.book.lot).any()
        if even and case.by_loops(everything.tolist()) <= case.book.target * value_by_loops(
            case.book, everything.tolist()
        ):
            assert plan.cost <= math.fsum(np.abs(case.book.quantity) * case.book.cost) * (1 + 1e-9)
    else:
        assert plan.status == "infeasible"
        assert not plan.trades.any()


def test_a_bound_has_to_hold_too() -> None:
    """Value-at-risk at rank 2 of losses (9, 4, ...) is 4; the plan brings the mean of both down."""
    pnl = np.array([[-9.0, -4.0, 1.0]])
    weights = coherent_weights(TailMeasure((0.0, 1.0)))
    book, _ = tail_book([10.0], pnl.tolist(), 30.0)
    parts = [Part(Tail(np.arange(1), pnl, weights))]

    def value_at_risk(position: Any) -> float:
        return sorted((-(position @ pnl)).tolist())[-2]

    plan = cure(book, parts, value_at_risk, bound=True)
    assert plan.requirement_before == 40.0
    # 6.5 a contract, not 4: 4 are left and not 7.
    assert (plan.position.tolist(), plan.requirement_after) == ([4.0], 16.0)


def test_time_that_is_up_is_said() -> None:
    rng = np.random.default_rng(0)
    pnl = rng.standard_t(4, (60, 4000))
    quantity = rng.integers(-99, 100, 60).astype(float)
    book, parts = tail_book(quantity.tolist(), pnl.tolist(), 1.0, 100)
    book = replace(book, value=0.5 * required(parts, quantity))
    plan = cure(book, parts, effort=Effort(gap=0.0, seconds=1e-9))
    assert plan.status == "unfinished"
    assert "no plan found in 1e-09 s" in plan.reason
