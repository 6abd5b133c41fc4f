"""The mark board: whose mark counts, what moves, what is stale; and when orders were accepted."""

from __future__ import annotations

import io
import math
import time as clock
from typing import Any

import gate_case
import numpy as np
import polars as pl
import pytest
from gate_case import FACTORS, listed
from hypothesis import given
from hypothesis import strategies as st

from gpu_margin.gate import GateParameters
from gpu_margin.mark_board import MarkBoard, MarkRow, mark_board
from gpu_margin.order_times import OrderTimes
from gpu_margin.portfolio import Rows
from gpu_margin.throttle import MarkState, longest_interval, update_volatility

HOUR, LIMIT = 3600.0, 60.0

# Instruments "0" and "1" are on factor A, "2" on B, "3" on C.


def last(factor: str, value: float, time: float) -> MarkRow:
    return None, factor, "last", value, time


def price(instrument: int, value: float, time: float) -> MarkRow:
    return str(instrument), None, "price", value, time


def board(*marks: MarkRow, option: list[bool] | None = None) -> MarkBoard:
    return mark_board(listed(option), HOUR, LIMIT).after(marks)


# ---------------------------------------------------------------- limits


def test_without_marks_nothing_is_known_and_all_is_stale() -> None:
    empty = board()
    assert dict(empty.states()) == {} and len(empty.states()) == 0
    assert empty.stale(0.0).all() and empty.stale(0.0, math.inf).all()
    assert empty.table().is_empty()
    with pytest.raises(KeyError):
        empty.states()[0]


@pytest.mark.parametrize("code", [-1, 3, 10**9])
def test_there_is_no_such_underlying(code: int) -> None:
    assert board(last("A", 1.0, 5.0)).states().get(code) is None


@pytest.mark.parametrize(
    "mark",
    [
        last("Z", 1.0, 9.0),
        price(7, 1.0, 9.0),
        ("0", None, "implied_vol", 0.5, 9.0),
        ("0", None, "forward", 99.0, 9.0),
        (None, None, "last", 99.0, 9.0),
        last("A", -1.0, 9.0),
        last("A", math.nan, 9.0),
        last("A", 101.0, math.nan),
        last("A", 101.0, 6.9),
        price(0, 101.0, 6.0),
        price(0, -5.0, 1e9),
    ],
)
def test_what_is_no_mark_of_an_underlying_changes_nothing(mark: MarkRow) -> None:
    before = board(last("A", 100.0, 7.0))
    assert before.after([mark]) is before


def test_a_price_of_an_option_is_none_of_its_underlying() -> None:
    assert not board(price(0, 5.0, 7.0), option=[True, False, False, False]).states()


# ---------------------------------------------------------------- whose mark counts


def test_a_series_is_that_of_update_volatility() -> None:
    marks = [(100.0, 1.0), (101.0, 8.0), (99.5, 8.0), (103.0, 4000.0)]
    expected: MarkState | None = None
    for value, time in marks:
        expected = update_volatility(expected, value, time, HOUR)
    assert dict(board(*(last("B", *mark) for mark in marks)).states()) == {1: expected}
    assert dict(board(*(price(2, *mark) for mark in marks)).states()) == {1: expected}


def test_the_basis_between_two_sources_is_no_return() -> None:
    """The first is followed, the other is not."""
    found = board(price(0, 100.0, 1.0), price(1, 150.0, 2.0), price(0, 100.0, 3.0))
    assert found.states()[0] == MarkState(100.0, 3.0, 0.0)


def test_last_of_the_factor_takes_over() -> None:
    found = board(price(0, 100.0, 1.0), price(0, 110.0, 2.0), last("A", 250.0, 3.0))
    moved = board(price(0, 100.0, 1.0), price(0, 110.0, 2.0)).states()[0].variance
    assert moved > 0.0
    assert found.states()[0] == MarkState(250.0, 3.0, moved)
    # And stays, until it is older than the limit.
    assert found.after([price(0, 111.0, 63.0)]) is found
    later = found.after([price(1, 111.0, 63.5)])
    assert later.states()[0] == MarkState(111.0, 63.5, moved)
    assert later.after([price(1, 111.0, 64.0)]).states()[0].time == 64.0


