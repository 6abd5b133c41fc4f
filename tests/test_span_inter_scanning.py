"""Spreads by scanning: several commodities become one."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from span_inter_case import (
    BACKEND,
    built,
    compare,
    credits,
    drawn,
    futures,
    leg,
    opened_with,
    rows_of,
    slow_states,
    summary,
    worked,
)
from span_oracle_case import contract, exchange_of, inter_spread, linear
from span_vectors_case import vector

from gpu_margin.failures import ConfigError
from gpu_margin.models.span import inter
from gpu_margin.models.span.prices import scan
from gpu_margin.models.span.state import opened
from gpu_margin.span_book import Terms

NEAR, FAR = "202601", "202605"


def exchange(*codes, months=(NEAR, FAR)):
    """Commodities whose deltas risk 300, 600, 900, ..."""
    return exchange_of(
        {code: futures(code, months, 300 * place) for place, code in enumerate(codes, 1)}
    )


def scanning(legs, target, rate=50, **how):
    """A spread by scanning; what ends in "!" is required."""
    made = inter_spread("04", [(one[0].strip("!"), *one[1:]) for one in legs], rate, target, **how)
    for one, (code, *_) in zip(made["legs"], legs, strict=True):
        one["required"] = code.endswith("!")
    return made


def codes_of(made, *books):
    """The commodities that each account ends with, once all figures are the slow one's."""
    state = worked(built(made), list(books))
    for account, book in enumerate(books):
        compare(state, account, slow_states(made, book))
    return [sorted(summary(state, account)) for account in range(len(books))]


def test_the_published_example():
    """CME's T-bonds and 10-year notes, scenario by scenario."""
    case = vector("cme_scanning_based_spread")
    months = {code: f"{code}202612" for code in case["leg_arrays"]}
    made = exchange_of(
        {
            code: [contract(months[code], array, period="202612")]
            for code, array in case["leg_arrays"].items()
        }
    )
    rate = 100 * Fraction(str(case["credit_rate"]))
    made["spreads"] = [scanning([leg("30Y", "A"), leg("10Y", "B")], "30Y", rate)]
    state = worked(built(made), [[(name, 1) for name in months.values()]])
    (row,) = np.flatnonzero(state.present)
    assert state.total[row].tolist() == pytest.approx(case["expected_combined"], abs=0.11)
    assert scan(state, np.array([row])).risk == pytest.approx(case["expected_scan"])
    assert state.present.tolist() == [False, True]


def test_enough_legs_and_all_that_are_required():
    made = exchange("L", "R", "T")
    legs = [leg("L", "A"), leg("R", "B"), leg("T", "A")]
    one, both = [("L202601", 1)], [("L202601", 1), ("R202601", 1)]
    made["spreads"] = [scanning(legs, "T")]
    assert codes_of(made, one, both, [], [("T202601", 1)]) == [["L"], ["T"], [], ["T"]]
    made["spreads"] = [scanning(legs, "T", least=1)]
    assert codes_of(made, one, both) == [["T"], ["T"]]
    made["spreads"] = [scanning(legs, "T", least=3)]
    assert codes_of(made, one, both, [*both, ("T202605", -1)]) == [["L"], ["L", "R"], ["T"]]
    legs[1] = leg("R!", "B")
    made["spreads"] = [scanning(legs, "T", least=1)]
    assert codes_of(made, one, both, [("R202605", 2)]) == [["L"], ["T"], ["T"]]
    legs[2] = leg("T!", "A")
    made["spreads"] = [scanning(legs, "T", least=1)]
    assert codes_of(made, both, [*both, ("T202605", 1)]) == [["L", "R"], ["T"]]


def test_a_position_without_delta_is_present():
    """Long and short months that cancel are there; a contract that nets to nothing is not."""
    made = exchange("L", "R")
    made["spreads"] = [scanning([leg("L", "A"), leg("R", "B")], "R")]
    flat = [("L202601", 1), ("L202605", -1), ("R202601", 1)]
    gone = [("L202601", 1), ("L202601", -1), ("R202601", 1)]
    state = worked(built(made), [flat, gone])
    assert [bool(summary(state, account)["R"]["merged"]) for account in (0, 1)] == [True, False]


