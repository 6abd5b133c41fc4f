"""The joint rulebook on random books: beside plain loops, what must always hold, and slopes."""

from __future__ import annotations

from typing import Any

import cupy_on_cpu
import joint_oracle
import numpy as np
import pytest
from hand_market import held_in, rows_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from joint_case import (
    DAYS,
    NUMPY,
    amounts,
    market_of,
    model,
    parameters_of,
    random_contracts,
    random_rows,
    random_setting,
    spots,
    stress_text,
    walks,
)
from strict_backend import BACKEND as STRICT

from gpu_margin import backend as backends
from gpu_margin.allocation import euler, marginal
from gpu_margin.backend import Backend
from gpu_margin.models import simulation
from gpu_margin.models.joint import Prepared
from gpu_margin.portfolio import Rows, entry_rows, rows_at

FIGURES = ("expected_shortfall", "grid_base", "grid_less", "grid_more")

# ---------------------------------------------------------------- beside plain loops


@pytest.mark.parametrize("seed", range(40))
def test_terms_agree_with_loops(seed: int) -> None:
    """Books of up to four underlyings, spots and options, grids and settings of all kinds."""
    rng = np.random.default_rng(seed)
    names = "ABCD"[: rng.integers(1, 5)]
    contracts = random_contracts(rng, names)
    prices = walks(rng, names)
    market = market_of(contracts, prices)
    how = random_setting(rng, names, market)
    prepared = model(market, **parameters_of(how))
    rows = random_rows(rng, 60, len(contracts))
    figures, required = prepared.figures(rows), prepared.require(rows)
    beside = joint_oracle.Market(stress_text(market, *range(DAYS)), prices)
    jumps = 0
    for row, held in enumerate(held_in(rows)):
        book = [(contracts[code], q) for code, q in held.items()]
        want = joint_oracle.margin(book, beside, how)
        if want.stability < 1e-9:
            jumps += 1
            continue
        size = sum(abs(q) * c.scale * c.level for c, q in book)
        found = {name: float(value[row]) for name, value in figures.items()}
        expected = {
            "expected_shortfall": want.shortfall,
            "grid_base": want.base,
            "grid_less": want.less,
            "grid_more": want.more,
            "gross_grid": want.gross,
            "offset_bound": want.bound,
            "requirement": want.requirement,
        }
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-7 * size)
        assert required.amount[row] == found["requirement"]
        worst = prepared.unit.scenarios[required.worst[row]]
        assert want.losses[worst] == pytest.approx(max(want.losses.values()), abs=1e-9 * size)
    assert jumps < 50


# ---------------------------------------------------------------- properties

SEEDS = st.integers(0, 10**6)
FEW = settings(max_examples=30, deadline=None)


def random_book(seed: int, backend: Backend = NUMPY, **more: Any) -> tuple[Prepared, Rows]:
    rng = np.random.default_rng(seed)
    names = "ABCD"[: rng.integers(1, 5)]
    contracts = random_contracts(rng, names)
    market = market_of(contracts, walks(rng, names))
    rows = random_rows(rng, 25, len(contracts))
    more = {"offset_cap": float(rng.choice([0.0, 0.5, 0.8, 1.0])), **more}
    more = {"theta": float(rng.choice([0.0, 0.25, 1.0])), **more}
    return model(market, backend, lookback=50, stress_days=stress_text(market, 5, 20), **more), rows


@given(SEEDS)
@FEW
def test_no_term_is_undercut_and_the_sum_is_not_passed(seed: int) -> None:
    prepared, rows = random_book(seed)
    found = prepared.figures(rows)
    amount = found["requirement"]
    assert np.all(amount >= 0.0)
    for name in FIGURES:
        assert np.all(amount >= found[name])
    for name in FIGURES[1:]:
        assert np.all(found[name] <= found["gross_grid"])
    assert np.all(found["grid_more"] >= found["grid_base"] * (1.0 - 1e-12))
    assert np.all(found["grid_more"] >= found["grid_less"] * (1.0 - 1e-12))
    most = np.maximum(found["expected_shortfall"], found["gross_grid"])
    assert np.all(amount <= most * (1.0 + 1e-15))
    assert amount == pytest.approx(np.maximum(found["offset_bound"], amount), rel=1e-14)


