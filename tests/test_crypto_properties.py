"""What must hold of every crypto rulebook for any book: of random ones, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import cupy_on_cpu
import numpy as np
import polars as pl
import pytest
from crypto_bits_case import assert_same_bits
from crypto_rulebook_case import (
    DERIVE,
    RULEBOOKS,
    case,
    chosen,
    scaled,
    with_rows,
)
from strict_backend import BACKEND as STRICT

from gpu_margin import backend as backends
from gpu_margin import derive_grid, derive_options
from gpu_margin.backend import Backend, BackendUnavailable
from gpu_margin.crypto_book import COIN, FUTURE, INITIAL, MAINTENANCE, CryptoBook, CryptoMarket
from gpu_margin.models import deribit_pm
from gpu_margin.portfolio import Rows

NUMPY = backends.load("numpy")
EACH = pytest.mark.parametrize("rulebook", RULEBOOKS)
SEEDS = pytest.mark.parametrize("seed", range(6))


def _exact() -> list[Any]:
    """Backends that promise NumPy's bits; CUDA is for `-m gpu` alone."""
    found: list[Any] = [
        pytest.param(STRICT, id="strict"),
        pytest.param(cupy_on_cpu.load(), id="cupy on the CPU"),
    ]
    for name in ("numba", "cupy"):
        try:
            marks = [pytest.mark.gpu] if name == "cupy" else []
            found.append(pytest.param(backends.load(name), id=name, marks=marks))
        except BackendUnavailable:
            continue
    return found


# ---------------------------------------------------------------- sums


@SEEDS
@EACH
def test_components_add_up_to_the_requirement(rulebook: str, seed: int) -> None:
    """In their order, to the last bit; what is left of equity is the margin value."""
    found = case(rulebook, seed).margin(NUMPY)
    for name, level in found.levels.items():
        total = np.zeros(len(level.requirement))
        for amount in level.components.values():
            total = total + amount
        assert np.array_equal(total, level.requirement)
        equity = found.mark_to_market + found.cash
        assert np.array_equal(found.value(name), equity - level.requirement)


@SEEDS
@pytest.mark.parametrize("rulebook", ["derive_pm2", "derive_pm1"])
def test_the_worst_scenario_is_the_least_profit(rulebook: str, seed: int) -> None:
    found = case(rulebook, seed).margin(NUMPY)
    assert found.pnl is not None
    own = np.flatnonzero(found.worst >= 0)
    worst = np.nanmin(found.pnl[own], axis=1)
    assert np.array_equal(found.pnl[own, found.worst[own]], worst)
    assert np.array_equal(found.figures["worst_pnl"][own], worst)
    none = found.worst < 0
    assert not found.figures["worst_pnl"][none].any()


# ---------------------------------------------------------------- positions


@SEEDS
@EACH
def test_a_position_against_itself_is_none(rulebook: str, seed: int) -> None:
    """Both sides of something, and halves of a position, change no bit."""
    given = case(rulebook, seed)
    rows, random = given.book.portfolio.rows, Random(seed)
    entries: list[list[tuple[int, float]]] = []
    for place in range(len(rows)):
        own = slice(rows.offsets[place], rows.offsets[place + 1])
        row = list(zip(rows.column[own].tolist(), rows.value[own].tolist(), strict=True))
        if row:
            code, size = random.choice(row)
            row.remove((code, size))
            row += [(code, size / 2), (code, size / 2)]
        other = random.randrange(len(given.market.instruments))
        row += [(other, 7.0), (other, -7.0)] if other not in dict(row) else []
        entries.append(sorted(row))
    sizes = np.cumsum([0, *map(len, entries)])
    flat = [entry for row in entries for entry in row]
    twice = Rows(
        sizes.astype(np.int64),
        np.array([code for code, _ in flat], dtype=np.int64),
        np.array([size for _, size in flat], dtype=np.float64),
    )
    book = with_rows(given.book, twice)
    assert_same_bits(given.margin(NUMPY), given.margin(NUMPY, book))


@SEEDS
@EACH
def test_the_order_of_sets_changes_no_bit(rulebook: str, seed: int) -> None:
    given = case(rulebook, seed)
    order = Random(seed).sample(range(len(given.book.cash)), len(given.book.cash))
    other = given.margin(NUMPY, chosen(given.book, order))
    assert_same_bits(given.margin(NUMPY), other, order)


