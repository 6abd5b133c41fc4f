"""Euler contributions: limits, hand-computed numbers, plain loops, and that all adds up."""

from __future__ import annotations

from math import fsum
from typing import Any

import numpy as np
import oracle
import polars as pl
import pytest
from hand_market import (
    capped,
    es,
    held_in,
    market,
    measured,
    prepared,
    rows_of,
    shares,
    split,
    var,
    weights_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import random_case
from strict_backend import BACKEND as STRICT

from gpu_margin import backend as backends
from gpu_margin.allocation import Allocation, contributions, euler, marginal
from gpu_margin.engine import prepare
from gpu_margin.loading import load
from gpu_margin.portfolio import Rows, entry_rows

# Profits of one contract of A and B in four scenarios.
HAND = [[-10.0, -6.0, 5.0, 2.0], [4.0, 10.0, -8.0, 1.0]]
PAIR = rows_of({0: 1.0, 1: 1.0})


def adds_up(found: Allocation) -> None:
    """Amounts in their order, then residuals in theirs, are the requirement."""
    for row, requirement in enumerate(found.requirement):
        total = 0.0
        for amount in found.amount[found.owner == row]:
            total += amount
        for residual in found.residuals.values():
            total += residual[row]
        assert total == pytest.approx(requirement, rel=1e-15, abs=1e-300)


def random_rows(rng: np.random.Generator, count: int, instruments: int) -> Rows:
    """Rows of 0 to all instruments, some of them all short."""
    rows = []
    for row in range(count):
        codes = rng.permutation(instruments)[: rng.integers(0, instruments + 1)]
        sign = -1.0 if row % 5 == 0 else 1.0
        rows.append({int(c): sign * float(rng.choice([-3, -1, 1, 2, 0.5])) for c in codes})
    return rows_of(*rows)


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("model", [es(0.5), var(0.5), {"measure": {"kind": "worst"}}])
def test_an_empty_row_and_rows_of_one_position(model: dict[str, Any]) -> None:
    simulation = prepared(market(HAND, "ab"), "simulation", **model)
    found = euler(simulation, rows_of({}, {0: 2.0}, {}, {1: -3.0}))
    assert found.requirement[0] == found.requirement[2] == 0.0
    assert found.owner.tolist() == [1, 3]
    assert found.part.tolist() == [0, 1]
    adds_up(found)


def test_no_rows_at_all() -> None:
    simulation = prepared(market(HAND, "ab"), "simulation", **es(0.5), offset_cap=0.5)
    found = euler(simulation, rows_of())
    assert len(found.requirement) == len(found.amount) == 0


@pytest.mark.parametrize("kind", ["simulation", "covariance"])
def test_an_account_without_risk(kind: str) -> None:
    flat = market([[0.0] * 4, [1.0, -1.0, 1.0, -1.0]], "ab")
    model = prepared(flat, kind, **(es(0.5) if kind == "simulation" else {}))
    found = euler(model, rows_of({0: 5.0}, {0: 5.0, 1: 1.0}))
    assert found.amount[:2].tolist() == [0.0, 0.0]
    assert found.requirement[0] == 0.0 < found.amount[2]
    adds_up(found)


def test_a_perfect_hedge_costs_nothing_and_shows_nothing() -> None:
    """Two instruments that move against each other: what is left is rounding."""
    mirrored = market([[3.0, -2.0, 1.0, -4.0], [3.0, -2.0, 1.0, -4.0]], "ab")
    for kind, more in (("simulation", es(0.5)), ("covariance", {})):
        found = euler(prepared(mirrored, kind, **more), rows_of({0: 7.0, 1: -7.0}))
        assert found.requirement[0] == pytest.approx(0.0, abs=1e-9)
        assert np.abs(found.residuals["rounding"]).max() <= 1e-12
        adds_up(found)


@pytest.mark.parametrize("model", [es(0.5), var(0.5)])
def test_a_floored_requirement_has_no_contributions(model: dict[str, Any]) -> None:
    """It gains in every scenario: the requirement is 0, and no position changes that."""
    gains = prepared(market([[1.0, 2.0, 3.0, 4.0], [1.0] * 4], "ab"), "simulation", **model)
    found = euler(gains, rows_of({0: 1.0, 1: 2.0}, {0: -1.0, 1: -1.0}))
    assert found.amount[:2].tolist() == [0.0, 0.0]
    assert [residual[0] for residual in found.residuals.values()] == [0.0, 0.0]
    assert found.requirement[1] > 0.0
    adds_up(found)


def test_what_rounds_to_nothing_has_no_contributions() -> None:
    """C is A and B together: of a requirement of exactly 0 no position has a share."""
    rng = np.random.default_rng(10)
    pair = rng.normal(size=(2, 2))
    book = market([*pair, pair[0] + pair[1]], "abc")
    rows = rows_of(*({0: q, 1: q, 2: -q} for q in rng.uniform(1.0, 2.0, 300)))
    model = prepared(book, "simulation", **es(0.01))
    found = euler(model, rows)
    nothing = found.requirement == 0.0
    assert 0 < nothing.sum() < 300
    assert not found.amount[nothing[found.owner]].any()
    rate = model.loss_rates(rows, rows, "instrument")
    assert np.any(np.bincount(found.owner, rows.value * rate)[nothing] > 0.0)


# ---------------------------------------------------------------- hand-computed


def test_shortfall_by_hand() -> None:
    """Losses 6, -4, 3, -3: the tail is scenarios 1 and 3."""
    found = euler(prepared(market(HAND, "ab"), "simulation", **es(0.5)), PAIR)
    assert found.requirement == pytest.approx([4.5], rel=1e-12)
    assert found.amount == pytest.approx([2.5, 2.0], rel=1e-12)
    assert found.residuals["smoothing"].tolist() == [0.0]
    assert abs(found.residuals["rounding"][0]) < 1e-12


def test_value_at_risk_by_hand() -> None:
    """k = 2, h = 1: a quarter of scenarios 1 and 4, half of scenario 3."""
    found = euler(prepared(market(HAND, "ab"), "simulation", **var(0.5)), PAIR)
    assert found.requirement == pytest.approx([3.0], rel=1e-12)
    assert found.amount == pytest.approx([-0.5, 2.75], rel=1e-12)
    assert found.residuals["smoothing"] == pytest.approx([0.75], rel=1e-12)
    assert abs(found.residuals["rounding"][0]) < 1e-12
    plain = euler(prepared(market(HAND, "ab"), "simulation", **var(0.5)), PAIR, smooth=False)
    assert plain.amount == pytest.approx([-5.0, 8.0], rel=1e-12)
    assert plain.residuals["smoothing"].tolist() == [0.0]


def test_capped_shortfall_by_hand() -> None:
    """G = 8 and 3.5, M = 4.5: 0.75 x 11.5 + 0.25 x 4.5."""
    found = euler(prepared(market(HAND, "ab"), "simulation", **es(0.5), offset_cap=0.25), PAIR)
    assert found.requirement == pytest.approx([9.75], rel=1e-12)
    assert found.amount == pytest.approx([6.625, 3.125], rel=1e-12)
    assert abs(found.residuals["rounding"][0]) < 1e-12


def test_clusters_by_hand() -> None:
    """A and B apart: each its own tail, whatever the other does."""
    apart = prepared(market(HAND, "ab"), "simulation", **es(0.5), offset_clusters=[["a"], ["b"]])
    found = euler(apart, PAIR)
    assert found.requirement == pytest.approx([11.5], rel=1e-12)
    assert found.amount == pytest.approx([8.0, 3.5], rel=1e-12)


def test_a_piece_that_gains_has_no_slope() -> None:
    """C gains in every scenario: capped, only what it saves the others counts."""
    hedge = market([*HAND, [1.0, 1.0, 1.0, 1.0]], "abc")
    found = euler(
        prepared(hedge, "simulation", **es(0.5), offset_cap=0.25),
        rows_of({0: 1.0, 1: 1.0, 2: 2.0}),
    )
    assert found.requirement == pytest.approx([0.75 * 11.5 + 0.25 * 2.5], rel=1e-12)
    assert found.amount == pytest.approx([6.625, 3.125, 0.25 * -2.0], rel=1e-12)


def test_together_they_gain_but_alone_they_lose() -> None:
    """M = 0 in every scenario, G = 1 each: half of sum G counts, and M has no slope."""
    hedge = market([[-1.0, 3.0], [2.0, -1.0]], "ab")
    worst = {"measure": {"kind": "worst"}}
    found = euler(prepared(hedge, "simulation", **worst, offset_cap=0.5), PAIR)
    assert found.requirement == pytest.approx([1.0], rel=1e-12)
    assert found.amount == pytest.approx([0.5, 0.5], rel=1e-12)
    gains = market([[-1.0, 3.0], [2.0, 1.0]], "ab")
    apart = prepared(gains, "simulation", **worst, offset_clusters=[["a"], ["b"]])
    found = euler(apart, PAIR)
    assert found.amount == pytest.approx([1.0, 0.0], rel=1e-12)


@pytest.mark.parametrize("cap", [0.1, 0.3, 0.7])
def test_one_group_is_not_capped_to_the_last_bit(cap: float) -> None:
    """(1 - c) M + c M may be more than M, by rounding."""
    rng = np.random.default_rng(9)
    book = market(rng.normal(size=(6, 30)), "aaaaaa")
    rows = random_rows(rng, 200, 6)
    free, bound = (
        euler(prepared(book, "simulation", **es(0.9), offset_cap=share), rows)
        for share in (None, cap)
    )
    assert np.array_equal(bound.amount, free.amount)


def test_covariance_by_hand() -> None:
    """Unrelated factors: shares are as the squares."""
    unrelated = market([[30.0, -30.0, 30.0, -30.0], [40.0, 40.0, -40.0, -40.0]], "ab")
    found = euler(prepared(unrelated, "covariance"), PAIR)
    z = 2.3263478740408408
    assert found.requirement == pytest.approx([50.0 * z], rel=1e-12)
    assert found.amount == pytest.approx([18.0 * z, 32.0 * z], rel=1e-12)


# ---------------------------------------------------------------- beside plain loops


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cap", [None, 0.0, 0.3])
@pytest.mark.parametrize(("kind", "confidence"), [("es", 0.9), ("var", 0.8), ("var", 0.85)])
def test_contributions_agree_with_loops(
    kind: str, confidence: float, cap: float | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = "aabbcab"
    profits = rng.normal(size=(7, 40)) + 0.5 * rng.normal(size=40)
    rows = random_rows(rng, 40, 7)
    model = prepared(
        market(profits, groups),
        "simulation",
        measure={"kind": kind, "confidence": confidence},
        offset_cap=cap,
    )
    found = euler(model, rows)
    adds_up(found)
    exact = weights_of(kind, confidence, 40, False)
    smooth = weights_of(kind, confidence, 40, True)
    for row, held in enumerate(held_in(rows)):
        want, expected = by_loops(profits, held, groups, exact, smooth, 1.0 if cap is None else cap)
        assert found.requirement[row] == pytest.approx(want, rel=1e-9, abs=1e-12)
        assert found.amount[found.owner == row] == pytest.approx(
            [expected[code] for code in sorted(held)], rel=1e-9, abs=1e-12
        )
        missing = want - fsum(expected.values())
        assert found.residuals["smoothing"][row] == pytest.approx(missing, rel=1e-9, abs=1e-11)
        assert abs(found.residuals["rounding"][row]) <= 1e-12 * max(want, 1.0)


def by_loops(
    profits: Any, held: dict[int, float], groups: str, exact: Any, smooth: Any, c: float
) -> tuple[float, dict[int, float]]:
    """The capped requirement, and contributions by the pieces that are in force."""
    together = measured(profits, held, exact)
    want = capped(profits, held, exact, groups, c)
    of_all = shares(profits, held, smooth)
    if together == 0.0:
        of_all = dict.fromkeys(of_all, 0.0)
    if want == together:
        return want, of_all
    expected = {}
    for own in split(held, groups).values():
        of_group = shares(profits, own, smooth)
        if measured(profits, own, exact) == 0.0:
            of_group = dict.fromkeys(of_group, 0.0)
        expected |= {code: (1.0 - c) * of_group[code] + c * of_all[code] for code in own}
    return want, expected


@pytest.mark.parametrize("cap", [None, 0.4])
@pytest.mark.parametrize("kind", ["simulation", "covariance"])
def test_marginal_is_the_slope(kind: str, cap: float | None) -> None:
    """The requirement a little up and down the quantity, recomputed."""
    rng = np.random.default_rng(5)
    more = es(0.9) if kind == "simulation" else {}
    model = prepared(market(rng.normal(size=(6, 50)), "aabbcc"), kind, offset_cap=cap, **more)
    rows = random_rows(rng, 30, 6)
    rate, owner = marginal(model, rows), entry_rows(rows)
    step = 1e-5
    for entry, row in enumerate(owner):
        moved = []
        for side in (step, -step):
            value = rows.value.copy()
            value[entry] += side
            moved.append(model.require(Rows(rows.offsets, rows.column, value)).amount[row])
        slope = (moved[0] - moved[1]) / (2 * step)
        assert rate[entry] == pytest.approx(slope, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("seed", [21, 24, 29])
def test_contributions_of_every_model_agree_with_the_oracle(seed: int) -> None:
    """Without smoothing they are those of issue 2; with it they add up to the same."""
    case = random_case(seed)
    expected = oracle.compute(case.config, case.positions, case.instruments, case.history, case.fx)
    tables = {name: pl.DataFrame(getattr(case, name)) for name in ("positions", "instruments")}
    tables["history"] = pl.DataFrame(case.history)
    if case.fx:
        tables["fx"] = pl.DataFrame(case.fx)
    loaded = load(case.config, **tables)
    portfolio = loaded.portfolio
    for model in loaded.models:
        own = prepare(loaded, model, backends.load("numpy"))
        adds_up(contributions(own, portfolio))
        found = contributions(own, portfolio, smooth=False)
        adds_up(found)
        for owner, part, amount in zip(found.owner, found.part, found.amount, strict=True):
            account = portfolio.accounts[int(portfolio.set_account[owner])]
            if expected.stability[account, model.name] < 1e-6:
                continue
            key = (portfolio.sets[int(owner)], loaded.market.instruments.ids[int(part)])
            scale = expected.accounts[account, model.name]["gross_exposure"]
            want = expected.contributions[account, model.name][key]
            assert amount == pytest.approx(want, rel=1e-8, abs=1e-9 * scale)


# ---------------------------------------------------------------- adding up, same bits


def test_rounding_is_within_1e_12_where_nothing_else_is_left() -> None:
    """Unfloored, uncapped shortfall and covariance, books of very different sizes hedged."""
    rng = np.random.default_rng(6)
    profits = rng.normal(size=(12, 60))
    profits[6:] = profits[:6] * (1.0 + 1e-6 * rng.normal(size=(6, 1)))  # nearly the same
    rows = rows_of(
        *(
            {code: float(q) * size for code, q in enumerate(rng.normal(size=12))}
            for size in (1e-6, 1.0, 1e9)
        ),
        *({code: float(1 - 2 * (code > 5)) * size for code in range(12)} for size in (1.0, 1e6)),
    )
    book = market(profits, "ab" * 6)
    for kind, more in (("simulation", es(0.9)), ("covariance", {})):
        model = prepared(book, kind, **more)
        found = euler(model, rows)
        gross = np.bincount(found.owner, np.abs(found.amount))
        own = (
            np.abs(rows.value)
            * model.require(
                Rows(np.arange(len(rows.value) + 1), rows.column, np.ones(len(rows.value)))
            ).amount
        )
        gross = np.maximum(gross, np.bincount(found.owner, own))
        assert np.all(np.abs(found.residuals["rounding"]) <= 1e-12 * gross)
        assert not found.residuals["smoothing"].any()
        adds_up(found)


@pytest.mark.parametrize("model", [es(0.9), var(0.8), {**var(0.8), "offset_cap": 0.3}])
def test_the_same_bits_alone_and_together_and_on_other_backends(model: dict[str, Any]) -> None:
    rng = np.random.default_rng(7)
    book = market(rng.normal(size=(6, 30)), "aabbcc")
    rows = random_rows(rng, 30, 6)
    found = euler(prepared(book, "simulation", **model), rows)
    for backend in (backends.load("numba"), STRICT):
        other = euler(prepared(book, "simulation", backend, **model), rows)
        assert np.array_equal(other.amount, found.amount)
        assert np.array_equal(other.residuals["smoothing"], found.residuals["smoothing"])
    alone = prepared(book, "simulation", **model)
    for row, held in enumerate(held_in(rows)):
        single = euler(alone, rows_of(held))
        assert np.array_equal(single.amount, found.amount[found.owner == row])
        for reason, residual in single.residuals.items():
            assert residual[0] == found.residuals[reason][row]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.integers(0, 5), st.floats(-1e6, 1e6, width=32), max_size=6),
    st.sampled_from([None, 0.0, 0.5, 1.0]),
    st.sampled_from([es(0.9), var(0.8), var(0.75, "hazen"), {"measure": {"kind": "worst"}}]),
)
def test_twice_the_book_has_twice_the_contributions(
    held: dict[int, float], cap: float | None, model: dict[str, Any]
) -> None:
    profits = np.random.default_rng(17).normal(size=(6, 25))
    own = prepared(market(profits, "aabbcc"), "simulation", offset_cap=cap, **model)
    once, twice = euler(own, rows_of(held)), euler(own, rows_of({c: 2 * held[c] for c in held}))
    assert np.array_equal(twice.amount, 2 * once.amount)
    adds_up(once)
    adds_up(twice)


def test_a_given_requirement_is_not_computed_again() -> None:
    model = prepared(market(HAND, "ab"), "simulation", **es(0.5))
    known = euler(model, PAIR, requirement=model.require(PAIR).amount)
    assert known.residuals["rounding"] == euler(model, PAIR).residuals["rounding"]


def test_float32_misses_by_its_own_rounding() -> None:
    rng = np.random.default_rng(8)
    book = market(rng.normal(size=(6, 30)), "aabbcc")
    rows = random_rows(rng, 20, 6)
    found = euler(prepared(book, "simulation", **es(0.9), precision="float32"), rows)
    assert not found.residuals["smoothing"].any()
    assert 0.0 < np.abs(found.residuals["rounding"]).max() < 1e-5
    adds_up(found)
