"""Shapley values and incremental margin, beside all orders of the parts written out."""

from __future__ import annotations

from itertools import permutations
from math import factorial, fsum
from typing import Any

import numpy as np
import pytest
from hand_market import es, held_in, market, prepared, rows_of, var
from test_allocation import HAND, PAIR, adds_up, random_rows

from gpu_margin import shapley as shapley_module
from gpu_margin import subsets
from gpu_margin.allocation import incremental
from gpu_margin.models import Prepared
from gpu_margin.shapley import EXACT_PARTS, shapley

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("simulation", es(0.9)),
    ("simulation", var(0.8)),
    ("simulation", {**es(0.9), "offset_cap": 0.3}),
    ("covariance", {}),
]


def required(model: Prepared, held: dict[int, float]) -> float:
    return float(model.require(rows_of(held)).amount[0])


def by_all_orders(model: Prepared, held: dict[int, float], part: Any) -> dict[int, float]:
    """The mean over all orders, one order after another."""
    parts = sorted({part(code) for code in held})
    gains: dict[int, list[float]] = {name: [] for name in parts}
    known: dict[frozenset[int], float] = {}

    def worth(names: frozenset[int]) -> float:
        if names not in known:
            known[names] = required(model, {c: q for c, q in held.items() if part(c) in names})
        return known[names]

    for order in permutations(parts):
        for place, name in enumerate(order):
            before = frozenset(order[:place])
            gains[name].append(worth(before | {name}) - worth(before))
    return {name: fsum(own) / factorial(len(parts)) for name, own in gains.items()}


# ---------------------------------------------------------------- limits and hand-computed


def test_rows_of_no_part_and_of_one() -> None:
    model = prepared(market(HAND, "ab"), "simulation", **es(0.5))
    rows = rows_of({}, {0: 2.0}, {0: 1.0, 1: -1.0})
    for found in (
        shapley(model, rows, np.array([0, 5, 5])),
        incremental(model, rows, np.array([0, 5, 5])),
    ):
        assert found.owner.tolist() == [1, 2]
        assert found.part.tolist() == [0, 5]
        assert found.amount == pytest.approx(found.requirement[1:], rel=1e-12)
        adds_up(found)
    assert len(shapley(model, rows_of(), np.zeros(0, dtype=np.int64)).amount) == 0


def test_two_parts_by_hand() -> None:
    """v(A) = 8, v(B) = 3.5, v(AB) = 4.5: half of each part's first and last gain."""
    model = prepared(market(HAND, "ab"), "simulation", **es(0.5))
    found = shapley(model, PAIR, PAIR.column)
    assert found.amount == pytest.approx([(8.0 + 1.0) / 2, (3.5 - 3.5) / 2], rel=1e-12, abs=1e-12)
    assert found.error is not None and not found.error.any()
    added = incremental(model, PAIR, PAIR.column)
    assert added.amount == pytest.approx([1.0, -3.5], rel=1e-12)
    assert added.residuals["interaction"] == pytest.approx([7.0], rel=1e-12)
    assert added.method == "incremental" and found.method == "shapley"
    adds_up(found)
    adds_up(added)


# ---------------------------------------------------------------- beside loops


@pytest.mark.parametrize(("kind", "more"), MODELS)
def test_exact_values_are_means_over_all_orders(kind: str, more: dict[str, Any]) -> None:
    rng = np.random.default_rng(11)
    model = prepared(market(rng.normal(size=(5, 40)), "aabbc"), kind, **more)
    rows = random_rows(rng, 15, 5)
    found = shapley(model, rows, rows.column)
    adds_up(found)
    for row, held in enumerate(held_in(rows)):
        expected = by_all_orders(model, held, lambda code: code)
        own = found.owner == row
        assert found.part[own].tolist() == sorted(held)
        assert found.amount[own] == pytest.approx(
            [expected[code] for code in sorted(held)], rel=1e-10, abs=1e-10
        )
    assert np.abs(found.residuals["rounding"]).max() <= 1e-12 * found.requirement.max()


def test_parts_may_be_groups_of_positions() -> None:
    rng = np.random.default_rng(12)
    model = prepared(market(rng.normal(size=(9, 40)), "aabbcabca"), "simulation", **es(0.9))
    rows = random_rows(rng, 10, 9)
    group = np.array([0, 0, 1, 1, 2, 0, 1, 2, 0])
    found = shapley(model, rows, group[rows.column])
    added = incremental(model, rows, group[rows.column])
    for row, held in enumerate(held_in(rows)):
        expected = by_all_orders(model, held, lambda code: int(group[code]))
        own = found.owner == row
        assert found.part[own].tolist() == sorted(expected)
        assert found.amount[own] == pytest.approx(
            [expected[name] for name in sorted(expected)], rel=1e-10, abs=1e-10
        )
        for name, amount in zip(added.part[own], added.amount[own], strict=True):
            rest = {code: q for code, q in held.items() if group[code] != name}
            assert amount == required(model, held) - required(model, rest)
    adds_up(added)


