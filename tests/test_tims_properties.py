"""The TIMS rulebook on random books: beside plain loops, what must always hold, and slopes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cupy_on_cpu
import numpy as np
import pytest
import tims_oracle
from hand_market import held_in, portfolio_of, rows_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strict_backend import BACKEND as STRICT
from tims_case import (
    NUMPY,
    amounts,
    market_of,
    model,
    parameters_of,
    random_contracts,
    random_rows,
    random_setting,
)

from gpu_margin import backend as backends
from gpu_margin.allocation import euler, marginal
from gpu_margin.backend import Backend
from gpu_margin.models.tims import Prepared
from gpu_margin.portfolio import Rows, entry_rows, netted_rows, rows_at
from gpu_margin.worst_fill import measurer_of

NAMES = "ABCDEFG"
SEEDS = st.integers(0, 10**6)
FEW = settings(max_examples=40, deadline=None)


def random_book(seed: int, backend: Backend = NUMPY, **more: Any) -> tuple[Prepared, Rows]:
    rng = np.random.default_rng(seed)
    names = NAMES[: rng.integers(1, 8)]
    contracts = random_contracts(rng, names)
    how = {**parameters_of(random_setting(rng, names)), **more}
    market = market_of(contracts, names)
    return model(market, backend, **how), random_rows(rng, 25, len(contracts))


# ---------------------------------------------------------------- beside plain loops


@pytest.mark.parametrize("seed", range(60))
def test_requirements_agree_with_loops(seed: int) -> None:
    """Books on up to seven underlyings, groups and shares of all kinds."""
    rng = np.random.default_rng(seed)
    names = NAMES[: rng.integers(1, 8)]
    contracts = random_contracts(rng, names)
    how = random_setting(rng, names)
    prepared = model(market_of(contracts, names), **parameters_of(how))
    rows = random_rows(rng, 60, len(contracts))
    terms = prepared.require(rows)
    for row, held in enumerate(held_in(rows)):
        book = [(contracts[code], q) for code, q in held.items()]
        want = tims_oracle.margin(book, how)
        size = 1e-12 * sum(abs(q) * c.scale * c.level for c, q in book)
        assert terms.amount[row] == pytest.approx(want.requirement, rel=1e-11, abs=size)
        points, minimum = (terms.components[name][row] for name in terms.components)
        if abs(want.losses - want.minimum) > 10 * size:
            in_force = want.losses > want.minimum
            assert (points > 0.0) == in_force and (minimum > 0.0) == (not in_force)
        worst = want.by_point[terms.worst[row]]
        assert worst == pytest.approx(max(want.by_point), rel=1e-11, abs=size)


# ---------------------------------------------------------------- properties


@given(SEEDS)
@FEW
def test_components_are_the_term_in_force(seed: int) -> None:
    prepared, rows = random_book(seed)
    required = prepared.require(rows)
    assert list(required.components) == ["valuation_points", "contract_minimum"]
    points, minimum = required.components.values()
    assert np.array_equal(points + minimum, required.amount)
    assert not np.any((points > 0.0) & (minimum > 0.0))
    assert np.all(required.amount >= 0.0) and np.all(required.worst >= 0)


@given(SEEDS, st.sampled_from([0.5, 2.0, 1024.0]))
@FEW
def test_twice_the_book_requires_twice_as_much(seed: int, factor: float) -> None:
    """To the last bit, for powers of two; the minimum grows with the contracts, too."""
    prepared, rows = random_book(seed)
    scaled = Rows(rows.offsets, rows.column, rows.value * factor)
    assert np.array_equal(prepared.require(scaled).amount, prepared.require(rows).amount * factor)


@given(SEEDS)
@FEW
def test_what_shares_a_call_changes_no_bit(seed: int) -> None:
    prepared, rows = random_book(seed)
    found = prepared.require(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    mixed = prepared.require(rows_at(rows, order))
    assert np.array_equal(mixed.amount, found.amount[order])
    assert np.array_equal(mixed.worst, found.worst[order])
    rates = prepared.loss_rates(rows, rows, "instrument")
    for row in range(0, len(rows), 4):
        alone = rows_at(rows, np.array([row]))
        assert prepared.require(alone).amount[0] == found.amount[row]
        own = rates[rows.offsets[row] : rows.offsets[row + 1]]
        assert np.array_equal(prepared.loss_rates(alone, alone, "instrument"), own)


@given(SEEDS)
@FEW
def test_parts_require_no_less_than_the_whole(seed: int) -> None:
    """Of two books, of a book's groups, and of its positions one by one."""
    prepared, rows = random_book(seed)
    held = held_in(rows)
    both = [
        {c: one.get(c, 0.0) + other.get(c, 0.0) for c in one.keys() | other.keys()}
        for one, other in pairwise(held)
    ]
    each, sums = amounts(prepared, *held), amounts(prepared, *both)
    slack = 1e-9 * (1.0 + max(each))
    assert all(a <= b + c + slack for a, b, c in zip(sums, each, each[1:], strict=False))
    accounts = {f"a{row:02d}": {"": own} for row, own in enumerate(held)}
    (margin,) = prepared.margin(portfolio_of(accounts))
    assert margin.sets.requirement.tolist() == each
    assert np.all(margin.sets.requirement <= margin.sets.standalone * (1 + 1e-12) + 1e-300)
    groups = np.bincount(margin.groups.owner, margin.groups.figures.requirement, len(each))
    assert np.all(margin.sets.requirement <= groups * (1 + 1e-12) + 1e-300)


