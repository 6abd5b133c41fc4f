"""What must hold of SPAN whatever the file and the positions, bit by bit where it may.

`array-api-strict` and CuPy's own backend on this CPU stand in for a GPU; `-m gpu` runs the same
accounts on a CUDA device.
"""

from __future__ import annotations

import dataclasses
import random
from functools import cache
from typing import Any

import cupy_on_cpu
import numpy as np
import polars as pl
import pytest
from span_case import tables_of
from span_engine_case import FIGURES, NUMPY, Account, book_of, random_accounts
from span_oracle_pa2 import parse_pa2
from span_random import model, portfolio
from span_random_pa2 import as_pa2
from strict_backend import BACKEND as STRICT

from gpu_margin import backend as backends
from gpu_margin.backend import Backend, BackendUnavailable
from gpu_margin.models.span.calculation import prepare
from gpu_margin.span_book import SpanBook, SpanMargin, Terms
from gpu_margin.span_build import build
from gpu_margin.span_file import SpanFile

Dict = dict[str, Any]
SEEDS = range(12)
ARRAYS = [one.name for one in dataclasses.fields(SpanMargin) if "Frame" not in str(one.type)]
BY_ACCOUNT = ("account", "total_account")


def _exact() -> list[Any]:
    """Backends that promise NumPy's bits, and how many exchanges; CUDA is for `-m gpu` alone.

    The shim that runs CUDA's kernels on this CPU is slow.
    """
    found: list[Any] = [
        pytest.param(STRICT, len(SEEDS), id="strict"),
        pytest.param(cupy_on_cpu.load(), 2, id="cupy on the CPU"),
    ]
    for name in ("numba", "cupy"):
        try:
            marks = [pytest.mark.gpu] if name == "cupy" else []
            found.append(pytest.param(backends.load(name), len(SEEDS), id=name, marks=marks))
        except BackendUnavailable:
            continue
    return found


@cache
def drawn_file(seed: int, scanning: bool = True, between: bool = True) -> tuple[Dict, SpanFile]:
    """A random exchange; without spreads by scanning or without any between commodities."""
    drawn = model(40_000 + seed, xml=False)
    if not between:
        drawn["spreads"] = []
    if not scanning:
        drawn["spreads"] = [one for one in drawn["spreads"] if one["method"] != "04"]
    return drawn, build(tables_of(parse_pa2(as_pa2(drawn))))


def accounts_of(drawn: Dict, seed: int, count: int = 40) -> list[Account]:
    return random_accounts(random.Random(seed), drawn, portfolio, count)


def of_book(file: SpanFile, book: SpanBook, **how: Any) -> SpanMargin:
    return prepare(file, how.pop("device", NUMPY)).margin(book, Terms(), **how)


def margin_of(file: SpanFile, accounts: list[Account], **how: Any) -> SpanMargin:
    return of_book(file, book_of(file, accounts), **how)


def same(one: SpanMargin, other: SpanMargin) -> None:
    for name in ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


def figures_of(found: SpanMargin, account: int) -> dict[str, list[Any]]:
    """All that an account has, for comparisons bit by bit."""
    own, totals = found.account == account, found.total_account == account
    rows = {name: getattr(found, name)[own].tolist() for name in (*FIGURES, "commodity", "active")}
    sums = ("total_currency", "total", "total_risk")
    return rows | {name: getattr(found, name)[totals].tolist() for name in sums}


@pytest.mark.parametrize(("device", "many"), _exact())
def test_the_same_bits_on_every_backend(device: Backend, many: int) -> None:
    for seed in SEEDS[:many]:
        drawn, file = drawn_file(seed)
        book = book_of(file, accounts_of(drawn, seed, 4 * many))
        same(of_book(file, book), of_book(file, book, device=device))


@pytest.mark.parametrize("seed", SEEDS)
def test_accounts_do_not_see_each_other(seed: int) -> None:
    """Alone, in tiles, in another order, beside others: not a bit of an account changes."""
    drawn, file = drawn_file(seed)
    accounts = accounts_of(drawn, seed)
    book = book_of(file, accounts)
    whole = of_book(file, book)
    for size in (1, 7):
        for start in range(0, len(accounts), size):
            stop = min(start + size, len(accounts))
            tile = of_book(file, book.tile(start, stop))
            for account in range(start, stop):
                assert figures_of(tile, account - start) == figures_of(whole, account)
    order = random.Random(seed).sample(range(len(accounts)), len(accounts))
    shuffled = [
        dataclasses.replace(
            accounts[one],
            positions=random.Random(one).sample(
                accounts[one].positions, len(accounts[one].positions)
            ),
        )
        for one in order
    ]
    mixed = margin_of(file, [*shuffled, *accounts])
    for place, account in enumerate(order):
        assert figures_of(mixed, place) == figures_of(whole, account)
        assert figures_of(mixed, len(order) + account) == figures_of(whole, account)


@pytest.mark.parametrize("seed", SEEDS)
def test_twice_the_positions_cost_twice(seed: int) -> None:
    """To the bit for powers of two; near it for others."""
    drawn, file = drawn_file(seed)
    accounts = accounts_of(drawn, seed)
    once = margin_of(file, accounts)
    for times in (4, 3):
        more = margin_of(
            file,
            [
                dataclasses.replace(one, positions=[(name, times * q) for name, q in one.positions])
                for one in accounts
            ],
        )
        assert np.array_equal(more.commodity, once.commodity)
        for name in (*FIGURES, "total", "total_risk"):
            wanted, found = times * getattr(once, name), getattr(more, name)
            if times == 4:
                assert np.array_equal(found, wanted), name
            else:
                assert np.allclose(found, wanted, rtol=1e-10, atol=1e-6), name
    assert once.active.min() >= 0 and once.active.max() < file.points


