"""Spreads between combined commodities that match deltas: by hand, and against the slow ones."""

from __future__ import annotations

from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
from span_inter_case import (
    built,
    compare,
    credits,
    drawn,
    futures,
    lefts,
    leg,
    opened_with,
    slow_states,
    worked,
)
from span_oracle_case import exchange_of, inter_spread

from gpu_margin.models.span import inter
from gpu_margin.models.span.inter_candidates import batches, candidates
from gpu_margin.span_book import Terms

NEAR, FAR = "202601", "202605"
TIERS = [
    {"number": 1, "start": "202601", "end": "202603"},
    {"number": 2, "start": "202604", "end": "202612"},
]


def exchange(*codes, months=(NEAR, FAR), tiers=None):
    """Commodities L, R, T, ...: a delta of the first risks 300, of the others 600, 900, ..."""
    made = exchange_of(
        {code: futures(code, months, 300 * place) for place, code in enumerate(codes, 1)}
    )
    for one in made["commodities"].values():
        one["inter"] = tiers or []
    return made


def pair(method="01", rate=10, **how):
    return inter_spread(method, [leg("L", "A"), leg("R", "B")], rate, **how)


def test_without_spreads_there_is_nothing():
    made = exchange("L", "R")
    assert credits(made, [("L202601", 1), ("R202601", -1)], []) == [{}, {}]
    made["spreads"] = [pair()]
    assert credits(made, []) == [{}]


def test_no_spread_is_formed():
    """With a leg that is not held, that nets to nothing, or whose sign is another."""
    made = exchange("L", "R")
    made["spreads"] = [pair(), pair("01", flat=True), pair("02"), pair("20")]
    none = [
        [("L202601", 1)],
        [("R202601", 1)],
        [("L202601", 1), ("L202605", -1), ("R202601", -1)],
        [("L202601", 1), ("R202601", -1), ("R202605", 1)],
        [("L202601", 1), ("R202601", 1)],
        [("L202601", -1), ("R202605", -2)],
    ]
    assert credits(made, *none) == [{}] * len(none)


def test_signs_are_set_by_the_first_leg():
    made = exchange("L", "R", "T")
    made["spreads"] = [inter_spread("01", [leg("L", "B"), leg("R", "B"), leg("T", "A")], 10)]
    found = credits(
        made,
        [("L202601", 2), ("R202601", 3), ("T202605", -4)],
        [("L202601", -2), ("R202601", -3), ("T202605", 4)],
        [("L202601", 2), ("R202601", 3), ("T202605", 4)],
        [("L202601", 2), ("R202601", -3), ("T202605", -4)],
    )
    both = {"L": pytest.approx(60), "R": pytest.approx(120), "T": pytest.approx(180)}
    assert found == [both, both, {}, {}]


def test_what_one_spread_takes_the_next_has_not():
    made = exchange("L", "R", "T", months=(NEAR,))
    made["spreads"] = [
        inter_spread("01", [leg("L", "A", 2), leg("R", "B")], 10),
        inter_spread("01", [leg("R", "A"), leg("T", "A")], 20),
        inter_spread("01", [leg("L", "A"), leg("R", "B"), leg("T", "B")], 30),
    ]
    book = [("L202601", 8), ("R202601", -5), ("T202601", -2)]
    # 4 of the first take all of L; R's last goes with T; the third finds no L.
    wanted = {"L": 8 * 30, "R": 4 * 60 + 120, "T": 180}
    assert credits(made, book) == [{code: pytest.approx(one) for code, one in wanted.items()}]
    assert lefts(made, book) == {"L": {NEAR: 0}, "R": {NEAR: 0}, "T": {NEAR: -1}}
    made["spreads"] = made["spreads"][1:] + made["spreads"][:1]
    assert lefts(made, book) == {"L": {NEAR: 2}, "R": {NEAR: 0}, "T": {NEAR: 0}}


def test_equals_are_formed_as_the_file_has_them():
    made = exchange("L", "R", "T", months=(NEAR,))
    first, second = pair(rate=10), inter_spread("01", [leg("L", "A"), leg("T", "B")], 10)
    book = [("L202601", 1), ("R202601", -1), ("T202601", -1)]
    made["spreads"] = [first, second]
    assert credits(made, book) == [{"L": pytest.approx(30), "R": pytest.approx(60)}]
    made["spreads"] = [second, first]
    assert credits(made, book) == [{"L": pytest.approx(30), "T": pytest.approx(90)}]


