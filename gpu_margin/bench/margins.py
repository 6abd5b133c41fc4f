"""Workloads (a) simulation margin and (b) covariance margin, beside scipy, joins and GEMM."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gpu_margin.backend import Backend, Rows
from gpu_margin.bench import joins
from gpu_margin.bench.cases import (
    DRAWN_ACCOUNTS,
    INSTRUMENTS,
    REFERENCE_CELLS,
    SLACK,
    Answer,
    Contender,
    Reference,
    Size,
    Work,
    chosen,
    column,
    first,
    sampled,
    short,
    sparse,
    variants,
    zipf_rows,
)
from gpu_margin.bench.joins import Skipped
from gpu_margin.bench.precision import FLOAT64, PRECISIONS, Precision
from gpu_margin.models.simulation import ExpectedShortfall, ValueAtRisk, tail_measure

Floats = NDArray[np.float64]

FACTORS, NONZEROS = 500, 20
SMALL_ACCOUNTS, SMALL_SCENARIOS = 1_000, 250


class SimulationMargin:
    """VaR 99 and ES 97.5 of accounts in one pass, and the worst scenario."""

    key = "a"
    title = "simulation margin"
    practitioners = ("scipy one-shot", "polars long join", "duckdb long join")
    partial = practitioners[1:]
    precisions = tuple(PRECISIONS)

    def work(self, size: Size, precision: Precision = FLOAT64) -> Work:
        """Every position reads a row of the matrix."""
        entries, cells = size.accounts * size.positions, INSTRUMENTS * size.scenarios
        book = 16.0 * entries + 8.0 * size.accounts
        value, number = (np.dtype(name).itemsize for name in (precision.value, precision.matrix))
        read = entries * (8.0 + value)
        converted = (value < 8) * value * entries + (number < 8) * number * cells
        return Work(
            label=str(size),
            unit="accounts",
            units=size.accounts,
            gathered_bytes=read + float(number * entries * size.scenarios),
            compulsory_bytes=read
            + 8.0 * size.accounts
            + min(entries, INSTRUMENTS) * number * size.scenarios,
            flops=2.0 * entries * size.scenarios,
            input_bytes=2.5 * book
            + 8.0 * min(REFERENCE_CELLS, size.accounts * size.scenarios)
            + 8.0 * cells,
            # NumPy keeps tails beside it, from one tile of scenarios to the next.
            backend_bytes=48.0 * size.accounts + 2 * SLACK + converted,
            baseline_bytes=8.0 * size.accounts * size.scenarios + book,
            steps=float(entries * size.scenarios),
        )

    def build(self, size: Size) -> SimulationCase:
        """Draw the book and the market."""
        return SimulationCase(self.work(size), size)


class SimulationCase:
    """See `SimulationMargin`; `matrix` [instrument, scenario] profit of one unit."""

    def __init__(self, work: Work, size: Size) -> None:
        rng = np.random.default_rng(1)
        self.work, self.size = work, size
        self.rows = zipf_rows(size.accounts, size.positions, INSTRUMENTS, rng)
        self.matrix = rng.standard_normal((INSTRUMENTS, size.scenarios))
        self.measures = (
            tail_measure(ValueAtRisk(kind="var", confidence=0.99), size.scenarios),
            tail_measure(ExpectedShortfall(kind="es", confidence=0.975), size.scenarios),
        )
        self.var_place, self.es_count = (len(measure.weights) for measure in self.measures)
        self.depth = max(self.var_place, self.es_count)
        self.reference = self._reference()

    def close(self) -> None:
        """Nothing is on disk."""

    def practitioner(self, name: str, units: int | None = None) -> Contender:
        """The one-shot; joins on the first thousand accounts of a small book."""
        if name == "scipy one-shot":
            units = units or len(self.rows)
            run = partial(self.one_shot, sparse(first(self.rows, units), INSTRUMENTS))
            return Contender(name, units, run, Answer, gives_worst=False)
        if self.size.scenarios > SMALL_SCENARIOS or len(self.rows) > DRAWN_ACCOUNTS:
            raise Skipped("long-format joins at laptop sizes only")
        join = getattr(joins, name.split()[0])
        units = min(SMALL_ACCOUNTS, len(self.rows))
        joined = join(self.rows, self.matrix, units, self.var_place, self.es_count)
        return Contender(name, units, joined, lambda got: Answer(*got))

    def backend(self, device: Backend, precision: Precision = FLOAT64) -> list[Contender]:
        """`Backend.tail` of all accounts."""

        def call(offsets: Any, column: Any, value: Any, matrix: Any) -> tuple[Any, ...]:
            result = device.tail(Rows(offsets, column, value), matrix, self.measures)
            return result.value, result.worst

        value = self.rows.value.astype(precision.value, copy=False)
        matrix = self.matrix.astype(precision.matrix, copy=False)
        arrays = (self.rows.offsets, self.rows.column, value, matrix)
        return variants(device, len(self.rows), arrays, call, resident=3)

    def one_shot(self, book: csr_array) -> Floats:
        """[account, measure] what a practitioner writes; the worst scenario is not asked of it."""
        return self._measured(np.asarray(book @ self.matrix))

    def _measured(self, profits: Floats) -> Floats:
        profits.partition(self.depth - 1, axis=1)
        worst = np.sort(profits[:, : self.depth], axis=1)
        shortfall = worst[:, : self.es_count].mean(axis=1)
        return -np.stack([worst[:, self.var_place - 1], shortfall], axis=1)

    def _reference(self) -> Reference:
        sample = sampled(len(self.rows), self.size.scenarios)
        book = sparse(chosen(self.rows, sample), INSTRUMENTS)
        # Row by row: the market's absolute values as a whole would be as large as the market.
        gross = abs(book) @ np.array([np.abs(line).mean() for line in self.matrix])
        profits = np.asarray(book @ self.matrix)
        worst = profits.argmin(axis=1)
        return Reference(sample, Answer(self._measured(profits), worst), gross)


class CovarianceMargin:
    """x'Cx of accounts' exposures to factors."""

    key = "b"
    title = "covariance margin"
    practitioners = ("dense GEMM + row dot", "scipy sparse @ Cholesky")
    partial = ()
    precisions = (FLOAT64.name,)

    def work(self, size: Size, precision: Precision = FLOAT64) -> Work:
        """Every pair of an account's exposures reads an entry of C."""
        accounts, pairs = size.accounts, size.accounts * NONZEROS * NONZEROS
        book, dense = accounts * (16.0 * NONZEROS + 8.0), 8.0 * accounts * FACTORS
        return Work(
            label=f"{short(accounts)} x {FACTORS} factors",
            unit="accounts",
            units=accounts,
            gathered_bytes=8.0 * pairs + book,
            compulsory_bytes=book + 8.0 * min(FACTORS, NONZEROS * accounts) ** 2,
            flops=2.0 * pairs,
            input_bytes=2.5 * book + 16.0 * FACTORS * min(REFERENCE_CELLS // FACTORS, accounts),
            backend_bytes=8.0 * accounts + SLACK,
            baseline_bytes=3.0 * dense,
            steps=float(pairs),
        )

    def build(self, size: Size) -> CovarianceCase:
        """Draw exposures and a covariance."""
        return CovarianceCase(self.work(size), size)


class CovarianceCase:
    """See `CovarianceMargin`; `matrix` [factor, factor]."""

    def __init__(self, work: Work, size: Size) -> None:
        rng = np.random.default_rng(2)
        self.work = work
        self.rows = zipf_rows(size.accounts, NONZEROS, FACTORS, rng)
        returns = rng.standard_normal((2 * FACTORS, FACTORS)) + rng.standard_normal(
            (2 * FACTORS, 1)
        )
        covariance = returns.T @ returns / len(returns)
        self.matrix = (covariance + covariance.T) / 2
        self.reference = self._reference()

    def close(self) -> None:
        """Nothing is on disk."""

    def practitioner(self, name: str, units: int | None = None) -> Contender:
        """Dense by GEMM, or sparse by the Cholesky factor."""
        units = units or len(self.rows)
        book = sparse(first(self.rows, units), FACTORS)
        if name == "dense GEMM + row dot":
            dense = book.toarray()
            return Contender(
                name, units, lambda: np.einsum("ij,ij->i", dense @ self.matrix, dense), column
            )
        factor = np.linalg.cholesky(self.matrix)

        def squared() -> Floats:
            projected = book @ factor
            return np.asarray(np.einsum("ij,ij->i", projected, projected))

        return Contender(name, units, squared, column)

    def backend(self, device: Backend, precision: Precision = FLOAT64) -> list[Contender]:
        """`Backend.quadratic_form` of all accounts."""

        def call(offsets: Any, column: Any, value: Any, matrix: Any) -> tuple[Any, ...]:
            return (device.quadratic_form(Rows(offsets, column, value), matrix),)

        arrays = (self.rows.offsets, self.rows.column, self.rows.value, self.matrix)
        return variants(device, len(self.rows), arrays, call, resident=3)

    def _reference(self) -> Reference:
        sample = sampled(len(self.rows), 2 * FACTORS)
        dense = sparse(chosen(self.rows, sample), FACTORS).toarray()
        value = np.einsum("ij,ij->i", dense @ self.matrix, dense)
        gross = np.einsum("ij,ij->i", np.abs(dense) @ np.abs(self.matrix), np.abs(dense))
        return Reference(sample, Answer(value[:, None]), gross)
