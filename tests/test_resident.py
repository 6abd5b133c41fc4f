"""Trades tried on resident scenario vectors: limits, given numbers, plain loops, the same bits.

`loops` recomputes a what-if with lists and nothing of the package.
"""

from __future__ import annotations

import itertools
import math
import tracemalloc
from typing import Any

import cupy_on_cpu
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strict_backend import BACKEND as STRICT

from gpu_margin import backend as backends
from gpu_margin import resident
from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.directory import Directory, directory_of
from gpu_margin.failures import BackendUnavailable
from gpu_margin.portfolio import Portfolio, Rows
from gpu_margin.resident import ResidentBook, net
from gpu_margin.unit_risk import ScenarioVectors
from gpu_margin.whatif import Legs, outcome

Floats = np.ndarray[Any, np.dtype[np.float64]]
NUMPY = backends.load("numpy")


def _exact() -> list[Any]:
    found: list[Any] = [pytest.param(STRICT, id="strict")]
    found.append(pytest.param(cupy_on_cpu.load(), id="cupy on the CPU"))
    for name in ("cupy", "numba", "numpy"):
        marks = [pytest.mark.gpu] if name == "cupy" else []
        try:
            found.append(pytest.param(backends.load(name), id=name, marks=marks))
        except BackendUnavailable:
            continue
    return found


exactly = pytest.mark.parametrize("device", _exact())


# ---------------------------------------------------------------- books of given vectors


class Vectors:
    """A model of given unit P&L, as far as `ResidentBook` knows models."""

    def __init__(self, unit: Floats, measure: TailMeasure, device: Backend) -> None:
        self.vectors = ScenarioVectors(device.to_device(unit), measure)


def portfolio(positions: list[list[tuple[int, float]]]) -> Portfolio:
    """A netting set and account for each list of (instrument, quantity)."""
    rows = [sorted(own) for own in positions]
    offsets = np.cumsum([0, *(len(own) for own in rows)])
    flat = [one for own in rows for one in own]
    names = pl.Series([f"a{number:05d}" for number in range(len(rows))], dtype=pl.String)
    count = np.arange(len(rows))
    column = np.array([one[0] for one in flat], dtype=np.int64)
    value = np.array([one[1] for one in flat], dtype=np.float64)
    held = Rows(offsets, column, value)
    return Portfolio(names, names, count, held, np.ones_like(count), np.zeros_like(count))


def legs_of(asked: list[tuple[int, list[tuple[int, float]]]], book: Directory) -> Legs:
    """What-ifs (account, [(instrument, quantity)]) on accounts of one set."""
    account = np.array([one for one, _ in asked], dtype=np.int64)
    flat = [(n, *leg) for n, (_, legs) in enumerate(asked) for leg in legs]
    whatif = np.array([leg[0] for leg in flat], dtype=np.int64)
    sets = np.where(account < 0, -1, book.first[account])[whatif]
    instrument = np.array([leg[1] for leg in flat], dtype=np.int64)
    return Legs(account, whatif, sets, instrument, np.array([leg[2] for leg in flat], dtype=float))


def ask(
    unit: Floats,
    measure: TailMeasure,
    positions: list[list[tuple[int, float]]],
    asked: list[tuple[int, list[tuple[int, float]]]],
    device: Backend = NUMPY,
) -> tuple[Floats, Floats]:
    directory, whole = directory_of(portfolio(positions))
    book = ResidentBook(Vectors(unit, measure, device), whole, device)  # type: ignore[arg-type]
    found = outcome(book, directory, legs_of(asked, directory))
    return found.before, found.after


def loops(unit: Floats, measure: TailMeasure, held: list[tuple[int, float]]) -> tuple[float, float]:
    """The requirement of positions, and the sum of |q pnl| in their worst scenario."""
    losses = [-math.fsum(q * row[i] for i, q in held) for row in unit.T.tolist()]
    worst = sorted(losses, reverse=True)
    measured = math.fsum(w * x for w, x in zip(measure.weights, worst, strict=False))
    gross = max(sum(abs(q * row[i]) for i, q in held) for row in unit.T.tolist())
    return max(0.0, measured / measure.divisor), gross


UNIT = np.array([[1.0, -2.0, 0.5, 0.0], [-1.0, 3.0, 0.0, 2.0], [4.0, 4.0, -1.0, -8.0]])
MEAN_OF_TWO = TailMeasure((1.0, 1.0), 2.0)