def test_own_gains_count_in_part_too():
    made = exchange("L", "R", months=(NEAR,))
    made["spreads"] = [scanning([leg("L", "A"), leg("R", "B")], "L", 25)]
    state = worked(built(made), [[("L202601", 1), ("R202601", 1)]])
    # Points 11 and 13: both gain, both lose.
    assert summary(state, 0)["L"]["total"][10] == -0.25 * 900
    assert summary(state, 0)["L"]["total"][12] == 900


def test_deltas_become_those_of_the_target():
    """By ratios, months by months; what is left of them is spread on, at the target's risk."""
    made = exchange("L", "R", "T", "Z")
    legs = [leg("L", "A", 2), leg("R", "B"), leg("T", "A", 4)]
    made["spreads"] = [
        scanning(legs, "T"),
        inter_spread("01", [leg("T", "A"), leg("Z", "B")], 10),
        inter_spread("01", [leg("L", "A"), leg("Z", "B")], 10),
    ]
    book = [("L202601", 3), ("R202601", -1), ("R202605", -1), ("Z202601", -50)]
    state = worked(built(made), [book])
    compare(state, 0, slow_states(made, book))
    months = summary(state, 0)["T"]["months"]
    # 3 x 4 / 2 less 1 x 4, and another -4 in the far month: no net delta, so no spread.
    assert {month: one["delta"] for month, one in months.items()} == {NEAR: 2, FAR: -4}
    # Its net is short, like Z: no spread. Without the far month it is long.
    assert credits(made, book) == [{}]
    # 900 less half of 600 scanned; 600 over a delta of 2; a tenth of it, for each of two.
    assert credits(made, [book[0], book[1], book[3]]) == [
        {"T": pytest.approx(60), "Z": pytest.approx(240)}
    ]


def test_deltas_that_cancel_leave_nothing():
    """Ratios of 0.3 have no exact binary number: 1 x 0.7 / 0.3 less 7 / 3 is no delta."""
    made = exchange("L", "R", "T", "Z", months=(NEAR,))
    made["spreads"] = [
        scanning([leg("L", "A", "0.3"), leg("R", "B", "0.9"), leg("T", "A", "0.7")], "T"),
        inter_spread("01", [leg("Z", "B"), leg("T", "A")], 10),
    ]
    book = [("L202601", 1), ("R202601", -3), ("Z202601", -5)]
    assert credits(made, book) == [{}]
    assert credits(made, [book[0], ("R202601", -2), book[2]])[0]["T"] > 0


def test_what_is_used_up_is_used_up_to_the_last_bit():
    """Deltas that are no whole units, and a last month that rounding could be most of."""
    made = exchange("L", "R", "T", "Z")
    made["contracts"]["L202605"]["delta"] = Fraction(1, 10_000)
    made["spreads"] = [
        scanning([leg("L", "A", "0.3"), leg("R", "B"), leg("T", "A", "0.7")], "T", least=1),
        inter_spread("01", [leg("T", "A", "1.7"), leg("Z", "B", "1.3")], 10),
    ]
    books = [
        [("L202601", quantity), ("L202605", 1), ("Z202601", -10 * quantity)]
        for quantity in range(1_000_001, 1_000_201)
    ]
    state = worked(built(made), books)
    assert (state.commodity[state.present] == 2).sum() == len(books)
    assert state.delta[state.held & (state.left == 0)].size == 2 * len(books)


def test_charges_and_option_values_move_too():
    made = exchange("L", "R")
    made["commodities"]["L"]["delivery"] = {NEAR: (Fraction(1), Fraction(7))}
    made["commodities"]["L"]["som"] = Fraction(25)
    for code, right in (("L", "C"), ("R", "P")):
        name = f"{code}{right}"
        option = {"right": right, "kind": "OOF", "price": 5, "multiplier": 10, "period": NEAR}
        made["contracts"][name] = contract(name, linear(90), delta="0.5", **option)
        made["contracts"][name]["commodity"] = code
    spread = scanning([leg("L", "A"), leg("R", "B")], "R")
    made["spreads"] = [
        inter_spread("01", [leg("L", "A"), leg("R", "A")], 100, flat=True, above=True),
        spread,
    ]
    book = [("L202601", 3), ("LC", -2), ("R202601", -1), ("RP", 4)]
    state = worked(built(made), [book, [("LC", 1), ("RP", 1)], [("LC", 1), ("RP", -1)]])
    compare(state, 0, slow_states(made, book))
    found = summary(state, 0)["R"]
    assert (found["lov"], found["sov"], found["som"]) == (200, -100, 50)
    # Of L two deltas were left and one went to the spread; the rest is delivered.
    assert (found["delivery"], found["inter"]) == (1 + 7, 100)
    assert [summary(state, account)["R"]["only_long"] for account in range(3)] == [
        False,
        True,
        False,
    ]
    gone = np.flatnonzero(~state.present)
    for name in ("inter", "delivery", "minimum", "long_value", "short_value"):
        assert not getattr(state, name)[gone].any()
    assert not state.total[gone].any() and not state.left[state.slot == 0].any()


