"""Crypto portfolio margin of accounts on one market, beside plain Python, NumPy and paradex-py.

`pytest benchmarks/bench_crypto.py`; the size is CRYPTO_SIZE accounts of 17 legs (default 100000),
of which plain Python margins 300. paradex-py is skipped where it is not installed
(`pip install paradex-py`, without its dependencies where these cannot be built). `extra_info` has
the rates: compare those across groups. `crypto_load.py` measures all of it with targets.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import crypto_book
import crypto_load
import crypto_paradex
import crypto_plain
import numpy as np
import pytest

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.crypto_book import CryptoBook
from gpu_margin.failures import BackendUnavailable
from gpu_margin.models import deribit_pm, derive_pm2, derive_standard

SIZE, PLAIN = int(os.environ.get("CRYPTO_SIZE", "100000")), 300
NAMES = ("numba", "numpy")
ROUNDS = 5
LEGS = pytest.mark.parametrize("legs", [2, crypto_load.LEGS, 51])


@cache
def book(accounts: int, legs: int, coins: bool, inverse: bool = False) -> CryptoBook:
    market = crypto_book.market(inverse=inverse)
    return crypto_book.book(market, accounts, legs, coins=coins)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    try:
        return backends.load(request.param)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def paradex() -> Any:
    try:
        return crypto_paradex.engine()
    except ImportError as reason:
        pytest.skip(str(reason))


def timed(benchmark: Any, group: str, accounts: int, work: Callable[[], Any]) -> Any:
    """What the work gives; noted with how many accounts a second."""
    benchmark.group = group
    done = benchmark.pedantic(work, rounds=ROUNDS, warmup_rounds=1)
    if benchmark.stats is not None:
        benchmark.extra_info["accounts_per_second"] = accounts / benchmark.stats.stats.min
    return done


@LEGS
def test_derive_pm2(benchmark: Any, backend: Backend, legs: int) -> None:
    figures, market = crypto_load.pm2_figures(), crypto_book.market()
    prepared = derive_pm2.prepare(figures, market, backend)
    held = book(SIZE, legs, legs == crypto_load.LEGS)
    work = lambda: crypto_load.margined(prepared, held)  # noqa: E731
    found = timed(benchmark, f"derive_pm2, {legs} legs", SIZE, work)
    assert (found.levels["initial"].requirement > 0.0).all()


def test_derive_pm2_by_plain_python(benchmark: Any) -> None:
    figures, market = crypto_load.pm2_figures(), crypto_book.market()
    held, own = book(PLAIN, crypto_load.LEGS, True), figures[crypto_book.UNDERLYING]
    oracle, given = crypto_plain.oracle(), crypto_plain.oracle_figures(own)
    theirs = crypto_plain.oracle_market(market)
    accounts = crypto_plain.oracle_accounts(own, market, held, PLAIN)

    def work() -> list[dict[str, Any]]:
        return [oracle.pm2(given, theirs, one) for one in accounts]

    plain = timed(benchmark, f"derive_pm2, {crypto_load.LEGS} legs", PLAIN, work)
    values = [np.array([one[level] for one in plain]) for level in ("IM", "MM")]
    ours = derive_pm2.prepare(figures, market, backends.load("numpy")).margin(held)
    assert crypto_load.differing(ours, *values) == 0


def test_derive_pm2_by_numpy(benchmark: Any) -> None:
    figures, market = crypto_load.pm2_figures(), crypto_book.market()
    held = book(SIZE, crypto_load.LEGS, True)
    quant = crypto_plain.Practitioner(figures[crypto_book.UNDERLYING], market)
    work = lambda: quant.margins(held)  # noqa: E731
    values = timed(benchmark, f"derive_pm2, {crypto_load.LEGS} legs", SIZE, work)
    ours = derive_pm2.prepare(figures, market, backends.load("numpy")).margin(held)
    assert crypto_load.differing(ours, *values) == 0


@pytest.mark.parametrize("legs", crypto_load.PARADEX_LEGS)
def test_paradex(benchmark: Any, paradex: Any, legs: int) -> None:
    """Its own rulebook, of 24 scenarios, one account at a time."""
    asked = crypto_paradex.account(legs)
    work = lambda: paradex.compute_pm(  # noqa: E731
        orders=[], pm_config=crypto_paradex.CONFIG, now=crypto_paradex.NOW, **asked
    )
    found = timed(benchmark, f"derive_pm2, {legs} legs", 1, work)
    assert found["IMR"] > 0.0


def test_derive_standard(benchmark: Any, backend: Backend) -> None:
    asked = derive_standard.Parameters(feeds=Path("-"), positions=Path("-"))
    table, market = derive_standard.figures(asked), crypto_book.market()
    prepared = derive_standard.prepare(table, market, backend)
    held = book(SIZE, crypto_load.LEGS, False)
    timed(benchmark, "derive_standard", SIZE, lambda: crypto_load.margined(prepared, held))


def test_deribit_pm(benchmark: Any, backend: Backend) -> None:
    asked = deribit_pm.Parameters(feeds=Path("-"), positions=Path("-"))
    table, market = deribit_pm.figures(asked), crypto_book.market(inverse=True)
    prepared = deribit_pm.prepare(table, market, backend)
    held = book(SIZE, crypto_load.LEGS, False, inverse=True)
    timed(benchmark, "deribit_pm", SIZE, lambda: crypto_load.margined(prepared, held))