def test_given_numbers() -> None:
    """Set 0: 2 of the first, P&L 2, -4, 1, 0; set 1: -1 of the second, P&L 1, -3, 0, -2."""
    before, after = ask(
        UNIT,
        MEAN_OF_TWO,
        [[(0, 2.0)], [(1, -1.0)]],
        [(0, [(1, 1.0)]), (1, [(2, 0.5), (0, 1.0)]), (-1, [(2, 1.0)])],
    )
    assert before.tolist() == [2.0, 2.5, 0.0]
    # 1, -1, 1, 2: losses 1 and -1; 4, -3, 0, -6: losses 6 and 3; 4, 4, -1, -8: losses 8 and 1.
    assert after.tolist() == [0.0, 4.5, 4.5]


@exactly
def test_limits(device: Backend) -> None:
    held = [(0, 0.1), (1, -7.3), (2, 1e30)]
    closing = [(instrument, -quantity) for instrument, quantity in reversed(held)]
    against = [(1, 0.1), (2, 5.0), (1, 0.2), (2, -5.0), (1, -0.3)]
    asked = [(0, []), (0, [(1, 0.0)]), (0, closing), (0, against), (1, []), (-1, []), (1, held)]
    before, after = ask(UNIT, MEAN_OF_TWO, [held, []], asked, device)
    change = (after - before).tolist()
    assert change[:2] == [0.0, 0.0]
    assert after[2] == 0.0
    assert change[3:6] == [0.0, 0.0, 0.0]
    # What an empty account buys is what the other has: the same positions, the same bits.
    assert after[6] == before[0] > 0.0
    assert not np.signbit(before).any() and not np.signbit(after).any()


@exactly
def test_no_accounts_and_no_questions(device: Backend) -> None:
    before, after = ask(UNIT, MEAN_OF_TWO, [], [(-1, [(0, 1.0)])], device)
    assert (before.tolist(), after.tolist()) == ([0.0], [1.0])
    before, after = ask(UNIT, MEAN_OF_TWO, [[(0, 1.0)]], [], device)
    assert (len(before), len(after)) == (0, 0)


def test_sums_beyond_floats_are_no_number() -> None:
    """Never a requirement that looks like one: neither the account's nor a neighbour's."""
    huge = UNIT * 1e300
    with np.errstate(over="ignore", invalid="ignore"):
        before, after = ask(
            huge,
            MEAN_OF_TWO,
            [[(0, 1e30)], [(0, 1.0)]],
            [(0, [(0, 1.0)]), (1, [(0, 1.0)]), (1, [(2, 1e30)])],
        )
        model: Any = Vectors(huge, MEAN_OF_TWO, NUMPY)
        book = ResidentBook(model, portfolio([[(0, 1e30)], [(0, 1.0)]]), NUMPY)
    assert np.isfinite(before).tolist() == [False, True, True]
    assert np.isfinite(after).tolist() == [False, True, False]
    assert np.isfinite(book.matrix).all()  # as backends want it


quantities = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
some_legs = st.lists(st.tuples(st.integers(0, 7), quantities), max_size=8)
books = st.lists(some_legs, min_size=1, max_size=5)
questions = st.lists(st.tuples(st.integers(-1, 4), some_legs), min_size=1, max_size=9)
measures = st.sampled_from(
    [
        TailMeasure((1.0,)),
        TailMeasure((1.0, 1.0, 1.0), 3.0),
        TailMeasure((0.0, 0.0, 1.0)),
        TailMeasure((0.0, 0.25, 0.75)),
    ]
)