@SEEDS
@EACH
def test_a_set_has_the_same_bits_alone(rulebook: str, seed: int) -> None:
    given = case(rulebook, seed, accounts=8)
    whole = given.margin(NUMPY)
    for place in range(len(given.book.cash)):
        alone = given.margin(NUMPY, given.book.tile(place, place + 1))
        assert_same_bits(whole, alone, [place])


@pytest.mark.parametrize("size", [1, 2, 7])
@SEEDS
@EACH
def test_bounds_of_what_is_held_at_a_time_change_no_bit(
    rulebook: str, seed: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = case(rulebook, seed)
    whole = given.margin(NUMPY)
    monkeypatch.setattr(derive_grid, "_SETS", size)
    monkeypatch.setattr(derive_grid, "_ENTRIES", 3 * size)
    monkeypatch.setattr(deribit_pm, "_SETS", size)
    monkeypatch.setattr(derive_options, "_CELLS", size)
    assert_same_bits(whole, given.margin(NUMPY))


@pytest.mark.parametrize("backend", _exact())
@SEEDS
@EACH
def test_backends_have_the_same_bits(rulebook: str, seed: int, backend: Backend) -> None:
    given = case(rulebook, seed, accounts=12)
    assert_same_bits(given.margin(NUMPY), given.margin(backend))


# ---------------------------------------------------------------- scale


@SEEDS
@EACH
def test_twice_the_size_is_twice_the_margin(rulebook: str, seed: int) -> None:
    """Deribit's only where nothing is forgiven and no delta is too large."""
    free = {"extended_dampener": 0.0, "m_inc": 0.0, "max_offsetable_pnl": 0.0}
    given = case(rulebook, seed, **free if rulebook == "deribit_pm" else {})
    once, twice = given.margin(NUMPY), given.margin(NUMPY, scaled(given.book, 2.0))
    for name, level in once.levels.items():
        for part, amount in level.components.items():
            assert np.array_equal(2.0 * amount, twice.levels[name].components[part]), part
        assert np.array_equal(2.0 * once.value(name), twice.value(name))
    assert np.array_equal(once.worst, twice.worst)


def dearer(market: CryptoMarket, factor: float) -> CryptoMarket:
    """The same venue where everything costs so many times as much."""
    expiries, held = market.expiries, market.instruments
    return replace(
        market,
        spot=market.spot * factor,
        expiries=replace(
            expiries, forward=expiries.forward * factor, fixed=expiries.fixed * factor
        ),
        instruments=replace(held, strike=held.strike * factor, price=held.price * factor),
    )


@SEEDS
@pytest.mark.parametrize("rulebook", DERIVE)
def test_the_unit_of_money_does_not_matter(rulebook: str, seed: int) -> None:
    """Four times the prices of everything is four times the margin, to the last bit."""
    given = case(rulebook, seed)
    book = replace(given.book, cash=given.book.cash * 4.0, unrealised=given.book.unrealised * 4.0)
    once = given.margin(NUMPY)
    more = given.prepare(dearer(given.market, 4.0), NUMPY).margin(book)
    for name, level in once.levels.items():
        assert np.array_equal(4.0 * level.requirement, more.levels[name].requirement)
        assert np.array_equal(4.0 * once.value(name), more.value(name))


# ---------------------------------------------------------------- limits


@SEEDS
@EACH
def test_cash_alone_requires_nothing(rulebook: str, seed: int) -> None:
    given = case(rulebook, seed, accounts=5)
    count = len(given.book.cash)
    cash = np.array([0.0, 5.0, 1e12, 1e-9, 3.0])
    nothing = Rows(np.zeros(count + 1, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
    book = replace(
        with_rows(given.book, nothing),
        cash=cash if rulebook in DERIVE else 0.0 * cash,
        unrealised=np.zeros(count),
        charges={},
    )
    found = given.margin(NUMPY, book)
    assert found.failures.is_empty()
    for name, level in found.levels.items():
        assert not level.requirement.any()
        assert np.array_equal(found.value(name), book.cash)
    assert not found.mark_to_market.any() and (found.worst == -1).all()


@EACH
def test_no_sets_at_all(rulebook: str) -> None:
    given = case(rulebook, 3)
    found = given.margin(NUMPY, chosen(given.book, []))
    assert len(found.cash) == len(found.worst) == 0
    assert all(len(level.requirement) == 0 for level in found.levels.values())


@SEEDS
@pytest.mark.parametrize("rulebook", DERIVE)
def test_feeds_that_are_less_sure_never_ask_for_less(rulebook: str, seed: int) -> None:
    given = case(rulebook, seed)
    expiries, held = given.market.expiries, given.market.instruments
    unsure = replace(
        given.market,
        spot_confidence=given.market.spot_confidence * 0.5,
        expiries=replace(
            expiries,
            forward_confidence=expiries.forward_confidence * 0.5,
            rate_confidence=expiries.rate_confidence * 0.5,
            volatility_confidence=expiries.volatility_confidence * 0.5,
        ),
        instruments=replace(held, confidence=held.confidence * 0.5),
    )
    sure, less = given.margin(NUMPY), given.prepare(unsure, NUMPY).margin(given.book)
    assert (less.levels[INITIAL].requirement >= sure.levels[INITIAL].requirement).all()
    kept = (less.levels[MAINTENANCE].requirement, sure.levels[MAINTENANCE].requirement)
    assert np.array_equal(*kept)


# ---------------------------------------------------------------- failures


def broken(book: CryptoBook, market: CryptoMarket, rulebook: str) -> tuple[CryptoBook, list[int]]:
    """The accounts with three among them that no rulebook takes, and where the others stand."""
    count, held = len(book.cash), market.instruments
    rows = book.portfolio.rows
    spans = [
        (rows.column[first:last].tolist(), rows.value[first:last].tolist())
        for first, last in zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    ]
    priceless = int(np.flatnonzero(held.kind != COIN)[0])
    bad = [([priceless], [1.0]), ([priceless], [-2.0]), ([priceless], [1.0])]
    names = ["DOGE", *book.market[:1], "CROSS"]
    places = [0, 3, count + 2]
    spans_of = list(spans)
    markets = book.market.to_list()
    for place, span, name in zip(places, bad, names, strict=True):
        spans_of.insert(place, span)
        markets.insert(place, name)
    others = [place for place in range(count + 3) if place not in places]

    def among(amount: Any) -> Any:
        whole = np.zeros(count + 3)
        whole[others] = amount
        return whole

    sizes = np.cumsum([0, *(len(column) for column, _ in spans_of)]).astype(np.int64)
    joined = Rows(
        sizes,
        np.array([code for column, _ in spans_of for code in column], dtype=np.int64),
        np.array([size for _, value in spans_of for size in value], dtype=np.float64),
    )
    more = replace(
        with_rows(book, joined),
        cash=among(book.cash),
        unrealised=among(book.unrealised),
        market=pl.Series("market", markets, pl.String),
        charges={name: among(amount) for name, amount in book.charges.items()},
    )
    return more, others


def without_price(market: CryptoMarket, kept: CryptoBook) -> tuple[CryptoMarket, CryptoBook]:
    """The market whose first derivative is of a kind that nothing margins, held by nobody."""
    held = market.instruments
    first = int(np.flatnonzero(held.kind != COIN)[0])
    kind, price, volatility = held.kind.copy(), held.price.copy(), held.volatility.copy()
    kind[first], price[first], volatility[first] = FUTURE, np.nan, np.nan
    underlying = held.underlying.copy()
    underlying[first] = -1
    rows = kept.portfolio.rows
    inside = rows.column != first
    owner = np.repeat(np.arange(len(rows)), np.diff(rows.offsets))[inside]
    offsets = np.searchsorted(owner, np.arange(len(rows) + 1)).astype(np.int64)
    changed = replace(held, kind=kind, price=price, volatility=volatility, underlying=underlying)
    return replace(market, instruments=changed), with_rows(
        kept, Rows(offsets, rows.column[inside], rows.value[inside])
    )


@SEEDS
@EACH
def test_failures_of_sets_change_no_other(rulebook: str, seed: int) -> None:
    given = case(rulebook, seed)
    market, book = without_price(given.market, given.book)
    prepared = given.prepare(market, NUMPY)
    more, others = broken(book, market, rulebook)
    good, mixed = prepared.margin(book, pnl=True), prepared.margin(more, pnl=True)
    assert good.failures.is_empty()
    assert_same_bits(mixed, good, others)
    assert len(mixed.failures) == 3
    failed = np.setdiff1d(np.arange(len(more.cash)), others)
    assert mixed.failures["source"].sort().to_list() == [f"{place:07d}" for place in failed]
    for level in mixed.levels.values():
        assert np.isnan(level.requirement[failed]).all()
    assert (mixed.worst[failed] == -1).all() and np.isnan(mixed.mark_to_market[failed]).all()