def test_last_of_before_takes_nothing_over() -> None:
    found = board(price(0, 100.0, 5.0))
    assert found.after([last("A", 99.0, 4.0)]) is found
    assert found.after([last("A", 99.0, 5.0)]).states()[0].price == 99.0


def test_the_marks_of_the_inputs_come_first_by_their_time() -> None:
    """As a run has them: in order of their ids."""
    table = pl.DataFrame(
        {
            "instrument_id": [None, "0", "1", "2", "3"],
            "factor": ["C", None, None, None, None],
            "field": ["last", "price", "price", "price", "price"],
            "value": [7.0, 100.0, 200.0, 50.0, 8.0],
            "time": [5.0, 9.0, 3.0, 4.0, 5.0],
        }
    )
    found = mark_board(listed(), HOUR, LIMIT, table)
    marks = {0: MarkState(200.0, 3.0), 1: MarkState(50.0, 4.0), 2: MarkState(7.0, 5.0)}
    assert dict(found.states()) == marks
    assert found.source == ("1", "2", None)


def test_a_board_stays_as_it_was() -> None:
    before = board(last("A", 100.0, 7.0))
    before.after([last("A", 105.0, 8.0), last("B", 1.0, 8.0)])
    assert dict(before.states()) == {0: MarkState(100.0, 7.0)}


# ---------------------------------------------------------------- the same bits again

PRICES = st.floats(1.0, 200.0)
TIMES = st.sampled_from([0.0, 0.5, 7.0, 59.0, 61.0, 130.0, 4000.0])
MARKS = st.lists(
    st.one_of(
        st.builds(last, st.sampled_from([*FACTORS, "Z"]), PRICES, TIMES),
        st.builds(price, st.integers(0, 4), PRICES, TIMES),
    ),
    max_size=30,
)


def through_a_file(table: pl.DataFrame) -> pl.DataFrame:
    file = io.BytesIO()
    table.write_ipc(file)
    return pl.read_ipc(file.getvalue())


@given(MARKS, st.integers(0, 30), st.integers(0, 30))
def test_however_marks_are_cut_and_wherever_it_is_restored(
    marks: list[MarkRow], one: int, other: int
) -> None:
    together = board(*marks)
    low, high = sorted((one, other))
    begun = board(*marks[:low])
    restored = board().restored(through_a_file(begun.table()))
    for found in (begun, restored):
        ended = found.after(marks[low:high]).after(marks[high:])
        assert repr(dict(ended.states())) == repr(dict(together.states()))
        assert ended.source == together.source
        assert ended.table().equals(together.table())


@given(MARKS)
def test_it_follows_one_source_at_a_time(marks: list[MarkRow]) -> None:
    """By plain steps, factor by factor."""
    underlying = {"0": "A", "1": "A", "2": "B", "3": "C"}
    for code, factor in enumerate(FACTORS):
        state: MarkState | None = None
        followed: str | None = None
        for instrument, of, _, value, time in marks:
            if (of or underlying.get(instrument or "")) != factor:
                continue
            source = instrument or "last"
            if state is None or source == followed:
                state, followed = update_volatility(state, value, time, HOUR), source
            elif time >= state.time and (source == "last" or time - state.time > LIMIT):
                state, followed = MarkState(value, time, state.variance), source
        assert board(*marks).states().get(code) == state


def test_of_another_market_the_names_count() -> None:
    """Factors that are gone are left out, and codes may be others."""
    table = board(last("A", 1.0, 5.0), price(2, 2.0, 6.0)).table()
    renamed = table.with_columns(pl.col("factor").replace({"A": "gone", "B": "C"}))
    found = board().restored(renamed)
    assert dict(found.states()) == {2: MarkState(2.0, 6.0)}
    assert found.source == (None, None, "2")


# ---------------------------------------------------------------- what is stale


def test_the_age_of_a_mark() -> None:
    found = board(last("A", 1.0, 100.0), last("B", 1.0, 150.0))
    assert found.stale(160.0).tolist() == [False, False, True]
    assert found.stale(160.5).tolist() == [True, False, True]
    assert found.stale(0.0, 1.0).tolist() == [False, False, True]
    assert found.stale(160.0, 10.0).tolist() == [True, False, True]
    assert found.stale(math.nan).all()