def test_flat_money_is_shared_equally():
    made = exchange("L", "R", "T")
    legs = [leg("L", "A"), leg("R", "B", 2), leg("T", "B")]
    made["spreads"] = [inter_spread("01", legs, 90, flat=True)]
    found = credits(made, [("L202601", -3), ("R202601", 4), ("T202601", 7)])
    assert found == [{code: pytest.approx(60) for code in "LRT"}]


def test_without_price_risk_only_flat_money():
    """A leg without price risk per delta: nothing is credited, and no delta is used."""
    made = exchange("L", "R", "T", months=(NEAR,))
    made["contracts"]["L202601"]["array"] = [Fraction(0)] * 16
    other = inter_spread("01", [leg("R", "A"), leg("T", "B")], 10)
    book = [("L202601", -1), ("R202601", 1), ("T202601", -1)]
    made["spreads"] = [pair(), other]
    assert credits(made, book) == [{"R": pytest.approx(60), "T": pytest.approx(90)}]
    made["spreads"] = [pair(flat=True), other]
    assert credits(made, book) == [{"L": 5, "R": 5}]


def test_tiers_have_their_own_deltas_and_price_risk():
    made = exchange("L", "R", tiers=TIERS)
    made["contracts"]["L202605"]["array"] = [Fraction(0)] * 16
    book = [("L202601", 4), ("L202605", -1), ("R202601", -2), ("R202605", 3)]
    first = inter_spread("20", [leg("L", "A", 1, 1), leg("R", "B", 1, 1)], 10)
    second = inter_spread("20", [leg("L", "A", 1, 0), leg("R", "B", 1, 1)], 10)
    absent = inter_spread("20", [leg("L", "A", 1, 7), leg("R", "B", 1, 1)], 10, flat=True)
    made["spreads"] = [absent, first]
    assert credits(made, book) == [{"L": pytest.approx(60), "R": pytest.approx(120)}]
    assert lefts(made, book)["L"] == {NEAR: 2, FAR: -1}
    # The whole of L: 1200 for a delta of three.
    made["spreads"] = [second]
    assert credits(made, book) == [{"L": pytest.approx(80), "R": pytest.approx(120)}]


def test_a_tier_of_all_months_is_not_the_whole():
    """Where months are scanned apart, the whole risks more than a tier that has them all."""
    made = exchange("L", "R")
    made["commodities"]["L"]["scan"] = TIERS
    made["commodities"]["L"]["inter"] = [{"number": 1, "start": NEAR, "end": FAR}]
    book = [("L202601", 2), ("L202605", -1), ("R202601", -1)]
    for tier, risk in ((0, 900), (1, 300)):
        made["spreads"] = [inter_spread("20", [leg("L", "A", 1, tier), leg("R", "B")], 10)]
        assert credits(made, book)[0]["L"] == pytest.approx(risk / 10)


def test_a_commodity_may_be_a_leg_twice():
    made = exchange("L", "R", tiers=TIERS)
    calendar = [leg("L", "A", 1, 1), leg("L", "B", 1, 2)]
    made["spreads"] = [inter_spread("20", calendar, 10)]
    book = [("L202601", 4), ("L202605", -3)]
    assert credits(made, book) == [{"L": pytest.approx(2 * 3 * 30)}]
    assert lefts(made, book)["L"] == {NEAR: 1, FAR: 0}
    # One tier twice: both look at all that it has, and the second takes what is left.
    made["spreads"] = [inter_spread("20", [leg("L", "A", 1, 1), leg("L", "A", 1, 1)], 10)]
    assert credits(made, book) == [{"L": pytest.approx(2 * 4 * 30)}]
    assert lefts(made, book)["L"] == {NEAR: 0, FAR: -3}
    made["spreads"] = [inter_spread("20", [*calendar, leg("R", "A")], 10)]
    assert credits(made, [*book, ("R202601", 2)]) == [
        {"L": pytest.approx(2 * 2 * 30), "R": pytest.approx(120)}
    ]


