"""SIMM on every backend: the bits of NumPy where a device is exact, near them where it is not.

`array-api-strict` and CuPy's own backend on this CPU stand in for a GPU; `-m gpu` runs the same
books on a CUDA device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cupy_on_cpu
import numba
import numpy as np
import polars as pl
import pytest
from crif_case import crif_of
from hypothesis import given, settings
from polars.testing import assert_frame_equal
from simm_strategies import NUMPY, Book, books, row
from strict_backend import BACKEND as STRICT

from benchmarks import simm_book
from gpu_margin import array_ops
from gpu_margin import backend as backends
from gpu_margin.backend import Backend, BackendUnavailable
from gpu_margin.cpu_fallback import numpy_backend
from gpu_margin.crif import PRODUCT_CLASSES, Crif
from gpu_margin.models.simm import result as results
from gpu_margin.models.simm import tables
from gpu_margin.models.simm.calculation import Parameters, calculate
from gpu_margin.models.simm.kinds import HORIZONS, STREAM_OF

# Of the gross margin: XLA adds in another order, and may fuse a product with a sum.
NEAR = 1e-12
SOME = settings(max_examples=15, deadline=None)


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


EXACT = _exact()


def table(crif: Crif, parameters: Parameters, backend: Backend = NUMPY) -> pl.DataFrame:
    return calculate(crif, parameters, backend).table()


def same_bits(ours: pl.DataFrame, theirs: pl.DataFrame) -> None:
    assert_frame_equal(ours, theirs, check_exact=True)
    signs = [np.signbit(one["initial_margin"].to_numpy()) for one in (ours, theirs)]
    assert np.array_equal(*signs)


@pytest.fixture(scope="module")
def crif() -> Crif:
    """Thirty portfolios of 200 rows, many of them concentrated."""
    return simm_book.book(30, seed=6)


@pytest.fixture(scope="module", params=HORIZONS)
def parameters(request: pytest.FixtureRequest) -> Parameters:
    return Parameters(horizon=request.param, calculation_currency="EUR")


@pytest.fixture(scope="module")
def reference(crif: Crif, parameters: Parameters) -> pl.DataFrame:
    return table(crif, parameters)


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("device", EXACT)
def test_a_book_on_every_exact_backend(
    crif: Crif, parameters: Parameters, reference: pl.DataFrame, device: Backend
) -> None:
    same_bits(table(crif, parameters, device), reference)


@pytest.mark.parametrize("device", EXACT)
@given(book=books())
@SOME
def test_any_book_on_every_exact_backend(device: Backend, book: Book) -> None:
    same_bits(book.result(device).table(), book.result().table())


@pytest.mark.parametrize("device", EXACT)
@pytest.mark.parametrize("version", tables.versions())
def test_every_version(version: str, device: Backend) -> None:
    """Each risk type alone, two of each, and no row at all."""
    rows = [
        row(kind, amount, PortfolioID=kind, **({"Qualifier": name} if name else {}))
        for kind in STREAM_OF
        for amount, name in ((2e9, ""), (-3e5, "JPYUSD" if kind == "Risk_FXVol" else "JPY"))
    ]
    for held in (rows[::2], rows, []):
        book = Book(tuple(held), version, "10d", "USD")
        same_bits(book.result(device).table(), book.result().table())


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = numba.get_num_threads()
    numba.set_num_threads(min(count, before))
    try:
        yield
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2])
def test_threads_of_numba(
    crif: Crif, parameters: Parameters, reference: pl.DataFrame, count: int
) -> None:
    with threads(count):
        same_bits(table(crif, parameters, backends.load("numba")), reference)


@pytest.mark.parametrize(("entries", "count"), [(1, 1), (50, 5), (10**9, 2)])
def test_blocks_and_threads_of_numpy(
    crif: Crif,
    parameters: Parameters,
    reference: pl.DataFrame,
    entries: int,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numpy_backend, "_BLOCK_ENTRIES", entries)
    monkeypatch.setattr(numpy_backend.os, "cpu_count", lambda: count)
    same_bits(table(crif, parameters), reference)


@pytest.mark.parametrize("tile", [64, 1 << 12])
def test_tiles_of_array_operations(
    crif: Crif,
    parameters: Parameters,
    reference: pl.DataFrame,
    tile: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(array_ops, "_TILE", tile)
    same_bits(table(crif, parameters, STRICT), reference)


@pytest.mark.parametrize("held", [1, 7])
def test_portfolios_of_the_table_at_a_time(
    crif: Crif,
    parameters: Parameters,
    reference: pl.DataFrame,
    held: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results, "_PORTFOLIOS", held)
    same_bits(table(crif, parameters), reference)


def test_a_traced_result_has_the_same_bits(
    crif: Crif, parameters: Parameters, reference: pl.DataFrame
) -> None:
    same_bits(calculate(crif, parameters, NUMPY, traced=True).table(), reference)


# ---------------------------------------------------------------- near


def jax() -> Backend:
    pytest.importorskip("jax")
    return backends.load("jax")


def is_near(crif: Crif, long: Crif, parameters: Parameters) -> None:
    """On each level within `NEAR` of the gross margin, that of `long`, on the dearer side."""
    keys = ["portfolio_id", "product_class", "risk_class", "margin_type"]
    ours, theirs = table(crif, parameters, jax()), table(crif, parameters)
    gross = table(long, parameters).group_by(keys).agg(pl.col("initial_margin").max().alias("most"))
    both = ours.join(theirs, on=[*keys, "side"], how="full", suffix="_numpy", coalesce=True).join(
        gross, on=keys, how="left"
    )
    both = both.with_columns(pl.col("initial_margin", "initial_margin_numpy").fill_null(0.0))
    off = (pl.col("initial_margin") - pl.col("initial_margin_numpy")).abs()
    assert len(both) and both["most"].null_count() == 0
    assert both.filter(~(off <= NEAR * pl.col("most"))).is_empty()


def long(crif: Crif) -> Crif:
    """The same with every sensitivity long, so that none offsets."""
    return Crif(**{**vars(crif), "amount": np.abs(crif.amount)})


def every_kind() -> Crif:
    """Three portfolios with all risk types, of few names so that they meet.

    Of every risk type the same shapes as far as can be: JAX compiles each anew.
    """
    rng, rows = np.random.default_rng(5), []
    for kind in STREAM_OF:
        for number in range(24):
            name = ("EUR", "JPY")[number % 2]
            keys = {
                "PortfolioID": f"P{number // 8}",
                "Qualifier": "USD" + name if kind == "Risk_FXVol" else name,
                "Label1": ("1y", "10y")[number // 2 % 2],
                "Label2": ("", "OIS")[number // 2 % 2],
            }
            amount = float(rng.normal() * 10.0 ** rng.uniform(4, 10))
            rows.append(row(kind, amount, PRODUCT_CLASSES[number // 4 % 2], **keys))
    return crif_of(rows)


@pytest.mark.parametrize("version", ["2.2", "latest"])
@pytest.mark.parametrize("horizon", HORIZONS)
def test_every_risk_type_on_jax(version: str, horizon: str) -> None:
    crif = every_kind()
    is_near(crif, long(crif), Parameters(version=version, horizon=horizon))
