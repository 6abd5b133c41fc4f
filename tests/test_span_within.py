"""Spreads between months and delivery: limits, figures by hand, and random terms to the oracle."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import span_oracle
from span_case import tables_of
from span_engine_case import FIGURES, Account, book_of, margined
from span_oracle_case import contract, exchange_of, linear

from gpu_margin import backend
from gpu_margin.models.span import within
from gpu_margin.models.span.calculation import prepare
from gpu_margin.models.span.state import opened
from gpu_margin.span_book import Terms
from gpu_margin.span_build import build
from gpu_margin.span_file import SpanFile

Dict = dict[str, Any]
Held = list[tuple[str, Any]]
MONTHS = [f"{year}{month:02d}" for year in range(2026, 2034) for month in range(1, 13)]
NUMPY = backend.load("numpy")


def leg(key: Any, side: str, ratio: Any = 1) -> Dict:
    kind = "tier" if isinstance(key, int) else "month"
    return {"kind": kind, "key": key, "ratio": Fraction(str(ratio)), "side": side}


def charge(rate: Any, *legs: Dict, kind: str = "F") -> Dict:
    made = {"rate": Fraction(str(rate)), "charge": kind, "legs": list(legs)}
    return {"kind": 1, "priority": 1, **made}


def tier(number: int, start: str, end: str) -> Dict:
    return {"number": number, "start": start, "end": end}


def exchange_with(charges: list[Dict], months: int = 6, tiers: Any = (), **terms: Any) -> Dict:
    """Futures F0, F1, ... of months, and options O0, ... with deltas of 0.1."""
    contracts = [contract(f"F{at}", linear(300), period=MONTHS[at]) for at in range(months)]
    contracts += [
        contract(f"O{at}", linear(30), "0.1", MONTHS[at], right="C") for at in range(months)
    ]
    exchange = exchange_of({"L": contracts})
    exchange["commodities"]["L"].update(
        {"charges": charges, "intra": list(tiers), "intra_method": "10", **terms}
    )
    return exchange


def charged(exchange: Dict, *held: tuple[str, Any], terms: Terms | None = None) -> float:
    found = margined(build(tables_of(exchange)), [Account(list(held))], terms)
    assert not found.failed.any() and len(found.account) == 1
    return float(found.intra_spread_charge[0])


NEAR, FAR = tier(1, MONTHS[0], MONTHS[1]), tier(2, MONTHS[2], MONTHS[5])
SERIES = charge(10, leg(MONTHS[0], "A"), leg(MONTHS[2], "B"))
BETWEEN = charge(1, leg(1, "A"), leg(2, "B"))
INSIDE = charge(100, leg(1, "A"), leg(1, "B"))


def test_nobody_and_nothing() -> None:
    file = build(tables_of(exchange_with([SERIES])))
    nobody = margined(file, [])
    assert len(nobody.account) == len(nobody.total) == len(nobody.failed) == 0
    nothing = margined(file, [Account([]), Account([], gross=True)])
    assert len(nothing.account) == 0 and nothing.failed.tolist() == [False, False]
    assert charged(exchange_with([]), ("F0", 1), ("F1", -1)) == 0.0


@pytest.mark.parametrize("side", [1, -1])
def test_one_position_forms_nothing(side: int) -> None:
    exchange = exchange_with([SERIES, BETWEEN, INSIDE], tiers=[NEAR, FAR])
    assert charged(exchange, ("F0", 5 * side)) == 0.0
    assert charged(exchange, ("F0", 5 * side), ("F2", 3 * side)) == 0.0


@pytest.mark.parametrize("side", [1, -1])
def test_series_then_tiers_in_both_directions(side: int) -> None:
    exchange = exchange_with([SERIES, BETWEEN, INSIDE], tiers=[NEAR, FAR])
    held = ("F0", 3 * side), ("F1", 4 * side), ("F2", -5 * side)
    # 3 of the series, 2 of the tiers; then nothing is left on the other side.
    assert charged(exchange, *held) == 3 * 10 + 2 * 1
    # 1 of the series, and 2 within the near tier.
    assert charged(exchange, ("F0", side), ("F1", -2 * side), ("F2", -side)) == 10
    assert charged(exchange, ("F0", 5 * side), ("F1", -3 * side)) == 300


def test_a_tier_may_be_on_both_sides_of_one_spread() -> None:
    """Near long with far short first, and then near short with far long."""
    exchange = exchange_with([BETWEEN], tiers=[NEAR, FAR])
    assert charged(exchange, ("F0", 2), ("F1", -3), ("F2", -5), ("F3", 9)) == 2 + 3


def test_deltas_are_consumed_from_the_front() -> None:
    last = charge(1000, leg(MONTHS[1], "A"), leg(MONTHS[3], "B"))
    exchange = exchange_with([BETWEEN, last], tiers=[NEAR, FAR])
    # Two of the tiers take F0 whole and one of F1; of F3 nothing was taken.
    assert charged(exchange, ("F0", 1), ("F1", 5), ("F2", -2), ("F3", -4)) == 6
    assert charged(exchange, ("F0", 1), ("F1", 5), ("F2", -2), ("F4", 1), ("F3", -4)) == 6


def test_a_butterfly_needs_its_wings() -> None:
    wings = charge(7, leg(MONTHS[0], "A"), leg(MONTHS[1], "B", 2), leg(MONTHS[2], "A"))
    exchange = exchange_with([wings])
    assert charged(exchange, ("F0", 3), ("F1", -4), ("F2", 5)) == 14
    assert charged(exchange, ("F0", 3), ("F1", -4)) == 0
    assert charged(exchange, ("F0", -3), ("F1", 8), ("F2", -5)) == 21


def test_legs_that_have_the_same_months_share_their_deltas() -> None:
    wide = tier(3, MONTHS[0], MONTHS[3])
    both = charge(7, leg(1, "A"), leg(2, "B"), leg(3, "A"))
    exchange = exchange_with([both], tiers=[NEAR, tier(2, MONTHS[4], MONTHS[5]), wide])
    # The near tier and the wide one have the same month, so that a spread needs two of it.
    assert charged(exchange, ("F0", 6), ("F4", -9)) == 21
    # With a month of its own the wide tier has more than the near one.
    assert charged(exchange, ("F0", 6), ("F3", 1), ("F4", -9)) == 42


def test_months_that_may_yet_come_are_no_months_of_a_leg() -> None:
    wide = tier(3, MONTHS[0], MONTHS[3])
    both = charge(7, leg(1, "A"), leg(2, "B"), leg(3, "A"))
    exchange = exchange_with([both], tiers=[NEAR, tier(2, MONTHS[4], MONTHS[5]), wide])
    file = build(tables_of(exchange))
    rows = book_of(file, [Account([("F0", 6), ("F4", -9)])]).portfolio.rows
    more = np.array([0, 0]), np.array([2, 3])
    state = opened(file, rows, file.contracts.array, NUMPY, more)
    assert state.held.tolist() == [True, False, False, True]
    within.form(state, Terms(), within.reach(file))
    assert state.intra.tolist() == [21.0]


def test_a_spread_may_need_one_side_only() -> None:
    exchange = exchange_with([charge(5, leg(MONTHS[0], "A"), leg(MONTHS[1], "A"))])
    assert charged(exchange, ("F0", 2), ("F1", 3)) == 10
    assert charged(exchange, ("F0", -2), ("F1", -3)) == 10
    assert charged(exchange, ("F0", -2), ("F1", 3)) == 0


def test_a_spread_without_charge_consumes() -> None:
    free = charge(0, leg(MONTHS[0], "A"), leg(MONTHS[2], "B"))
    assert charged(exchange_with([free, SERIES]), ("F0", 3), ("F2", -2)) == 0
    assert charged(exchange_with([SERIES, free]), ("F0", 3), ("F2", -2)) == 20


def test_weighted_spreads_are_a_credit_of_price_risk() -> None:
    weighted = charge(50, leg(MONTHS[0], "A"), leg(MONTHS[2], "B", 2), kind="W")
    exchange = exchange_with([weighted])
    # 1 spread of 3 deltas at half of 300; without a net delta there is no price risk.
    assert charged(exchange, ("F0", 4), ("F2", -2)) == pytest.approx(-450.0)
    assert charged(exchange, ("F0", 2), ("F2", -2)) == 0.0


def test_counts_are_rounded_down_and_only_where_asked() -> None:
    uneven = charge(100, leg(MONTHS[0], "A", 3), leg(MONTHS[2], "B"))
    exchange = exchange_with([uneven])
    held = ("F0", 5), ("F2", -9)
    assert charged(exchange, *held) == pytest.approx(500 / 3)
    for places, wanted in ((0, 100), (1, 160), (4, 166.66)):
        got = charged(exchange, *held, terms=Terms(spread_places=places))
        assert got == pytest.approx(wanted, abs=1e-9)


def test_what_rounding_made_a_little_less_is_not_rounded_down() -> None:
    """0.7 / 0.1 is 6.999999999999999 in binary, and is seven spreads."""
    tenths = charge(1, leg(MONTHS[0], "A", 0.1), leg(MONTHS[2], "B", 0.1))
    accounts = [Account([("O0", size), ("F2", -90)]) for size in range(1, 200)]
    file = build(tables_of(exchange_with([tenths])))
    found = margined(file, accounts, Terms(spread_places=0))
    assert found.intra_spread_charge.tolist() == list(range(1, 200))


@pytest.mark.parametrize(("places", "wanted"), [(None, 0.25), (2, 0.25), (1, 0.3), (0, 0.0)])
def test_deltas_are_rounded_where_asked(places: int | None, wanted: float) -> None:
    exchange = exchange_with([charge(1, leg(MONTHS[0], "A"), leg(MONTHS[2], "B"))])
    terms = Terms(delta_places=places)
    assert charged(exchange, ("O0", 2.5), ("F2", -9), terms=terms) == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["F", "O"])
def test_what_cancels_forms_nothing(name: str) -> None:
    """Ten tenths against one, and thirds: no rest of 1e-17 is spread or charged."""
    third = charge(9, leg(MONTHS[0], "A", 3), leg(MONTHS[2], "B", 0.7))
    exchange = exchange_with([third, SERIES, BETWEEN], tiers=[NEAR, FAR])
    file = build(tables_of(exchange))
    held = [("O0", 10), ("F0", -1), (f"{name}2", 7), ("F3", 3)]
    assert charged(exchange, *held) == 0.0
    book = book_of(file, [Account([("F0", size), ("O2", -7 * size)]) for size in range(1, 200)])
    found = prepare(file, NUMPY).margin(book, formed=True)
    assert found.formed is not None
    assert 199 <= len(found.formed) <= 398 and float(found.formed["count"].min()) > 1e-3
    # Sevenths are no numbers of decimals: nor is what is left of a month of them.
    nothing = [Account([("F0", size / 7), ("O0", -10 * size / 7), ("F2", -9)])
               for size in range(1, 200)]  # fmt: skip
    found = prepare(file, NUMPY).margin(book_of(file, nothing), formed=True)
    assert found.formed is not None and found.formed.is_empty()


def test_a_thousand_million_are_exact() -> None:
    exchange = exchange_with([SERIES])
    assert charged(exchange, ("F0", 10**9), ("F2", 1 - 10**9)) == 10 * (10**9 - 1)
    assert charged(exchange, ("F0", 1), ("F2", -(10**9))) == 10.0


def test_delivery_charges_what_was_consumed_and_what_is_left() -> None:
    months = {MONTHS[0]: (Fraction(2), Fraction(50)), MONTHS[4]: (Fraction(3), Fraction(70))}
    exchange = exchange_with([SERIES], delivery=months, delivery_method="10")
    file = build(tables_of(exchange))
    accounts = [Account([("F0", 5), ("F2", -3)]), Account([("F0", -5)]), Account([("F2", 9)])]
    accounts.append(Account([("F0", 5), ("F2", -3)], gross=True))
    found = margined(file, accounts)
    assert found.delivery_charge.tolist() == [3 * 2 + 2 * 50, 250, 0, 0]
    assert found.intra_spread_charge.tolist() == [30, 0, 0, 0]


def drawn(rng: random.Random) -> Dict:
    """One commodity of many months with spreads of any shape: up to five legs, tiers that lie in
    each other, one side only, more different ranges than a word has bits."""
    months = rng.choice([3, 6, 14, 96])

    def ranged(number: int) -> Dict:
        low, high = sorted(rng.choices(range(months), k=2))
        return tier(number, MONTHS[low], MONTHS[high])

    tiers = [ranged(number) for number in range(rng.choice([2, 5, 60]))]

    def one() -> Dict:
        size, months_only = rng.choice([1, 2, 2, 2, 3, 3, 5]), rng.random() < 0.4
        legs = [
            leg(
                rng.choice(MONTHS[:months]) if months_only else rng.randrange(len(tiers)),
                rng.choice("AB"),
                rng.choice([1, 1, 2, 0.5, 3, 0.7]),
            )
            for _ in range(size)
        ]
        return charge(rng.randint(0, 90), *legs, kind=rng.choice("FFFFW"))

    charges = [one() for _ in range(rng.choice([1, 6, 40]))]
    terms = {month: (Fraction(rng.randint(0, 9)), Fraction(rng.randint(0, 9))) for month in MONTHS}
    delivery = dict(list(terms.items())[:2])
    return exchange_with(charges, months, tiers, delivery=delivery, wfpr=rng.choice([1, 2, 3]))


def held(rng: random.Random, file: SpanFile) -> Held:
    names = file.contracts.ids.to_list()
    chosen = rng.sample(names, min(len(names), rng.choice([1, 2, 4, 8, 30])))
    return [(name, rng.choice([-1, 1]) * rng.randint(1, 30)) for name in chosen]


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_random_spreads_as_the_oracle_has_them(first: int) -> None:
    """And each account by itself gives the bits that it gives among others."""
    formed = 0
    for seed in range(first, first + 25):
        rng = random.Random(seed)
        exchange = drawn(rng)
        file = build(tables_of(exchange))
        books = [held(rng, file) for _ in range(8)]
        terms = Terms(spread_places=rng.choice([None, None, 1]))
        prepared = prepare(file, NUMPY)
        book = book_of(file, [Account(one) for one in books])
        found = prepared.margin(book, terms, formed=True)
        assert found.formed is not None
        for account, one in enumerate(books):
            own = span_oracle.margin(exchange, one, places=terms.spread_places)["rows"]["L"]
            size = max(abs(float(own[name])) for name in FIGURES)
            for name in ("intra_spread_charge", "delivery_charge", "risk"):
                got = float(getattr(found, name)[account])
                assert abs(got - float(own[name])) <= 1e-9 * max(1.0, size), (seed, account, name)
            alone = prepared.margin(book.tile(account, account + 1), terms)
            charge_alone = alone.intra_spread_charge
            assert charge_alone.tobytes() == found.intra_spread_charge[account].tobytes()
        added = found.formed.group_by("account").sum()
        for account, amount in added.select("account", "amount").iter_rows():
            assert amount == pytest.approx(found.intra_spread_charge[account], rel=1e-12)
        formed += len(found.formed)
    assert formed > 200


def test_only_rows_with_something_left_are_looked_at() -> None:
    """What a spread by scanning emptied forms nothing, whatever it held."""
    exchange = exchange_with([SERIES])
    file = build(tables_of(exchange))
    rows = book_of(file, [Account([("F0", 1), ("F2", -1)])] * 2).portfolio.rows
    state = opened(file, rows, file.contracts.array, NUMPY)
    state.present[0] = False
    within.form(state, Terms(), within.reach(file))
    assert state.intra.tolist() == [0.0, 10.0]
    assert np.abs(state.left).tolist() == [1e8, 1e8, 0.0, 0.0]
