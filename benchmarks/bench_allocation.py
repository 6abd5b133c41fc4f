"""Contributions of all accounts beside their margin: to be had within twice its time.

`make bench` runs a laptop's size; as a script, with ACCOUNTSxPOSITIONSxSCENARIOS as arguments, it
prints the ratio for each model, tile by tile as a run works:
`python benchmarks/bench_allocation.py 100000x50x250 100000x50x1000`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from gpu_margin import backend as backends
from gpu_margin import bench, models
from gpu_margin.allocation import contributions
from gpu_margin.allocation_tables import contribution_table
from gpu_margin.backend import Backend
from gpu_margin.bench.cases import INSTRUMENTS, Size, zipf_rows
from gpu_margin.market import History, Instruments, Market
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio
from gpu_margin.tiling import plan

Floats = NDArray[np.float64]

FACTORS, GROUPS = 200, 20
BACKENDS = ("numba", "numpy")
MODELS: dict[str, dict[str, Any]] = {
    "es": {"kind": "simulation", "measure": {"kind": "es", "confidence": 0.975}},
    "var": {"kind": "simulation", "measure": {"kind": "var", "confidence": 0.99}},
    "es capped": {
        "kind": "simulation",
        "measure": {"kind": "es", "confidence": 0.975},
        "offset_cap": 0.8,
    },
    "covariance": {"kind": "covariance", "confidence": 0.99, "estimator": {"kind": "sample"}},
}


@cache
def market(scenarios: int) -> Market:
    """Spot instruments on random walks of their factors."""
    rng = np.random.default_rng(3)
    moves = 0.01 * (rng.standard_normal((scenarios, FACTORS)) + rng.standard_normal((scenarios, 1)))
    steps: Floats = np.vstack([np.ones(FACTORS), 1.0 + moves])
    prices = np.asarray(np.cumprod(steps, axis=0), dtype=np.float64)
    last = date(2024, 3, 1)
    dates = tuple(last - timedelta(days=scenarios - day) for day in range(scenarios + 1))
    factors = tuple(f"F{code:03d}" for code in range(FACTORS))
    zero, one = np.zeros(INSTRUMENTS), np.ones(INSTRUMENTS)
    factor = rng.integers(0, FACTORS, INSTRUMENTS)
    instruments = Instruments(
        ids=pl.Series([f"I{code:05d}" for code in range(INSTRUMENTS)]),
        option=zero > 0.0,
        call=zero > 0.0,
        factor=factor,
        group=factor % GROUPS,
        scale=rng.uniform(1.0, 100.0, INSTRUMENTS),
        level=one,
        strike=one,
        volatility=zero,
        time=zero,
        rate=zero,
    )
    groups = pl.Series([f"G{code:02d}" for code in range(GROUPS)])
    return Market(last, "USD", instruments, groups, History(dates, factors, prices))


@cache
def book(size: Size) -> Portfolio:
    """Accounts of one netting set each."""
    rows = zipf_rows(size.accounts, size.positions, INSTRUMENTS, np.random.default_rng(1))
    ids = pl.Series([f"account-{code:07d}" for code in range(size.accounts)])
    count = np.diff(rows.offsets)
    return Portfolio(ids, ids, np.arange(size.accounts), rows, count, np.zeros_like(count))


def prepared(name: str, size: Size, device: Backend) -> Prepared:
    """The model of that name, over all scenarios of the size."""
    settings = dict(MODELS[name])
    rulebook = models.load(settings.pop("kind"))
    if name == "covariance":
        settings["lookback"] = size.scenarios
    else:
        settings["scenarios"] = {"kind": "historical", "lookback": size.scenarios}
    parameters = rulebook.Parameters.model_validate(settings)
    return rulebook.prepare(parameters, market(size.scenarios), device)


@dataclass(frozen=True)
class Seconds:
    """Of all tiles: margin, contributions beside it, and their table."""

    margin: float
    contributions: float
    table: float


def measured(model: Prepared, portfolio: Portfolio, device: Backend) -> Seconds:
    """Each tile anew, as in a run: its positions are netted and uploaded for its margin."""
    seconds = [0.0, 0.0, 0.0]
    ids = market(1).instruments.ids  # those of all markets

    def timed(stage: int, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = work(*arguments)
        seconds[stage] += time.perf_counter() - start
        return result

    for place in plan(portfolio, [device]):
        tile = portfolio.tile(place.start, place.stop)
        (margin,) = timed(0, model.margin, tile)
        found = timed(1, contributions, model, tile, margin.sets.requirement)
        missing = np.abs(found.residuals["rounding"])
        assert np.all(missing <= 1e-12 * margin.sets.standalone)
        timed(2, contribution_table, tile, ids, found, "model", "initial", tile.good > 0)
    return Seconds(*seconds)


LAPTOP = bench.sizes("laptop")[0]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("work", ["margin", "contributions"])
def test_contributions(benchmark: Any, name: str, backend: str, work: str) -> None:
    device = backends.load(backend)
    model, portfolio = prepared(name, LAPTOP, device), book(LAPTOP)
    benchmark.group = f"contributions, {name}, {backend}, {LAPTOP}"
    (margin,) = model.margin(portfolio)
    required = margin.sets.requirement

    def fresh() -> tuple[tuple[Portfolio], dict[str, Any]]:
        own = portfolio.tile(0, len(portfolio.accounts))
        if work == "contributions":
            assert len(own.netted)  # the margin has netted it
        return (own,), {}

    def run(own: Portfolio) -> Any:
        return model.margin(own) if work == "margin" else contributions(model, own, required)

    benchmark.pedantic(run, setup=fresh, rounds=5, warmup_rounds=1)


def main(sizes: list[str], rounds: int = 3) -> None:
    """Print the best of some rounds for each size, backend and model."""
    print(f"{'size':>18} {'backend':>8} {'model':>12} {'margin s':>9} {'contr. s':>9} {'ratio':>6}")
    for size in bench.sizes(",".join(sizes or ["laptop"])):
        portfolio = book(size)
        for backend in BACKENDS:
            device = backends.load(backend)
            for name in MODELS:
                model = prepared(name, size, device)
                runs = [measured(model, portfolio, device) for _ in range(rounds)]
                margin = min(run.margin for run in runs)
                beside = min(run.contributions for run in runs)
                table = min(run.table for run in runs)
                print(
                    f"{size!s:>18} {backend:>8} {name:>12} {margin:9.2f} {beside:9.2f} "
                    f"{beside / margin:6.2f}   (table {table:.2f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main(sys.argv[1:])
