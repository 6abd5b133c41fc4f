"""The report's sections on contributions, pairs of groups, and netting between venues."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from solvent_run import contributions, solvent_run, steps
from test_report import EVIL, rows

from gpu_margin.report import render
from gpu_margin.result import Run

CONTRIBUTORS = "Largest contributors"
PAIRS = "Offset by pair of groups"
VENUES = "Netting between venues"


@pytest.fixture(scope="module")
def solvent() -> Run:
    return solvent_run()


# ---------------------------------------------------------------- contributions


def test_contributions_of_complete_accounts_add_up(solvent: Run) -> None:
    listed = rows(render(solvent), CONTRIBUTORS)
    # instrument, accounts, contribution, share of 30,004
    assert listed[:5] == [
        ["X", "2", "29,000", "96.7%"],
        [EVIL[0], "1", "6,000", "20.0%"],
        ["Y", "1", "-4,000", "-13.3%"],
        ["of no instrument: rounding", "1", "0", "0.0%"],
        ["of no instrument: what smoothing leaves of the value-at-risk", "1", "-1,000", "-3.3%"],
    ]
    # account, instrument, contribution, share of the account's requirement
    assert listed[5:] == [
        [EVIL[1], "requirement", "20,000", "100.0%"],
        ["", "X", "15,000", "75.0%"],
        ["", EVIL[0], "6,000", "30.0%"],
        ["", "of no instrument: what smoothing leaves of the value-at-risk", "-1,000", "-5.0%"],
        [EVIL[0], "requirement", "10,000", "100.0%"],
        ["", "X", "14,000", "140.0%"],
        ["", "Y", "-4,000", "-40.0%"],
    ]


def test_many_instruments_are_the_first_the_last_and_the_rest(solvent: Run) -> None:
    amounts = {(EVIL[0], f"I{number:02d}"): float(number - 10) for number in range(40)}
    listed = rows(render(replace(solvent, contributions=contributions(amounts))), CONTRIBUTORS)
    names = [row[0] for row in listed[:21]]
    assert names[:15] == [f"I{number}" for number in range(39, 24, -1)]
    assert names[15:] == ["I04", "I03", "I02", "I01", "I00", "20 other instruments"]
    assert sum(float(row[2]) for row in listed[:21]) == sum(amounts.values())
    own = [row[1] for row in listed[21:]]
    assert own == ["requirement", "I39", "I38", "I37", "I36", "I35", "35 other instruments"]


# ---------------------------------------------------------------- netting


def test_pairs_by_offset_and_a_map_with_holes(solvent: Run) -> None:
    text = render(solvent)
    # first, second, accounts, separate, together, offset, ratio; without requirement no pair
    assert rows(text, PAIRS) == [
        ["a", "b", "3", "100.00", "75.00", "25.00", "25.0%"],
        ["a", EVIL[0], "2", "200.00", "220.00", "-20.00", "-10.0%"],
    ]
    drawn = text[text.index('"chart-pairs-0"') :]
    found = re.search(r'"z":(\[\[.*?\]\])', drawn)
    assert found is not None
    assert found[1] == "[[null,-0.1,0.25],[-0.1,null,null],[0.25,null,null]]"


def test_owners_in_total_and_step_by_step(solvent: Run) -> None:
    text = render(solvent)
    listed = rows(text, VENUES)
    # model, owners, apart, as one, required, saving, share
    assert listed[0] == ["normal", "3", "450.00", "200.00", "260.00", "190.00", "42.2%"]
    assert listed[1][1:] == ["both", "A;B", "300.00", "100.00", "140.00", "160.00", "53.3%"]
    assert listed[2][1:3] == [EVIL[0], f"A;{EVIL[1]}"]
    assert len(listed) == 3
    assert "more as one than apart, as a value-at-risk may: 1." in text
    assert steps(text, "venues-0") == {
        "venues apart": "450.00",
        "netting": "-250.00",
        "share that does not count": "60.00",
        "owners": "260.00",
    }
    whole = steps(text, "owners-steps-0")
    assert whole["netting sets of all venues"] == "7,000,030,004"
    assert whole["netting between venues"] == "-190"
    assert whole["owners and all others"] == "7,000,029,814"