def test_twelve_parts_are_exact_and_thirteen_are_sampled() -> None:
    rng = np.random.default_rng(13)
    model = prepared(market(rng.normal(size=(13, 20)), "a" * 13), "simulation", **es(0.9))
    held = {code: float(q) for code, q in enumerate(rng.normal(size=13))}
    twelve = {code: q for code, q in held.items() if code < EXACT_PARTS}
    rows = rows_of(twelve, held)
    found = shapley(model, rows, rows.column, samples=50)
    assert found.error is not None
    assert not found.error[:12].any() and (found.error[12:] > 0.0).all()
    adds_up(found)


# ---------------------------------------------------------------- sampled


def test_samples_are_within_their_error_of_the_exact_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same rows exactly and by samples; errors shrink with the root of the samples."""
    rng = np.random.default_rng(14)
    model = prepared(market(rng.normal(size=(8, 40)), "a" * 8), "simulation", **es(0.9))
    rows = random_rows(rng, 40, 8)
    exact = shapley(model, rows, rows.column)
    monkeypatch.setattr(shapley_module, "EXACT_PARTS", 1)
    few = shapley(model, rows, rows.column, samples=100, seed=1)
    many = shapley(model, rows, rows.column, samples=1600, seed=1)
    adds_up(many)
    for sampled in (few, many):
        assert sampled.error is not None
        risky = sampled.error > 0.0
        z = (sampled.amount - exact.amount)[risky] / sampled.error[risky]
        assert np.abs(z).max() < 5.0
        assert 0.5 < np.sqrt(np.mean(z**2)) < 1.5
        still = np.abs(sampled.amount - exact.amount)[~risky]
        assert still.max(initial=0.0) < 1e-12
    assert few.error is not None and many.error is not None
    assert np.median(few.error[risky] / many.error[risky]) == pytest.approx(4.0, rel=0.2)


def test_the_standard_error_is_that_of_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two samples: half their distance."""
    monkeypatch.setattr(shapley_module, "EXACT_PARTS", 1)
    model = prepared(market(HAND, "ab"), "simulation", **es(0.5))
    for seed in range(8):
        found = shapley(model, PAIR, PAIR.column, samples=2, seed=seed)
        assert found.error is not None
        gains = {8.0: 0.0, 4.5: 3.5, 1.0: 0.0}  # A first twice, once, never
        mean = min(gains, key=lambda value: abs(value - found.amount[0]))
        assert found.amount[0] == pytest.approx(mean, rel=1e-12)
        assert found.error[0] == pytest.approx(gains[mean], rel=1e-9, abs=1e-9)


def test_samples_have_a_seed_and_at_least_two() -> None:
    rng = np.random.default_rng(15)
    model = prepared(market(rng.normal(size=(13, 20)), "a" * 13), "simulation", **es(0.9))
    rows = rows_of(dict.fromkeys(range(13), 1.0))
    first, again, other = (
        shapley(model, rows, rows.column, samples=20, seed=seed) for seed in (3, 3, 4)
    )
    assert np.array_equal(first.amount, again.amount)
    assert not np.array_equal(first.amount, other.amount)
    with pytest.raises(ValueError, match="samples is 1"):
        shapley(model, rows, rows.column, samples=1)


# ---------------------------------------------------------------- same bits


@pytest.mark.parametrize("most", [1, 20, 1 << 22])
def test_the_same_bits_in_any_tiles_and_alone(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(16)
    model = prepared(market(rng.normal(size=(14, 20)), "a" * 14), "simulation", **es(0.9))
    rows = random_rows(rng, 8, 14)
    whole = shapley(model, rows, rows.column % 5, samples=9)
    many = shapley(model, rows, rows.column, samples=9)
    added = incremental(model, rows, rows.column)
    monkeypatch.setattr(subsets, "_ENTRIES", most)
    monkeypatch.setattr(shapley_module, "_SUBSETS", most)
    tiled = incremental(model, rows, rows.column)
    assert np.array_equal(tiled.amount, added.amount)
    if most > 1:
        assert np.array_equal(shapley(model, rows, rows.column % 5, samples=9).amount, whole.amount)
    for row, held in enumerate(held_in(rows)):
        if most == 1 and len(held) > 6:
            continue
        alone = rows_of(held)
        found = shapley(model, alone, alone.column, samples=9)
        assert np.array_equal(found.amount, many.amount[many.owner == row])
        assert np.array_equal(found.error, many.error[many.owner == row])
