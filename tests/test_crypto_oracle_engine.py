"""The engine's crypto rulebooks against the plain oracle, on thousands of random accounts.

Expiries of nothing, of less than half an hour and of years; no volatility and far too much; rates
below zero, feeds that nobody trusts, a stable coin off its peg, forwards of almost nothing, sizes
from a billionth to a billion, all short, and figures that no venue would choose.
"""

from __future__ import annotations

from random import Random
from typing import Any

import crypto_oracle
import crypto_oracle_books as books
import crypto_oracle_figures as named
import numpy as np
import pytest

from gpu_margin import backend as backends
from gpu_margin.crypto_book import INITIAL, MAINTENANCE, CryptoMargin
from gpu_margin.crypto_shocks import svi_volatility
from gpu_margin.models import derive_pm2

Dict = dict[str, Any]

NUMPY = backends.load("numpy")
ACCOUNTS = 40
SEEDS = pytest.mark.parametrize("seed", range(60))


def allowed(value: float, gross: float) -> float:
    """How far figures may be apart: 1e-10 of the figure, and rounding of what is added up."""
    return 1e-10 * max(1.0, abs(value)) + 1e-14 * gross


def assert_near(found: float, wanted: float, gross: float, what: object) -> None:
    assert abs(found - wanted) <= allowed(wanted, gross), (what, found, wanted)


def pm2_of(venue: Dict, figures: Dict, accounts: list[Dict]) -> CryptoMargin:
    market = books.engine_market(venue)
    table = {
        name: derive_pm2.Figures(**named.pm2(own, venue["accepted"][name]))
        for name, own in figures.items()
    }
    prepared = derive_pm2.prepare(table, market, NUMPY)
    return prepared.margin(books.engine_book(market, accounts), pnl=True)


def scenario_names(figures: Dict) -> list[str]:
    """As the engine calls them, in the order of the figures."""
    names = derive_pm2.Figures(**named.pm2(figures, {})).names
    skew = [one["direction"] in derive_pm2.SKEWS for one in figures["scenarios"]]
    order = sorted(range(len(skew)), key=lambda place: skew[place])
    return [name for _, name in sorted(zip(order, names, strict=True))]


@SEEDS
def test_pm2_is_the_oracles(seed: int) -> None:
    random = Random(seed)
    venue = books.venue(random)
    figures = {name: books.pm2_figures(random) for name in books.NAMES}
    accounts = [books.account(random, venue, books.COINS) for _ in range(ACCOUNTS)]
    found = pm2_of(venue, figures, accounts)
    assert found.failures.is_empty()
    assert found.pnl is not None
    names = {market: scenario_names(own) for market, own in figures.items()}
    column = {name: place for place, name in enumerate(found.scenarios)}
    for place, account in enumerate(accounts):
        market = account["market"]
        plain = books.of_oracle(venue, account)
        wanted = crypto_oracle.pm2(figures[market], venue["markets"][market], plain)
        gross = books.gross(venue, account)
        assert_near(found.value(INITIAL)[place], wanted["IM"], gross, ("IM", account))
        assert_near(found.value(MAINTENANCE)[place], wanted["MM"], gross, ("MM", account))
        assert_near(found.mark_to_market[place], wanted["mark_to_market"], gross, "value")
        assert_near(found.figures["worst_pnl"][place], wanted["worst"], gross, "worst")
        profits = dict(zip(names[market], wanted["scenarios"], strict=True))
        for name, profit in {**profits, "basis": wanted["basis"]}.items():
            assert_near(found.pnl[place, column[name]], profit, gross, (name, account))
        others = [column[name] for name in column if name not in {*profits, "basis"}]
        assert np.isnan(found.pnl[place, others]).all()


@SEEDS
def test_pm2_parts_are_the_oracles(seed: int) -> None:
    """Every component by itself, and what the worst scenario costs."""
    random = Random(1_000 + seed)
    venue = books.venue(random, ("BTC",))
    figures = books.pm2_figures(random)
    accounts = [books.account(random, venue, books.COINS) for _ in range(ACCOUNTS)]
    found = pm2_of(venue, {"BTC": figures}, accounts)
    initial = found.levels[INITIAL].components
    for place, account in enumerate(accounts):
        plain = books.of_oracle(venue, account)
        wanted = crypto_oracle.pm2(figures, venue["markets"]["BTC"], plain)
        gross, parts = books.gross(venue, account), wanted["parts"]
        peg = figures["peg_factor"] * max(0.0, figures["peg_threshold"] - venue["stable"])
        doubt = sum(amount[place] for name, amount in initial.items() if "confidence" in name)
        assert_near(doubt, parts["confidence"], gross, ("confidence", account))
        for name, amount in {
            "scenario_loss": -wanted["worst"] * figures["im_factor"],
            "peg": -wanted["worst"] * peg,
            "perpetual": parts["perpetual"],
            "perpetual_initial": parts["perpetual_initial"],
            "short_options": parts["options"],
            "short_options_initial": parts["options_initial"],
            "collateral_haircut": parts["coins"],
            "collateral_haircut_initial": parts["coins_initial"],
        }.items():
            assert_near(initial[name][place], amount, gross, (name, account))


def test_smiles_are_the_oracles() -> None:
    """Strikes of nothing and without end, variances beyond the largest."""
    random = Random(7)
    names = ("a", "b", "rho", "m", "sigma", "forward", "tau")
    for _ in range(2_000):
        svi = {
            "a": random.uniform(0.0, 0.3),
            "b": random.choice((0.0, 0.15, 40.0)),
            "rho": random.uniform(-0.99, 0.99),
            "m": random.uniform(-0.5, 0.5),
            "sigma": random.choice((0.0, 0.2, 200.0)),
            "forward": random.uniform(0.5, 1e5),
            "tau": random.choice((1e-6, 0.1, 2.0)),
        }
        strike = svi["forward"] * random.choice((1e-9, 0.5, 1.0, 1.3, 1e9))
        wanted = crypto_oracle.svi_volatility(svi, strike)
        found = float(svi_volatility(strike, *(svi[name] for name in names)))
        assert_near(found, wanted, 0.0, svi)
