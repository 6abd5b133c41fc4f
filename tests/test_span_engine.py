"""The engine against the slow SPAN: every figure of thousands of random accounts.

Exchanges are random; they reach the engine as what the slow readers made of them, and as files of
both formats through the readers. SPAN_DEPTH multiplies how many are drawn.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from span_case import tables_of
from span_engine_case import FIGURES, Account, Tally, compare, margined, random_accounts
from span_oracle_case import contract, exchange_of, inter_spread, linear
from span_oracle_pa2 import parse_pa2
from span_oracle_xml import parse_spn, rate_for
from span_random import model, portfolio
from span_random_pa2 import as_pa2
from span_random_xml import as_xml

from gpu_margin.io.span_pa2 import read_pa2
from gpu_margin.io.span_xml import read_spn
from gpu_margin.span_book import Terms
from gpu_margin.span_build import build
from gpu_margin.span_tables import ACCOUNT_TYPES

Dict = dict[str, Any]
DEPTH = int(os.environ.get("SPAN_DEPTH", "1"))
ROUNDINGS = ((None, None), (None, None), (4, None), (0, None), (4, 4), (1, 2))


def terms_of(seed: int) -> Terms:
    spread, delta = ROUNDINGS[seed % len(ROUNDINGS)]
    return Terms(initial=seed % 7 >= 4, spread_places=spread, delta_places=delta)


def swept(seeds: range, one: Callable[[int, random.Random, Tally], list[Any]]) -> Tally:
    """All exchanges of a range; they must have shown everything that there is to compare."""
    tally = Tally()
    for seed in seeds:
        wrong = one(seed, random.Random(seed), tally)
        assert not wrong, (seed, len(wrong), wrong[0])
    assert tally.accounts > 10 * tally.refused
    missing = {*FIGURES, "minimum decides", "capped"} - set(tally.seen.elements())
    assert not missing
    return tally


@pytest.mark.parametrize("first", range(0, 80, 20))
def test_every_figure(first: int) -> None:
    """All methods, on the slow reader's own tables."""

    def one(seed: int, rng: random.Random, tally: Tally) -> list[Any]:
        drawn = model(seed, xml=False)
        exchange = parse_pa2(as_pa2(drawn))
        accounts = random_accounts(rng, drawn, portfolio, 15, seed % 5 == 0)
        file = build(tables_of(exchange))
        return compare(exchange, file, accounts, terms_of(seed), tally)

    swept(range(first * DEPTH, (first + 20) * DEPTH), one)


@pytest.mark.parametrize("first", range(10_000, 10_100, 50))
def test_through_pa2(first: int, tmp_path: Path) -> None:
    def one(seed: int, rng: random.Random, tally: Tally) -> list[Any]:
        drawn = model(seed, xml=False)
        text = as_pa2(drawn)
        path = tmp_path / f"{seed}.pa2"
        path.write_text(text)
        tables = read_pa2(path)
        assert tables.failures.is_empty()
        accounts = random_accounts(rng, drawn, portfolio, 10, seed % 5 == 0)
        return compare(parse_pa2(text), build(tables), accounts, terms_of(seed), tally)

    swept(range(first * DEPTH, (first + 50) * DEPTH), one)


@pytest.mark.parametrize("first", range(20_000, 20_040, 20))
def test_through_xml(first: int, tmp_path: Path) -> None:
    """Rates of all account classes stand in one file; half of all have what PA2 cannot say."""

    def one(seed: int, rng: random.Random, tally: Tally) -> list[Any]:
        drawn, terms = model(seed, pa2=seed % 2 == 0), terms_of(seed)
        text = as_xml(drawn)
        path = tmp_path / f"{seed}.spn"
        path.write_text(text)
        tables = read_spn(path)
        assert tables.failures.is_empty()
        accounts = random_accounts(rng, drawn, portfolio, 15, seed % 5 == 0)
        wrong = []
        for kind in ACCOUNT_TYPES:
            exchange = parse_spn(text, rate_for(text, kind, terms.initial))
            own = [account for account in accounts if account.kind == kind]
            wrong += compare(exchange, build(tables), own, terms, tally)
        return wrong

    swept(range(first * DEPTH, (first + 20) * DEPTH), one)


def test_both_formats_are_one_file(tmp_path: Path) -> None:
    """What both formats can say gives the same contracts and the same figures."""
    for seed in range(30_000, 30_020):
        drawn, rng = model(seed), random.Random(seed)
        files = []
        for name, text, read in (
            ("f.pa2", as_pa2(drawn), read_pa2),
            ("f.spn", as_xml(drawn), read_spn),
        ):
            (tmp_path / name).write_text(text)
            files.append(build(read(tmp_path / name)))
        assert files[0].contracts.ids.equals(files[1].contracts.ids)
        accounts = random_accounts(rng, drawn, portfolio, 10)
        exchange = parse_pa2(as_pa2(drawn))
        for file in files:
            assert not compare(exchange, file, accounts, Terms(), Tally())


def test_scanning_over_other_scenarios_is_refused_by_name() -> None:
    """Vectors of different scenarios are not added up: who holds a leg fails and is told why."""
    arrays = {"A": [0, 10, -10], "B": [0, 5, -5, 7], "C": [0, 10, -10]}
    exchange = exchange_of({name: [contract(name, array)] for name, array in arrays.items()})
    for name, array in arrays.items():
        exchange["commodities"][name].update(
            {"pairs": list(range(len(array))), "still": [0], "refused": ""}
        )
    exchange["spreads"] = [inter_spread("04", [("A", 1, "A"), ("B", 1, "B")], 50, target="A")]
    tables = tables_of(exchange)
    found = margined(build(tables), [Account([(name, 1)]) for name in arrays])
    assert found.failed.tolist() == [True, True, False]
    assert found.total.tolist() == [10.0]
    assert found.failures["value"].to_list() == ["A", "B"]
    assert all("other scenarios" in reason for reason in found.failures["reason"])


def test_scanning_over_currencies_without_a_rate_is_refused_by_name() -> None:
    """One such spread does not end the batch: who holds a leg fails, all others are margined."""
    exchange = exchange_of({name: [contract(name, linear(300))] for name in "ABC"})
    exchange["commodities"]["B"]["currency"] = exchange["contracts"]["B"]["currency"] = "EUR"
    exchange["spreads"] = [inter_spread("04", [("A", 1, "A"), ("B", 1, "B")], 50, target="A")]
    accounts = [Account([("A", 1), ("B", 1)]), Account([("C", 1)])]
    found = margined(build(tables_of(exchange)), accounts)
    assert found.failed.tolist() == [True, False] and found.total.tolist() == [300.0]
    assert all("no rate for" in reason for reason in found.failures["reason"])
    exchange["rates"]["EUR", "USD"] = Fraction(2)
    found = margined(build(tables_of(exchange)), accounts)
    assert not found.failed.any() and found.total.tolist() == [900.0, 300.0]


def test_the_comparison_sees_differences() -> None:
    """A factor that differs a little is found: the comparison compares."""
    drawn = model(0, xml=False)
    exchange = parse_pa2(as_pa2(drawn))
    file = build(tables_of(exchange))
    for one in exchange["commodities"].values():
        one["factors"]["hedger"] *= 1 + 10**-6
    accounts = [Account(portfolio(drawn, random.Random(seed))) for seed in range(10)]
    assert len(compare(exchange, file, accounts, Terms(), Tally())) == 10