def test_money_is_that_of_the_target():
    made = exchange("L", "R")
    made["rates"]["EUR", "USD"] = Fraction(5, 4)
    made["commodities"]["L"]["currency"] = made["contracts"]["L202601"]["currency"] = "EUR"
    made["contracts"]["L202605"]["currency"] = "EUR"
    made["spreads"] = [scanning([leg("L", "A"), leg("R", "B")], "R", 100)]
    book = [("L202601", 1), ("R202601", 1)]
    assert codes_of(made, book) == [["R"]]
    state = worked(built(made), [book])
    assert summary(state, 0)["R"]["total"][12] == 600 + 1.25 * 300
    # The sizes by which rounding is told from figures move like these.
    assert state.gross[state.held].tolist() == [600 + 1.25 * 300]
    assert not state.gross[~state.held].any()
    made["rates"].clear()
    file = built(made)
    with pytest.raises(ConfigError, match="no rate from EUR to USD"):
        worked(file, [book])
    # Who forms none needs no rate.
    assert not worked(file, [book[:1], book[1:]]).merged.any()


def test_what_became_another_is_scanned_as_one():
    made = exchange("L", "R")
    tiers = [
        {"number": 1, "start": "202601", "end": "202603"},
        {"number": 2, "start": "202604", "end": "202612"},
    ]
    made["commodities"]["R"].update({"scan": tiers, "inter": tiers})
    made["commodities"]["L"]["inter"] = tiers
    made["spreads"] = [
        inter_spread("20", [leg("R", "A", 1, 1), leg("L", "B", 1, 1)], 10),
        scanning([leg("L", "A"), leg("R", "B")], "R", 100, least=1),
        inter_spread("20", [leg("R", "A", 1, 1)], 10),
        inter_spread("01", [leg("R", "B")], 1),
    ]
    book = [("R202601", 2), ("R202605", -1)]
    state = worked(built(made), [book])
    compare(state, 0, slow_states(made, book))
    assert scan(state, np.flatnonzero(state.present)).risk.tolist() == [600]
    # Two of the tier at 600; then the last one of the whole, which scans 600 and not 1800.
    assert credits(made, book)[0]["R"] == pytest.approx(2 * 60 + 6)
    both = [*book, ("L202601", -3), ("L202605", 5)]
    assert credits(made, both)[0]["R"] > 0


def test_what_one_makes_may_be_a_leg_of_the_next():
    made = exchange("A", "B", "C", "D", "E")
    made["spreads"] = [
        scanning([leg("A", "A"), leg("B", "A", 2)], "B", least=1, above=True),
        scanning([leg("B", "A"), leg("C", "A")], "C", 70, least=1),
        inter_spread("01", [leg("C", "A"), leg("E", "B")], 10),
        scanning([leg("C", "A", 4), leg("D!", "A")], "D", 20, least=1),
        inter_spread("01", [leg("D", "A"), leg("E", "B")], 10),
        # B is gone by now.
        scanning([leg("B", "A"), leg("E", "A")], "E", least=1),
    ]
    books = [
        [("A202601", 3)],
        [("A202601", 3), ("B202605", -1)],
        [("A202601", 3), ("E202605", -8)],
        [("A202601", 3), ("A202605", 1), ("D202605", -1), ("E202605", -3)],
        [("D202601", 1)],
    ]
    wanted = [["C"], ["C"], ["C", "E"], ["D", "E"], ["D"]]
    assert codes_of(made, *books) == wanted
    # The file has the months of all legs, whatever order it was read in.
    file = built(made)
    assert list(file.slots.month) == [NEAR, FAR] * 5


def test_the_target_has_months_of_its_legs_only():
    made = exchange_of({"L": futures("L", (NEAR,)), "R": futures("R", (FAR,))})
    made["spreads"] = [scanning([leg("L", "A"), leg("R", "B")], "R", least=1)]
    state = worked(built(made), [[("L202601", 1)], [("R202605", 1)]])
    months = [sorted(summary(state, account)["R"]["months"]) for account in (0, 1)]
    assert months == [[NEAR], [FAR]]
    assert state.held.sum() == 2


