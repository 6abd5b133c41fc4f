"""Parts of the tracker: ledgers beside dicts, turns, names, TOML that is read again."""

from __future__ import annotations

import math
import tomllib
from datetime import date
from typing import Any

import numpy as np
import pytest
import tracker_case
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_margin.io.fill_tables import FILL_COLUMNS, FILL_OPTIONAL, load_fills
from gpu_margin.portfolio import Rows
from gpu_margin.tracking import batches
from gpu_margin.tracking.booking import turns
from gpu_margin.tracking.ledger import Ledger
from gpu_margin.tracking.members import Members
from gpu_margin.tracking.toml_text import toml_text

ENTRY = st.tuples(st.integers(0, 4), st.integers(0, 30), st.integers(-2, 2))
CALLS = st.lists(st.lists(ENTRY, max_size=12), max_size=20)


def ints(values: Any) -> Any:
    return np.array(list(values), dtype=np.int64)


def rows_of(held: dict[tuple[int, int], float], count: int, zeros: bool) -> list[Any]:
    kept = sorted((key, value) for key, value in held.items() if value or zeros)
    return [[(c, v) for (r, c), v in kept if r == row] for row in range(count)]


def as_lists(rows: Rows) -> list[Any]:
    bounds = zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True)
    entries = list(zip(rows.column.tolist(), rows.value.tolist(), strict=True))
    return [entries[first:last] for first, last in bounds]


@settings(max_examples=150, deadline=None)
@given(CALLS, CALLS)
def test_a_ledger_is_a_dict(first: Any, then: Any) -> None:
    """What is added anywhere comes out row by row, in ascending order of columns."""
    ledger = Ledger(Rows(ints([0]), ints([]), np.zeros(0)))
    ledger.add_rows(3)
    held: dict[tuple[int, int], float] = {}
    for number, batch in enumerate([*first, *then]):
        if number == len(first):
            ledger.add_rows(2)
        entries = [e for e in batch if e[0] < len(ledger)]
        place = ledger.places(ints(e[0] for e in entries), ints(e[1] for e in entries))
        np.add.at(ledger.value, place, [float(e[2]) for e in entries])
        for row, column, value in entries:
            held[row, column] = held.get((row, column), 0.0) + value
        ledger.tidy()
    every = np.arange(len(ledger))
    assert as_lists(ledger.rows(every)) == rows_of(held, len(ledger), zeros=False)
    assert as_lists(ledger.rows(every, keep_zeros=True)) == rows_of(held, len(ledger), zeros=True)
    some = every[::-2]
    expected = [rows_of(held, len(ledger), zeros=False)[row] for row in some]
    assert as_lists(ledger.rows(some)) == expected
    assert ledger.entries == len(held)
    rows, place = ledger.all_places()
    found = zip(rows.tolist(), ledger.column[place].tolist(), strict=True)
    assert sorted(found) == sorted(held)


def test_a_ledger_grows_and_closes_its_holes() -> None:
    """One row that never stops growing, beside one that stays."""
    ledger = Ledger(Rows(ints([0, 1, 2]), ints([5, 6]), np.array([1.0, 2.0])))
    for column in range(10_000, 0, -10):
        place = ledger.places(ints([0]), ints([column]))
        ledger.value[place] = column
        ledger.size[place] = 2.0 * column
        ledger.tidy()
    rows = ledger.rows(ints([0, 1]))
    assert rows.column.tolist() == [5, *range(10, 10_001, 10), 6]
    assert rows.value.tolist() == [1.0, *range(10, 10_001, 10), 2.0]
    assert len(ledger.value) < 10_000
    own = ledger.places(ints([0, 1]), ints([500, 6]))
    assert ledger.size[own].tolist() == [1000.0, 2.0]


@given(CALLS)
def test_a_ledger_makes_room_beside_itself(batches: Any) -> None:
    """What takes its place has the same entries, and need not move what it has."""
    ledger, other = (Ledger(Rows(ints([0, 0, 0]), ints([]), np.zeros(0))) for _ in range(2))
    ledger.add_rows(3)
    other.add_rows(3)
    for batch in batches:
        ledger = ledger.roomier(len(batch)) or ledger
        assert ledger.roomier(len(batch)) is None
        before = ledger.column
        for own in (ledger, other):
            place = own.places(ints(e[0] for e in batch), ints(e[1] for e in batch))
            np.add.at(own.value, place, [float(e[2]) for e in batch])
        assert ledger.column is before
    every = np.arange(len(ledger))
    assert as_lists(ledger.rows(every, keep_zeros=True)) == as_lists(
        other.rows(every, keep_zeros=True)
    )