def rows(*sets: list[int]) -> Rows:
    column = [code for one in sets for code in one]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in sets])]).astype(np.int64)
    return Rows(offsets, np.array(column, dtype=np.int64), np.ones(len(column)))


def test_sets_with_a_stale_underlying() -> None:
    """A and B are fresh, C has no mark: sets of 3 are stale."""
    found = board(last("A", 1.0, 100.0), last("B", 1.0, 100.0))
    sets = rows([], [0, 1, 2], [0, 3], [], [3], [2], [])
    stale = [False, False, True, False, True, False, False]
    assert found.stale_sets(sets, 100.0).tolist() == stale
    assert found.stale_sets(sets, 161.0).tolist() == [False, True, True, False, True, True, False]
    assert not found.after([last("C", 1.0, 100.0)]).stale_sets(sets, 100.0).any()
    assert found.stale_sets(rows(), 100.0).tolist() == []
    assert found.stale_sets(rows([], []), 100.0).tolist() == [False, False]


def test_64_sets_of_50_positions_take_next_to_no_time() -> None:
    """The best of many: some 20 microseconds, where a factor is stale and all must be looked at."""
    found = board(last("A", 1.0, 100.0))
    random = np.random.default_rng(1)
    sets = rows(*(sorted(random.integers(0, 4, 50).tolist()) for _ in range(64)))

    def seconds() -> float:
        begin = clock.perf_counter()
        found.stale_sets(sets, 100.0)
        return clock.perf_counter() - begin

    assert min(seconds() for _ in range(300)) < 200e-6


# ---------------------------------------------------------------- accepted orders


def test_the_last_order_is_known_until_nothing_needs_it() -> None:
    times = OrderTimes(10.0)
    assert times.last("a", 0) == -math.inf
    times.note("a", 0, 100.0)
    times.note("a", 1, 104.0)
    times.note("b", 0, 109.0)
    assert (times.last("a", 0), times.last("a", 1), times.last("b", 0)) == (100.0, 104.0, 109.0)
    times.note("b", 1, 110.0)
    assert times.last("a", 0) == -math.inf and len(times) == 3
    times.note("a", 1, 103.0)
    assert times.last("a", 1) == 104.0


def test_without_a_pace_nothing_is_kept() -> None:
    times = OrderTimes(0.0)
    times.note("a", 0, 100.0)
    assert len(times) == 0 and times.last("a", 0) == -math.inf


def test_of_too_many_the_oldest_make_others_wait_and_never_less() -> None:
    times = OrderTimes(1000.0, most=2)
    for number, account in enumerate("abcd"):
        times.note(account, 0, 100.0 + number)
    assert len(times) == 2
    assert [times.last(account, 0) for account in "abcdz"] == [101.0, 101.0, 102.0, 103.0, 101.0]


def test_a_server_that_starts_anew_has_forgotten_and_waits() -> None:
    times = OrderTimes(60.0, since=500.0)
    assert times.last("a", 0) == 500.0
    times.note("a", 0, 501.0)
    assert (times.last("a", 0), times.last("a", 1)) == (501.0, 500.0)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.floats(0.0, 50.0))),
    st.sampled_from([0.5, 10.0]),
    st.sampled_from([1, 3, 100]),
)
def test_no_rule_lets_pass_what_it_would_not(orders: Any, horizon: float, most: int) -> None:
    """Against all that was ever noted: within the horizon an order counts as late as it was."""
    times, known, now = OrderTimes(horizon, most), {}, 0.0
    for account, underlying, time in orders:
        times.note(account, underlying, time)
        known[account, underlying] = max(time, known.get((account, underlying), 0.0))
        now = max(now, time)
        assert len(times) <= most
        for key, latest in known.items():
            if latest > now - horizon:
                assert times.last(*key) >= latest


def test_the_longest_pace() -> None:
    calm = {"volatility": 0.5, "min_interval_seconds": 5.0}
    wild = {"volatility": 1.5, "min_interval_seconds": 9.0}
    known = {"model": "m", "stale_seconds": 5.0}
    assert longest_interval(GateParameters.model_validate(known)) == 0.0
    both = GateParameters.model_validate({**known, "throttle": [calm, wild]})
    assert longest_interval(both) == 9.0


def test_the_case_of_other_tests() -> None:
    assert dict(gate_case.board(gate_case.FRESH).states()) == gate_case.FRESH
