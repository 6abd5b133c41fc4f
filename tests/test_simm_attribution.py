"""Euler attribution of SIMM against finite differences, by hand, and bit for bit."""

from __future__ import annotations

import math
import random
from functools import cache
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from crif_case import crif_of
from hypothesis import given, settings
from polars.testing import assert_frame_equal
from simm_attribution_case import (
    SINGLE,
    Book,
    Held,
    Row,
    attributed,
    moved,
    random_rows,
    row_of,
    table_of,
    trades_of,
)
from simm_case import crif, level_files, vectors
from strict_backend import StrictBackend

from gpu_margin.crif import Crif
from gpu_margin.models.simm import names, slopes_tables, tables
from gpu_margin.models.simm.kinds import SIDES
from gpu_margin.models.simm.segments import Device, pair_sums
from gpu_margin.models.simm.slopes_roots import pair_slopes

# Contributions miss the total by this share of the sum of their sizes at most.
_ADDS_UP = 1e-13
# What a difference of totals cannot tell: of the slope, and of the total over the step.
_OF_SLOPE, _OF_TOTAL = 1e-5, 1e-13
_STEP = 1e-5


@cache
def _units() -> Crif:
    portfolios = crif(vectors() / "simm" / "unit481_crif.csv")
    rows = [row for some in portfolios.values() for row in some]
    return crif_of([row for row in rows if row["RiskType"].startswith("Risk_")])


def _versions(pattern: str = "") -> list[tuple[str, str]]:
    names = [name for name in level_files() if name.startswith("unit481") and pattern in name]
    return [tuple(name.removesuffix(".csv").split("_")[1:]) for name in names]  # type: ignore[misc]


def _adds_up(book: Book) -> None:
    for side in range(len(SIDES)):
        miss = np.abs(book.by_calculation(side) - book.total(side))
        assert (miss <= _ADDS_UP * book.by_calculation(side, size=True)).all()


def _differences(book: Book, chosen: Any) -> int:
    """Check the slopes of entries, at most one per calculation; how many lie in a kink."""
    calculation, amount, _ = book.together(0)
    largest = np.zeros(book.count)
    np.maximum.at(largest, calculation, np.abs(amount))
    step = np.zeros(len(amount))
    step[chosen] = _STEP * np.maximum(np.abs(amount), 1e-3 * largest[calculation] + 1e-9)[chosen]
    here, up, down = (moved(book, amount + sign * step) for sign in (0.0, 1.0, -1.0))
    kinks, own, width = 0, calculation[chosen], step[chosen]
    for side in range(len(SIDES)):
        slope = book.together(side)[2][chosen]
        after = (up[side] - here[side])[own] / width
        before = (here[side] - down[side])[own] / width
        noise = _OF_SLOPE * np.maximum(np.abs(after), np.abs(before))
        noise = noise + _OF_TOTAL * here[side][own] / width
        assert (slope >= np.minimum(after, before) - noise).all()
        assert (slope <= np.maximum(after, before) + noise).all()
        kinks += int((np.abs(after - before) > 100 * noise).sum())
    return kinks


def _draws(book: Book, count: int, seed: int) -> list[Any]:
    """Of every calculation an entry, drawn anew each time."""
    calculation = book.together(0)[0]
    order = np.argsort(calculation, kind="stable")
    start = np.searchsorted(calculation[order], np.arange(book.count + 1))
    filled = np.flatnonzero(np.diff(start))
    rng = np.random.default_rng(seed)
    return [order[start[filled] + rng.integers(0, np.diff(start)[filled])] for _ in range(count)]


# ------------------------------------------------------------ adding up, and differences


@pytest.mark.parametrize(("version", "horizon"), _versions())
def test_contributions_of_the_vectors_add_up(version: str, horizon: str) -> None:
    _adds_up(attributed(_units(), version, horizon))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("version", ["2.2", "latest"])
def test_contributions_of_random_books_add_up(seed: int, version: str) -> None:
    rows = random_rows(seed, portfolios=20, rows=120)
    _adds_up(attributed(crif_of(rows), version))
    _adds_up(attributed(crif_of(rows), version, "1d", currency="ARS"))