@settings(max_examples=150, deadline=None)
@given(books, questions, measures, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_any_book_against_loops_alone_and_in_any_order(
    positions: list[list[tuple[int, float]]],
    asked: list[tuple[int, list[tuple[int, float]]]],
    measure: TailMeasure,
    seed: int,
    random: Any,
) -> None:
    unit = np.round(np.random.default_rng(seed).normal(size=(8, 11)), 2)
    asked = [(account if account < len(positions) else -1, legs) for account, legs in asked]
    before, after = ask(unit, measure, positions, asked)
    for number, (account, legs) in enumerate(asked):
        held = positions[account] if account >= 0 else []
        slack = 1e-12 * loops(unit, measure, held + legs)[1]
        assert before[number] == pytest.approx(loops(unit, measure, held)[0], rel=0, abs=slack)
        assert after[number] == pytest.approx(
            loops(unit, measure, held + legs)[0], rel=0, abs=slack
        )
        shuffled = random.sample(legs, len(legs))
        alone = ask(unit, measure, positions, [(account, shuffled)])
        assert (alone[0][0], alone[1][0]) == (before[number], after[number])


def random_book(accounts: int, scenarios: int) -> tuple[Floats, list[list[tuple[int, float]]]]:
    rng = np.random.default_rng(5)
    unit = rng.normal(size=(30, scenarios))
    sizes = rng.integers(0, 12, accounts)
    return unit, [
        list(zip(rng.integers(0, 30, n).tolist(), rng.normal(size=n).tolist(), strict=True))
        for n in sizes
    ]


def random_questions(count: int, accounts: int) -> list[tuple[int, list[tuple[int, float]]]]:
    rng = np.random.default_rng(6)
    return [
        (
            int(rng.integers(-1, accounts)),
            list(zip(rng.integers(0, 30, n).tolist(), rng.normal(size=n).tolist(), strict=True)),
        )
        for n in rng.integers(0, 9, count)
    ]


@exactly
@pytest.mark.parametrize("depth", [1, 9, 70])
def test_same_bits_on_every_device_alone_and_in_a_batch(device: Backend, depth: int) -> None:
    """More what-ifs than a block of any backend has, and tiles of a few sets each."""
    unit, positions = random_book(40, 130)
    asked, measure = random_questions(700, 40), TailMeasure((1.0,) * depth, float(depth))
    expected = ask(unit, measure, positions, asked)
    got = ask(unit, measure, positions, asked, device)
    assert np.array_equal(got, expected)
    for number in (0, 511, 699):
        alone = ask(unit, measure, positions, [asked[number]], device)
        assert np.array_equal(np.ravel(alone), np.array(expected)[:, number])


@exactly
def test_closing_everything_leaves_nothing(device: Backend) -> None:
    """Not even rounding, whose losses would be positive in some scenario."""
    unit, positions = random_book(60, 40)
    together = [
        [(instrument, math.fsum(q for i, q in own if i == instrument)) for instrument in names]
        for own in positions
        for names in [sorted({i for i, _ in own}, reverse=True)]
    ]
    asked = [(n, [(i, -q) for i, q in own]) for n, own in enumerate(together)]
    before, after = ask(unit, TailMeasure((1.0,)), together, asked, device)
    assert not after.any()
    assert np.count_nonzero(before) > 50


def test_tiles_change_no_bit_and_bound_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    unit, positions = random_book(10_000, 500)
    whole, measure = portfolio(positions), TailMeasure((1.0,) * 5, 5.0)
    model: Any = Vectors(unit, measure, NUMPY)
    at_once = ResidentBook(model, whole, NUMPY)
    monkeypatch.setattr(resident, "_TILE_BYTES", 1 << 19)
    tracemalloc.start()
    tiled = ResidentBook(model, whole, NUMPY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(tiled.matrix, at_once.matrix)
    assert np.array_equal(tiled.before, at_once.before)
    assert peak <= 1.3 * tiled.matrix.nbytes


def test_a_whatif_costs_its_trades_not_its_account(monkeypatch: pytest.MonkeyPatch) -> None:
    unit, _ = random_book(1, 20)
    directory, whole = directory_of(portfolio([[(i, 1.0) for i in range(30)]] * 3))
    model: Any = Vectors(unit, MEAN_OF_TWO, NUMPY)
    book = ResidentBook(model, whole, NUMPY)
    entries = []
    tail = type(NUMPY).tail

    def spy(self: Any, rows: Rows, *other: Any) -> Any:
        entries.append(np.diff(rows.offsets).tolist())
        return tail(self, rows, *other)

    monkeypatch.setattr(type(NUMPY), "tail", spy)
    asked = [(0, [(3, 1.0), (5, -1.0)]), (1, []), (2, [(1, 1.0), (1, 2.0)]), (-1, [(0, 1.0)])]
    outcome(book, directory, legs_of(asked, directory))
    assert entries == [[3, 2, 1]]  # two trades, none, two of one instrument: each with one vector


def test_net_drops_what_is_no_more_than_rounding() -> None:
    row, column = np.array([1, 1, 1, 0, 1]), np.array([2, 2, 2, 4, 0])
    rows = net(row, column, np.array([0.1, -0.3, 0.2, 1.0, 5.0]), 3)
    assert (rows.offsets.tolist(), rows.column.tolist()) == ([0, 1, 2, 2], [4, 0])
    assert rows.value.tolist() == [1.0, 5.0]


def test_legs_of_an_instrument_are_summed_in_one_order() -> None:
    for legs in ((0.1, 0.2, 0.3, -0.7), (1e16, 1.0, 1.0, -3.0)):
        sums = {
            tuple(net(np.zeros(4, int), np.zeros(4, int), np.array(one), 1).value)
            for one in itertools.permutations(legs)
        }
        assert len(sums) == 1
    assert len({math.fsum(one[:1]) + sum(one[1:]) for one in itertools.permutations(legs)}) > 1


def test_a_model_without_vectors_has_no_resident_book() -> None:
    model: Any = type("Model", (), {"vectors": None})
    with pytest.raises(ValueError, match="RecomputedBook"):
        ResidentBook(model, portfolio([]), NUMPY)
