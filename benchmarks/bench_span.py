"""SPAN of accounts of ten legs, beside Python with NumPy and marginism; and reading both formats.

`pytest benchmarks/bench_span.py`; the size is SPAN_SIZE accounts (default 100000) on an exchange of
SPAN_CONTRACTS contracts (default 100000; a hundredth of it in combined commodities, and twice as
many spreads between them), of which Python with NumPy margins 300. marginism is skipped where it is
not installed (`pip install marginism`). `extra_info` has the rates: compare those across groups.
`span_load.py` measures all of it at real size, with targets.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import span_book
import span_contracts
import span_load
import span_marginism
import span_plain
import span_positions
from span_contracts import Exchange
from span_xml_contracts import Writer

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.failures import BackendUnavailable
from gpu_margin.io.span_pa2 import read_pa2
from gpu_margin.io.span_xml import read_spn
from gpu_margin.models.span.calculation import prepare
from gpu_margin.span_build import build

SIZE = int(os.environ.get("SPAN_SIZE", "100000"))
CONTRACTS = int(os.environ.get("SPAN_CONTRACTS", "100000"))
LEGS, PLAIN, ROUNDS = 10, 300, 5
GROUP = f"SPAN, {LEGS} legs"


@cache
def exchange() -> Exchange:
    commodities = max(CONTRACTS // 100, 5)
    return span_contracts.draw(CONTRACTS, commodities, min(2 * commodities, 9_999))


@cache
def positions(accounts: int) -> pl.DataFrame:
    return span_positions.table(exchange(), accounts, LEGS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exchange as both formats."""
    found = tmp_path_factory.mktemp("span")
    span_book.write(exchange(), found / "exchange.pa2", "pa2")
    span_book.write(exchange(), found / "exchange.spn", "xml")
    return found


@pytest.fixture(params=("numba", "numpy"))
def backend(request: pytest.FixtureRequest) -> Backend:
    try:
        return backends.load(request.param)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


def timed(benchmark: Any, group: str, name: str, count: int, work: Callable[[], Any]) -> Any:
    """What the work gives; noted with how many a second."""
    benchmark.group = group
    done = benchmark.pedantic(work, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is not None:
        benchmark.extra_info[f"{name}_per_second"] = count / benchmark.stats.stats.min
    return done


def test_reading_pa2(benchmark: Any, folder: Path) -> None:
    work = partial(read_pa2, folder / "exchange.pa2")
    found = timed(benchmark, "SPAN, reading", "contracts", CONTRACTS, work)
    assert len(found.contracts) == CONTRACTS


def test_reading_xml(benchmark: Any, folder: Path) -> None:
    work = partial(read_spn, folder / "exchange.spn")
    found = timed(benchmark, "SPAN, reading", "contracts", CONTRACTS, work)
    assert len(found.contracts) == CONTRACTS


def test_margin(benchmark: Any, folder: Path, backend: Backend) -> None:
    file = build(read_pa2(folder / "exchange.pa2"))
    prepared, book = prepare(file, backend), span_load.book_of(file, positions(SIZE))
    work = partial(span_load.margined, prepared, book)
    found = timed(benchmark, GROUP, "accounts", SIZE, work)
    assert found.intra_spread_charge.any() and found.inter_spread_credit.any()


def test_margin_by_python_and_numpy(benchmark: Any, folder: Path) -> None:
    tables = read_pa2(folder / "exchange.pa2")
    quant, file = span_plain.Practitioner(tables), build(tables)
    held = span_plain.accounts_of(positions(PLAIN))
    plain = timed(benchmark, GROUP, "accounts", PLAIN, lambda: [quant.margin(h) for h in held])
    book = span_load.book_of(file, positions(PLAIN))
    ours = span_load.margined(prepare(file, backends.load("numpy")), book)
    assert span_load.differing(file, ours, plain) == 0


def test_marginism(benchmark: Any, tmp_path: Path) -> None:
    """Scan, spreads of two months, minima and option values only."""
    module = pytest.importorskip("marginism")
    path = tmp_path / "plain.spn"
    with path.open("wb") as out:
        Writer(exchange(), plain=True).write(out)
    calculator = module.SpanCalculator.from_file(str(path))
    row, quantity = span_positions.draw(exchange(), PLAIN, LEGS)
    terms = span_positions.plain_terms(exchange(), row, quantity)
    held = span_marginism.positions(module, terms)
    work = lambda: [calculator.calculate(one) for one in held]  # noqa: E731
    found = timed(benchmark, GROUP, "accounts", PLAIN, work)
    assert not any(one.unmatched for one in found)