@pytest.mark.parametrize(("version", "horizon"), _versions("2.8"))
def test_slopes_of_the_vectors_are_differences(
    version: str, horizon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Held(monkeypatch)
    book = attributed(_units(), version, horizon)
    for chosen in _draws(book, 10, seed=7):
        _differences(book, chosen)


@pytest.mark.parametrize("currency", ["USD", "ARS"])
@pytest.mark.parametrize("seed", range(3))
def test_slopes_of_random_books_are_differences(
    seed: int, currency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Held(monkeypatch)
    crif = crif_of(random_rows(100 + seed, portfolios=60, rows=70))
    rng = np.random.default_rng(seed)
    book = attributed(crif, currency=currency, multiplier=rng.uniform(1.0, 2.0, (60, 4)))
    kinks = sum(_differences(book, chosen) for chosen in _draws(book, 15, seed))
    # A single sensitivity of a bucket is a kink at 0 alone; most slopes are not in one.
    assert kinks < 0.02 * 2 * 15 * 60


def test_random_books_have_what_makes_slopes_hard() -> None:
    book = attributed(crif_of(random_rows(100, portfolios=60, rows=70)))
    for number, stream in enumerate(book.netted.streams):
        assert len(stream), number
        if number not in (0, 6, 7):
            layout = names.layout_of(stream, book.factors, book.rules, number)
            each = names.concentrations(layout, book.rules, layout.names)
            assert (each > 1.0).any()


def test_pair_slopes_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(3)
    owner = np.sort(rng.integers(0, 12, 80))
    concentration = rng.choice([1.0, 1.0, 1.5, 3.0, 7.25], 80)
    concentration[owner < 3] = 1.0
    values = rng.normal(size=80)
    both = concentration[:, None], concentration[None, :]
    f = np.where(owner[:, None] == owner[None, :], np.minimum(*both) / np.maximum(*both), 0.0)
    device = Device(attributed(crif_of([])).device.backend)
    found = pair_slopes(device, values, concentration, owner, 13)
    np.testing.assert_allclose(found, f @ values, rtol=0, atol=1e-13)
    sums = pair_sums(device, values, concentration, owner, 13)
    own = np.bincount(owner, weights=values * found, minlength=13)
    np.testing.assert_allclose(own, sums, rtol=0, atol=1e-13)


# ------------------------------------------------------------ by hand


def test_two_buckets_by_hand() -> None:
    rows = [
        row_of("Equity", 4e5, Qualifier="A", Bucket="1"),
        row_of("Equity", -3e5, Qualifier="B", Bucket="5"),
    ]
    found = tables.load("latest")
    weight = found.at("1d").delta["Equity"]
    places, matrix = found.between("Equity")
    gamma = matrix[places.index("1")][places.index("5")]
    a, b = weight["1"] * 4e5, weight["5"] * -3e5
    total = math.sqrt(a * a + b * b + 2 * gamma * a * b)
    book = attributed(crif_of(rows), horizon="1d")
    expected = [(a * a + gamma * a * b) / total, (b * b + gamma * a * b) / total]
    for side in range(2):
        np.testing.assert_allclose(book.contributions()[0].sides[side], expected, rtol=1e-14)


@pytest.mark.parametrize("row", SINGLE, ids=lambda row: row["RiskType"])
@pytest.mark.parametrize("amount", [7e4, -7e4, 3e10, -3e10])
def test_a_single_factor_has_the_whole_margin(row: Row, amount: float) -> None:
    book = attributed(crif_of([row | {"Amount": amount}]))
    for side, levels in enumerate(book.levels):
        assert book.total(side)[0] > 0.0
        for part in book.contributions():
            whole = levels.margin[part.kind].sum()
            own = levels.risk_class.sum()
            assert part.sides[side][0] == pytest.approx(whole, rel=1e-12, abs=1e-12 * own)


def test_what_offsets_exactly_has_no_contribution() -> None:
    rows = [
        row | {"Amount": sign * 1e6, "TradeID": f"T{sign}"} for row in SINGLE for sign in (1, -1)
    ]
    book = attributed(crif_of(rows))
    for part in book.slopes:
        assert all((slope == 0.0).all() for slope in part.sides)
    found = trades_of(book, crif_of(rows))
    assert len(found) == 4 and (found["contribution"] == 0.0).all()


def test_zeros_change_nothing() -> None:
    rows = random_rows(5)
    taken = {tuple(row.get(name) for name in _KEY) for row in rows}
    others = [row | {"Amount": 0.0} for row in random_rows(6)]
    others = [row for row in others if tuple(row.get(name) for name in _KEY) not in taken]
    # A bucket that is there has its sum, and the order of sums is that of the names.
    plain, more = (table_of(attributed(crif_of(some))) for some in (rows, rows + others))
    none = more.filter(pl.col("contribution") == 0.0)
    assert len(none) > len(others) / 2
    on = [name for name in plain.columns if name != "contribution"]
    both = plain.join(more, on=on, how="left", maintain_order="left")
    np.testing.assert_allclose(both["contribution_right"], both["contribution"], rtol=1e-9)
    only_zeros = attributed(crif_of([row | {"Amount": 0.0} for row in rows]))
    assert (table_of(only_zeros)["contribution"] == 0.0).all()


_KEY = ("PortfolioID", "ProductClass", "RiskType", "Qualifier", "Bucket", "Label1", "Label2")


def test_a_multiplier_is_a_factor_of_its_class() -> None:
    crif = crif_of(random_rows(8))
    multiplier = np.array([[1.0, 2.0, 4.0, 0.5]] * len(crif.portfolios))
    plain, more = attributed(crif), attributed(crif, multiplier=multiplier)
    _adds_up(more)
    for one, other in zip(plain.slopes, more.slopes, strict=True):
        group = plain.netted.streams[one.stream].group
        for side in range(2):
            expected = one.sides[side] * multiplier[0][group % 4]
            np.testing.assert_array_equal(other.sides[side], expected)


# ------------------------------------------------------------ properties


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), power=st.integers(-20, 20))
def test_slopes_do_not_scale_where_nothing_is_concentrated(seed: int, power: int) -> None:
    rows = random_rows(seed, portfolios=3, rows=40)
    scaled = [row | {"Amount": row["Amount"] * 2.0**power} for row in rows]
    plain, other = (attributed(crif_of(some), horizon="1d") for some in (rows, scaled))
    # A power of two is exact all the way.
    for one, two in zip(plain.slopes, other.slopes, strict=True):
        for side in range(2):
            np.testing.assert_array_equal(one.sides[side], two.sides[side])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), horizon=st.sampled_from(["10d", "1d"]))