@given(SEEDS)
@FEW
def test_components_are_the_term_in_force_and_add_up(seed: int) -> None:
    prepared, rows = random_book(seed)
    required = prepared.require(rows)
    assert list(required.components) == ["expected_shortfall", "correlated_grid", "offset_floor"]
    assert np.array_equal(sum(required.components.values()), required.amount)
    shortfall, grid, _ = required.components.values()
    assert not np.any((shortfall > 0.0) & (grid > 0.0))


@given(SEEDS, st.sampled_from([0.5, 2.0, 1024.0]))
@FEW
def test_twice_the_book_requires_twice_as_much(seed: int, factor: float) -> None:
    """To the last bit, for powers of two."""
    prepared, rows = random_book(seed)
    scaled = Rows(rows.offsets, rows.column, rows.value * factor)
    one, other = prepared.figures(rows), prepared.figures(scaled)
    assert all(np.array_equal(one[name] * factor, other[name]) for name in one)


@given(SEEDS)
@FEW
def test_what_shares_a_call_changes_no_bit(seed: int) -> None:
    prepared, rows = random_book(seed)
    found = prepared.figures(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    mixed = prepared.figures(rows_at(rows, order))
    rates = prepared.loss_rates(rows, rows, "instrument")
    for name in found:
        assert np.array_equal(mixed[name], found[name][order])
    for row in range(0, len(rows), 6):
        alone = rows_at(rows, np.array([row]))
        assert all(value[0] == found[name][row] for name, value in prepared.figures(alone).items())
        own = rates[rows.offsets[row] : rows.offsets[row + 1]]
        assert np.array_equal(prepared.loss_rates(alone, alone, "instrument"), own)


@pytest.mark.parametrize("seed", range(6))
def test_the_same_bits_on_every_exact_backend(seed: int) -> None:
    prepared, rows = random_book(seed)
    found, rates = prepared.figures(rows), prepared.loss_rates(rows, rows, "instrument")
    for backend in (backends.load("numba"), STRICT, cupy_on_cpu.load()):
        other, _ = random_book(seed, backend)
        figures = other.figures(rows)
        assert all(np.array_equal(figures[name], found[name]) for name in found)
        assert np.array_equal(other.loss_rates(rows, rows, "instrument"), rates)
        ours, theirs = prepared.require(rows), other.require(rows)
        assert np.array_equal(ours.worst, theirs.worst)
        assert np.array_equal(other.grid_losses(rows).sign, prepared.grid_losses(rows).sign)


@pytest.mark.parametrize("seed", range(3))
def test_jax_is_as_near_as_its_sums(seed: int) -> None:
    prepared, rows = random_book(seed)
    other, _ = random_book(seed, backends.load("jax"))
    gross = prepared.unit.backend.segment_sum(
        np.abs(rows.value) * np.abs(prepared.risk.tables.grid).max(axis=1)[rows.column],
        rows.offsets,
    )
    assert np.all(
        np.abs(other.require(rows).amount - prepared.require(rows).amount) <= 1e-9 * gross
    )


@given(SEEDS, st.sampled_from([0.0, 0.4, 0.8]), st.sampled_from([0.0, 0.25, 0.5]))
@FEW
def test_less_trust_requires_more(seed: int, c: float, theta: float) -> None:
    """In theta, in the share that counts, and with stress days that lose more."""
    free, rows = random_book(seed, offset_cap=c, theta=theta)
    for more in ({"offset_cap": c, "theta": theta + 0.5}, {"offset_cap": c / 2, "theta": theta}):
        bound, _ = random_book(seed, **more)
        assert np.all(bound.require(rows).amount >= free.require(rows).amount * (1.0 - 1e-12))


@given(SEEDS)
@FEW
def test_without_theta_and_cap_it_is_shortfall_or_correlation(seed: int) -> None:
    prepared, rows = random_book(seed, offset_cap=1.0, theta=0.0)
    found = prepared.figures(rows)
    want = np.maximum(found["expected_shortfall"], found["grid_base"])
    assert np.array_equal(found["requirement"], want)
    bound, _ = random_book(seed, offset_cap=0.0)
    found = bound.figures(rows)
    want = np.maximum(found["expected_shortfall"], found["gross_grid"])
    assert found["requirement"] == pytest.approx(want, rel=1e-14)


def test_without_offsets_of_scenarios_it_is_the_shortfall_of_a_simulation() -> None:
    rng = np.random.default_rng(6)
    market = market_of(random_contracts(rng, "ABC"), walks(rng, "ABC"))
    rows = random_rows(rng, 40, len(market.instruments))
    parameters = simulation.Parameters.model_validate(
        {
            "scenarios": {"kind": "historical", "lookback": 60},
            "measure": {"kind": "es", "confidence": 0.975},
        }
    )
    beside = simulation.prepare(parameters, market, NUMPY).require(rows)
    found = model(market, lookback=60)
    assert np.array_equal(found.figures(rows)["expected_shortfall"], beside.amount)
    assert np.array_equal(found.require(rows).worst, beside.worst)


# ---------------------------------------------------------------- slopes


@given(SEEDS)
@example(0)
@FEW
def test_contributions_add_up(seed: int) -> None:
    prepared, rows = random_book(seed)
    found = euler(prepared, rows)
    size = np.bincount(found.owner, np.abs(found.amount), minlength=len(rows))
    assert np.all(np.abs(found.residuals["rounding"]) <= 1e-11 * size + 1e-300)
    assert not found.residuals["smoothing"].any()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("c", [0.8, 1.0])
def test_marginal_is_the_slope(seed: int, c: float) -> None:
    """The requirement a little up and down the quantity, recomputed, where it does not jump."""
    prepared, rows = random_book(seed, offset_cap=c)
    rate, owner = marginal(prepared, rows), entry_rows(rows)
    size = np.abs(prepared.risk.tables.grid).max(axis=1)
    unclear = 0
    for entry, row in enumerate(owner):
        slopes = []
        for step in (1e-5, 1e-6):
            moved = []
            for side in (step, -step):
                value = rows.value.copy()
                value[entry] += side
                moved.append(prepared.require(Rows(rows.offsets, rows.column, value)).amount[row])
            slopes.append((moved[0] - moved[1]) / (2 * step))
        slack = 1e-4 * size[rows.column[entry]] + 1e-6
        if abs(slopes[0] - slopes[1]) > slack:
            unclear += 1  # a kink
            continue
        known = prepared.require(rows).amount[row] > 0.0
        assert not known or rate[entry] == pytest.approx(slopes[0], abs=slack)
    assert unclear < 0.1 * len(owner)


def test_slopes_of_what_is_not_held() -> None:
    """A coin beside the row adds what it loses alone, by its correlation to the row."""
    market = market_of(spots("ABC"), walks(np.random.default_rng(8), "ABC"))
    prepared = model(market)
    rows, probes = rows_of({0: 1.0, 1: -0.3}), rows_of({0: 0.0, 1: 0.0, 2: 0.0})
    rate = prepared.loss_rates(rows, probes, "instrument")
    step = 1e-6
    more = [{0: 1.0 + step, 1: -0.3}, {0: 1.0, 1: -0.3 + step}, {0: 1.0, 1: -0.3, 2: step}]
    (before,) = amounts(prepared, {0: 1.0, 1: -0.3})
    slope = [(after - before) / step for after in amounts(prepared, *more)]
    assert rate == pytest.approx(slope, rel=1e-4)
    # One contract is worth 100: an exposure of 1 is a hundredth of it.
    assert prepared.loss_rates(rows, probes, "factor") * 100.0 == pytest.approx(rate, rel=1e-12)


def test_slopes_of_rows_without_risk() -> None:
    prepared = model(market_of(spots("AB"), walks(np.random.default_rng(9), "AB")), theta=0.0)
    rows = rows_of({}, {0: 1.0})
    rate = prepared.loss_rates(rows, rows_of({1: 0.0}, {1: 0.0}), "instrument")
    assert (
        np.all(np.isfinite(rate)) and len(prepared.loss_rates(rows_of(), rows_of(), "factor")) == 0
    )