@given(st.lists(st.integers(0, 3), max_size=30))
def test_turns(owner: list[int]) -> None:
    expected = [owner[:place].count(one) for place, one in enumerate(owner)]
    assert turns(ints(owner)).tolist() == expected


def test_members() -> None:
    members = Members(["a", "b"], ints([0, 1, 1]), ["a", "b", "x"])
    assert members.find(["a", "b", "c"], None).tolist() == [0, 1, -1]
    assert members.find(["a", "b", "b"], ["x", "x", "b"]).tolist() == [-1, 2, 1]
    assert members.open(["c", "a", "c", "a"], ["é", "A", "é", "a"]) == 2
    assert members.open(["c"], ["é"]) == 0
    owner, sets = members.sets_of(ints([2, 0, 1]))
    assert [members.names[code] for code in sets] == ["é", "A", "a", "b", "x"]
    assert owner.tolist() == [0, 1, 1, 2, 2]
    assert members.account.tolist() == [0, 1, 1, 2, 0]
    assert members.account_code("c") == 2
    assert members.account_code("nobody") == -1


# ---------------------------------------------------------------- fills in one go, or by the rules

WORDS = st.sampled_from(["1", "A", "FUTX", "SPOTX", "NONE", "NOPRICE", "", None, "\ufffd", 3, "s1"])
FIGURES = st.sampled_from([1, 1.5, -2.0, 0.0, -0.0, 1e31, 1e-31, math.nan, None, "1", "x", True])
PLAIN = st.sampled_from([1, 1.5, -2.0, 0.0])
GIVEN = st.lists(
    st.tuples(
        *(st.one_of(st.just("1"), st.just("FUTX"), WORDS) for _ in range(4)),
        *(st.one_of(PLAIN, PLAIN, PLAIN, FIGURES) for _ in range(3)),
    ),
    min_size=1,
    max_size=4,
)
KEYS = ("fill_id", "account_id", "netting_set", "instrument_id", "quantity", "price", "fee")


@settings(max_examples=300, deadline=None)
@given(GIVEN, st.sets(st.sampled_from(["fee", "netting_set"])))
def test_fills_taken_in_one_go_are_those_that_the_rules_let_pass(
    rows: list[Any], left_out: set[str]
) -> None:
    state = tracker_case.tracker().core.state
    batch = {key: [row[n] for row in rows] for n, key in enumerate(KEYS) if key not in left_out}
    table = batches.read_columns(batch, "fills", FILL_COLUMNS, FILL_OPTIONAL)
    ruled = load_fills(table, state.instrument_codes())
    taken = batches.fills_of(batch, state.contracts, state.instrument_codes())
    names = taken.accounts if taken.names is None else taken.names
    assert taken.received == len(rows)
    assert taken.place.tolist() == taken.row.tolist() == ruled.rows["row"].to_list()
    assert taken.failures.equals(ruled.failures)
    figures = (taken.quantity, taken.price, taken.fee)
    found = zip(taken.ids, taken.accounts, names, taken.instrument, *figures, strict=True)
    assert list(found) == ruled.rows.drop("row").rows()


TEXT = st.text(max_size=8).filter(lambda text: "\r" not in text)
VALUE = st.one_of(
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.floats(allow_nan=False),
    TEXT,
    st.dates(min_value=date(1, 1, 1)),
)
TABLE = st.recursive(
    st.dictionaries(TEXT, st.one_of(VALUE, st.lists(VALUE, max_size=3)), max_size=4),
    lambda inner: st.dictionaries(
        TEXT, st.one_of(VALUE, inner, st.lists(inner, max_size=2)), max_size=4
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(TABLE)
def test_toml_is_read_as_it_was_written(table: dict[str, Any]) -> None:
    assert tomllib.loads(toml_text(table)) == table


def test_toml_leaves_out_what_is_none_and_refuses_what_it_has_no_word_for() -> None:
    assert tomllib.loads(toml_text({"a": None, "b": {"c": None}})) == {"b": {}}
    with pytest.raises(TypeError, match="bytes"):
        toml_text({"a": b""})