def test_tier_by_tier_up_to_the_whole():
    made = exchange("L", "R", tiers=TIERS)
    made["spreads"] = [pair("02")]
    found = credits(
        made,
        # Wholes of one sign: no total, so nothing tier by tier.
        [("L202601", 4), ("L202605", -1), ("R202601", -2), ("R202605", 3)],
        # 4 in all; the first tier gives 3, the second one more of its two.
        [("L202601", 3), ("L202605", 2), ("R202601", -3), ("R202605", -1)],
        # 2 in all, of 4 that the first tier has; the second faces the other way.
        [("L202601", 4), ("L202605", -2), ("R202601", -4), ("R202605", 2)],
    )
    both = [{"L": pytest.approx(one), "R": pytest.approx(2 * one)} for one in (120, 60)]
    assert found == [{}, *both]
    assert lefts(made, [("L202601", 3), ("L202605", 2), ("R202601", -3), ("R202605", -2)]) == {
        "L": {NEAR: 0, FAR: 0},
        "R": {NEAR: 0, FAR: 0},
    }


def test_spreads_above_come_before_those_of_months():
    made = exchange("L", "R")
    one = made["commodities"]["L"]
    legs = [
        {"kind": "month", "key": month, "ratio": Fraction(1), "side": side}
        for month, side in ((NEAR, "A"), (FAR, "B"))
    ]
    one["intra_method"] = "10"
    one["charges"] = [{"kind": 1, "priority": 1, "rate": Fraction(11), "charge": "F", "legs": legs}]
    book = [("L202601", 3), ("L202605", -1), ("R202601", -3)]
    made["spreads"] = [pair()]
    assert lefts(made, book) == {"L": {NEAR: 0, FAR: 0}, "R": {NEAR: -1}}
    made["spreads"] = [pair(above=True)]
    assert lefts(made, book) == {"L": {NEAR: 0, FAR: 0}, "R": {NEAR: -1}}
    # Above, two of the near month go first: one is left for the spread of months.
    state = worked(built(made), [book])
    assert state.intra.tolist() == [11, 0] and state.inter.tolist() == pytest.approx([60, 120])


def test_front_months_of_the_nets_sign_go_first():
    months = ("202601", "202602", "202603", "202605")
    made = exchange("L", "R", months=months)
    made["spreads"] = [pair()]
    book = [("L202601", -1), ("L202602", 2), ("L202603", 3), ("L202605", 4), ("R202601", -4)]
    assert lefts(made, book)["L"] == {"202601": -1, "202602": 0, "202603": 1, "202605": 4}


def test_numbers_of_spreads_may_be_rounded_down():
    made = exchange("L", "R", tiers=TIERS)
    made["spreads"] = [inter_spread("01", [leg("L", "A", 3), leg("R", "B", "0.3")], 10)]
    book = [("L202601", 7), ("R202601", -9)]
    found = [credits(made, book, places=places)[0]["L"] for places in (None, 4, 1, 0)]
    assert found == pytest.approx([7 * 30, 2.3333 * 90, 2.3 * 90, 2 * 90])
    # 0.3 is no binary number, but 0.3 of 0.3 are one spread and not almost one.
    made["contracts"]["L202601"]["delta"] = Fraction(3, 10)
    made["spreads"] = [inter_spread("01", [leg("L", "A", "0.1"), leg("R", "B", 1)], 10)]
    assert credits(made, [("L202601", 1), ("R202601", -9)], places=0)[0]["L"] == pytest.approx(
        3 * 1_000 * 0.1 * 0.1
    )


def test_rounding_leaves_no_residue():
    """Of 20000.0003 deltas 20000.0001 are taken: 0.0002 are left, and not a little less."""
    made = exchange("L", "R", "T")
    for one in made["contracts"].values():
        one["delta"] = Fraction(1, 10_000)
    made["spreads"] = [pair(), inter_spread("01", [leg("L", "A"), leg("T", "B")], 10, flat=True)]
    for many in range(200_000_001, 200_000_061):
        book = [("L202601", many + 2), ("R202601", -many), ("T202601", -9)]
        assert credits(made, book, places=4)[0]["T"] == pytest.approx(0.0002 * 10 / 2)


def test_what_was_formed_is_told():
    made = exchange("L", "R", "T", tiers=TIERS)
    made["spreads"] = [
        inter_spread("01", [leg("T", "A"), leg("R", "B")], 50, flat=True),
        pair("02"),
    ]
    book = [("L202601", 3), ("L202605", 2), ("R202601", -3), ("R202605", -2), ("T202601", 1)]
    state = worked(built(made), [[("L202601", 1)], book], formed=True)
    (found,) = [one for one in state.formed if not one["within"].any()]
    assert found["account"].tolist() == [1, 1, 1, 1]
    assert found["spread"].tolist() == [0, 0, 1, 1]
    assert found["commodity"].tolist() == [2, 1, 0, 1]
    assert found["count"].tolist() == pytest.approx([1, 1, 4, 4])
    assert found["amount"].tolist() == pytest.approx([-25, -25, -120, -240])
    assert worked(built(made), [book]).formed is None