def test_room_is_made_for_those_who_need_it():
    made = exchange("L", "R", "T", "Z")
    file = built(made)
    everywhere = np.arange(3), file.contracts.slot[:3]
    assert inter.room(file, *everywhere) is None
    made["spreads"] = [scanning([leg("L", "A"), leg("R", "B"), leg("T", "A")], "T")]
    file = built(made)
    slots = {(file.slots.commodity[slot], file.slots.month[slot]): slot for slot in range(8)}
    code = dict(zip(file.commodities.codes, range(4), strict=True))

    def room(*held):
        account, slot = zip(
            *((who, slots[code[name], month]) for who, name, month in held), strict=True
        )
        found = inter.room(file, np.array(account), np.array(slot))
        return None if found is None else [one.tolist() for one in found]

    assert room((0, "L", NEAR), (1, "R", FAR), (2, "Z", NEAR)) is None
    assert room((5, "L", NEAR), (5, "R", FAR), (7, "L", FAR)) == [
        [5, 5],
        [slots[code["T"], NEAR], slots[code["T"], FAR]],
    ]
    # What is held need not be made room for.
    assert room((0, "L", NEAR), (0, "R", NEAR), (0, "T", NEAR)) is None
    none = np.zeros(0, dtype=np.int64)
    assert inter.room(file, none, none) is None
    made["spreads"][0]["legs"][1]["required"] = True
    file = built(made)
    assert room((0, "L", NEAR), (0, "T", FAR)) is None
    assert room((0, "L", NEAR), (0, "R", FAR)) is not None


def test_without_room_there_is_an_error():
    made = exchange("L", "R", "T")
    made["spreads"] = [scanning([leg("L", "A"), leg("R", "B"), leg("T", "A")], "T")]
    file = built(made)
    for held in ([("L202601", 1), ("R202601", 1)], [("L202601", 1), ("T202605", 1)]):
        state = opened(file, rows_of(file, [held]), file.contracts.array, BACKEND)
        with pytest.raises(ValueError, match="room"):
            inter.form(state, False, Terms())


def test_a_commodity_that_is_a_leg_twice_counts_once():
    made = exchange("L", "R")
    file = built({**made, "spreads": [scanning([leg("L", "A"), leg("R", "B")], "R")]})
    first = file.inter
    twice = replace(
        first,
        leg_offsets=np.array([0, 3]),
        **{
            name: np.append(getattr(first, name), getattr(first, name)[-1:])
            for name in vars(first)
            if name.startswith("leg_") and name != "leg_offsets"
        },
    )
    books = [[("L202601", 1), ("R202601", 2)], [("R202601", 2)]]
    once, again = (worked(each, books) for each in (file, replace(file, inter=twice)))
    for account in (0, 1):
        assert summary(once, account) == summary(again, account)


def test_what_was_formed_is_told():
    made = exchange("L", "R", "T")
    made["spreads"] = [scanning([leg("L", "A"), leg("R", "B"), leg("T", "A")], "T")]
    state = worked(built(made), [[("L202601", 1), ("R202601", 2)]], formed=True)
    (found,) = state.formed
    assert found["commodity"].tolist() == [0, 1]
    assert found["count"].tolist() == [1, 1] and found["amount"].tolist() == [0, 0]


def test_files_with_many_of_them_against_the_slow_one():
    merged = 0
    for seed in range(400, 440):
        made, _, books = drawn(seed)
        only = [each for each in made["spreads"] if each["method"] in ("01", "04")]
        made["spreads"] = only
        state = worked(built(made), books)
        for account, book in enumerate(books):
            compare(state, account, slow_states(made, book))
        merged += int((state.merged & state.present).sum())
    assert merged > 60


def test_an_account_that_forms_none_is_left_alone():
    """Beside one that forms many, and with the room that it would have needed."""
    made = exchange("L", "R", "T")
    made["spreads"] = [
        scanning([leg("L", "A"), leg("R!", "B")], "R", above=True),
        scanning([leg("L", "A"), leg("T", "B")], "T"),
    ]
    books = [[("L202601", 1), ("R202601", 1), ("T202601", 1)], [("L202601", 1)]]
    assert codes_of(made, *books) == [["R", "T"], ["L"]]
    alone = opened_with(built(made), books[1:])
    assert len(alone) == 1