@given(SEEDS)
@FEW
def test_a_book_against_itself_is_nothing(seed: int) -> None:
    """Netted it is no position; both sides left to stand have the minimum, and no loss."""
    prepared, rows = random_book(seed)
    column = np.repeat(rows.column, 2)
    value = np.stack([-np.abs(rows.value), np.abs(rows.value)], axis=1).ravel()
    both = Rows(rows.offsets * 2, column, value)
    assert not prepared.require(netted_rows(both)).amount.any()
    standing = prepared.require(both)
    assert not standing.components["valuation_points"].any()
    assert np.array_equal(standing.amount, standing.components["contract_minimum"])


@given(SEEDS)
@FEW
def test_larger_shares_and_minima_go_one_way(seed: int) -> None:
    """A larger share of gains requires no more, a larger minimum no less."""
    prepared, rows = random_book(seed)
    groups = prepared.risk.tables.groups
    names = sorted({group for group in groups.products if group.startswith("g")})
    found = prepared.require(rows).amount
    for share, way in ((1.0, -1.0), (0.0, 1.0)):
        rng = np.random.default_rng(seed)
        own = NAMES[: rng.integers(1, 8)]
        contracts = random_contracts(rng, own)
        how = parameters_of(random_setting(rng, own))
        for name in names:
            how["product_groups"].setdefault(name, {})["share"] = share
        other = model(market_of(contracts, own), **how).require(rows).amount
        assert np.all(way * (other - found) >= -1e-9 * (1.0 + found))
    more, _ = random_book(seed, minimum_per_contract=30.0)
    assert np.all(more.require(rows).amount >= found)


# ---------------------------------------------------------------- backends


@pytest.mark.parametrize("seed", range(6))
def test_the_same_bits_on_every_exact_backend(seed: int) -> None:
    prepared, rows = random_book(seed)
    found, rates = prepared.require(rows), prepared.loss_rates(rows, rows, "instrument")
    for backend in (backends.load("numba"), STRICT, cupy_on_cpu.load()):
        other, _ = random_book(seed, backend)
        ours = other.require(rows)
        assert np.array_equal(ours.amount, found.amount)
        assert np.array_equal(ours.worst, found.worst)
        assert np.array_equal(other.loss_rates(rows, rows, "instrument"), rates)


@pytest.mark.parametrize("seed", range(3))
def test_jax_is_as_near_as_its_sums(seed: int) -> None:
    prepared, rows = random_book(seed)
    other, _ = random_book(seed, backends.load("jax"))
    found = prepared.require(rows).amount
    assert other.require(rows).amount == pytest.approx(found, rel=1e-9, abs=1e-6)


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
def test_marginal_is_the_slope(seed: int) -> None:
    """The requirement a little up and down the quantity, where it has no kink."""
    prepared, rows = random_book(seed)
    rate, owner = marginal(prepared, rows), entry_rows(rows)
    size = np.abs(prepared.risk.tables.pnl).max(axis=1)
    base, unclear = prepared.require(rows).amount, 0
    for entry, row in enumerate(owner):
        slopes = []
        for step in (1e-5, -1e-5):
            value = rows.value.copy()
            value[entry] += step
            moved = prepared.require(Rows(rows.offsets, rows.column, value)).amount[row]
            slopes.append((moved - base[row]) / step)
        slack = 1e-5 * size[rows.column[entry]] + 1e-6
        if abs(slopes[0] - slopes[1]) > slack:
            unclear += 1  # a kink
        else:
            assert rate[entry] == pytest.approx(slopes[0], abs=slack)
    assert unclear < 0.2 * len(owner)


@given(SEEDS)
@FEW
def test_a_slope_is_below_the_requirement_everywhere(seed: int) -> None:
    """Those of any row times any positions are at most what these require, held or not."""
    prepared, rows = random_book(seed)
    count = len(prepared.risk.tables.pnl)
    every = rows_of(*(dict.fromkeys(range(count), 0.0) for _ in range(len(rows))))
    rate = prepared.loss_rates(rows, every, "instrument").reshape(len(rows), count)
    others = np.random.default_rng(seed + 1).normal(size=(40, count))
    found = np.array(amounts(prepared, *(dict(enumerate(one)) for one in others.tolist())))
    assert np.all(rate @ others.T <= found[None, :] * (1 + 1e-9) + 1e-9)


def test_slopes_of_factors_are_those_of_an_exposure() -> None:
    market = market_of([tims_oracle.Contract("spot", "A", 1.0, 50.0)], "A")
    prepared = model(market)
    rows = rows_of({0: 2.0}, {0: -2.0}, {})
    probes = rows_of({0: 0.0}, {0: 0.0}, {0: 0.0})
    of_one = prepared.loss_rates(rows, probes, "instrument")
    assert of_one.tolist() == pytest.approx([7.5, -7.5, 0.0])
    assert prepared.loss_rates(rows, probes, "factor") * 50.0 == pytest.approx(of_one)
    assert len(prepared.loss_rates(rows_of(), rows_of(), "factor")) == 0


def test_the_gate_knows_that_it_is_convex() -> None:
    prepared, _ = random_book(1)
    measurer = measurer_of(prepared, NUMPY)
    assert measurer.convex and measurer.bounded