def test_it_is_told_in_the_order_of_the_file():
    """Though spreads that share no leg are formed at once."""
    made = exchange("L", "R", "T", "Y", "Z", months=(NEAR,))
    pairs = ("LR", "LT", "YZ")
    made["spreads"] = [inter_spread("01", [leg(a, "A"), leg(b, "B")], 10) for a, b in pairs]
    book = [("L202601", 9), *((f"{code}202601", -1) for code in "RTZ"), ("Y202601", 1)]
    (found,) = worked(built(made), [book, book], formed=True).formed
    assert found["spread"].tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert found["account"].tolist() == [0] * 6 + [1] * 6


def test_an_account_with_every_commodity_takes_few_steps():
    codes = [f"C{number:03d}" for number in range(300)]
    made = exchange_of({code: futures(code) for code in codes})
    made["spreads"] = [
        inter_spread("01", [leg(codes[place], "A"), leg(codes[(place + step) % 300], "B")], 10)
        for step in (1, 7)
        for place in range(0, 300 - step, 2)
    ]
    book = [(f"{code}202601", (-1) ** place * (place % 5 + 1)) for place, code in enumerate(codes)]
    state = opened_with(built(made), [book, book[:3]])
    found = list(batches(candidates(state, False)))
    assert sum(len(batch) for batch in found) > 250 and len(found) < 10
    for batch in found:
        assert len(np.unique(batch.row)) == len(batch.row)
    compare(worked(built(made), [book]), 0, slow_states(made, book))


def test_a_popular_commodity_makes_as_many_candidates_as_there_are():
    """Everybody has one commodity of all spreads; only who has the other one, too, is looked at."""
    codes = [f"C{number:03d}" for number in range(100)]
    made = exchange_of({code: futures(code) for code in ["ALL", *codes]})
    made["spreads"] = [inter_spread("01", [leg("ALL", "A"), leg(code, "B")], 10) for code in codes]
    books = [[("ALL202601", 5)] for _ in range(50)]
    books[7] += [(f"{code}202601", -1) for code in codes]
    books[9] += [(f"{codes[3]}202601", -1)]
    books[11] += [(f"{codes[3]}202601", 1)]
    state = opened_with(built(made), books)
    found = candidates(state, False)
    assert np.bincount(found.account, minlength=12).tolist()[7:12] == [100, 0, 1, 0, 0]
    inter.form(state, False, Terms())
    rows = state.find(np.array([7, 9, 11]), np.zeros(3, dtype=np.int64))
    assert state.inter[rows].tolist() == pytest.approx([5 * 30, 30, 0])


@pytest.mark.parametrize("block", range(10))
def test_as_the_slow_ones(block):
    """Random exchanges, all methods, spreads that share legs; accounts all at once."""
    for seed in range(20 * block, 20 * block + 20):
        made, file, books = drawn(seed, scanning=seed % 3 > 0)
        places = (None, None, 4, 1)[seed % 4]
        state = worked(file, books, places)
        for account, book in enumerate(books):
            compare(state, account, slow_states(made, book, places))


@pytest.mark.parametrize("seed", range(20))
def test_bits_do_not_depend_on_who_is_beside(seed):
    """An account alone, in another place, and among others: the same bits everywhere."""
    _, file, books = drawn(1_000 + seed)
    others = drawn(1_000 + seed, count=9)[2][6:]
    together = worked(file, books)
    mixed = worked(file, [*others, *reversed(books)])
    for account, book in enumerate(books):
        alone = worked(file, [book])
        place = len(others) + len(books) - 1 - account
        for state, at in ((together, account), (mixed, place)):
            assert rows_of(state, at) == rows_of(alone, 0)


def rows_of(state, account):
    """All bits of an account's rows and entries."""
    rows = np.flatnonzero(state.account == account)
    entries = slice(int(state.offsets[rows[0]]), int(state.offsets[rows[-1] + 1]))
    found = []
    for field in fields(state):
        value = getattr(state, field.name)
        if not isinstance(value, np.ndarray) or field.name in ("account", "entry", "offsets"):
            continue
        if len(value) == len(state):
            found.append(value[rows].tobytes())
        elif len(value) == len(state.slot):
            found.append(value[entries].tobytes())
    assert len(found) > 12
    return found
