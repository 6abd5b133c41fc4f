"""Derive's older rulebooks and Deribit's against the plain oracle, on random accounts."""

from __future__ import annotations

from random import Random
from typing import Any

import crypto_oracle_books as books
import crypto_oracle_coins as coins
import crypto_oracle_deribit
import crypto_oracle_figures as named
import crypto_oracle_older
import numpy as np
import pytest
from crypto_figures_case import pm1_figures, standard_figures
from test_crypto_oracle_engine import ACCOUNTS, NUMPY, SEEDS, assert_near

from gpu_margin.crypto_book import INITIAL, MAINTENANCE
from gpu_margin.models import deribit_pm, derive_pm1, derive_standard

Dict = dict[str, Any]


@SEEDS
def test_pm1_is_the_oracles(seed: int) -> None:
    random = Random(seed)
    venue = books.venue(random)
    figures = {name: pm1_figures(random) for name in books.NAMES}
    accounts = [books.account(random, venue, ()) for _ in range(ACCOUNTS)]
    for one in accounts:
        if random.random() < 0.4:
            one["held"][one["market"]] = abs(books.quantity(random, False))
    market = books.engine_market(venue)
    table = {name: derive_pm1.Figures(**named.pm1(own)) for name, own in figures.items()}
    prepared = derive_pm1.prepare(table, market, NUMPY)
    found = prepared.margin(books.engine_book(market, accounts), pnl=True)
    assert found.failures.is_empty()
    assert found.pnl is not None
    column = {name: place for place, name in enumerate(found.scenarios)}
    for place, account in enumerate(accounts):
        own = account["market"]
        plain = books.of_oracle(venue, account)
        wanted = crypto_oracle_older.pm1(figures[own], venue["markets"][own], plain)
        gross = books.gross(venue, account)
        assert_near(found.value(INITIAL)[place], wanted["IM"], gross, ("IM", account))
        assert_near(found.value(MAINTENANCE)[place], wanted["MM"], gross, ("MM", account))
        assert_near(found.mark_to_market[place], wanted["mark_to_market"], gross, account)
        profits = zip(table[own].names, wanted["scenarios"], strict=True)
        for name, profit in [*profits, ("basis", wanted["basis"])]:
            assert_near(found.pnl[place, column[name]], profit, gross, (name, account))


def at_settlement(venue: Dict, account: Dict) -> float:
    """USD that options pay, one against the other, where they settle at the highest strike."""
    options = {one: own for m in venue["markets"].values() for one, own in m["options"].items()}
    held = [one for one in account["held"] if one in options]
    highest = max((options[one]["strike"] for one in held), default=0.0)
    return highest * sum(abs(account["held"][one]) for one in held)


@SEEDS
def test_standard_is_the_oracles(seed: int) -> None:
    random = Random(seed)
    venue = books.venue(random)
    figures = {name: standard_figures(random) for name in books.NAMES}
    peg = {"depeg_threshold": random.uniform(0.9, 1.1), "depeg_factor": random.uniform(0.0, 3.0)}
    accounts = [books.many_markets(random, venue) for _ in range(ACCOUNTS)]
    market = books.engine_market(venue)
    table = derive_standard.Figures(
        peg={"threshold": peg["depeg_threshold"], "factor": peg["depeg_factor"]},
        markets={name: named.standard(own) for name, own in figures.items()},
    )
    prepared = derive_standard.prepare(table, market, NUMPY)
    found = prepared.margin(books.engine_book(market, accounts))
    assert found.failures.is_empty()
    for place, account in enumerate(accounts):
        plain = []
        for name in books.NAMES:
            own = books.of_oracle(venue, {**account, "market": name})
            # What is not settled yet is one amount for all markets.
            own["unrealised"] *= name == books.NAMES[0]
            plain.append((figures[name], venue["markets"][name], own))
        wanted = crypto_oracle_older.standard(plain, peg, venue["stable"], account["cash"])
        gross = books.gross(venue, account) + at_settlement(venue, account)
        assert_near(found.value(INITIAL)[place], wanted["IM"], gross, ("IM", account))
        assert_near(found.value(MAINTENANCE)[place], wanted["MM"], gross, ("MM", account))
        assert_near(found.mark_to_market[place], wanted["mark_to_market"], gross, account)


@pytest.mark.parametrize("inverse", [True, False], ids=["inverse", "linear"])
@SEEDS
def test_deribit_is_the_oracles(seed: int, inverse: bool) -> None:
    """In the settlement currency; gains of the extended table alone are left out."""
    random = Random(seed)
    market, figures = coins.market(random), coins.figures(random)
    accounts = [coins.account(random, market, inverse) for _ in range(ACCOUNTS)]
    venue = coins.engine_market(market, inverse)
    table = deribit_pm.Figures.model_validate(coins.engine_figures(figures))
    prepared = deribit_pm.prepare(table, venue, NUMPY)
    found = prepared.margin(coins.engine_book(venue, accounts), pnl=True)
    assert found.failures.is_empty()
    assert found.pnl is not None
    unit = market["index"] if inverse else coins.STABLE
    for place, account in enumerate(accounts):
        plain = coins.of_oracle(market, account, inverse)
        wanted = crypto_oracle_deribit.deribit(figures, market, plain, inverse=inverse)
        gross = coins.gross(market, account, inverse)
        scale = 1.0 if inverse else 1 / unit
        for name in ("worst_case", "roll_shock", "delta_shock", "risk_matrix_margin"):
            ours = found.figures[f"settlement_{name}"][place]
            assert_near(ours, wanted[name] * scale, gross, (name, account))
        for name in ("initial_margin", "maintenance_margin"):
            charges = sum(account["charges"]) if name == "initial_margin" else 0.0
            ours = found.figures[f"settlement_{name}"][place]
            theirs = (wanted[name] - charges) * scale + charges
            assert_near(ours, theirs, gross, (name, account))
        profit = found.pnl[place] / unit
        cells = np.array([*wanted["aggregated_standard"], *wanted["aggregated_extended"]]) * scale
        losing = cells <= 0
        losing[: len(wanted["aggregated_standard"])] = True
        for cell in np.flatnonzero(losing):
            assert_near(profit[cell], cells[cell], gross, cell)