def test_the_other_sign_is_the_other_side(seed: int, horizon: str) -> None:
    rows = random_rows(seed, portfolios=3, rows=40)
    turned = [row | {"Amount": -row["Amount"]} for row in rows]
    plain, other = (attributed(crif_of(some), horizon=horizon) for some in (rows, turned))
    for side in range(2):
        calculation, amount, slope = plain.together(side)
        _, _, opposite = other.together(1 - side)
        room = 1e-9 * plain.by_calculation(side, size=True)[calculation]
        assert (np.abs(amount * (slope + opposite)) <= room).all()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_neither_order_nor_company_changes_a_bit(seed: int) -> None:
    rows = random_rows(seed, portfolios=4, rows=40)
    rows += [row | {"Amount": row["Amount"] / 3.0} for row in rows[::2]]
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    whole, other = (attributed(crif_of(some)) for some in (rows, mixed))
    for level in slopes_tables.LEVELS:
        assert_frame_equal(table_of(whole, level), table_of(other, level), check_exact=True)
    assert_frame_equal(trades_of(whole, rows), trades_of(other, mixed), check_exact=True)
    for number, name in enumerate(crif_of(rows).portfolios):
        own = [row for row in mixed if row["PortfolioID"] == name]
        alone = attributed(crif_of(own))
        for level in slopes_tables.LEVELS:
            _same(table_of(whole, level), table_of(alone, level), number)
        _same(trades_of(whole, rows), trades_of(alone, own), number)


def _same(whole: pl.DataFrame, alone: pl.DataFrame, number: int) -> None:
    own = whole.filter(pl.col("calculation") == number).drop("calculation")
    assert_frame_equal(own, alone.drop("calculation"), check_exact=True)


@pytest.mark.parametrize("name", ["numba", StrictBackend()], ids=["numba", "strict"])
def test_backends_agree_in_every_bit(name: Any) -> None:
    crif = crif_of(random_rows(11, portfolios=4))
    one, other = attributed(crif), attributed(crif, name=name)
    for first, second in zip(one.slopes, other.slopes, strict=True):
        for side in range(2):
            np.testing.assert_array_equal(first.sides[side], second.sides[side])