@pytest.mark.parametrize("seed", SEEDS)
def test_a_position_against_itself_is_none(seed: int) -> None:
    """It requires nothing by itself, and changes nothing of an account that has others."""
    drawn, file = drawn_file(seed)
    rng = random.Random(seed)
    accounts = [dataclasses.replace(one, gross=False) for one in accounts_of(drawn, seed, 20)]
    alone, with_it = [], []
    for one in accounts:
        against = [(name, -q) for name, q in one.positions]
        alone.append(dataclasses.replace(one, positions=[*one.positions, *against]))
        (pair,) = portfolio(drawn, rng)[:1]
        both = [*one.positions, pair, (pair[0], -pair[1])]
        with_it.append(dataclasses.replace(one, positions=both))
    none = margin_of(file, alone)
    assert not len(none.account) and not none.failed.any() and not none.total.any()
    assert margin_of(file, with_it).total.tolist() == margin_of(file, accounts).total.tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_below_nought(seed: int) -> None:
    drawn, file = drawn_file(seed)
    found = margin_of(file, accounts_of(drawn, seed, 80))
    for name in ("scan_risk", "risk", "total", "total_risk", "delivery_charge"):
        assert (getattr(found, name) >= 0).all(), name
    for name in ("intra_spread_charge", "inter_spread_credit", "short_option_minimum"):
        assert (getattr(found, name) >= 0).all(), name
    assert (found.long_option_value >= 0).all() and (found.short_option_value <= 0).all()
    assert (found.requirement >= found.risk - found.long_option_value - 1e-6).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_netting_never_costs_scan_risk(seed: int) -> None:
    """Scan risk of two accounts in one is at most what they have apart; gross is never less."""
    drawn, file = drawn_file(seed, between=False)
    one = [dataclasses.replace(each, gross=False) for each in accounts_of(drawn, seed, 30)]
    two = [dataclasses.replace(each, gross=False) for each in accounts_of(drawn, 100 + seed, 30)]
    both = [
        dataclasses.replace(left, positions=[*left.positions, *right.positions])
        for left, right in zip(one, two, strict=True)
    ]
    apart = scans(margin_of(file, one)), scans(margin_of(file, two))
    for key, risk in scans(margin_of(file, both)).items():
        assert risk <= apart[0].get(key, 0.0) + apart[1].get(key, 0.0) + 1e-6
    gross = scans(margin_of(file, [dataclasses.replace(each, gross=True) for each in both]))
    for key, risk in scans(margin_of(file, both)).items():
        assert gross[key] >= risk - 1e-6


def scans(found: SpanMargin) -> dict[tuple[int, int], float]:
    keys = zip(found.account.tolist(), found.commodity.tolist(), strict=True)
    return dict(zip(keys, found.scan_risk.tolist(), strict=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_formed_adds_up(seed: int) -> None:
    """Writing down spreads changes no figure, and their amounts are the charges and credits."""
    drawn, file = drawn_file(seed, scanning=False)
    book = book_of(file, accounts_of(drawn, seed, 60))
    plain, found = of_book(file, book), of_book(file, book, formed=True)
    same(plain, found)
    formed = found.formed
    assert plain.formed is None and formed is not None and (formed["count"] > 0).all()
    rows = pl.DataFrame(
        {
            "account": found.account,
            "commodity": found.commodity,
            "within": found.intra_spread_charge,
            "between": -found.inter_spread_credit,
        }
    )
    amount = pl.col("amount")
    sums = formed.group_by("account", "commodity").agg(
        amount.filter(pl.col("within")).sum().alias("own"),
        amount.filter(~pl.col("within")).sum().alias("other"),
    )
    joined = rows.join(sums, on=["account", "commodity"], how="left")
    joined = joined.with_columns(pl.col("own", "other").fill_null(0.0))
    gross = book.gross[joined["account"].to_numpy()]
    assert not joined.filter(gross).select("within", "between").to_numpy().any()
    for one, other in (("within", "own"), ("between", "other")):
        assert np.allclose(joined[one], joined[other], rtol=1e-12, atol=1e-9)
    assert len(sums.join(rows, on=["account", "commodity"], how="anti")) == 0


def test_all_accounts_of_a_batch_fail_by_name_or_not_at_all() -> None:
    """Options without a price fail those who hold them, and nobody beside them."""
    failed = 0
    for seed in range(30):
        drawn, file = drawn_file(seed)
        accounts = random_accounts(random.Random(seed), drawn, portfolio, 30, True)
        found = margin_of(file, accounts)
        failed += int(found.failed.sum())
        bad = {f"{account:05d}" for account in np.flatnonzero(found.failed)}
        assert set(found.failures["source"]) == bad
        assert not found.failed[found.account].any() and not found.failed[found.total_account].any()
        good = [one for one, lost in zip(accounts, found.failed, strict=True) if not lost]
        again = margin_of(file, good)
        assert again.total.tolist() == found.total.tolist()
    assert failed
